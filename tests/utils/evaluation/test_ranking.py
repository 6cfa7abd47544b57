"""Ranked predictions by hand: who claims what, ties, and selections of videos."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scored_videos import annotated
from utils.evaluation.proposals import Proposals
from utils.evaluation.ranking import RankedPredictions, VideoRanking
from utils.evaluation.segments import (
    edit_score,
    segment_ranking,
    segmental_counts,
    segmental_f1,
    temporal_iou,
    tiou_limits,
)
from utils.evaluation.spotting import (
    SoccerNetSpotting,
    frame_gaps,
    moment_gaps,
    spotting_ranking,
)


def ranking(scores: list[float], gaps: list[list[float]]) -> VideoRanking:
    num_references = len(gaps[0]) if gaps else 0
    return VideoRanking(
        scores=np.array(scores, float),
        gaps=np.array(gaps, float).reshape(len(scores), num_references),
    )


def test_by_hand() -> None:
    # Falling: right, wrong (its reference is taken), right.
    ranked = RankedPredictions([ranking([0.9, 0.8, 0.7], [[0, 9], [1, 9], [9, 1]])], [2])
    assert ranked.scores.tolist() == [0.9, 0.8, 0.7]
    assert ranked.is_hit[:, 0].tolist() == [True, False, True]
    assert ranked.average_precision() == pytest.approx((1 + 2 / 3) / 2)
    recall, precision = ranked.curve(0)
    assert recall.tolist() == [0.5, 0.5, 1.0]
    assert precision.tolist() == pytest.approx([1, 0.5, 2 / 3])


def test_a_taken_reference_leaves_the_next_nearest() -> None:
    ranked = RankedPredictions([ranking([0.9, 0.8], [[0, 1], [0, 1]])], [0.5, 1])
    assert ranked.is_hit.tolist() == [[True, True], [False, True]]


def test_precision_is_raised_to_the_best_that_follows() -> None:
    # Wrong, right, right: at both the best precision from there on is 2 / 3.
    ranked = RankedPredictions([ranking([0.9, 0.8, 0.7], [[9, 9], [0, 9], [9, 0]])], [1])
    assert ranked.average_precision() == pytest.approx(2 / 3)


def test_a_video_counts_as_often_as_it_was_drawn() -> None:
    draw = np.random.default_rng(5)
    for _ in range(50):
        videos = [
            # No ties within a video: copies of its predictions stand next to each other.
            VideoRanking(
                scores=draw.permutation(10)[:size] / 10,
                gaps=draw.integers(0, 4, (size, int(draw.integers(0, 3)))).astype(float),
            )
            for size in draw.integers(0, 5, 3).tolist()
        ]
        weights = draw.integers(0, 3, 3)
        repeated = [v for v, count in zip(videos, weights, strict=True) for _ in range(count)]
        limits = [0.0, 1.0, 2.0]
        expected = RankedPredictions(repeated, limits).average_precision()
        found = RankedPredictions(videos, limits).average_precision(weights)
        assert found == pytest.approx(expected, nan_ok=True)
        windows = [2.0, 4.0]
        assert SoccerNetSpotting(videos, windows).average_precision(weights) == pytest.approx(
            SoccerNetSpotting(repeated, windows).average_precision(), nan_ok=True
        )


def test_undefined_and_empty() -> None:
    nothing = ranking([], [])
    assert np.isnan(RankedPredictions([nothing], [1, 2]).average_precision()).all()
    assert math.isnan(SoccerNetSpotting([nothing], [1, 2]).average_precision())
    missed = VideoRanking(scores=np.zeros(0), gaps=np.zeros((0, 2)))
    assert RankedPredictions([missed], [1]).average_precision().tolist() == [0.0]
    assert SoccerNetSpotting([missed], [1.0, 2.0]).average_precision() == 0.0
    assert SoccerNetSpotting([ranking([0.7], [[0.4]])], [1.0]).average_precision() == 1.0
    assert [len(part) for part in RankedPredictions([missed], [1]).curve(0)] == [0, 0]
    assert np.isnan(RankedPredictions([ranking([0.5], [[]])], [1]).curve(0)[0]).all()


def test_rankings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"scores must be \(P,\) and gaps \(P, R\), got \(2,\)"):
        VideoRanking(scores=np.zeros(2), gaps=np.zeros((3, 1)))
    with pytest.raises(ValueError, match="scores must be finite"):
        VideoRanking(scores=np.array([math.nan]), gaps=np.zeros((1, 1)))


def test_moments_of_points_are_peaks_and_of_intervals_starts() -> None:
    references = [annotated(4.0), annotated(4.0, 9.0)]
    assert moment_gaps(references, [3.0], [6.0]).tolist() == [[2.0, 1.0]]
    # Frames at 0, 0.5, 1, ...: the point is nearest to frame 8, the start of the event is frame 8.
    timestamps = np.arange(40) / 2
    references = [annotated(4.1), annotated(3.6, 9.0)]
    assert frame_gaps(references, [2.75], [6.2], timestamps).tolist() == [[4.0, 2.0]]
    proposals = Proposals(
        starts=np.array([2.75]),
        ends=np.array([7.0]),
        peak_seconds=np.array([6.2]),
        scores=np.array([0.5]),
    )
    in_frames = spotting_ranking(references, proposals, timestamps=timestamps)
    assert in_frames.gaps.tolist() == [[4.0, 2.0]]
    assert spotting_ranking(references, proposals).gaps == pytest.approx(np.array([[2.1, 0.85]]))
    assert segment_ranking([[2.75, 7.0]], proposals).gaps.tolist() == [[-1.0]]
    assert tiou_limits([0.5]).tolist() == [-0.5]


def test_temporal_iou() -> None:
    overlap = temporal_iou([[0, 2], [5, 6]], [[1, 3], [0, 2], [6, 9]])
    assert overlap == pytest.approx(np.array([[1 / 3, 1, 0], [0, 0, 0]]))
    assert temporal_iou([], [[0, 1]]).shape == (0, 1)
    with pytest.raises(ValueError, match=r"predictions must be \(N, 2\), got \(3,\)"):
        temporal_iou([1, 2, 3], [])
    with pytest.raises(ValueError, match=r"references must be intervals with start < end, got \[2"):
        temporal_iou([], [[2, 2]])


def test_segments_by_hand() -> None:
    # The second prediction overlaps the same reference; the third finds nothing.
    counts = segmental_counts([[0, 4], [3, 5], [20, 21]], [[0, 5], [10, 11]])
    assert counts.tolist() == [[1, 3, 2]] * 3
    assert segmental_f1(counts) == pytest.approx([2 / 5] * 3)
    assert np.isnan(segmental_f1(segmental_counts([], []))).all()
    assert segmental_f1(segmental_counts([], [[0, 1]])).tolist() == [0, 0, 0]


def test_edit_score_by_hand() -> None:
    assert edit_score("abc", "abc") == 1
    assert edit_score("", "abc") == 0
    assert edit_score("axc", "abc") == pytest.approx(2 / 3)
    assert edit_score("aabc", "abc") == pytest.approx(3 / 4)
    assert math.isnan(edit_score("", ""))
