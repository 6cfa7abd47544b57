"""The scorecard: shape of every figure, values by hand, selections, intervals, mistakes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from scored_videos import LABELS, PLAIN, annotated, evidence_of, judged, scored
from utils.data.annotations import frame_targets
from utils.evaluation.bootstrap import cluster_draws
from utils.evaluation.evidence import Evidence, Judgement
from utils.evaluation.figure import Figure, mean_of_rows, selection
from utils.evaluation.intervals import poisson_interval
from utils.evaluation.matching import event_scores
from utils.evaluation.metrics import frame_metrics
from utils.evaluation.mistakes import find_mistakes
from utils.evaluation.scorecard import Scorecard
from utils.evaluation.scored_video import EventRules, ScoredVideo


def random_videos(count: int, seed: int = 1) -> list[ScoredVideo]:
    draw = np.random.default_rng(seed)
    videos = []
    for number in range(count):
        size = int(draw.integers(30, 60))
        references = [
            annotated(float(start), float(start + draw.integers(0, 6)), str(draw.choice(LABELS)))
            for start in draw.integers(0, size - 7, 4)
        ]
        targets = frame_targets(references, LABELS, np.arange(size, dtype=float))
        scores = np.clip(draw.random((size, 2)) * 0.7 + 0.4 * targets, 0, 1)
        videos.append(
            scored(
                scores,
                references,
                is_seen=draw.random(size) < 0.9,
                name=f"{number}.mp4",
                cluster=f"camera{number // 2}",
            )
        )
    return videos


VIDEOS = random_videos(6)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    rules = EventRules(hysteresis_ratio=0.7, merge_gap_seconds=1.0)
    return evidence_of(*VIDEOS, threshold=0.6, rules=rules)


@pytest.fixture(scope="module")
def card(evidence: Evidence) -> Scorecard:
    return Scorecard(evidence)


def test_every_figure_has_the_same_shape(card: Scorecard) -> None:
    draws = cluster_draws([video.cluster for video in VIDEOS], num_draws=20)
    plain = card.to_plain(draws)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    for key, figure in card.figures.items():
        entry = plain[key]
        assert list(entry) == ["overall", "per_class", "interval"]
        assert list(entry["per_class"]) == list(entry["interval"]["per_class"]) == list(LABELS)
        pairs = [(entry["overall"], entry["interval"]["overall"])]
        pairs += [(entry["per_class"][k], entry["interval"]["per_class"][k]) for k in LABELS]
        for value, interval in pairs:
            parts = figure.parts
            values = [value] if parts is None else [value[part] for part in parts]
            bounds = [interval] if parts is None else [interval[part] for part in parts]
            for number, bound in zip(values, bounds, strict=True):
                assert number is None or isinstance(number, float)
                assert bound is None or (len(bound) == 2 and bound[0] <= bound[1])


def test_figures_are_those_of_their_modules(card: Scorecard, evidence: Evidence) -> None:
    plain = card.to_plain()
    targets = np.concatenate([v.targets(point_radius_seconds=0.5) for v in VIDEOS])
    frames = frame_metrics(targets, np.concatenate([v.temporal for v in VIDEOS]), LABELS)
    assert plain["frame_ap"]["overall"] == pytest.approx(frames.average_precision)
    assert plain["frame_auroc"]["per_class"]["b"] == pytest.approx(frames.per_class["b"].auroc)
    trigger = frame_metrics(targets, np.concatenate([v.trigger for v in VIDEOS]), LABELS)
    assert plain["frame_ap_trigger_head"]["overall"] == pytest.approx(trigger.average_precision)
    events = event_scores([(v.scored.references, v.events) for v in evidence.videos], LABELS)
    for key in ("event_f1", "event_precision", "event_recall"):
        assert plain[key]["overall"] == pytest.approx(events.to_plain()[key]["overall"])
        assert plain[key]["per_class"] == pytest.approx(events.to_plain()[key]["per_class"])
    assert plain["event_counts"] == events.to_plain()["event_counts"]
    assert plain["event_tolerance"] == events.to_plain()["event_tolerance"]
    counts = plain["alarm_counts"]["overall"]
    assert counts["num_alarms"] == sum(len(video.events) for video in evidence.videos)
    assert counts["num_references"] == 24
    low, high = poisson_interval(counts["num_false_alarms"], counts["quiet_hours"])
    assert plain["false_alarms_per_hour"]["interval"]["overall"] == [low, high]
    assert plain["num_frames"] == len(targets) == len(evidence.owners)
    assert plain["num_positive_frames"] == {
        "a": int(targets[:, 0].sum()),
        "b": int(targets[:, 1].sum()),
    }


def test_a_selection_is_a_scorecard_of_its_own(card: Scorecard, evidence: Evidence) -> None:
    """Each figure of videos 1 and 4, counted once and twice, against a card of just these."""
    chosen = [VIDEOS[1], VIDEOS[4], VIDEOS[4]]
    again = Scorecard(evidence_of(*chosen, threshold=0.6, rules=evidence.judgement.rules)).values(
        np.ones(3, int)
    )
    found = card.values(np.array([0, 1, 0, 0, 2, 0]))
    assert list(found) == list(again)
    for key in found:
        if key.startswith("recall_at"):
            continue  # Its thresholds are spread over the peaks of other videos.
        for expected, value in zip(_numbers(again[key]), _numbers(found[key]), strict=True):
            assert value == (None if expected is None else pytest.approx(expected, abs=1e-9)), key
    assert card.values(selection([1], 6)) != card.values(selection([4], 6))


def _numbers(entry: Any) -> list[float | None]:
    if isinstance(entry, dict):
        return [number for value in entry.values() for number in _numbers(value)]
    return [entry]


def test_perfect_and_hopeless() -> None:
    truth = [annotated(3.0, 6.0), annotated(12.0, 15.0)]
    scores = np.full(20, 0.01)
    # Events begin midway between two frames.
    scores[3:6] = scores[12:15] = 0.99
    plain = Scorecard(evidence_of(scored(scores, truth, end_seconds=20.0))).to_plain()
    for key in (
        *("frame_ap", "frame_auroc", "event_f1", "alarm_recall", "event_map", "event_map_tight"),
        *("event_map_loose", "event_map_frames", "edit_score"),
    ):
        assert plain[key]["overall"] == pytest.approx(1.0), key
    assert plain["segmental_f1"]["overall"] == {"0.1": 1.0, "0.25": 1.0, "0.5": 1.0}
    assert plain["false_alarms_per_hour"]["overall"] == 0
    assert plain["time_to_detect_seconds"]["overall"]["median"] == 0
    assert plain["sent_share"]["overall"] == pytest.approx(6 / 20)
    assert plain["recall_at_budget"]["overall"]["0.5"] == 1
    assert plain["ece"]["overall"] == pytest.approx(0.01)
    wrong = Scorecard(evidence_of(scored(1 - scores, truth, end_seconds=20.0))).to_plain()
    assert wrong["event_f1"]["overall"] == 0
    assert wrong["segment_map"]["overall"] < 0.3
    assert wrong["ece"]["overall"] == pytest.approx(0.99)


def test_points_and_intervals() -> None:
    scores = np.zeros(20)
    scores[[5, 12]] = 0.9
    video = scored(scores, [annotated(5.2), annotated(11.7, 12.6)], end_seconds=20.0)
    plain = Scorecard(evidence_of(video)).to_plain()
    assert plain["alarm_recall"]["overall"] == 1.0
    assert plain["event_map_at_seconds"]["overall"]["0.5"] == 1.0
    assert plain["time_to_detect_seconds"]["overall"]["early_share"] == 0.5


def test_intervals_need_two_groups(card: Scorecard) -> None:
    assert card.to_plain(None)["event_f1"]["interval"]["overall"] is None
    assert card.to_plain(None)["time_to_detect_seconds"]["interval"]["overall"] == {
        "median": None,
        "p95": None,
        "early_share": None,
        "late_share": None,
    }


def test_intervals_are_around_what_they_belong_to(card: Scorecard) -> None:
    draws = cluster_draws([video.cluster for video in VIDEOS], num_draws=200)
    plain = card.to_plain(draws, confidence=0.9)
    for key in ("frame_ap", "event_f1", "event_map", "segment_map", "ece", "alarm_recall"):
        low, high = plain[key]["interval"]["overall"]
        assert low <= plain[key]["overall"] <= high
        assert low < high


def test_a_figure_of_classes_that_are_partly_undefined() -> None:
    figure = Figure(per_class={"a": lambda weights: math.nan, "b": lambda weights: 0.5})
    assert figure.values(np.ones(1, int)) == {"overall": 0.5, "per_class": {"a": None, "b": 0.5}}
    assert np.isnan(mean_of_rows(np.full((2, 1), math.nan))).all()


def test_mistakes() -> None:
    scores = np.full(40, 0.1)
    scores[5], scores[10], scores[12], scores[20:30] = 0.9, 0.6, 0.8, 0.7
    truth = [annotated(4.8, 6.0), annotated(16.0, 17.0), annotated(20.0, 22.0), annotated(26, 28)]
    evidence = evidence_of(scored([0.2] * 5, [annotated(1.0)]), scored(scores, truth))
    found = find_mistakes(evidence)
    assert [(miss.video, miss.event.start) for miss in found.misses] == [
        (1, 16.0),
        (0, 1.0),
        (1, 26.0),
    ]
    assert [miss.highest_score for miss in found.misses] == pytest.approx([0.1, 0.2, 0.7])
    # The last one lies in an event whose alarm belongs to another.
    assert [miss.raised_at for miss in found.misses] == [None, None, 20.0]
    alarm, weaker = found.false_alarms
    assert (weaker.raised_at, weaker.confidence) == (10.0, pytest.approx(0.6))
    assert (alarm.video, alarm.label, alarm.raised_at) == (1, "a", 12.0)
    assert (alarm.start, alarm.end) == (11.5, 12.5)
    assert alarm.confidence == pytest.approx(0.8)


def test_each_class_has_its_threshold() -> None:
    video = scored(np.full((4, 2), 0.5), end_seconds=4.0)
    events = judged(video, 0.4).events[:1]
    evidence = Evidence(
        [judged(video, 0.4)], Judgement(thresholds={"a": 0.4, "b": 0.6}, rules=PLAIN)
    )
    assert events[0].label == "a"
    counts = [evidence.alarm_counts(evidence.everything, label).num_alarms for label in "ab"]
    assert counts == [1, 0]
