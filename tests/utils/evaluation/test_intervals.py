"""Intervals against SciPy's exact quantiles, against known values, and by their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from utils.evaluation.intervals import (
    exposure_needed,
    poisson_interval,
    poisson_upper_bound,
    wilson_interval,
)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 30, 200, 3000])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_garwood_is_the_chi_squared_interval(count: int, confidence: float) -> None:
    tail = (1 - confidence) / 2
    low = stats.chi2.ppf(tail, 2 * count) / 2 if count else 0.0
    high = stats.chi2.ppf(1 - tail, 2 * count + 2) / 2
    found = poisson_interval(count, 2.5, confidence=confidence)
    assert found == pytest.approx((low / 2.5, high / 2.5), rel=1e-9)
    one_sided = stats.chi2.ppf(confidence, 2 * count + 2) / 2
    bound = poisson_upper_bound(count, 2.5, confidence=confidence)
    assert bound == pytest.approx(one_sided / 2.5, rel=1e-9)


def test_known_values() -> None:
    # Garwood's table, and the rule of three.
    assert poisson_interval(0, 1.0) == pytest.approx((0.0, 3.6889), abs=1e-4)
    assert poisson_interval(1, 1.0) == pytest.approx((0.0253, 5.5716), abs=1e-4)
    assert poisson_interval(10, 1.0) == pytest.approx((4.7954, 18.3904), abs=1e-4)
    assert poisson_upper_bound(0, 10.0) == pytest.approx(0.29957, abs=1e-5)


def test_the_interval_holds_the_rate_as_often_as_it_says() -> None:
    """Exact: over all counts that a rate can give, weighted by how often it does."""
    for mean in (0.2, 1.0, 3.7, 12.0):
        counts = range(60)
        intervals = [poisson_interval(count, 1.0, confidence=0.9) for count in counts]
        share = sum(
            stats.poisson.pmf(count, mean)
            for count, (low, high) in zip(counts, intervals, strict=True)
            if low <= mean <= high
        )
        assert share >= 0.9
        beyond = sum(
            stats.poisson.pmf(count, mean)
            for count in counts
            if poisson_upper_bound(count, 1.0, confidence=0.9) < mean
        )
        assert beyond <= 0.1


def test_what_is_needed_is_just_enough() -> None:
    for count in (0, 3):
        hours = exposure_needed(0.5, count=count)
        assert poisson_upper_bound(count, hours) == pytest.approx(0.5)
        assert poisson_upper_bound(count, hours * 0.99) > 0.5
    assert exposure_needed(1.0) == pytest.approx(2.9957, abs=1e-4)


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 9), (3, 10), (9, 9), (480, 500)])
def test_wilson_is_scipys(hits: int, trials: int) -> None:
    expected = stats.binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_stays_within_bounds() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    for trials in (1, 7, 10_000):
        assert wilson_interval(0, trials)[0] == 0.0
        assert wilson_interval(trials, trials)[1] == 1.0
    widths = [np.diff(wilson_interval(n // 2, n))[0] for n in (2, 20, 200, 2000)]
    assert widths == sorted(widths, reverse=True)


def test_rejects() -> None:
    with pytest.raises(ValueError, match="a count is 0 or more, got -1"):
        poisson_interval(-1, 1.0)
    for exposure in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"exposure must be above 0, got {exposure}"):
            poisson_upper_bound(1, exposure)
    for confidence in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="confidence must be between 0 and 1"):
            wilson_interval(1, 2, confidence=confidence)
    with pytest.raises(ValueError, match="rate must be above 0, got 0"):
        exposure_needed(0.0)
    with pytest.raises(ValueError, match="3 hits in 2 trials"):
        wilson_interval(3, 2)
