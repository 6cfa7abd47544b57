"""Calibration: whether a score of 0.8 comes true in 80 % of all cases, and the temperature for it.

In evaluation. Each class is a sigmoid of its own, so what is asked of it is asked of a binary
forecast: among frames that score about ``p``, is the class on in a share of ``p``?
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.evaluation.metrics import checked_scores

DEFAULT_NUM_BINS = 15
"""Of Guo et al. (2017)."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Beyond, a score says nothing but its sign, or nothing at all."""

_MIN_LOGIT, _MAX_LOGIT = -149 * math.log(2), 24 * math.log(2)
"""Of the float32 next to 0 and of that next to 1: what was rounded to 0 or 1 is no surer."""
_NUM_STEPS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class ReliabilityCurve:
    """Frames in bins of equal width by their score.

    Attributes:
        edges: ``(B + 1,)`` from 0 to 1; bins hold ``(low, high]``, the first one 0 as well.
        counts: ``(B,)`` frames.
        mean_scores: ``(B,)``; NaN where a bin is empty.
        positive_shares: ``(B,)`` share of frames at which the class is on; NaN likewise.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    mean_scores: NDArray[np.float64]
    positive_shares: NDArray[np.float64]

    @property
    def expected_error(self) -> float:
        """The expected calibration error; see `expected_calibration_error`."""
        if not self.counts.sum():
            return math.nan
        gaps = np.abs(np.nan_to_num(self.mean_scores - self.positive_shares))
        return float(np.sum(gaps * self.counts) / self.counts.sum())


class CalibrationSums:
    """Reliability and Brier score of one class, for any selection of the videos.

    Args:
        targets: ``(N,)``, 0 or 1; frames of V videos.
        scores: ``(N,)`` probabilities.
        owners: ``(N,)`` number of the video that each frame is of; None: all are of one.
        num_videos: V.
        num_bins: B, at least 1.

    Raises:
        ValueError: Shapes do not fit, a target is neither 0 nor 1, a score is no probability, or
            there is no bin.
    """

    def __init__(
        self,
        targets: ArrayLike,
        scores: ArrayLike,
        owners: ArrayLike | None = None,
        *,
        num_videos: int = 1,
        num_bins: int = DEFAULT_NUM_BINS,
    ) -> None:
        is_positive, values = checked_scores(targets, scores)
        _check_probabilities(values)
        if num_bins < 1:
            raise ValueError(f"num_bins must be 1 or more, got {num_bins}")
        numbers = np.zeros(len(values), np.int64) if owners is None else np.asarray(owners)
        if numbers.shape != values.shape:
            raise ValueError(f"owners must be {values.shape}, got {numbers.shape}")
        self._edges = np.linspace(0, 1, num_bins + 1)
        bins = np.clip(np.searchsorted(self._edges, values, side="left") - 1, 0, num_bins - 1)

        def by_video(amounts: NDArray[np.float64] | None) -> NDArray[np.float64]:
            cells = np.bincount(numbers * num_bins + bins, amounts, num_videos * num_bins)
            return cells.reshape(num_videos, num_bins).astype(np.float64)

        self._counts = by_video(None)
        self._score_sums = by_video(values)
        self._positive_sums = by_video(is_positive.astype(np.float64))
        self._square_sums = by_video((values - is_positive) ** 2).sum(axis=1)

    def curve(self, weights: NDArray[np.int64] | None = None) -> ReliabilityCurve:
        """The reliability curve.

        Args:
            weights: ``(V,)`` how often each video counts; None: once.
        """
        how_often = self._how_often(weights)
        counts = how_often @ self._counts
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is documented.
            return ReliabilityCurve(
                edges=self._edges,
                counts=counts.astype(np.int64),
                mean_scores=(how_often @ self._score_sums) / counts,
                positive_shares=(how_often @ self._positive_sums) / counts,
            )

    def brier_score(self, weights: NDArray[np.int64] | None = None) -> float:
        """As the function of this name; NaN of nothing.

        Args:
            weights: ``(V,)`` how often each video counts; None: once.
        """
        how_often = self._how_often(weights)
        count = float((how_often @ self._counts).sum())
        return float(how_often @ self._square_sums) / count if count else math.nan

    def _how_often(self, weights: NDArray[np.int64] | None) -> NDArray[np.int64]:
        return np.ones(len(self._counts), np.int64) if weights is None else weights


def reliability_curve(
    targets: ArrayLike, scores: ArrayLike, *, num_bins: int = DEFAULT_NUM_BINS
) -> ReliabilityCurve:
    """How often what is said with which confidence comes true.

    Args:
        targets: ``(N,)``, 0 or 1.
        scores: ``(N,)`` probabilities.
        num_bins: B, at least 1.

    Raises:
        ValueError: Shapes do not fit, a target is neither 0 nor 1, a score is no probability, or
            there is no bin.
    """
    return CalibrationSums(targets, scores, num_bins=num_bins).curve()


def expected_calibration_error(
    targets: ArrayLike, scores: ArrayLike, *, num_bins: int = DEFAULT_NUM_BINS
) -> float:
    """Mean distance between score and share of positives over bins, weighted by their frames.

    Of Naeini et al. (AAAI 2015) and Guo et al. ("On Calibration of Modern Neural Networks", ICML
    2017), for a binary forecast: in the place of accuracy stands the share of positives.

    Args:
        targets: ``(N,)``, 0 or 1.
        scores: ``(N,)`` probabilities.
        num_bins: Bins of equal width.

    Returns:
        In [0, 1]; NaN of nothing.

    Raises:
        ValueError: See `reliability_curve`.
    """
    return reliability_curve(targets, scores, num_bins=num_bins).expected_error


def brier_score(targets: ArrayLike, scores: ArrayLike) -> float:
    """Mean squared distance between score and target (Brier, Monthly Weather Review 78, 1950).

    Args:
        targets: ``(N,)``, 0 or 1.
        scores: ``(N,)`` probabilities.

    Returns:
        In [0, 1], 0 is best; NaN of nothing.

    Raises:
        ValueError: Shapes do not fit, a target is neither 0 nor 1, or a score is no probability.
    """
    return CalibrationSums(targets, scores).brier_score()


def logits_of(scores: ArrayLike) -> NDArray[np.float64]:
    """Logits of probabilities, of any shape; those of 0 and 1 are the outermost of a float32.

    Raises:
        ValueError: A score is no probability.
    """
    values = np.asarray(scores, np.float64)
    _check_probabilities(values)
    with np.errstate(divide="ignore"):
        logits = np.log(values) - np.log1p(-values)
    bounded: NDArray[np.float64] = np.clip(logits, _MIN_LOGIT, _MAX_LOGIT)
    return bounded


def apply_temperature(scores: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Probabilities whose logits are divided by ``temperature``; 0, where nobody looked, stays 0.

    Args:
        scores: Probabilities, of any shape.
        temperature: Above 0; above 1 makes scores less sure.

    Raises:
        ValueError: A score is no probability, or the temperature is not above 0.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be above 0, got {temperature}")
    values = np.asarray(scores, np.float64)
    return np.where(values == 0, 0.0, _sigmoid(logits_of(values) / temperature))


def fit_temperature(
    targets: ArrayLike, logits: ArrayLike, *, weights: ArrayLike | None = None
) -> float:
    """The temperature that makes the targets likeliest (Guo et al., ICML 2017).

    Minimises the cross-entropy of ``sigmoid(logits / temperature)``. In ``1 / temperature`` that is
    convex: Newton's method, halving the bracket where a step would leave it, finds the one minimum.

    Args:
        targets: ``(N,)``, 0 or 1.
        logits: ``(N,)``, finite: before any temperature.
        weights: ``(N,)``, 0 or more; None: all the same.

    Returns:
        In [`MIN_TEMPERATURE`, `MAX_TEMPERATURE`].

    Raises:
        ValueError: Shapes do not fit, a target is neither 0 nor 1, or all are equal: of one side
            alone, the best temperature is the lowest, which says nothing about the model.
    """
    is_positive, values = checked_scores(targets, logits)
    given = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    if given.shape != values.shape or not bool(np.all(given >= 0)):
        raise ValueError(f"weights must be {values.shape} and 0 or more, got {given.shape}")
    if not given[is_positive].any() or not given[~is_positive].any():
        raise ValueError("a temperature needs frames with and frames without the class")
    given = given / given.sum()
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if _slope(low, values, is_positive, given)[0] >= 0:
        return MAX_TEMPERATURE
    if _slope(high, values, is_positive, given)[0] <= 0:
        return MIN_TEMPERATURE
    inverse = 1.0
    for _ in range(_NUM_STEPS):
        slope, curvature = _slope(inverse, values, is_positive, given)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - inverse) <= 1e-12 * inverse:
            break
        inverse = following
    return 1 / inverse


def _slope(
    inverse: float,
    logits: NDArray[np.float64],
    is_positive: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> tuple[float, float]:
    """First and second derivative of the mean cross-entropy by the inverse temperature."""
    scores = _sigmoid(inverse * logits)
    slope = np.sum(weights * logits * (scores - is_positive))
    return float(slope), float(np.sum(weights * logits**2 * scores * (1 - scores)))


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    # The exponential of what is not above 0 cannot overflow, and small scores keep their digits.
    decay = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + decay), decay / (1 + decay))


def _check_probabilities(values: NDArray[np.float64]) -> None:
    is_wrong = ~((values >= 0) & (values <= 1))
    if is_wrong.any():
        raise ValueError(f"scores must be probabilities in [0, 1], got {values[is_wrong].flat[0]}")
