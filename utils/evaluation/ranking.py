"""Average precision of ranked predictions: the core of spotting and of segment detection.

Predictions of one class are taken by falling score. Each claims the nearest reference of its video
that is still free, and is right where that one is near enough. What "near" means, seconds or
overlap, is the caller's: `utils.evaluation.spotting` and `utils.evaluation.segments`.

A video's claims do not depend on other videos, so they are settled once, and any selection of
videos is scored from them: that makes bootstrapping cheap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoRanking:
    """Predictions of one class in one video, and how far they are from each reference.

    Attributes:
        scores: ``(P,)``. Where scores are equal, the earlier prediction comes first.
        gaps: ``(P, R)``; the smaller, the nearer. Where two are equal, the earlier reference is
            claimed first.

    Raises:
        ValueError: Shapes do not fit, or a score is not finite.
    """

    scores: NDArray[np.float64]
    gaps: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.gaps.ndim != 2 or self.scores.shape != self.gaps.shape[:1]:
            raise ValueError(
                f"scores must be (P,) and gaps (P, R), got {self.scores.shape} and "
                f"{self.gaps.shape}"
            )
        if not np.isfinite(self.scores).all():
            raise ValueError("scores must be finite")


class RankedPredictions:
    """Predictions of one class in several videos, with their claims settled.

    Args:
        videos: One entry for each video, also where it has no prediction or no reference.
        limits: L values; a claim is right where its gap is at most that.
    """

    def __init__(self, videos: Sequence[VideoRanking], limits: ArrayLike) -> None:
        bounds = np.asarray(limits, np.float64).reshape(-1)
        self._num_references = np.array([video.gaps.shape[1] for video in videos], np.int64)
        scores = np.concatenate([*(video.scores for video in videos), np.zeros(0)])
        owners = np.repeat(np.arange(len(videos)), [len(video.scores) for video in videos])
        is_hit = np.concatenate(
            [*(_settle(video, bounds) for video in videos), np.zeros((0, len(bounds)), np.bool_)]
        )
        order = np.argsort(-scores, kind="stable")
        self.scores: NDArray[np.float64] = scores[order]
        self.is_hit: NDArray[np.bool_] = is_hit[order]
        self._owners = owners[order]

    def average_precision(self, weights: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Interpolated average precision at each limit.

        The precision at each right prediction, raised to the best that comes at any higher recall,
        summed and divided by the number of references. It is the area under the interpolated curve
        of PASCAL VOC since 2010, which E2E-Spot and ActivityNet's evaluation both compute.

        Args:
            weights: ``(V,)`` how often each video counts; None: once.

        Returns:
            ``(L,)`` in [0, 1]; NaN where there is no reference.
        """
        counts = np.ones_like(self._num_references) if weights is None else weights
        num_references = int(counts @ self._num_references)
        if not num_references:
            return np.full(self.is_hit.shape[1], math.nan)
        is_hit = self.is_hit
        if weights is not None:
            is_hit = np.repeat(is_hit, weights[self._owners], axis=0)
        precision = np.cumsum(is_hit, axis=0) / np.arange(1, len(is_hit) + 1)[:, None]
        best_from_here = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        total: NDArray[np.float64] = (best_from_here * is_hit).sum(axis=0)
        return total / num_references

    def curve(self, limit_index: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Recall and precision after each prediction, ``(P,)`` both, at one limit; to be drawn.

        Without a reference the recall is NaN.
        """
        num_hits = np.cumsum(self.is_hit[:, limit_index])
        num_references = int(self._num_references.sum())
        recall = num_hits / num_references if num_references else np.full(len(num_hits), math.nan)
        return recall, num_hits / np.arange(1, len(num_hits) + 1)


def _settle(video: VideoRanking, limits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """``(P, L)``: which predictions claim a reference rightly."""
    is_hit = np.zeros((len(video.scores), len(limits)), np.bool_)
    if not video.gaps.size:
        return is_hit
    # Who is near to no reference claims none rightly, and takes none from the others.
    nearest = video.gaps.min(axis=1)
    order = np.argsort(-video.scores, kind="stable")
    for position, limit in enumerate(limits):
        gaps = video.gaps.copy()
        for prediction in order[nearest[order] <= limit]:
            reference = int(gaps[prediction].argmin())
            if gaps[prediction, reference] <= limit:
                is_hit[prediction, position] = True
                gaps[:, reference] = np.inf
    return is_hit
