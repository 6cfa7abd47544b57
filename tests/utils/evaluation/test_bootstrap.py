"""The bootstrap: what is drawn, and whether its intervals are about as wide as they should be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from utils.evaluation.bootstrap import bootstrap_interval, cluster_draws, percentile_interval


def test_clusters_are_drawn_whole() -> None:
    draws = cluster_draws(["x", "y", "x", "z", "y", "x"], num_draws=200)
    assert draws is not None
    assert draws.shape == (200, 6)
    assert (draws[:, 0] == draws[:, 2]).all() and (draws[:, 0] == draws[:, 5]).all()
    assert (draws[:, 1] == draws[:, 4]).all()
    # As many clusters as there are, with replacement.
    assert (draws[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert (draws == 0).any() and (draws > 1).any()


def test_the_same_seed_gives_the_same_draws() -> None:
    names = [str(number) for number in range(9)]
    first, again, other = (cluster_draws(names, num_draws=5, seed=seed) for seed in (0, 0, 1))
    assert first is not None and again is not None and other is not None
    assert (first == again).all()
    assert (first != other).any()


def test_of_one_cluster_nothing_can_be_drawn() -> None:
    assert cluster_draws(["x", "x", "x"]) is None
    assert bootstrap_interval(lambda weights: 1.0, None) is None
    with pytest.raises(ValueError, match="num_draws must be 1 or more, got 0"):
        cluster_draws(["x", "y"], num_draws=0)


def test_the_interval_is_that_of_a_mean() -> None:
    """Of independent values it is about 1.96 standard errors to either side."""
    values = np.random.default_rng(1).normal(5, 2, 200)
    draws = cluster_draws([str(number) for number in range(200)], num_draws=2000)
    interval = bootstrap_interval(lambda weights: float(np.average(values, weights=weights)), draws)
    assert interval is not None
    error = values.std() / math.sqrt(200)
    expected = (values.mean() - 1.96 * error, values.mean() + 1.96 * error)
    assert interval == pytest.approx(expected, abs=0.2 * error)


def test_what_comes_in_groups_is_less_certain() -> None:
    """Twenty equal values in each of ten groups are ten values, not two hundred."""
    values = np.repeat(np.random.default_rng(2).normal(0, 1, 10), 20)

    def width(clusters: list[str]) -> float:
        interval = bootstrap_interval(
            lambda weights: float(np.average(values, weights=weights)), cluster_draws(clusters)
        )
        assert interval is not None
        return interval[1] - interval[0]

    alone = width([str(number) for number in range(200)])
    grouped = width([str(number // 20) for number in range(200)])
    assert grouped > 3 * alone


def test_percentiles() -> None:
    values = np.arange(101.0)
    expected = pytest.approx((5.0, 95.0))
    assert percentile_interval(values, confidence=0.9) == expected
    assert percentile_interval([*values, math.nan], confidence=0.9) == expected
    # Undefined in most draws: the rest is no fair picture.
    assert percentile_interval([1.0, math.nan, math.nan]) is None
    assert percentile_interval([]) is None
    assert percentile_interval([2.0]) == (2.0, 2.0)
