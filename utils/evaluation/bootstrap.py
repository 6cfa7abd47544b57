"""Bootstrap intervals: how much a figure hangs on which groups happened to be evaluated.

In evaluation, around every metric that is no plain count. Frames of one video are not independent,
and neither are videos of one camera or person: so whole groups are drawn, with replacement (the
cluster bootstrap; Davison and Hinkley, *Bootstrap Methods and their Application*, 1997, section
3.8). A draw is told as how often each video counts, which every metric here takes as weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.evaluation.intervals import DEFAULT_CONFIDENCE

DEFAULT_NUM_DRAWS = 1000
_MAX_UNDEFINED_SHARE = 0.5
"""With a figure undefined in most draws, the others are no fair picture of it."""

Interval = tuple[float, float]


def cluster_draws(
    clusters: Sequence[str], *, num_draws: int = DEFAULT_NUM_DRAWS, seed: int = 0
) -> NDArray[np.int64] | None:
    """How often each video counts in each of many draws of clusters.

    Args:
        clusters: Of each of V videos.
        num_draws: N, how many draws.
        seed: The same seed gives the same draws.

    Returns:
        ``(N, V)``; None where there are fewer than two clusters: of one, every draw is the same,
        and an interval would claim a certainty that nobody has.

    Raises:
        ValueError: ``num_draws`` is below 1.
    """
    if num_draws < 1:
        raise ValueError(f"num_draws must be 1 or more, got {num_draws}")
    names, positions = np.unique(np.asarray(clusters, dtype=object), return_inverse=True)
    if len(names) < 2:
        return None
    draw = np.random.default_rng(seed)
    counts = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num_draws)
    weights: NDArray[np.int64] = counts[:, positions]
    return weights


def percentile_interval(
    values: ArrayLike, *, confidence: float = DEFAULT_CONFIDENCE
) -> Interval | None:
    """The middle of what a figure was in the draws.

    Args:
        values: ``(N,)``; NaN where the figure was undefined.
        confidence: Share of the draws in the interval, in (0, 1).

    Returns:
        ``(low, high)``; None where the figure was undefined in more than half of the draws.
    """
    drawn = np.asarray(values, np.float64)
    is_defined = ~np.isnan(drawn)
    if not is_defined.any() or np.mean(~is_defined) > _MAX_UNDEFINED_SHARE:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn[is_defined], (tail, 1 - tail))
    return float(low), float(high)


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    draws: NDArray[np.int64] | None,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
) -> Interval | None:
    """`percentile_interval` of a figure over draws.

    Args:
        statistic: The figure, from how often each video counts, ``(V,)``.
        draws: Of `cluster_draws`.
        confidence: In (0, 1).
    """
    if draws is None:
        return None
    return percentile_interval([statistic(weights) for weights in draws], confidence=confidence)
