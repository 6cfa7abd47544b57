"""Curves of a class over thresholds: the metrics' own counts, and a grid that misses nothing."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest

from pipeline.threshold_curves import MARGIN_LOGITS, ClassCurve, threshold_grid
from scored_streams import scored_video
from utils.evaluation.alarms import alarm_counts
from utils.evaluation.calibration import logits_of
from utils.evaluation.scored_video import EventRules, ScoredVideo

RULES = EventRules(min_duration_seconds=0.6)
LABELS = ("a", "b")
TOLERANCE, RADIUS = 0.5, 0.5


@pytest.fixture(scope="module")
def videos() -> list[ScoredVideo]:
    return [scored_video(seed, labels=LABELS, minutes=4) for seed in range(4)]


def curve_of(videos: list[ScoredVideo], label: str, thresholds: np.ndarray) -> ClassCurve:
    return reduce(
        add,
        (
            ClassCurve.of(
                video,
                label,
                thresholds,
                RULES,
                tolerance_seconds=TOLERANCE,
                point_radius_seconds=RADIUS,
            )
            for video in videos
        ),
    )


def grid_of(videos: list[ScoredVideo], label: str) -> np.ndarray:
    return threshold_grid(videos, label, tolerance_seconds=TOLERANCE, point_radius_seconds=RADIUS)


@pytest.mark.parametrize("label", LABELS)
def test_counts_are_those_of_the_metrics(videos: list[ScoredVideo], label: str) -> None:
    thresholds = np.array([0.01, 0.2, 0.5, 0.77, 0.95])
    curve = curve_of(videos, label, thresholds)
    for position, threshold in enumerate(thresholds):
        expected = alarm_counts(
            videos,
            label,
            float(threshold),
            RULES,
            tolerance_seconds=TOLERANCE,
            point_radius_seconds=RADIUS,
        )
        assert curve.counts(position) == expected
        lengths = np.concatenate(
            [
                stretches.ends - stretches.starts
                for stretches in (video.stretches(label, threshold, RULES) for video in videos)
            ]
        )
        assert curve.sent_seconds[position] == pytest.approx(lengths.sum())
        assert curve.sent_squares[position] == pytest.approx(np.square(lengths).sum())
        annotated = max(
            event.end - event.start
            for video in videos
            for event in video.references
            if event.label == label
        )
        assert curve.longest_seconds[position] == max([annotated, *lengths])
    assert curve.num_false[0] > curve.num_false[-1] >= 0
    assert 0 < curve.num_detected[-1] < curve.num_references


def test_grid_stands_on_both_sides_of_what_decides(videos: list[ScoredVideo]) -> None:
    grid = grid_of(videos, "a")
    assert np.all(np.diff(grid) > 0)
    assert grid[0] > 0
    assert grid[-1] < 1
    steps = logits_of(grid)
    quiet: list[float] = []
    for video in videos:
        is_quiet = np.ones(len(video), np.bool_)
        for start, end in video.intervals("a", point_radius_seconds=RADIUS):
            inside = (video.timestamps >= start - TOLERANCE) & (video.timestamps <= end + TOLERANCE)
            is_quiet &= ~inside
            best = float(logits_of(video.temporal[inside, 0].max()))
            assert np.abs(steps - (best - MARGIN_LOGITS)).min() < 1e-5
        quiet.append(float(logits_of(video.temporal[is_quiet, 0].max())))
    for score in quiet:
        assert np.abs(steps - (score + MARGIN_LOGITS)).min() < 1e-5
    curve = curve_of(videos, "a", grid)
    # At the top nothing is left, at the bottom the whole video is one event.
    assert curve.num_alarms[-1] == 0
    assert curve.sent_seconds[0] > 0.5 * sum(video.duration_seconds for video in videos)


def test_scores_next_to_one_keep_more_room() -> None:
    """There a float32 tells a logit to some hundredths only, and a temperature shows it."""
    video = scored_video(1, sharpness=3.0)
    plain = grid_of([video], "a")
    warm = threshold_grid(
        [video],
        "a",
        temperature_ratio=1.2,
        tolerance_seconds=TOLERANCE,
        point_radius_seconds=RADIUS,
    )
    top = float(logits_of(video.temporal.max()))
    assert 11 < top < 14
    room = [float(logits_of(grid)[-1]) - top for grid in (plain, warm)]
    assert MARGIN_LOGITS < room[0] < 0.1 < room[1]


def test_a_class_that_never_scores_has_no_grid() -> None:
    video = scored_video(0)
    silent = ScoredVideo(**{**video.__dict__, "temporal": np.zeros_like(video.temporal)})
    assert len(grid_of([silent], "a")) == 0
    assert len(curve_of([silent], "a", np.zeros(0)).num_alarms) == 0
