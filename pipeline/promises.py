"""Bounds that still hold when the threshold was chosen on the very data that they are computed on.

Under `pipeline.operating_points`. Whoever takes the lowest threshold that raised two false alarms
takes one that was lucky to raise no third: the plain bound of two is too kind. Where scores are
ordered, that luck is known exactly. A threshold that is moved until the next event would cross it
stands *at* that event, and what lies beyond it is distributed as if that event had been counted:

- Of false alarms that come independently of each other, the mean number beyond a threshold at the
  ``n + 1``-th highest is Gamma distributed with shape ``n + 1``, whatever the scores' distribution
  (time change of a Poisson process; Garwood's bound of ``n`` is this one's quantile). With a
  threshold for each of K classes the shapes add up: ``n + K``.
- Of annotated events, the share below a threshold at the ``n + 1``-th lowest is Beta distributed
  (Wilks, Annals of Mathematical Statistics 12, 1941); with cuts by several scores in turn every cut
  adds one (statistically equivalent blocks; Tukey, ibid. 18, 1947).

So each threshold that was chosen counts as one more event: ``num_cuts`` below. For one cut these
are the bounds of Garwood and of Clopper and Pearson, which makes one-threshold rules such as "the
lowest whose upper bound keeps the wish" sound (fixed-sequence testing; Angelopoulos et al., "Learn
then Test", 2021).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from utils.evaluation.intervals import poisson_upper_bound

_NUM_HALVINGS = 60
"""Of a bracket, until it is as narrow as a float is exact."""


def rate_upper_bound(count: int, exposure: float, *, num_cuts: int = 1, confidence: float) -> float:
    """The rate that the true one exceeds in at most ``1 - confidence`` of all cases.

    Args:
        count: False alarms beyond the thresholds.
        exposure: Hours in which they came; above 0.
        num_cuts: Thresholds that were chosen with a look at these false alarms.
        confidence: In (0, 1).

    Returns:
        Per unit of exposure.
    """
    return _upper_count(count + num_cuts - 1, confidence) / exposure


@functools.cache
def _upper_count(count: int, confidence: float) -> float:
    return poisson_upper_bound(count, 1.0, confidence=confidence)


# Searches over thresholds ask for the same few bounds many times, and each is a search of its own.
@functools.cache
def share_lower_bound(
    num_hits: int, num_trials: int, *, num_cuts: int = 1, confidence: float
) -> float:
    """The share that the true one falls short of in at most ``1 - confidence`` of all cases.

    Clopper and Pearson's (Biometrika 26, 1934), with a miss more for each further cut.

    Args:
        num_hits: Events on the right side of all cuts.
        num_trials: Events.
        num_cuts: Thresholds that were chosen with a look at these events.
        confidence: In (0, 1).
    """
    hits = num_hits - (num_cuts - 1)
    if hits <= 0:
        return 0.0
    numbers = np.arange(hits, num_trials + 1)
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, num_trials + 1)))))
    ways = logs[num_trials] - logs[numbers] - logs[num_trials - numbers]

    def is_rare(share: float) -> bool:
        """Whether so many hits or more come too seldom where this is the true share."""
        terms = ways + numbers * math.log(share) + (num_trials - numbers) * math.log1p(-share)
        return bool(np.exp(terms).sum() < 1 - confidence)

    return _solve(is_rare, 0.0, 1.0)


def share_upper_bound(num_hits: int, num_trials: int, *, confidence: float) -> float:
    """The share that the true one exceeds in at most ``1 - confidence`` of all cases."""
    return 1 - share_lower_bound(num_trials - num_hits, num_trials, confidence=confidence)


def hits_needed(
    share: float, num_trials: int, *, num_cuts: int = 1, confidence: float
) -> int | None:
    """Fewest hits whose lower bound reaches ``share``; None where even all of them do not."""
    if share_lower_bound(num_trials, num_trials, num_cuts=num_cuts, confidence=confidence) < share:
        return None
    low, high = 0, num_trials
    while low < high:
        middle = (low + high) // 2
        bound = share_lower_bound(middle, num_trials, num_cuts=num_cuts, confidence=confidence)
        low, high = (middle + 1, high) if bound < share else (low, middle)
    return high


def trials_needed(share: float, *, num_cuts: int = 1, confidence: float) -> int:
    """How many events it takes, all of them hits, for a lower bound of ``share`` below 1."""
    low, high = 0, num_cuts
    while share_lower_bound(high, high, num_cuts=num_cuts, confidence=confidence) < share:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        bound = share_lower_bound(middle, middle, num_cuts=num_cuts, confidence=confidence)
        low, high = (middle, high) if bound < share else (low, middle)
    return high


def sum_upper_bound(
    total: float, squares: float, *, longest: float, squared_longest: float, confidence: float
) -> float:
    """Upper bound of the mean total length of events that come independently of each other.

    Fay and Feuer's gamma interval of a weighted sum of Poisson counts (Statistics in Medicine 16,
    1997). Where all events are equally long it is Garwood's.

    Args:
        total: Sum of the lengths.
        squares: Sum of their squares.
        longest: The longest event that may come; with several cuts the sum of one for each. Above
            0.
        squared_longest: Its square; with several cuts the sum of the squares.
        confidence: In (0, 1).
    """
    mean, variance = total + longest, squares + squared_longest
    return variance / mean * _gamma_quantile(mean**2 / variance, confidence)


def sum_lower_bound(total: float, squares: float, *, confidence: float) -> float:
    """Lower bound of the mean total length; see `sum_upper_bound`."""
    if not total:
        return 0.0
    return squares / total * _gamma_quantile(total**2 / squares, 1 - confidence)


def _gamma_quantile(shape: float, probability: float) -> float:
    """Of the Gamma distribution with scale 1."""
    high = shape + 1.0
    while _gamma_cumulative(shape, high) < probability:
        high *= 2
    return _solve(lambda value: _gamma_cumulative(shape, value) < probability, 0.0, high)


def _gamma_cumulative(shape: float, value: float) -> float:
    """The regularised lower incomplete gamma function, by its power series (DLMF 8.11.4)."""
    if value <= 0:
        return 0.0
    # Terms rise up to about `value - shape` and then fall faster than any power.
    num_terms = int(max(value - shape, 0) + 12 * math.sqrt(value + shape)) + 60
    logs = np.cumsum(math.log(value) - np.log(shape + np.arange(1, num_terms)))
    first = shape * math.log(value) - value - math.lgamma(shape + 1)
    return float(math.exp(first) + np.exp(first + logs).sum())


def _solve(is_below: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if is_below(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2
