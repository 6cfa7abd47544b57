"""Candidates become windows: laws, hand-worked cases, memory, errors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.events.candidate_windows import CandidateWindows, FrameDecision
from utils.events.records import Window

frames_strategy = st.lists(
    st.tuples(st.sampled_from([0.1, 0.25, 1 / 3, 1.0, 4.0]), st.sampled_from([0.0, 0.3, 0.6, 1.0])),
    max_size=40,
)


def as_times(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """(step, score) to (timestamp, score); the first frame is at 0."""
    now, frames = 0.0, []
    for number, (step, score) in enumerate(steps):
        now += step if number else 0.0
        frames.append((now, score))
    return frames


def feed(
    windows: CandidateWindows, frames: list[tuple[float, float]], end: float | None = None
) -> tuple[list[FrameDecision], list[Window]]:
    updates = [windows.push(i, t, score) for i, (t, score) in enumerate(frames)]
    updates.append(windows.flush(end))
    return (
        [decision for update in updates for decision in update.decisions],
        [window for update in updates for window in update.windows],
    )


@settings(deadline=None, max_examples=200)
@given(
    steps=frames_strategy,
    context=st.sampled_from([0.0, 0.25, 1.0, 2.0]),
    max_gap=st.sampled_from([None, 2.0]),
)
def test_laws(steps: list[tuple[float, float]], context: float, max_gap: float | None) -> None:
    frames = as_times(steps)
    decisions, windows = feed(
        CandidateWindows(candidate_threshold=0.5, context_seconds=context, max_gap_seconds=max_gap),
        frames,
    )
    # One decision for each frame, in order.
    assert [d.sample_index for d in decisions] == list(range(len(frames)))
    assert [d.timestamp for d in decisions] == [t for t, _ in frames]

    # Segments between holes, and in each the definition: some candidate is near enough.
    segment, segments = 0, []
    for index, (t, _) in enumerate(frames):
        segment += bool(index and max_gap is not None and t - frames[index - 1][0] > max_gap + 1e-6)
        segments.append(segment)
    candidates = [(t, s) for (t, score), s in zip(frames, segments, strict=True) if score >= 0.5]
    for decision, (t, score), own in zip(decisions, frames, segments, strict=True):
        assert decision.is_candidate == (score >= 0.5)
        near = any(abs(c - t) <= context + 1e-6 for c, s in candidates if s == own)
        assert decision.in_window == near

    # Windows are disjoint and ordered, and hold exactly the frames that are in them.
    assert all(a.end <= b.start for a, b in itertools.pairwise(windows))
    for decision in decisions:
        holding = [
            i for i, window in enumerate(windows) if window.start <= decision.timestamp < window.end
        ]
        assert holding == ([] if decision.window_index is None else [decision.window_index])
    # They cover every candidate, each counted once.
    assert sum(window.num_candidates for window in windows) == len(candidates)
    # Windows that no frame separates would be one.
    for a, b in itertools.pairwise(windows):
        between = [d for d in decisions if a.end <= d.timestamp < b.start]
        assert between or max_gap is not None


def test_frames_and_windows_by_hand() -> None:
    frames = [(float(t), 0.9 if t in (4, 6, 15) else 0.1) for t in range(20)]
    decisions, windows = feed(
        CandidateWindows(candidate_threshold=0.5, context_seconds=2.0), frames, end=20.0
    )
    assert [d.sample_index for d in decisions if d.window_index == 0] == [2, 3, 4, 5, 6, 7, 8]
    assert [d.sample_index for d in decisions if d.window_index == 1] == [13, 14, 15, 16, 17]
    assert windows == [
        Window(start=1.5, end=8.5, num_candidates=2),
        Window(start=12.5, end=17.5, num_candidates=1),
    ]


def test_decisions_come_as_soon_as_they_can() -> None:
    windows = CandidateWindows(candidate_threshold=0.5, context_seconds=1.0)

    def decided(index: int, timestamp: float, score: float) -> list[tuple[int, bool]]:
        update = windows.push(index, timestamp, score)
        return [(d.sample_index, d.in_window) for d in update.decisions]

    assert decided(0, 0.0, 0.0) == []
    assert decided(1, 1.0, 0.0) == []
    assert decided(2, 2.0, 0.0) == [(0, False)], "1 s and more have passed since frame 0"
    assert decided(3, 3.0, 0.9) == [(1, False), (2, True), (3, True)]
    assert decided(4, 4.0, 0.0) == [(4, True)], "what follows a candidate is known at once"
    assert decided(5, 5.0, 0.0) == []
    closing = windows.push(6, 7.0, 0.0)
    assert [(d.sample_index, d.in_window) for d in closing.decisions] == [(5, False)]
    assert closing.windows == (Window(start=1.5, end=4.5, num_candidates=1),)


def test_context_of_whole_steps_is_met_in_spite_of_rounding() -> None:
    frames = [(index * 0.1, float(index == 10)) for index in range(25)]
    decisions, _ = feed(CandidateWindows(candidate_threshold=0.5, context_seconds=0.7), frames)
    assert [d.sample_index for d in decisions if d.in_window] == list(range(3, 18))


def test_threshold_zero_takes_every_frame() -> None:
    decisions, windows = feed(
        CandidateWindows(candidate_threshold=0.0, context_seconds=0.0),
        [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)],
    )
    assert all(decision.in_window for decision in decisions)
    assert windows == [Window(start=0.0, end=2.5, num_candidates=3)]


def test_window_does_not_reach_across_a_hole() -> None:
    frames = [(0.0, 0.0), (1.0, 0.9), (4.0, 0.0), (5.0, 0.0)]
    arguments: dict[str, Any] = {"candidate_threshold": 0.5, "context_seconds": 5.0}
    decisions, windows = feed(CandidateWindows(**arguments, max_gap_seconds=2.0), frames)
    assert [d.in_window for d in decisions] == [True, True, False, False]
    assert windows == [Window(start=0.0, end=1.5, num_candidates=1)]
    decisions, windows = feed(CandidateWindows(**arguments), frames)
    assert [d.in_window for d in decisions] == [True] * 4
    assert windows == [Window(start=0.0, end=5.5, num_candidates=1)]


def test_window_ends_with_its_last_frame_when_the_stream_does() -> None:
    windows = CandidateWindows(candidate_threshold=0.5, context_seconds=1.0)
    frames = [(0.0, 0.9), (1.0, 0.0), (2.0, 0.0)]
    assert feed(windows, frames)[1] == [Window(start=0.0, end=1.5, num_candidates=1)]
    assert feed(windows, frames[:2], end=1.8)[1] == [Window(start=0.0, end=1.8, num_candidates=1)]


def test_a_new_stream_after_flush_starts_from_nothing() -> None:
    windows = CandidateWindows(candidate_threshold=0.5, context_seconds=1.0)
    frames = [(0.0, 0.9), (1.0, 0.0), (5.0, 0.0), (5.5, 0.7)]
    assert feed(windows, frames) == feed(windows, frames)
    assert feed(windows, []) == ([], [])


def test_memory_does_not_grow_with_window_or_stream() -> None:
    windows = CandidateWindows(candidate_threshold=0.5, context_seconds=1.0)
    largest = 0
    for index in range(5000):
        # A window of 200 s, then 300 s of nothing.
        windows.push(index, index * 0.1, 0.9 if index < 2000 else 0.0)
        largest = max(largest, len(windows._undecided))
    assert largest <= 11


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidate_threshold": 1.2}, r"candidate_threshold must be in \[0, 1\], got 1.2"),
        ({"candidate_threshold": math.nan}, r"candidate_threshold must be in \[0, 1\], got nan"),
        ({"context_seconds": -1.0}, r"context_seconds must be 0 or more seconds, got -1.0"),
        ({"context_seconds": math.inf}, r"context_seconds must be 0 or more seconds, got inf"),
        ({"max_gap_seconds": -1.0}, r"max_gap_seconds must be above 0, got -1.0"),
    ],
)
def test_rejects_arguments(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"candidate_threshold": 0.5, "context_seconds": 1.0}
    with pytest.raises(ValueError, match=message):
        CandidateWindows(**{**arguments, **changes})


def test_rejects_frames() -> None:
    windows = CandidateWindows(candidate_threshold=0.5, context_seconds=1.0)
    with pytest.raises(
        ValueError, match=r"sample 7: the trigger score must be in \[0, 1\], got nan"
    ):
        windows.push(7, 0.0, math.nan)
    windows.push(7, 1.0, 0.5)
    with pytest.raises(ValueError, match=r"timestamps must rise, got 0.5 s after 1.0 s"):
        windows.push(8, 0.5, 0.5)
