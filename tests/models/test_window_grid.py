"""`WindowGrid`: each frame answered once, by the window that shows most around it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.window_grid import GridWindow, WindowGrid


def context(start: int, end: int, frame: int) -> int:
    """Frames of a window on the shorter side of ``frame``."""
    return min(frame - start, end - 1 - frame)


@settings(deadline=None, max_examples=100)
@given(length=st.integers(0, 60), size=st.integers(2, 9), causal=st.booleans())
def test_every_frame_is_answered_once_and_in_order(length: int, size: int, causal: bool) -> None:
    windows = list(WindowGrid(size, causal=causal).windows(length))
    assert [frame for w in windows for frame in range(w.first, w.last)] == list(range(length))
    for window in windows:
        assert 0 <= window.start <= window.first < window.last <= window.end <= length
        # Looking back alone, a window need not be full yet.
        assert window.end - window.start == min(size, length) or causal


@settings(deadline=None, max_examples=100)
@given(length=st.integers(1, 60), size=st.integers(2, 9).map(lambda half: 2 * half))
def test_no_window_of_the_grid_shows_more_around_a_frame(length: int, size: int) -> None:
    grid = WindowGrid(size, causal=False)
    starts = range(0, length - size + 1, grid.stride)
    for window in grid.windows(length):
        for frame in range(window.first, window.last):
            shown = [context(s, s + size, frame) for s in starts if s <= frame < s + size]
            before, after = frame - window.start, window.end - 1 - frame
            # The stream itself may begin or end there.
            is_at_border = window.start == 0 or window.end == length
            assert min(before, after) >= max(shown, default=0) or is_at_border


@settings(deadline=None, max_examples=100)
@given(cuts=st.lists(st.integers(0, 12), max_size=8), size=st.integers(2, 9), causal=st.booleans())
def test_windows_start_where_the_stream_says(cuts: list[int], size: int, causal: bool) -> None:
    """And not where a chunk does."""
    grid = WindowGrid(size, causal=causal)
    found: list[GridWindow] = []
    length = num_answered = 0
    for cut in cuts:
        length += cut
        while (window := grid.next_window(num_answered, length)) is not None:
            found.append(window)
            num_answered = window.last
    assert all(window.start % (size // 2) == 0 for window in found)
    if causal:
        assert num_answered == length, "no frame waits"
    else:
        whole = list(grid.windows(length))
        assert found == whole[: len(found)]
        assert length - num_answered < size


def test_by_hand() -> None:
    assert list(WindowGrid(4, causal=False).windows(7)) == [
        (0, 4, 0, 3),
        (2, 6, 3, 5),
        (3, 7, 5, 7),
    ]
    assert list(WindowGrid(4, causal=False).windows(3)) == [(0, 3, 0, 3)]
    assert list(WindowGrid(4, causal=False).windows(0)) == []
    assert WindowGrid(4, causal=True).next_window(4, 5) == (2, 5, 4, 5)


def test_a_window_of_one_frame_is_none() -> None:
    with pytest.raises(ValueError, match="window_size must be at least 2 frames, got 1"):
        WindowGrid(1, causal=True)
