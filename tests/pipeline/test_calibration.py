"""From scored videos to an operating point: temperatures, the gate, promises on unseen halves."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pipeline.calibration import Calibration, CalibrationSettings, calibrate, rescaled
from pipeline.candidate_gate import gated
from pipeline.operating_points import Wish, choose
from pipeline.threshold_curves import ClassCurve, threshold_grid
from scored_streams import scored_video
from utils.config.schema import EventsConfig
from utils.errors import UsageError
from utils.evaluation.alarms import alarm_counts
from utils.evaluation.scored_video import ScoredVideo

LABELS = ("a", "b")
SETTINGS = CalibrationSettings(events=EventsConfig())
WISH = Wish(kind="false_alarms_per_hour", value=12.0)


@pytest.fixture(scope="module")
def videos() -> list[ScoredVideo]:
    return [scored_video(seed, labels=LABELS, minutes=6) for seed in range(8)]


@pytest.fixture(scope="module")
def calibration(videos: list[ScoredVideo]) -> Calibration:
    return calibrate(videos, WISH, SETTINGS)


def operated(video: ScoredVideo, calibration: Calibration) -> ScoredVideo:
    """What the cascade sees of a video at the operating point."""
    return gated(
        rescaled(video, dict.fromkeys(LABELS, 1.0), calibration.temperatures),
        calibration.gate.threshold,
        context_seconds=SETTINGS.events.context_seconds,
    )


def test_figures_are_those_of_the_operating_point(
    videos: list[ScoredVideo], calibration: Calibration
) -> None:
    behind = [operated(video, calibration) for video in videos]
    for label in LABELS:
        expected = alarm_counts(behind, label, calibration.thresholds[label], SETTINGS.rules)
        figures = calibration.per_class[label]
        assert figures.counts == expected
        assert figures.recall_interval is not None
        assert figures.recall_interval[0] < expected.recall < figures.recall_interval[1]
        assert figures.false_alarms_interval is not None
        low, high = figures.false_alarms_interval
        assert low <= expected.false_alarms_per_hour < high
    assert calibration.overall.counts.num_false_alarms == sum(
        figures.counts.num_false_alarms for figures in calibration.per_class.values()
    )
    assert calibration.overall.counts.false_alarms_per_hour < calibration.promised <= WISH.value
    looked_at = sum(int(video.is_contextualized.sum()) for video in behind)
    assert calibration.gate.contextualized_share == looked_at / sum(map(len, behind))
    low, high = calibration.stage3_interval
    assert low < calibration.stage3_fraction < high
    assert calibration.num_videos == 8
    assert calibration.hours == pytest.approx(0.8)
    assert not calibration.notes


def test_it_is_plain_data(calibration: Calibration) -> None:
    plain = calibration.to_plain()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["wish"] == {"kind": "false_alarms_per_hour", "value": 12.0, "confidence": 0.95}
    assert list(plain["thresholds"]) == list(plain["temperatures"]) == list(LABELS)


def test_temperature_makes_up_for_what_was_too_sure(videos: list[ScoredVideo]) -> None:
    """Logits that are three times too large give the same events, with three times the heat."""
    sharp = [scored_video(seed, labels=LABELS, minutes=6, sharpness=3.0) for seed in range(8)]
    plain, hot = (calibrate(some, WISH, SETTINGS) for some in (videos, sharp))
    for label in LABELS:
        ratio = hot.temperatures[label] / plain.temperatures[label]
        assert ratio == pytest.approx(3.0, rel=1e-3)
        assert hot.thresholds[label] == pytest.approx(plain.thresholds[label], rel=0.01)
        assert hot.per_class[label].counts == plain.per_class[label].counts
    assert hot.calibration_error[1] == pytest.approx(plain.calibration_error[1], abs=1e-4)


def test_a_second_calibration_finds_nothing_to_do(
    videos: list[ScoredVideo], calibration: Calibration
) -> None:
    calibrated = [
        rescaled(video, dict.fromkeys(LABELS, 1.0), calibration.temperatures) for video in videos
    ]
    again = calibrate(calibrated, WISH, SETTINGS, temperatures=calibration.temperatures)
    for label in LABELS:
        assert again.temperatures[label] == pytest.approx(calibration.temperatures[label], rel=1e-4)
        assert again.thresholds[label] == pytest.approx(calibration.thresholds[label], rel=1e-3)
    assert again.per_class == calibration.per_class


def test_the_gate_may_be_given(videos: list[ScoredVideo], calibration: Calibration) -> None:
    given = dataclasses.replace(SETTINGS, candidate_threshold=0.9)
    strict = calibrate(videos, WISH, given)
    assert strict.gate.threshold == 0.9
    assert strict.gate.num_lost > calibration.gate.num_lost
    assert strict.gate.contextualized_share < calibration.gate.contextualized_share
    unscored = dataclasses.replace(given, least_candidate_threshold=0.95)
    with pytest.raises(
        UsageError,
        match=r"a candidate threshold of 0\.9 lets frames through that were never scored: the "
        r"scores were saved with 0\.95; save them anew with a lower one",
    ):
        calibrate(videos, WISH, unscored)
    least = dataclasses.replace(SETTINGS, least_candidate_threshold=0.95)
    assert calibrate(videos, WISH, least).gate.threshold == 0.95


def test_few_groups_are_told(videos: list[ScoredVideo]) -> None:
    together = [dataclasses.replace(video, cluster="hall") for video in videos]
    (note,) = calibrate(together, WISH, SETTINGS).notes
    assert note.startswith("all of it comes from 1 group of videos")
    two = [dataclasses.replace(video, cluster=str(n % 2)) for n, video in enumerate(videos)]
    (note,) = calibrate(two, WISH, SETTINGS).notes
    assert note.startswith("all of it comes from 2 groups of videos")


def test_no_videos() -> None:
    with pytest.raises(UsageError, match="calibration needs videos, and there are none"):
        calibrate([], WISH, SETTINGS)


def test_promises_hold_on_the_other_half() -> None:
    """A thousand random halves of the same videos: thresholds from one, truth from the other."""
    videos = [scored_video(seed, minutes=10, events_per_minute=1.0) for seed in range(60)]
    rules = SETTINGS.rules
    spread = {"tolerance_seconds": 0.5, "point_radius_seconds": 0.5}
    grid = threshold_grid(videos, "a", **spread)
    # By video, so that a half is a sum: to score the same videos a thousand times tells no more.
    parts = [ClassCurve.of(video, "a", grid[::3], rules, **spread) for video in videos]
    random = np.random.default_rng(0)
    confidence, num_splits = 0.9, 1000
    wishes = [
        Wish(kind="recall", value=0.8, confidence=confidence),
        Wish(kind="false_alarms_per_hour", value=10.0, confidence=confidence),
    ]
    broken = dict.fromkeys((wish.kind for wish in wishes), 0)
    for _ in range(num_splits):
        order = random.permutation(len(parts))
        first, other = (_total([parts[i] for i in half]) for half in np.array_split(order, 2))
        for wish in wishes:
            choice = choose([first], wish, duration_seconds=30 * 600)
            counts = other.counts(choice.positions[0])
            if wish.kind == "recall":
                broken[wish.kind] += counts.recall < choice.promised
            else:
                broken[wish.kind] += counts.false_alarms_per_hour > choice.promised
    # The other half is a sample too, with luck of its own: the promise is about the long run, and
    # two samples of one size differ by more than one from the truth.
    for count in broken.values():
        assert count / num_splits <= 2 * (1 - confidence)


def _total(curves: list[ClassCurve]) -> ClassCurve:
    total, *others = curves
    for curve in others:
        total = total + curve
    return total
