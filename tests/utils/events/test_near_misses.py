"""Near misses: under the threshold, never where an event is, the nearest kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.events.near_misses import NearMiss, NearMissFinder
from utils.events.records import FrameScore
from utils.events.window_builder import WindowBuilder


def frames(scores: Sequence[Sequence[float]]) -> list[FrameScore]:
    return [
        FrameScore(
            sample_index=index,
            frame_index=index,
            timestamp=float(index),
            trigger=np.zeros(len(row), np.float32),
            temporal=np.array(row, np.float32),
        )
        for index, row in enumerate(scores)
    ]


def found(scores: Sequence[Sequence[float]], **options: Any) -> list[NearMiss]:
    rules = {
        "threshold": 0.8,
        "ratio": 0.5,
        "limit": 10,
        "hysteresis_ratio": 1.0,
        "merge_gap_seconds": 0.0,
        **options,
    }
    finder = NearMissFinder(["a", "b"][: len(scores[0])], **rules)
    for frame in frames(scores):
        finder.push(frame)
    return finder.finish()


def test_stretches_under_the_threshold() -> None:
    scores = [[0.0], [0.5], [0.7], [0.1], [0.9], [0.5], [0.1], [0.39], [0.0], [0.4], [0.0]]
    nearest, other = found(scores)
    # 0.9 is an event, and 0.5 beside it belongs to it; 0.39 is not half of 0.8.
    assert (nearest.stretch.start, nearest.stretch.end, nearest.stretch.timestamp) == (0.5, 2.5, 2)
    assert nearest.nearness == pytest.approx(0.7 / 0.8)
    assert (other.stretch.start, other.stretch.end) == (8.5, 9.5)


def test_what_is_merged_with_an_event_is_none() -> None:
    scores = [[0.5], [0.0], [0.9], [0.0], [0.0], [0.5], [0.0]]
    (alone,) = found(scores, merge_gap_seconds=1.0)
    assert alone.stretch.start == 4.5


def test_short_ones_are_dropped_like_events() -> None:
    scores = [[0.0], [0.5], [0.0], [0.5], [0.5], [0.0]]
    (long,) = found(scores, min_duration_seconds=1.5)
    assert long.stretch.duration_seconds == 2


def test_thresholds_of_each_class_and_the_nearest_are_kept() -> None:
    scores = [[0.5, 0.28], [0.0, 0.0], [0.6, 0.35], [0.0, 0.0], [0.41, 0.0]]
    misses = found(scores, threshold=(0.8, 0.4))
    assert [(miss.stretch.label, miss.threshold) for miss in misses] == [
        ("b", 0.4),
        ("a", 0.8),
        ("b", 0.4),
        ("a", 0.8),
        ("a", 0.8),
    ]
    nearness = [miss.nearness for miss in misses]
    assert nearness == sorted(nearness, reverse=True)
    assert found(scores, threshold=(0.8, 0.4), limit=2) == misses[:2]


def test_of_equals_the_first_is_kept() -> None:
    (miss,) = found([[0.5], [0.0], [0.5], [0.0]], limit=1)
    assert miss.stretch.start == 0


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])] * 2), min_size=1, max_size=30
    ),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.sampled_from([0.5, 1.0]),
)
def test_no_near_miss_shares_time_with_an_event(
    scores: list[tuple[float, float]], merge_gap: float, hysteresis: float
) -> None:
    rules = {"merge_gap_seconds": merge_gap, "hysteresis_ratio": hysteresis}
    builder = WindowBuilder(["a", "b"], threshold=0.7, **rules)
    events = builder.extend(frames(scores)) + builder.flush()
    for miss in found(scores, threshold=0.7, limit=100, **rules):
        assert 0.35 <= miss.stretch.confidence < 0.7
        for event in events:
            apart = event.end <= miss.stretch.start or miss.stretch.end <= event.start
            assert apart or event.label != miss.stretch.label


@pytest.mark.parametrize("ratio", [0.0, 1.0, float("nan")])
def test_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio must be between 0 and 1, got"):
        NearMissFinder(["a"], threshold=0.5, ratio=ratio, limit=1)
