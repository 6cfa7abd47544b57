"""Calibration: bins, Brier score, and the temperature against a plain search for the minimum."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss

from utils.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    CalibrationSums,
    apply_temperature,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    logits_of,
    reliability_curve,
)


def test_a_curve_by_hand() -> None:
    curve = reliability_curve([0, 1, 1, 0], [0.0, 0.5, 0.4, 1.0], num_bins=2)
    # (0, 0.5] holds its upper border, and 0 is in the first bin.
    assert curve.counts.tolist() == [3, 1]
    assert curve.mean_scores == pytest.approx([0.3, 1.0])
    assert curve.positive_shares == pytest.approx([2 / 3, 0.0])
    expected = (3 * abs(0.3 - 2 / 3) + 1 * 1.0) / 4
    assert curve.expected_error == pytest.approx(expected)
    assert expected_calibration_error([0, 1, 1, 0], [0.0, 0.5, 0.4, 1.0], num_bins=2) == (
        pytest.approx(expected)
    )


def test_empty_bins_are_nan_and_nothing_has_no_error() -> None:
    curve = reliability_curve([1], [0.9], num_bins=3)
    assert np.isnan(curve.mean_scores[:2]).all()
    assert curve.expected_error == pytest.approx(0.1)
    assert math.isnan(expected_calibration_error([], []))
    assert math.isnan(brier_score([], []))


def test_brier_score_is_scikit_learns() -> None:
    draw = np.random.default_rng(1)
    for _ in range(20):
        targets = draw.integers(0, 2, 30)
        targets[:2] = 0, 1
        scores = draw.random(30)
        assert brier_score(targets, scores) == pytest.approx(brier_score_loss(targets, scores))


def test_a_selection_of_videos_is_those_videos() -> None:
    draw = np.random.default_rng(2)
    owners = np.repeat([0, 1, 2], [20, 30, 10])
    targets, scores = draw.integers(0, 2, 60), draw.random(60)
    sums = CalibrationSums(targets, scores, owners, num_videos=3)
    chosen = np.concatenate([np.flatnonzero(owners == 0), *[np.flatnonzero(owners == 2)] * 3])
    weights = np.array([1, 0, 3])
    expected = reliability_curve(targets[chosen], scores[chosen])
    assert sums.curve(weights).expected_error == pytest.approx(expected.expected_error)
    assert sums.curve(weights).counts.tolist() == expected.counts.tolist()
    assert sums.brier_score(weights) == pytest.approx(brier_score(targets[chosen], scores[chosen]))
    assert math.isnan(sums.brier_score(np.zeros(3, int)))


def test_the_temperature_is_found_again() -> None:
    draw = np.random.default_rng(3)
    logits = draw.normal(0, 4, 40_000)
    for true in (0.5, 1.0, 2.5):
        targets = draw.random(len(logits)) < 1 / (1 + np.exp(-logits / true))
        found = fit_temperature(targets, logits)
        assert found == pytest.approx(true, rel=0.05)
        cooled = apply_temperature(1 / (1 + np.exp(-logits)), found)
        assert expected_calibration_error(targets, cooled) < 0.01


def test_the_temperature_is_the_minimum_of_the_cross_entropy() -> None:
    draw = np.random.default_rng(4)
    for _ in range(50):
        logits = draw.normal(0, draw.uniform(0.1, 10), 60)
        targets = draw.random(60) < 1 / (1 + np.exp(-logits / draw.uniform(0.3, 5)))
        targets[:2] = True, False
        weights = draw.integers(0, 4, 60).astype(float)
        weights[:2] = 1

        def loss(
            log_inverse: float,
            z: np.ndarray = logits,
            y: np.ndarray = targets,
            w: np.ndarray = weights,
        ) -> float:
            scaled = math.exp(log_inverse) * z
            return float(np.average(np.logaddexp(0, scaled) - y * scaled, weights=w))

        bounds = (-math.log(MAX_TEMPERATURE), -math.log(MIN_TEMPERATURE))
        best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
        found = fit_temperature(targets, logits, weights=weights)
        assert MIN_TEMPERATURE <= found <= MAX_TEMPERATURE
        assert loss(-math.log(found)) <= best.fun + 1e-12


def test_temperatures_are_bounded() -> None:
    # Separable: the colder, the likelier. Upside down: the hotter.
    assert fit_temperature([0, 0, 1, 1], [-2, -1, 1, 2]) == MIN_TEMPERATURE
    assert fit_temperature([1, 1, 0, 0], [-2, -1, 1, 2]) == MAX_TEMPERATURE
    assert fit_temperature([1, 0], [0.0, 0.0]) == MAX_TEMPERATURE
    # Huge logits neither overflow nor warn.
    assert MIN_TEMPERATURE <= fit_temperature([1, 0, 1], [800.0, 700.0, -900.0]) <= MAX_TEMPERATURE


@settings(deadline=None, max_examples=100)
@given(st.floats(0, 1, width=32), st.floats(0.05, 20))
def test_a_temperature_keeps_the_side_and_the_order(score: float, temperature: float) -> None:
    cooled = float(apply_temperature(score, temperature))
    assert 0 <= cooled <= 1
    assert (cooled > 0.5) == (score > 0.5) or cooled == pytest.approx(0.5)
    other = float(apply_temperature(min(1.0, score + 0.1), temperature))
    assert other >= cooled


def test_what_nobody_looked_at_stays_zero() -> None:
    cooled = apply_temperature([0.0, 1e-30, 0.5, 1.0], 10.0)
    assert cooled[0] == 0.0
    assert 0 < cooled[1] < 0.01
    assert cooled[2] == 0.5
    # A score that was rounded to 1 is no surer than the float32 before it.
    assert cooled[3] == pytest.approx(1 / (1 + math.exp(-math.log(2) * 2.4)))


@settings(deadline=None, max_examples=100)
@given(st.floats(-15, 15))
def test_logits_are_those_of_the_scores(logit: float) -> None:
    assert float(logits_of(1 / (1 + math.exp(-logit)))) == pytest.approx(logit, abs=1e-6)


def test_rejects() -> None:
    with pytest.raises(ValueError, match=r"scores must be probabilities in \[0, 1\], got 1.5"):
        expected_calibration_error([1], [1.5])
    with pytest.raises(ValueError, match=r"scores must be probabilities in \[0, 1\], got -0.1"):
        logits_of([-0.1])
    with pytest.raises(ValueError, match="num_bins must be 1 or more, got 0"):
        reliability_curve([1], [0.5], num_bins=0)
    with pytest.raises(ValueError, match=r"owners must be \(1,\), got \(2,\)"):
        CalibrationSums([1], [0.5], [0, 1])
    with pytest.raises(ValueError, match="needs frames with and frames without the class"):
        fit_temperature([1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="needs frames with and frames without the class"):
        fit_temperature([1, 0], [0.1, 0.2], weights=[1, 0])
    with pytest.raises(ValueError, match=r"weights must be \(2,\) and 0 or more"):
        fit_temperature([1, 0], [0.1, 0.2], weights=[1])
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"temperature must be above 0, got {temperature}"):
            apply_temperature([0.5], temperature)
