"""Every metric on 1,000 random prediction sets, against its definition written once more."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

import reference_metrics as reference
from utils.data.annotations import AnnotatedEvent
from utils.evaluation.alarms import match_alarms
from utils.evaluation.calibration import brier_score, expected_calibration_error
from utils.evaluation.metrics import auroc, average_precision
from utils.evaluation.proposals import Proposals
from utils.evaluation.ranking import RankedPredictions
from utils.evaluation.segments import (
    ACTIVITYNET_TIOUS,
    OVERLAPS,
    THUMOS_TIOUS,
    edit_score,
    segment_ranking,
    segmental_counts,
    segmental_f1,
    tiou_limits,
)
from utils.evaluation.spotting import (
    LOOSE_WINDOWS_SECONDS,
    TIGHT_WINDOWS_SECONDS,
    TOLERANCES_FRAMES,
    TOLERANCES_SECONDS,
    SoccerNetSpotting,
    spotting_ranking,
)

NUM_SETS = 1000
PRECISE = 1e-9


@dataclass(frozen=True)
class Video:
    """One class in one video; all references of a set are points, or all are intervals."""

    references: list[AnnotatedEvent]
    proposals: Proposals
    timestamps: NDArray[np.float64]


def random_video(draw: np.random.Generator, *, is_point: bool, is_coarse: bool) -> Video:
    """Few of everything, none of something every now and then; on a coarse grid much is equal."""
    unit = 0.5 if is_coarse else 0.01
    num_references, num_predictions = (int(draw.integers(0, 5)) for _ in range(2))

    def times(count: int, upto: float) -> NDArray[np.float64]:
        values: NDArray[np.float64] = draw.integers(0, round(upto / unit), count) * unit
        return values

    starts = np.sort(times(num_references, 12))
    lengths = np.zeros(num_references) if is_point else times(num_references, 4) + unit
    predicted = np.sort(times(num_predictions, 12))
    ends = predicted + times(num_predictions, 5) + unit
    scores = draw.random(num_predictions)
    if is_coarse:
        scores = np.round(scores, 1)
    return Video(
        references=[
            AnnotatedEvent(label="a", start=float(s), end=float(s + n))
            for s, n in zip(starts, lengths, strict=True)
        ],
        proposals=Proposals(
            starts=predicted,
            ends=ends,
            # Rising with the starts, so that both orders in time agree.
            peak_seconds=predicted + unit / 4,
            scores=scores,
        ),
        timestamps=np.arange(0, 20, 0.25) + 0.1,
    )


def random_sets() -> list[tuple[bool, list[Video]]]:
    draw = np.random.default_rng(11)
    sets = []
    for number in range(NUM_SETS):
        is_point, is_coarse = number % 2 == 0, number % 4 < 2
        count = int(draw.integers(1, 4))
        videos = [random_video(draw, is_point=is_point, is_coarse=is_coarse) for _ in range(count)]
        sets.append((is_point, videos))
    return sets


SETS = random_sets()


def moments(is_point: bool, video: Video) -> tuple[list[float], list[tuple[float, float]]]:
    at = video.proposals.peak_seconds if is_point else video.proposals.starts
    predictions = list(zip(at.tolist(), video.proposals.scores.tolist(), strict=True))
    return [event.start for event in video.references], predictions


def test_the_sets_hold_what_is_odd() -> None:
    totals = [
        (sum(len(v.references) for v in videos), sum(len(v.proposals) for v in videos))
        for _, videos in SETS
    ]
    assert len(SETS) == NUM_SETS
    assert sum(references == 0 for references, _ in totals) > 20
    assert sum(predictions == 0 for _, predictions in totals) > 20
    ties = sum(
        len(np.unique(v.proposals.scores)) < len(v.proposals) for _, videos in SETS for v in videos
    )
    assert ties > 50


def test_spotting_equals_e2e_spot() -> None:
    for is_point, videos in SETS:
        truth, predictions = zip(*(moments(is_point, video) for video in videos), strict=True)
        ranked = RankedPredictions(
            [spotting_ranking(video.references, video.proposals) for video in videos],
            TOLERANCES_SECONDS,
        ).average_precision()
        expected = [reference.e2e_spot_ap(truth, predictions, t) for t in TOLERANCES_SECONDS]
        assert ranked == pytest.approx(expected, abs=PRECISE, nan_ok=True)


def test_spotting_in_frames_equals_e2e_spot() -> None:
    def frame(timestamps: NDArray[np.float64], seconds: float, *, is_point: bool) -> int:
        if is_point:  # The nearest; of two as near, the later.
            gaps = [abs(time - seconds) for time in timestamps]
            return max(i for i, gap in enumerate(gaps) if gap <= min(gaps) + 1e-12)
        return next(i for i, time in enumerate(timestamps) if time >= seconds)

    for is_point, videos in SETS:
        truth, predictions = [], []
        for video in videos:
            own, found = moments(is_point, video)
            truth.append([frame(video.timestamps, t, is_point=is_point) for t in own])
            predictions.append(
                [(frame(video.timestamps, t, is_point=is_point), s) for t, s in found]
            )
        ranked = RankedPredictions(
            [spotting_ranking(v.references, v.proposals, timestamps=v.timestamps) for v in videos],
            TOLERANCES_FRAMES,
        ).average_precision()
        expected = [reference.e2e_spot_ap(truth, predictions, t) for t in TOLERANCES_FRAMES]
        assert ranked == pytest.approx(expected, abs=PRECISE, nan_ok=True)


@pytest.mark.parametrize("windows", [TIGHT_WINDOWS_SECONDS, LOOSE_WINDOWS_SECONDS])
def test_average_map_equals_soccernet(windows: tuple[float, ...]) -> None:
    for is_point, videos in SETS:
        truth, predictions = zip(*(moments(is_point, video) for video in videos), strict=True)
        rankings = [spotting_ranking(video.references, video.proposals) for video in videos]
        value = SoccerNetSpotting(rankings, windows).average_precision()
        expected = reference.soccernet_average_map(truth, predictions, windows)
        assert value == pytest.approx(expected, abs=PRECISE, nan_ok=True)


@pytest.mark.parametrize("tious", [ACTIVITYNET_TIOUS, THUMOS_TIOUS])
def test_segment_map_equals_activitynet(tious: tuple[float, ...]) -> None:
    for _, videos in SETS:
        # A point is the interval that it is spread to.
        truth = [[event.spread(0.5) for event in video.references] for video in videos]
        predictions = [
            [
                ((start, end), score)
                for start, end, score in zip(
                    video.proposals.starts.tolist(),
                    video.proposals.ends.tolist(),
                    video.proposals.scores.tolist(),
                    strict=True,
                )
            ]
            for video in videos
        ]
        ranked = RankedPredictions(
            [
                segment_ranking(np.array(own).reshape(-1, 2), video.proposals)
                for own, video in zip(truth, videos, strict=True)
            ],
            tiou_limits(tious),
        ).average_precision()
        expected = [reference.activitynet_ap(truth, predictions, tiou) for tiou in tious]
        assert ranked == pytest.approx(expected, abs=PRECISE, nan_ok=True)


def test_segmental_f1_and_edit_score_equal_ms_tcn() -> None:
    draw = np.random.default_rng(12)
    labels = ("background", "a", "b", "c")
    num_undefined = 0
    for _ in range(NUM_SETS):

        def framewise() -> list[str]:
            runs = draw.integers(1, 9, 8)
            kinds = draw.choice(len(labels), 8, p=[0.55, 0.25, 0.15, 0.05])
            frames = [labels[k] for k, n in zip(kinds, runs, strict=True) for _ in range(n)]
            return frames[: int(draw.choice([2, 10, 60]))]

        found, real = framewise(), framewise()
        segments = [reference.framewise_segments(frames) for frames in (found, real)]
        counts = np.zeros((len(OVERLAPS), 3), np.int64)
        for label in labels[1:]:
            own = [
                np.array([(s, e) for name, s, e in part if name == label], float).reshape(-1, 2)
                for part in segments
            ]
            counts += segmental_counts(*own)
        f1 = segmental_f1(counts)
        for row, overlap, value in zip(counts, OVERLAPS, f1, strict=True):
            hits, wrong, missed = reference.mstcn_counts(found, real, overlap)
            assert row.tolist() == [hits, hits + wrong, hits + missed]
            total = 2 * hits + wrong + missed
            assert math.isnan(value) if not total else abs(value - 2 * hits / total) < PRECISE
        edit = edit_score(*([name for name, _, _ in part] for part in segments))
        expected = reference.mstcn_edit(found, real)
        num_undefined += math.isnan(expected)
        assert edit == pytest.approx(expected, abs=PRECISE, nan_ok=True)
    assert 0 < num_undefined < NUM_SETS / 2


def test_frame_metrics_and_calibration_equal_their_definitions() -> None:
    draw = np.random.default_rng(13)
    for number in range(NUM_SETS):
        size = int(draw.integers(0, 30))
        targets = (draw.random(size) < draw.choice([0.0, 0.2, 0.5, 1.0])).astype(int).tolist()
        scores = draw.random(size)
        if number % 2:
            scores = np.round(scores * 15) / 15  # Ties, and all of them on borders of bins.
        values = scores.tolist()
        for measure, naive in (
            (average_precision, reference.step_average_precision),
            (auroc, reference.pairwise_auroc),
        ):
            expected = pytest.approx(naive(targets, values), abs=PRECISE, nan_ok=True)
            assert measure(targets, values) == expected
        error = reference.binned_calibration_error(targets, values, 15)
        assert expected_calibration_error(targets, values) == pytest.approx(
            error, abs=PRECISE, nan_ok=True
        )
        square = sum((s - t) ** 2 for s, t in zip(values, targets, strict=True))
        mean = square / size if size else math.nan
        assert brier_score(targets, values) == pytest.approx(mean, abs=PRECISE, nan_ok=True)


def test_alarms_equal_their_definition() -> None:
    draw = np.random.default_rng(14)
    for number in range(NUM_SETS):
        unit = 0.25 if number % 2 else 0.001
        starts = draw.integers(0, round(10 / unit), int(draw.integers(0, 5))) * unit
        lengths = draw.integers(0, round(4 / unit), len(starts)) * unit
        references = np.stack((starts, starts + lengths), axis=1)
        alarms = np.sort(draw.integers(0, round(15 / unit), int(draw.integers(0, 6))) * unit)
        match = match_alarms(references, alarms, tolerance_seconds=0.5)
        detected, false, delays = reference.alarm_counts(
            # Times are sums of clock ticks: what is 0.5 s apart is so up to a microsecond.
            [(float(s), float(e)) for s, e in references],
            alarms.tolist(),
            0.5 + 1e-6,
        )
        assert np.count_nonzero(match.is_false) == false
        found = match.delays[~np.isnan(match.delays)]
        assert len(found) == detected
        assert found.tolist() == pytest.approx(delays, abs=PRECISE)
