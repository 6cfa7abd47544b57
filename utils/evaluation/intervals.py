"""Confidence intervals of counts: Garwood's for rates, Wilson's for shares.

In evaluation, beside every figure that rests on few events. Intervals of what is no count come from
`utils.evaluation.bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DEFAULT_CONFIDENCE = 0.95
_NUM_HALVINGS = 200
"""More than a float has bits, so that a bisection ends on neighbouring floats."""


def poisson_interval(
    count: int, exposure: float, *, confidence: float = DEFAULT_CONFIDENCE
) -> tuple[float, float]:
    """Exact two-sided interval of a Poisson rate (Garwood, Biometrika 28, 1936).

    The rates at which so many, or more, and so many, or fewer, are just as rare as the two tails.
    It holds the true rate in at least ``confidence`` of all cases, however small the count.

    Args:
        count: What was counted.
        exposure: How long it was counted, such as hours; above 0.
        confidence: In (0, 1).

    Returns:
        ``(low, high)`` per unit of exposure.

    Raises:
        ValueError: An argument is out of its range.
    """
    _check(count, exposure, confidence)
    tail = (1 - confidence) / 2
    return _lower_mean(count, tail) / exposure, _upper_mean(count, tail) / exposure


def poisson_upper_bound(
    count: int, exposure: float, *, confidence: float = DEFAULT_CONFIDENCE
) -> float:
    """The rate that the true one exceeds in at most ``1 - confidence`` of all cases.

    One-sided: of nothing counted in ``T`` hours it makes ``3 / T`` at 95 % (the rule of three).

    Args:
        count: What was counted.
        exposure: How long; above 0.
        confidence: In (0, 1).

    Raises:
        ValueError: An argument is out of its range.
    """
    _check(count, exposure, confidence)
    return _upper_mean(count, 1 - confidence) / exposure


def exposure_needed(
    rate: float, *, count: int = 0, confidence: float = DEFAULT_CONFIDENCE
) -> float:
    """How long one must have looked for ``count`` to support a rate of at most ``rate``.

    Args:
        rate: The promised rate, above 0.
        count: What was counted meanwhile.
        confidence: Of the promise, in (0, 1).

    Returns:
        The exposure at which `poisson_upper_bound` of ``count`` is ``rate``.

    Raises:
        ValueError: An argument is out of its range.
    """
    _check(count, 1.0, confidence)
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"rate must be above 0, got {rate}")
    return _upper_mean(count, 1 - confidence) / rate


def wilson_interval(
    num_hits: int, num_trials: int, *, confidence: float = DEFAULT_CONFIDENCE
) -> tuple[float, float]:
    """Interval of a share (Wilson, Journal of the American Statistical Association 22, 1927).

    Args:
        num_hits: How often it came true.
        num_trials: Of how many times.
        confidence: In (0, 1).

    Returns:
        ``(low, high)`` in [0, 1]; of no trials ``(0, 1)``.

    Raises:
        ValueError: There are more hits than trials, or an argument is out of its range.
    """
    _check(num_hits, 1.0, confidence)
    if num_hits > num_trials:
        raise ValueError(f"{num_hits} hits in {num_trials} trials")
    if not num_trials:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = num_hits / num_trials
    scale = 1 + z**2 / num_trials
    middle = (share + z**2 / (2 * num_trials)) / scale
    margin = z * math.sqrt(share * (1 - share) / num_trials + (z / (2 * num_trials)) ** 2) / scale
    # At the ends both borders are exact, and rounding must not push them beyond.
    low = 0.0 if num_hits == 0 else max(0.0, middle - margin)
    high = 1.0 if num_hits == num_trials else min(1.0, middle + margin)
    return low, high


def _lower_mean(count: int, tail: float) -> float:
    """The mean at which ``count`` or more come with probability ``tail``."""
    if not count:
        return 0.0
    logs = _log_factorials(count - 1)
    return _solve(lambda mean: 1 - _cumulative(mean, logs) < tail, 0.0, float(count))


def _upper_mean(count: int, tail: float) -> float:
    """The mean at which ``count`` or fewer come with probability ``tail``."""
    logs = _log_factorials(count)
    high = count + 1.0
    while _cumulative(high, logs) > tail:
        high *= 2
    return _solve(lambda mean: _cumulative(mean, logs) > tail, 0.0, high)


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


def _log_factorials(count: int) -> NDArray[np.float64]:
    """``(count + 1,)``: the logarithms of 0! to ``count``!."""
    return np.array([math.lgamma(number + 1) for number in range(count + 1)])


def _cumulative(mean: float, log_factorials: NDArray[np.float64]) -> float:
    """Probability that a Poisson variable is at most the last of the factorials' numbers."""
    if not mean:
        return 1.0
    numbers = np.arange(len(log_factorials))
    return float(np.exp(numbers * math.log(mean) - mean - log_factorials).sum())


def _check(count: int, exposure: float, confidence: float) -> None:
    if count < 0:
        raise ValueError(f"a count is 0 or more, got {count}")
    if not (math.isfinite(exposure) and exposure > 0):
        raise ValueError(f"exposure must be above 0, got {exposure}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
