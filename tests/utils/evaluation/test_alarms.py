"""Alarms by hand: what is found, what is false, what is quiet, and how soon."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scored_videos import PLAIN, annotated, scored
from utils.evaluation.alarms import (
    AlarmCounts,
    alarm_counts,
    covered_seconds,
    match_alarms,
    over_classes,
    time_to_detect,
    video_alarms,
)
from utils.evaluation.intervals import poisson_interval, wilson_interval


def test_borders_belong_to_the_reference() -> None:
    references = np.array([[2.0, 4.0]])
    for at, is_found in ((1.4, False), (1.5, True), (3.0, True), (4.5, True), (4.6, False)):
        match = match_alarms(references, np.array([at]), tolerance_seconds=0.5)
        assert match.is_false.tolist() == [not is_found]
        assert np.isnan(match.delays[0]) == (not is_found)
        if is_found:
            assert match.delays[0] == pytest.approx(at - 2.0)


def test_the_first_alarm_counts_and_the_second_is_a_repetition() -> None:
    match = match_alarms(np.array([[2.0, 9.0]]), np.array([3.0, 5.0]))
    assert match.delays.tolist() == [1.0]
    assert match.is_false.tolist() == [False, False]
    # Only an earlier one, before the event, is false, and does not stand in for it.
    match = match_alarms(np.array([[2.0, 9.0]]), np.array([1.0, 5.0]))
    assert match.delays.tolist() == [3.0]
    assert match.is_false.tolist() == [True, False]


def test_overlapping_references_share_an_alarm() -> None:
    references = np.array([[5.0, 6.0], [2.0, 9.0], [0.0, 1.0]])
    match = match_alarms(references, np.array([5.2]), tolerance_seconds=0.0)
    assert match.delays[:2] == pytest.approx([0.2, 3.2])
    assert math.isnan(match.delays[2])


def test_nothing_matches_nothing() -> None:
    match = match_alarms(np.zeros((0, 2)), np.zeros(0))
    assert len(match.delays) == len(match.is_false) == 0
    assert match_alarms(np.zeros((0, 2)), np.array([1.0])).is_false.tolist() == [True]
    assert np.isnan(match_alarms(np.array([[1.0, 2.0]]), np.zeros(0)).delays).all()
    for tolerance in (-0.1, math.nan, math.inf):
        with pytest.raises(
            ValueError, match=f"tolerance_seconds must be 0 or more, got {tolerance}"
        ):
            match_alarms(np.zeros((0, 2)), np.zeros(0), tolerance_seconds=tolerance)


def test_an_alarm_that_never_stops_is_one_and_wrong() -> None:
    video = scored(np.ones(60), [annotated(10.0, 20.0), annotated(40.0, 50.0)])
    found = video_alarms(video, "a", 0.5, PLAIN)
    assert found.counts.num_alarms == found.counts.num_false_alarms == 1
    assert found.counts.num_detected == 0
    assert found.counts.recall == 0.0


def test_a_video_by_hand() -> None:
    # A frame a second; alarms at 3 (in the event), 6 (again), 12 (false) and 17 (the point's).
    scores = np.zeros(20)
    scores[[3, 4, 6, 12, 17]] = 0.9
    video = scored(scores, [annotated(2.5, 7.0), annotated(17.3)], end_seconds=20.0)
    found = video_alarms(video, "a", 0.5, PLAIN, tolerance_seconds=0.5, point_radius_seconds=1.0)
    assert found.counts == AlarmCounts(
        num_references=2,
        num_detected=2,
        num_alarms=4,
        num_false_alarms=1,
        # All but [2, 7.5] and [15.8, 18.8].
        quiet_hours=pytest.approx((20 - 5.5 - 3.0) / 3600),
    )
    # Of the point, from the point itself and not from where its reach begins.
    assert found.delays == pytest.approx([0.5, -0.3])
    assert found.counts.false_alarms_per_hour == pytest.approx(3600 / 11.5)
    assert found.counts.false_alarms_interval() == poisson_interval(1, found.counts.quiet_hours)
    assert found.counts.recall_interval() == wilson_interval(2, 2)


def test_the_alarm_is_raised_when_the_threshold_is_reached() -> None:
    """Hysteresis lets the event begin before that; nobody could have been told then."""
    video = scored([0.4, 0.4, 0.4, 0.9, 0.9], [annotated(2.6, 4.5)])
    rules = type(PLAIN)(hysteresis_ratio=0.6, merge_gap_seconds=0.0)
    assert video.stretches("a", 0.6, rules).starts.tolist() == [0.0]
    found = video_alarms(video, "a", 0.6, rules)
    assert found.delays == pytest.approx([0.4])


def test_counts_of_videos_and_of_classes() -> None:
    first = scored([[0.9, 0.1]] * 3 + [[0.1, 0.1]] * 7, [annotated(0.0, 3.0)], end_seconds=10.0)
    second = scored([[0.1, 0.9]] * 2 + [[0.1, 0.1]] * 8, end_seconds=10.0)
    per_class = {
        label: alarm_counts([first, second], label, 0.5, PLAIN, tolerance_seconds=0.0)
        for label in "ab"
    }
    assert per_class["a"].num_detected == 1
    assert per_class["a"].quiet_hours == pytest.approx(17 / 3600)
    assert per_class["b"].num_false_alarms == 1
    both = over_classes(per_class)
    assert (both.num_references, both.num_alarms, both.num_false_alarms) == (1, 2, 1)
    # An hour stays an hour, however many classes there are.
    assert both.quiet_hours == pytest.approx((17 + 20) / 2 / 3600)
    assert over_classes({}) == AlarmCounts()


def test_undefined() -> None:
    nothing = AlarmCounts()
    assert math.isnan(nothing.recall) and math.isnan(nothing.false_alarms_per_hour)
    assert nothing.recall_interval() is None and nothing.false_alarms_interval() is None
    always = scored([0.1] * 4, [annotated(0.0, 4.0)], end_seconds=4.0)
    assert math.isnan(alarm_counts([always], "a", 0.5, PLAIN).false_alarms_per_hour)


def test_time_to_detect() -> None:
    delays = np.array([-0.2, 0.0, 0.4, 0.6, 3.0, math.nan])
    found = time_to_detect(delays, tolerance_seconds=0.5)
    assert (found.num_detected, found.median) == (5, 0.4)
    assert found.p95 == pytest.approx(0.6 + 0.8 * 2.4)
    assert (found.early_share, found.late_share) == (0.2, 0.4)
    none = time_to_detect(np.array([math.nan]))
    assert none.num_detected == 0
    assert all(math.isnan(x) for x in (none.median, none.p95, none.early_share, none.late_share))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=6), st.integers(0, 4))
def test_covered_seconds_counts_each_moment_once(
    intervals: list[tuple[int, int]], margin: int
) -> None:
    bounds = np.array([(s, s + n) for s, n in intervals], float).reshape(-1, 2)
    expected = sum(
        any(s - margin <= t and t + 1 <= s + n + margin for s, n in intervals) for t in range(5, 30)
    )
    found = covered_seconds(bounds, within=(5.0, 30.0), margin_seconds=margin)
    assert found == pytest.approx(expected)
