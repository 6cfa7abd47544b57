"""Scores become events: laws, a whole-video reference, hand-worked cases, memory, errors."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from utils.events.records import Event, FrameScore
from utils.events.window_builder import WindowBuilder

Interval = tuple[float, float]


def frame(index: int, timestamp: float, scores: Sequence[float] | None) -> FrameScore:
    seen = None if scores is None else np.array(scores, np.float32)
    return FrameScore(
        sample_index=index,
        frame_index=10 * index,
        timestamp=timestamp,
        trigger=np.zeros(1 if scores is None else len(scores), np.float32),
        temporal=seen,
    )


def build(scores: Sequence[float], *, step: float = 1.0, **arguments: Any) -> list[Event]:
    """Events of one class at ``step`` seconds a frame; nothing is merged unless asked."""
    end = arguments.pop("end", None)
    arguments = {"threshold": 0.5, "hysteresis_ratio": 1.0, "merge_gap_seconds": 0.0, **arguments}
    builder = WindowBuilder(["a"], **arguments)
    events = builder.extend(frame(i, i * step, [score]) for i, score in enumerate(scores))
    return events + builder.flush(end)


def intervals(events: Sequence[Event]) -> list[Interval]:
    return [(event.start, event.end) for event in events]


# Multiples of 1/8 and 1/4 are exact as floats, so that scores meet thresholds and gaps meet limits.
levels = st.integers(0, 8).map(lambda eighths: eighths / 8)
streams = st.lists(
    st.tuples(st.sampled_from([0.25, 0.5, 1.0, 3.0]), levels, levels), min_size=1, max_size=40
)
rules = st.fixed_dictionaries(
    {
        "hysteresis_ratio": st.sampled_from([0.25, 0.5, 0.75, 1.0]),
        "min_duration_seconds": st.sampled_from([0.0, 0.5, 1.25, 3.0]),
        "merge_gap_seconds": st.sampled_from([0.0, 0.25, 1.0, 2.5]),
        "max_gap_seconds": st.sampled_from([None, 2.0]),
    }
)
cooldowns = st.sampled_from([0.0, 0.5, 4.0])


def as_frames(stream: list[tuple[float, float, float]]) -> list[FrameScore]:
    times = [0.0, *itertools.accumulate(step for step, _, _ in stream[1:])]
    return [
        frame(i, time, scores)
        for i, (time, (_, *scores)) in enumerate(zip(times, stream, strict=True))
    ]


def run(frames: list[FrameScore], end: float | None = None, **arguments: Any) -> list[Event]:
    builder = WindowBuilder(["a", "b"], **arguments)
    return builder.extend(frames) + builder.flush(end)


def reference_events(
    times: list[float],
    scores: list[float],
    *,
    threshold: float,
    hysteresis_ratio: float,
    min_duration_seconds: float,
    merge_gap_seconds: float,
    max_gap_seconds: float | None,
    cooldown_seconds: float,
) -> list[tuple[float, float, float, float]]:
    """The four steps one after the other over the whole video: (start, end, peak time, peak)."""
    limit = math.inf if max_gap_seconds is None else max_gap_seconds
    segments: list[list[int]] = []
    for i, time in enumerate(times):
        if i and time - times[i - 1] <= limit:
            segments[-1].append(i)
        else:
            segments.append([i])
    step, spans = min(1.0, limit), {}
    for segment in segments:
        for i in segment:
            begin = times[i] if i == segment[0] else (times[i - 1] + times[i]) / 2
            if i != segment[-1]:
                step = times[i + 1] - times[i]
            spans[i] = (begin, times[i] + step / 2)
    events: list[list[float]] = []
    for segment in segments:
        merged: list[list[int]] = []
        for is_on, group in itertools.groupby(
            segment, lambda i: scores[i] >= threshold * hysteresis_ratio
        ):
            members = list(group)
            if not is_on or max(scores[i] for i in members) < threshold:
                continue
            if merged and spans[members[0]][0] - spans[merged[-1][-1]][1] <= merge_gap_seconds:
                merged[-1] += members
            else:
                merged.append(members)
        for members in merged:
            peak = max(members, key=lambda i: scores[i])
            events.append([spans[members[0]][0], spans[members[-1]][1], times[peak], scores[peak]])
    published: list[tuple[float, float, float, float]] = []
    for start, end, peak_time, peak_score in events:
        if end - start < min_duration_seconds:
            continue
        if published and start - published[-1][1] < cooldown_seconds:
            continue
        published.append((start, end, peak_time, peak_score))
    return published


@settings(deadline=None, max_examples=300)
@given(stream=streams, rule=rules, cooldown=cooldowns, threshold=levels.filter(bool))
def test_equals_the_whole_video_reference(
    stream: list[tuple[float, float, float]],
    rule: dict[str, Any],
    cooldown: float,
    threshold: float,
) -> None:
    frames = as_frames(stream)
    events = run(frames, threshold=threshold, cooldown_seconds=cooldown, **rule)
    for k, label in enumerate("ab"):
        expected = reference_events(
            [f.timestamp for f in frames],
            [float(f.confidence[k]) for f in frames],
            threshold=threshold,
            cooldown_seconds=cooldown,
            **rule,
        )
        found = [(e.start, e.end, e.timestamp, e.confidence) for e in events if e.label == label]
        assert found == expected


@settings(deadline=None, max_examples=200)
@given(
    stream=streams,
    rule=rules,
    cooldown=cooldowns,
    maximum=st.sampled_from([None, 3.0, 5.0]),
    thresholds=st.tuples(levels.filter(bool), levels.filter(bool)),
    end=st.sampled_from([None, 2.0, 30.0]),
    data=st.data(),
)
def test_laws(
    stream: list[tuple[float, float, float]],
    rule: dict[str, Any],
    cooldown: float,
    maximum: float | None,
    thresholds: tuple[float, float],
    end: float | None,
    data: st.DataObject,
) -> None:
    frames = as_frames(stream)
    arguments = {
        **rule,
        "threshold": thresholds,
        "cooldown_seconds": cooldown,
        "max_duration_seconds": maximum,
    }
    whole = run(frames, end, **arguments)

    # However the frames are grouped into calls, and after another stream: the same events.
    builder = WindowBuilder(["a", "b"], **arguments)
    builder.extend(frames[: data.draw(st.integers(0, len(frames)))])
    builder.flush()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(frames)), max_size=5)))
    chunked: list[Event] = []
    for first, last in zip([0, *cuts], [*cuts, len(frames)], strict=True):
        chunked += builder.extend(frames[first:last])
    assert chunked + builder.flush(end) == whole

    by_time = {f.timestamp: f for f in frames}
    for k, label in enumerate("ab"):
        own = [event for event in whole if event.label == label]
        assert all(a.end <= b.start for a, b in itertools.pairwise(own))
        for event in own:
            inside = [f for f in frames if event.start <= f.timestamp < event.end]
            assert event.confidence >= thresholds[k]
            assert event.confidence == max(float(f.confidence[k]) for f in inside)
            peak = by_time[event.timestamp]
            assert float(peak.confidence[k]) == event.confidence
            assert peak.frame_index == event.frame_index
            assert Event.from_plain(event.to_plain()) == event
            if maximum is None:
                assert event.duration_seconds >= rule["min_duration_seconds"]


@settings(deadline=None, max_examples=100)
@given(stream=streams, rule=rules, maximum=st.sampled_from([None, 3.0]))
def test_open_peaks_hold_every_frame_that_an_event_will_name(
    stream: list[tuple[float, float, float]], rule: dict[str, Any], maximum: float | None
) -> None:
    builder = WindowBuilder(["a", "b"], threshold=0.5, max_duration_seconds=maximum, **rule)
    kept: frozenset[int] = frozenset()
    for pushed in as_frames(stream):
        for event in builder.push(pushed):
            assert event.frame_index in kept
        open_peaks = builder.open_peaks()
        assert len(open_peaks) <= 2 * 2 + 1
        assert open_peaks <= kept | {pushed.frame_index}, "a frame that was dropped came back"
        kept = open_peaks
    assert {event.frame_index for event in builder.flush()} <= kept
    assert not builder.open_peaks()


@settings(deadline=None, max_examples=300)
@given(stream=streams, rule=rules, pair=st.tuples(levels.filter(bool), levels.filter(bool)))
# A weak run between two strong ones, which bridges the gap at the lower threshold only.
@example(
    stream=[(1.0, s, 0.0) for s in (0.75, 0.0, 0.375, 0.0, 0.75)],
    rule={
        "hysteresis_ratio": 0.5,
        "min_duration_seconds": 3.0,
        "merge_gap_seconds": 1.0,
        "max_gap_seconds": None,
    },
    pair=(0.375, 0.75),
)
def test_a_higher_threshold_never_covers_what_a_lower_one_left_out(
    stream: list[tuple[float, float, float]], rule: dict[str, Any], pair: tuple[float, float]
) -> None:
    frames = as_frames(stream)
    loose = run(frames, threshold=min(pair), **rule)
    strict = run(frames, threshold=max(pair), **rule)
    for event in strict:
        # Events of one class do not touch without a maximum duration, so one must hold it all.
        assert any(
            other.label == event.label and other.start <= event.start and event.end <= other.end
            for other in loose
        )


def test_hysteresis_extends_to_both_sides_and_drops_weak_runs() -> None:
    scores = [0.0, 0.4, 0.6, 0.4, 0.4, 0.1, 0.4, 0.4, 0.1]
    assert intervals(build(scores, hysteresis_ratio=0.75)) == [(0.5, 4.5)]
    assert intervals(build(scores)) == [(1.5, 2.5)]


def test_peak_is_the_first_of_the_highest() -> None:
    (event,) = build([0.5, 0.75, 0.75, 0.5])
    assert (event.timestamp, event.frame_index, event.confidence) == (1.0, 10, 0.75)


def test_merging_comes_before_minimum_duration() -> None:
    scores = [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert intervals(build(scores, merge_gap_seconds=1.0)) == [(0.5, 3.5), (6.5, 7.5)]
    found = build(scores, merge_gap_seconds=1.0, min_duration_seconds=3.0)
    assert intervals(found) == [(0.5, 3.5)]


def test_limits_are_met_in_spite_of_rounding() -> None:
    scores = [0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0]
    arguments: dict[str, Any] = {"step": 0.1, "min_duration_seconds": 0.3}
    assert len(build(scores, **arguments)) == 2
    assert len(build(scores, merge_gap_seconds=0.3, **arguments)) == 1
    assert len(build(scores, cooldown_seconds=0.3, **arguments)) == 2


def test_cooldown_counts_from_the_last_published_event() -> None:
    scores = [1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert [e.start for e in build(scores)] == [0.0, 2.5, 5.5, 8.5]
    # The one at 2.5 is dropped, and does not prolong the silence.
    assert [e.start for e in build(scores, cooldown_seconds=4.0)] == [0.0, 5.5]


def test_cooldown_of_one_class_leaves_the_others_alone() -> None:
    builder = WindowBuilder(
        ["a", "b"], threshold=[0.5, 0.9], merge_gap_seconds=0.0, cooldown_seconds=9.0
    )
    scores = [(1.0, 0.0), (0.0, 0.0), (1.0, 0.95), (0.0, 0.0), (0.0, 0.8)]
    events = builder.extend(frame(i, float(i), pair) for i, pair in enumerate(scores))
    events += builder.flush()
    assert [(e.label, e.start) for e in events] == [("a", 0.0), ("b", 1.5)]


def test_events_that_end_together_come_by_start_then_by_label() -> None:
    builder = WindowBuilder(["b", "a"], threshold=0.5)
    builder.extend(frame(i, float(i), s) for i, s in enumerate([(0, 1), (1, 1), (1, 1)]))
    assert [(e.label, e.start) for e in builder.flush()] == [("a", 0.0), ("b", 0.5)]
    # One class ends with its own last frame, the other with the stream: the same start decides.
    builder = WindowBuilder(["b", "a"], threshold=0.5, merge_gap_seconds=0.0)
    builder.extend([frame(0, 0.0, (1, 1)), frame(1, 1.0, (1, 0))])
    assert [(e.label, e.end) for e in builder.flush()] == [("b", 1.5), ("a", 0.5)]


def test_event_comes_out_when_nothing_can_change_it() -> None:
    builder = WindowBuilder(["a"], threshold=0.5, hysteresis_ratio=0.5, merge_gap_seconds=2.0)
    counts = [
        len(builder.push(frame(i, float(i), [score])))
        for i, score in enumerate([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    ]
    # It ends at 0.5. The frame at 3 s ends at 3.5, which the frame at 4 s tells.
    assert counts == [0, 0, 0, 0, 1, 0]


def test_end_of_the_video_bounds_the_last_event() -> None:
    assert intervals(build([0.0, 1.0], end=1.75)) == [(0.5, 1.75)]
    assert intervals(build([0.0, 1.0])) == [(0.5, 1.5)]
    assert build([]) == []


def test_frames_that_were_not_looked_at_are_in_no_event() -> None:
    builder = WindowBuilder(["a"], threshold=0.01, hysteresis_ratio=0.01, merge_gap_seconds=0.0)
    seen = [None, [0.5], None, None]
    events = builder.extend(frame(i, float(i), scores) for i, scores in enumerate(seen))
    assert intervals(events + builder.flush()) == [(0.5, 1.5)]


def test_hole_ends_events_and_is_not_merged_across() -> None:
    builder = WindowBuilder(["a"], threshold=0.5, merge_gap_seconds=60.0, max_gap_seconds=5.0)
    times = [0.0, 1.0, 9.0, 10.0]
    updates = [builder.push(frame(i, time, [1.0])) for i, time in enumerate(times)]
    assert [intervals(events) for events in updates] == [[], [], [(0.0, 1.5)], []]
    assert intervals(builder.flush()) == [(9.0, 10.5)]


class TestMaximumDuration:
    def test_pieces_touch_and_come_at_once(self) -> None:
        builder = WindowBuilder(
            ["a"],
            threshold=0.5,
            min_duration_seconds=2.0,
            cooldown_seconds=60.0,
            max_duration_seconds=3.0,
        )
        updates = [builder.push(frame(i, float(i), [0.5 + i / 100])) for i in range(8)]
        updates.append(builder.flush())
        assert [intervals(events) for events in updates] == [
            *[[]] * 4,
            [(0.0, 3.5)],
            [],
            [],
            [(3.5, 6.5)],
            # The rest is short and falls into the cool-down, but is no event of its own.
            [(6.5, 7.5)],
        ]
        assert [e.timestamp for events in updates for e in events] == [3.0, 6.0, 7.0]

    def test_a_weak_rest_is_no_event(self) -> None:
        scores = [1.0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 1.0]
        found = build(scores, hysteresis_ratio=0.5, max_duration_seconds=3.0)
        # Cut at 3.5 and, weak throughout, at 6.5.
        assert intervals(found) == [(0.0, 3.5), (6.5, 8.5)]

    def test_a_weak_run_does_not_hold_back_what_came_before(self) -> None:
        scores = [1.0, 1.0, 0.0, *[0.3] * 20]
        arguments: dict[str, Any] = {
            "threshold": 0.5,
            "hysteresis_ratio": 0.5,
            "merge_gap_seconds": 1.0,
        }
        for maximum, expected in ((5.0, 6), (None, None)):
            builder = WindowBuilder(["a"], max_duration_seconds=maximum, **arguments)
            came_at = [
                i for i, score in enumerate(scores) if builder.push(frame(i, float(i), [score]))
            ]
            assert came_at == ([] if expected is None else [expected])
            assert len(builder.flush()) == (1 if expected is None else 0)

    def test_neighbours_are_merged_up_to_it_only(self) -> None:
        scores = [1, 1, 1, 0, 1, 1, 1, 0, 0, 0]
        assert intervals(build(scores, merge_gap_seconds=1.0)) == [(0.0, 6.5)]
        found = build(scores, merge_gap_seconds=1.0, max_duration_seconds=5.0)
        assert intervals(found) == [(0.0, 5.5), (5.5, 6.5)]


def test_memory_does_not_grow() -> None:
    """All that the builder holds on to, pickled, is no larger after 3000 frames than after 100."""
    builder = WindowBuilder(["a"], threshold=0.5)
    sizes = []
    for index in range(3000):
        builder.push(frame(index, 0.1 * index, [0.9 if index % 1000 < 800 else 0.0]))
        sizes.append(len(pickle.dumps(builder.__dict__)))
    assert max(sizes[100:]) <= max(sizes[:100]) + 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": []}, r"labels must name each class once, got \[\]"),
        ({"labels": ["a", "a"]}, r"labels must name each class once, got \['a', 'a'\]"),
        ({"labels": "ab"}, r"labels must name each class once, got 'ab'"),
        ({"threshold": 0.0}, r"threshold of 'a' must be above 0 and at most 1, got 0.0"),
        ({"threshold": [0.5, 1.5]}, r"threshold of 'b' must be above 0 and at most 1, got 1.5"),
        ({"threshold": [0.5]}, r"one number or 2, one for each of a, b; got 1"),
        ({"hysteresis_ratio": 0.0}, r"hysteresis_ratio must be in \(0, 1\], got 0.0"),
        ({"hysteresis_ratio": 1.1}, r"hysteresis_ratio must be in \(0, 1\], got 1.1"),
        ({"min_duration_seconds": -1.0}, r"min_duration_seconds must be 0 or more .*got -1.0"),
        ({"merge_gap_seconds": math.nan}, r"merge_gap_seconds must be 0 or more .*got nan"),
        ({"cooldown_seconds": math.inf}, r"cooldown_seconds must be 0 or more .*got inf"),
        ({"max_duration_seconds": 0.0}, r"max_duration_seconds must be above 0 .*got 0.0"),
        (
            {"min_duration_seconds": 3.0, "max_duration_seconds": 2.0},
            r"not below min_duration_seconds \(3.0\), got 2.0",
        ),
        ({"max_gap_seconds": 0.0}, r"max_gap_seconds must be above 0, got 0.0"),
    ],
)
def test_rejects_arguments(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"labels": ["a", "b"], "threshold": 0.5}
    with pytest.raises(ValueError, match=message):
        WindowBuilder(**{**arguments, **changes})


def test_rejects_frames() -> None:
    builder = WindowBuilder(["a", "b"], threshold=0.5)
    with pytest.raises(ValueError, match=r"sample 3: scores must be \(2,\).* a, b; got \(1,\)"):
        builder.push(frame(3, 1.0, [0.5]))
    builder.push(frame(3, 1.0, [0.5, 0.5]))
    with pytest.raises(ValueError, match=r"timestamps must rise, got 1.0 s after 1.0 s"):
        builder.push(frame(4, 1.0, [0.5, 0.5]))
