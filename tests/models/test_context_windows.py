"""`ContextWindows`: every frame scored once, in its best window, however the stream is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.context_windows import ContextWindows, FloatArray


class Recorder:
    """Answers each frame with its own number and the first and last frame that it could see."""

    def __init__(self, *, causal: bool) -> None:
        self.causal = causal
        self.num_calls = 0

    def __call__(
        self, features: FloatArray, timestamps: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> FloatArray:
        assert features.shape[:2] == timestamps.shape == valid.shape
        assert valid.all()
        np.testing.assert_array_equal(features[..., 0] / 2, timestamps)
        self.num_calls += 1
        own = features[..., 0]
        first = np.broadcast_to(own[:, :1], own.shape)
        last = own if self.causal else np.broadcast_to(own[:, -1:], own.shape)
        return np.stack((own, first, last), axis=-1)


def score(
    cuts: list[int], *, window_size: int, causal: bool, wanted: NDArray[np.bool_] | None = None
) -> tuple[list[FloatArray | None], Recorder]:
    recorder = Recorder(causal=causal)
    windows = ContextWindows(recorder, window_size=window_size, causal=causal)
    scored: list[FloatArray | None] = []
    start = 0
    for size in cuts:
        part = np.arange(start, start + size)
        scored += windows.push(
            part[:, None].astype(np.float32),
            part / 2,
            None if wanted is None else wanted[start : start + size],
        )
        start += size
    return scored + windows.flush(), recorder


CUTS = st.lists(st.integers(0, 13), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(cuts=CUTS, window_size=st.integers(2, 9), causal=st.booleans())
def test_cuts_change_nothing(cuts: list[int], window_size: int, causal: bool) -> None:
    total = sum(cuts)
    scored, _ = score(cuts, window_size=window_size, causal=causal)
    whole, _ = score([total], window_size=window_size, causal=causal)
    np.testing.assert_array_equal(np.array(scored), np.array(whole))
    assert len(scored) == total
    for index, row in enumerate(scored):
        assert row is not None
        own, first, last = row
        assert own == index
        assert first <= own <= last
        assert last - first < window_size
        # At least a quarter of the window before each frame, or the start of the stream.
        assert first == 0 or own - first >= window_size // 4


@settings(deadline=None, max_examples=60)
@given(cuts=CUTS, window_size=st.integers(2, 9), causal=st.booleans(), data=st.data())
def test_unwanted_frames_cost_nothing_and_change_nothing(
    cuts: list[int], window_size: int, causal: bool, data: st.DataObject
) -> None:
    total = sum(cuts)
    wanted = np.array(
        data.draw(st.lists(st.booleans(), min_size=total, max_size=total)), dtype=np.bool_
    )
    scored, _ = score(cuts, window_size=window_size, causal=causal, wanted=wanted)
    whole, _ = score(cuts, window_size=window_size, causal=causal)
    for is_wanted, row, full in zip(wanted, scored, whole, strict=True):
        if is_wanted:
            np.testing.assert_array_equal(row, full)
        else:
            assert row is None


def test_nothing_wanted_runs_nothing() -> None:
    _, recorder = score([10, 30], window_size=4, causal=False, wanted=np.zeros(40, np.bool_))
    assert recorder.num_calls == 0


def test_causal_frames_are_answered_at_once() -> None:
    windows = ContextWindows(Recorder(causal=True), window_size=4, causal=True)
    for index in range(20):
        answered = windows.push(
            np.array([[index]], np.float32), np.array([index / 2]), np.array([True])
        )
        assert len(answered) == 1
    assert windows.flush() == []


def test_bidirectional_frames_wait_less_than_a_window() -> None:
    windows = ContextWindows(Recorder(causal=False), window_size=8, causal=False)
    num_answered = 0
    for index in range(60):
        num_answered += len(windows.push(np.array([[index]], np.float32), np.array([index / 2])))
        assert index + 1 - num_answered < 8


def test_stream_after_flush_starts_anew() -> None:
    windows = ContextWindows(Recorder(causal=False), window_size=4, causal=False)
    for _ in range(2):
        frames = np.arange(6)
        scored = windows.push(frames[:, None].astype(np.float32), frames / 2) + windows.flush()
        assert [row[0] for row in scored if row is not None] == list(range(6))


def test_window_of_one_frame_is_none() -> None:
    with pytest.raises(ValueError, match="window_size must be at least 2 frames, got 1"):
        ContextWindows(Recorder(causal=True), window_size=1, causal=True)
