"""Frame metrics against scikit-learn, against their definitions, and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from utils.evaluation.metrics import (
    FrameRanking,
    auroc,
    average_precision,
    frame_metrics,
    mean_of_defined,
)


def random_sets(num_sets: int) -> list[tuple[NDArray[np.float32], NDArray[np.float64]]]:
    """Both classes present; a third of the sets with coarse scores, which tie often."""
    generator = np.random.default_rng(7)
    sets = []
    for number in range(num_sets):
        size = int(generator.integers(2, 60))
        targets = (generator.random(size) < generator.uniform(0.05, 0.95)).astype(np.float32)
        targets[:2] = generator.permutation([0.0, 1.0])
        scores = generator.random(size) + 0.3 * targets
        if number % 3 == 0:
            scores = np.round(scores, 1)
        sets.append((targets, scores))
    return sets


def test_equal_to_scikit_learn() -> None:
    for targets, scores in random_sets(500):
        expected = average_precision_score(targets, scores)
        assert average_precision(targets, scores) == pytest.approx(expected, abs=1e-12)
        assert auroc(targets, scores) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)


def test_equal_to_the_definitions() -> None:
    for targets, scores in random_sets(100):
        is_positive = targets == 1
        expected, recall_before = 0.0, 0.0
        for threshold in sorted(set(scores.tolist()), reverse=True):
            taken = scores >= threshold
            recall = (taken & is_positive).sum() / is_positive.sum()
            expected += (recall - recall_before) * (taken & is_positive).sum() / taken.sum()
            recall_before = recall
        assert average_precision(targets, scores) == pytest.approx(expected, abs=1e-12)
        differences = scores[is_positive][:, None] - scores[~is_positive][None]
        wins = (differences > 0).mean() + 0.5 * (differences == 0).mean()
        assert auroc(targets, scores) == pytest.approx(wins, abs=1e-12)


def test_by_hand() -> None:
    # Falling: hit (1/1), miss, hit (2/3).
    assert average_precision([1, 0, 1], [0.9, 0.8, 0.7]) == pytest.approx((1 + 2 / 3) / 2)
    assert auroc([1, 0, 1], [0.9, 0.8, 0.7]) == 0.5
    # All tied: one threshold, whose precision is the share of positives.
    assert average_precision([1, 0, 0, 0], [0.5] * 4) == 0.25
    assert auroc([1, 0, 0, 0], [0.5] * 4) == 0.5


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(1, 30))
def test_perfect_and_reversed_lists(num_positive: int, num_negative: int) -> None:
    targets = [1] * num_positive + [0] * num_negative
    falling = np.arange(len(targets), 0, -1)
    assert average_precision(targets, falling) == pytest.approx(1.0)
    assert auroc(targets, falling) == 1.0
    assert auroc(targets, -falling) == 0.0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=30))
def test_only_the_order_of_scores_counts(pairs: list[tuple[bool, int]]) -> None:
    targets = np.array([target for target, _ in pairs])
    scores = np.array([float(score) for _, score in pairs])
    other = np.exp(scores / 3) - 5
    reverse = slice(None, None, -1)
    for measure in (average_precision, auroc):
        expected = pytest.approx(measure(targets, scores), abs=1e-12, nan_ok=True)
        assert measure(targets, other) == expected
        assert measure(targets[reverse], scores[reverse]) == expected


def test_undefined_is_nan() -> None:
    assert math.isnan(average_precision([0, 0], [0.1, 0.2]))
    assert math.isnan(average_precision([], []))
    assert math.isnan(auroc([0, 0], [0.1, 0.2]))
    assert math.isnan(auroc([1, 1], [0.1, 0.2]))
    assert average_precision([1, 1], [0.1, 0.2]) == 1.0


@pytest.mark.parametrize("measure", [average_precision, auroc])
def test_rejects(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match=r"must both be \(N,\), got \(2,\) and \(3,\)"):
        measure([0, 1], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"must both be \(N,\), got \(1, 2\) and \(1, 2\)"):
        measure([[0, 1]], [[0.1, 0.2]])
    with pytest.raises(ValueError, match=r"targets must be 0 or 1, got 0.5"):
        measure([0, 0.5], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"scores must be finite, got nan"):
        measure([0, 1], [0.1, math.nan])


def test_frame_metrics() -> None:
    targets = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1]], np.float32)
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5], [0.7, 0.3, 0.5]], np.float32)
    metrics = frame_metrics(targets, scores, ["fight", "fall", "crowd"])
    fight, fall, crowd = metrics.per_class.values()
    assert list(metrics.per_class) == ["fight", "fall", "crowd"]
    assert fight.average_precision == pytest.approx(5 / 6)
    assert (fight.num_frames, fight.num_positive_frames) == (3, 2)
    assert math.isnan(fall.average_precision) and math.isnan(fall.auroc)
    assert crowd.average_precision == 1.0 and math.isnan(crowd.auroc)
    # The means leave out what is not defined.
    assert metrics.average_precision == pytest.approx((5 / 6 + 1) / 2)
    assert metrics.auroc == 0.5


def test_frame_metrics_to_plain() -> None:
    metrics = frame_metrics([[1, 0], [0, 0]], [[0.9, 0.1], [0.2, 0.3]], ["fight", "fall"])
    plain = metrics.to_plain()
    assert plain == {
        "frame_ap": {"overall": 1.0, "per_class": {"fight": 1.0, "fall": None}},
        "frame_auroc": {"overall": 1.0, "per_class": {"fight": 1.0, "fall": None}},
        "num_frames": 2,
        "num_positive_frames": {"fight": 1, "fall": 0},
    }
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_frame_metrics_without_frames() -> None:
    empty = np.zeros((0, 1))
    plain = frame_metrics(empty, empty, ["fight"]).to_plain()
    assert plain["frame_ap"] == {"overall": None, "per_class": {"fight": None}}
    assert plain["num_frames"] == 0


@pytest.mark.parametrize(
    ("targets_shape", "scores_shape"),
    [((3, 2), (3, 1)), ((3, 1), (3, 1)), ((2, 2), (3, 2)), ((2,), (2,)), ((), ())],
)
def test_frame_metrics_rejects(
    targets_shape: tuple[int, ...], scores_shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"must be \(N, 2\), one column for each of a, b; got \("):
        frame_metrics(np.zeros(targets_shape), np.zeros(scores_shape), ["a", "b"])


def test_mean_of_defined() -> None:
    assert mean_of_defined([1.0, math.nan, 2.0]) == 1.5
    assert math.isnan(mean_of_defined([math.nan]))


def test_a_ranking_of_selected_videos_is_scikit_learns_with_weights() -> None:
    draw = np.random.default_rng(8)
    for number, (targets, scores) in enumerate(random_sets(200)):
        values = np.where(draw.random(len(scores)) < 0.3, 0.0, scores)  # As where nobody looked.
        owners = draw.integers(0, 4, len(scores))
        weights = draw.integers(0, 3, 4)
        ranking = FrameRanking(targets, values, owners)
        assert ranking.average_precision() == pytest.approx(average_precision(targets, values))
        assert ranking.auroc() == pytest.approx(auroc(targets, values))
        counts = weights[owners]
        if len(set(targets[counts > 0].tolist())) < 2:
            assert math.isnan(ranking.auroc(weights)), number
            continue
        expected = average_precision_score(targets, values, sample_weight=counts)
        assert ranking.average_precision(weights) == pytest.approx(expected, abs=1e-12)
        expected = roc_auc_score(targets, values, sample_weight=counts)
        assert ranking.auroc(weights) == pytest.approx(expected, abs=1e-12)


def test_a_ranking_of_nothing() -> None:
    empty = FrameRanking([], [], [])
    assert math.isnan(empty.average_precision()) and math.isnan(empty.auroc())
    assert [len(part) for part in empty.curve()] == [0, 0]
    without = FrameRanking([0, 0], [0.1, 0.2], [0, 1])
    assert math.isnan(without.average_precision(np.array([0, 0])))
    recall, precision = without.curve()
    assert np.isnan(recall).all() and precision.tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"owners must be \(2,\), got \(1,\)"):
        FrameRanking([0, 1], [0.1, 0.2], [0])


def test_the_curve_of_a_ranking() -> None:
    recall, precision = FrameRanking([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1], [0, 0, 1, 1]).curve()
    assert recall.tolist() == [0.5, 1.0, 1.0]
    assert precision.tolist() == [1.0, 2 / 3, 0.5]
