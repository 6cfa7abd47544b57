"""Bounds: against SciPy's distributions, against each other, and against luck itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.promises import (
    hits_needed,
    rate_upper_bound,
    share_lower_bound,
    share_upper_bound,
    sum_lower_bound,
    sum_upper_bound,
    trials_needed,
)

confidences = st.sampled_from([0.5, 0.8, 0.95, 0.999])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 300), st.integers(1, 5), st.floats(0.1, 1000), confidences)
def test_rates_are_gamma_quantiles(
    count: int, num_cuts: int, hours: float, confidence: float
) -> None:
    bound = rate_upper_bound(count, hours, num_cuts=num_cuts, confidence=confidence)
    expected = stats.gamma.ppf(confidence, count + num_cuts) / hours
    assert bound == pytest.approx(expected, rel=1e-9)


def test_rule_of_three() -> None:
    assert rate_upper_bound(0, 3.0, confidence=0.95) == pytest.approx(-math.log(0.05) / 3)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 400), st.integers(1, 4), confidences, st.data())
def test_shares_are_beta_quantiles(
    trials: int, num_cuts: int, confidence: float, data: st.DataObject
) -> None:
    hits = data.draw(st.integers(0, trials))
    bound = share_lower_bound(hits, trials, num_cuts=num_cuts, confidence=confidence)
    above = hits - num_cuts + 1
    expected = stats.beta.ppf(1 - confidence, above, trials - above + 1) if above > 0 else 0.0
    assert bound == pytest.approx(expected, abs=1e-9)
    upper = share_upper_bound(hits, trials, confidence=confidence)
    expected = stats.beta.ppf(confidence, hits + 1, trials - hits) if hits < trials else 1.0
    assert upper == pytest.approx(expected, abs=1e-9)
    assert bound <= upper or confidence == 0.5


@settings(deadline=None, max_examples=40)
@given(st.floats(0.05, 0.98), st.integers(1, 300), st.integers(1, 3), confidences)
def test_hits_needed_is_the_fewest(
    share: float, trials: int, num_cuts: int, confidence: float
) -> None:
    def bound(hits: int) -> float:
        return share_lower_bound(hits, trials, num_cuts=num_cuts, confidence=confidence)

    hits = hits_needed(share, trials, num_cuts=num_cuts, confidence=confidence)
    if hits is None:
        assert bound(trials) < share
    else:
        assert bound(hits) >= share
        assert bound(hits - 1) < share


def test_events_that_a_promise_takes() -> None:
    # 0.95 ** 59 is the first power of 0.95 below 0.05; 93 is the textbook's 95/95 with one miss.
    assert trials_needed(0.95, confidence=0.95) == 59
    assert trials_needed(0.95, num_cuts=2, confidence=0.95) == 93
    for num_cuts in (1, 2, 3):
        enough = trials_needed(0.8, num_cuts=num_cuts, confidence=0.95)
        assert hits_needed(0.8, enough, num_cuts=num_cuts, confidence=0.95) is not None
        assert hits_needed(0.8, enough - 1, num_cuts=num_cuts, confidence=0.95) is None


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200), st.floats(0.01, 100), st.integers(1, 4), confidences)
def test_sums_of_equal_lengths_are_counts(
    count: int, length: float, num_cuts: int, confidence: float
) -> None:
    upper = sum_upper_bound(
        count * length,
        count * length**2,
        longest=num_cuts * length,
        squared_longest=num_cuts * length**2,
        confidence=confidence,
    )
    expected = length * rate_upper_bound(count, 1.0, num_cuts=num_cuts, confidence=confidence)
    assert upper == pytest.approx(expected, rel=1e-9)
    lower = sum_lower_bound(count * length, count * length**2, confidence=confidence)
    expected = length * stats.gamma.ppf(1 - confidence, count) if count else 0.0
    assert lower == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_sums_of_many_events() -> None:
    upper = sum_upper_bound(1e5, 1e5, longest=1.0, squared_longest=1.0, confidence=0.95)
    assert upper == pytest.approx(stats.gamma.ppf(0.95, 100_001), rel=1e-9)


def test_each_cut_counts_as_one_more_miss() -> None:
    """The law that the bounds rest on, with two scores that are cut in turn at chosen ranks."""
    random = np.random.default_rng(0)
    num_events, num_draws = 40, 4000
    first, second = random.random((2, num_draws, num_events))
    # Related, as a trigger head and a temporal encoder are.
    second = 0.5 * first + 0.5 * second
    low = np.sort(first)[:, 2]
    # The event at the first cut is used up by it.
    left = np.where(first > low[:, None], second, np.inf)
    high = np.sort(left)[:, 1]
    # What lies beyond both cuts.
    many_first = random.random((1, 20000))
    many_second = 0.5 * many_first + 0.5 * random.random((1, 20000))
    true_share = np.array(
        [np.mean((many_first >= a) & (many_second >= b)) for a, b in zip(low, high, strict=True)]
    )
    # Two events below the first cut, one below the second.
    bound = share_lower_bound(num_events - 3, num_events, num_cuts=2, confidence=0.9)
    share_of_failures = np.mean(true_share < bound)
    assert share_of_failures == pytest.approx(0.1, abs=0.02)
    # Without the second cut's due, it would not hold.
    naive = share_lower_bound(num_events - 3, num_events, confidence=0.9)
    assert np.mean(true_share < naive) > 0.15
