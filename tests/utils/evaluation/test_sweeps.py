"""Budget and sweeps: each point of a curve is what that threshold gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scored_videos import LABELS, PLAIN, annotated, scored
from utils.evaluation.alarms import alarm_counts, over_classes
from utils.evaluation.budget import is_touched, sent_share, sent_video
from utils.evaluation.scored_video import EventRules, ScoredVideo, Stretches
from utils.evaluation.sweeps import ThresholdSweep, spread_thresholds


def random_videos(draw: np.random.Generator, count: int = 3) -> list[ScoredVideo]:
    videos = []
    for number in range(count):
        starts = draw.integers(0, 36, 3).astype(float)
        references = [
            annotated(float(s), float(s + n), str(draw.choice(LABELS)))
            for s, n in zip(starts, draw.integers(0, 6, 3), strict=True)
        ]
        videos.append(scored(draw.random((40, 2)) ** 3, references, name=f"{number}.mp4"))
    return videos


def test_touching() -> None:
    stretches = Stretches(
        starts=np.array([2.0, 6.0]),
        ends=np.array([4.0, 8.0]),
        peaks=np.zeros(2, int),
        crossings=np.zeros(2, int),
    )
    references = np.array([[0, 2], [0, 2.1], [4, 6], [3.9, 5], [5, 9], [8, 9], [7, 7.5]], float)
    expected = [False, True, False, True, True, False, True]
    assert is_touched(references, stretches).tolist() == expected


def test_what_is_sent_by_hand() -> None:
    # Class a from 1 to 4, class b from 3 to 6: five of ten seconds, each of them once.
    scores = np.zeros((10, 2))
    scores[1:4, 0] = scores[3:6, 1] = 0.9
    video = scored(scores, [annotated(0.0, 2.0), annotated(8.0, label="b")], end_seconds=10.0)
    found = sent_video(video, {"a": 0.5, "b": 0.5}, PLAIN)
    assert found.sent_seconds == pytest.approx(5.0)
    assert found.num_references == {"a": 1, "b": 1}
    assert found.num_recalled == {"a": 1, "b": 0}
    assert sent_share([found, found]) == pytest.approx(0.5)
    assert sent_video(video, {"a": 0.5}, PLAIN).sent_seconds == pytest.approx(3.0)
    assert sent_video(video, {}, PLAIN).sent_seconds == 0.0
    assert math.isnan(sent_share([]))


def test_curves_are_what_each_threshold_gives() -> None:
    draw = np.random.default_rng(31)
    rules = EventRules(hysteresis_ratio=0.6, merge_gap_seconds=1.0)
    videos = random_videos(draw)
    sweep = ThresholdSweep(videos, LABELS, rules, tolerance_seconds=0.5, point_radius_seconds=0.5)
    alarms, budget = sweep.alarm_curve(), sweep.budget_curve()
    assert alarms.thresholds.tolist() == budget.thresholds.tolist() == sweep.thresholds.tolist()
    assert (alarms.prices[0], alarms.recalls[0]) == (0, 0)
    assert (budget.prices[0], budget.recalls[0]) == (0, 0)
    for number, threshold in enumerate(sweep.thresholds[1:].tolist(), 1):
        counts = over_classes(
            {label: alarm_counts(videos, label, threshold, rules) for label in LABELS}
        )
        assert alarms.prices[number] == pytest.approx(counts.false_alarms_per_hour)
        assert alarms.recalls[number] == pytest.approx(counts.recall)
        sent = [sent_video(video, dict.fromkeys(LABELS, threshold), rules) for video in videos]
        assert budget.prices[number] == pytest.approx(sent_share(sent))
        recalled = sum(sum(video.num_recalled.values()) for video in sent)
        assert budget.recalls[number] == pytest.approx(recalled / 9)


def test_a_selection_of_videos_is_those_videos() -> None:
    videos = random_videos(np.random.default_rng(32))
    thresholds = [0.2, 0.5, 0.9]
    weights = np.array([2, 0, 1])
    whole = ThresholdSweep(videos, ["a"], PLAIN, thresholds=thresholds)
    chosen = ThresholdSweep([videos[0], videos[0], videos[2]], ["a"], PLAIN, thresholds=thresholds)
    for name in ("alarm_curve", "budget_curve"):
        found, expected = getattr(whole, name)(weights), getattr(chosen, name)()
        assert found.prices == pytest.approx(expected.prices)
        assert found.recalls == pytest.approx(expected.recalls, nan_ok=True)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_a_budget_only_grows(seed: int) -> None:
    curve = ThresholdSweep(
        random_videos(np.random.default_rng(seed), 1), ["a"], EventRules()
    ).budget_curve()
    assert (np.diff(curve.thresholds) < 0).all()
    assert (np.diff(curve.prices) >= -1e-12).all()
    assert np.isnan(curve.recalls).all() or (np.diff(curve.recalls) >= 0).all()


def test_recall_at_a_price() -> None:
    scores = np.zeros(20)
    scores[2], scores[10], scores[15] = 0.9, 0.8, 0.7
    # The strongest peak is an event, the second is false, the third is an event.
    video = scored(scores, [annotated(1.5, 2.5), annotated(14.5, 15.5)], end_seconds=20.0)
    sweep = ThresholdSweep([video], ["a"], PLAIN, tolerance_seconds=0.0)
    alarms = sweep.alarm_curve()
    per_hour = 3600 / 18
    assert alarms.recall_at(0) == 0.5
    assert alarms.recall_at(per_hour - 0.1) == 0.5
    assert alarms.recall_at(per_hour + 0.1) == 1.0
    budget = sweep.budget_curve()
    assert budget.recall_at(0.01) == 0
    assert budget.recall_at(0.05) == 0.5
    assert budget.recall_at(1.0) == 1.0


def test_undefined() -> None:
    quiet = scored([0.2, 0.9], end_seconds=2.0)
    sweep = ThresholdSweep([quiet], ["a"], PLAIN)
    assert math.isnan(sweep.alarm_curve().recall_at(1.0))
    assert sweep.alarm_curve().prices[-1] > 0
    busy = scored([0.2, 0.9], [annotated(0.0, 2.0)], end_seconds=2.0)
    assert math.isnan(ThresholdSweep([busy], ["a"], PLAIN).alarm_curve().recall_at(1e9))


def test_thresholds_are_where_peaks_are() -> None:
    video = scored([0.1, 0.5, 0.2, 0.2, 0.8, 0.0, 0.3])
    found = spread_thresholds([video], ["a"])
    assert found == pytest.approx([0.3, 0.5, 0.8])
    # In double precision a threshold of that value is still reached by its own frame.
    assert [len(video.stretches("a", t, PLAIN)) for t in found.tolist()] == [3, 2, 1]
    assert len(spread_thresholds([scored([0.0, 0.0])], ["a"])) == 0
    many = scored(np.random.default_rng(33).random(3000))
    few = spread_thresholds([many], ["a"], limit=50)
    assert len(few) == 50
    assert few[-1] == many.temporal.max()
