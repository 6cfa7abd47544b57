"""Frame metrics: how well per-frame scores rank the frames of events above all others.

In evaluation, after the model and before any threshold: average precision and AUROC ask for no
operating point. Events are scored in `utils.evaluation.matching`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, kw_only=True)
class ClassFrameMetrics:
    """Frame metrics of one class.

    Attributes:
        average_precision: In [0, 1]; NaN where no frame is positive.
        auroc: In [0, 1]; NaN where no frame is positive or none is negative.
        num_frames: Frames scored.
        num_positive_frames: Frames at which the class is on. Their share of the frames is about the
            average precision of a random ranking.
    """

    average_precision: float
    auroc: float
    num_frames: int
    num_positive_frames: int


@dataclass(frozen=True, kw_only=True)
class FrameMetrics:
    """Frame metrics of all classes.

    Attributes:
        average_precision: Mean over the classes that have a positive frame; NaN where none has.
        auroc: Mean over the classes for which it is defined; NaN where it is for none.
        per_class: By label, in the model's order.
    """

    average_precision: float
    auroc: float
    per_class: Mapping[str, ClassFrameMetrics]

    def to_plain(self) -> dict[str, Any]:
        """Ready for JSON, by metric; what is undefined (NaN) is None."""
        classes = self.per_class.items()
        return {
            "frame_ap": {
                "overall": none_if_nan(self.average_precision),
                "per_class": {k: none_if_nan(v.average_precision) for k, v in classes},
            },
            "frame_auroc": {
                "overall": none_if_nan(self.auroc),
                "per_class": {k: none_if_nan(v.auroc) for k, v in classes},
            },
            "num_frames": max((v.num_frames for v in self.per_class.values()), default=0),
            "num_positive_frames": {k: v.num_positive_frames for k, v in classes},
        }


def average_precision(targets: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall curve as a sum of steps, without interpolation.

    ``sum over thresholds n of (R_n - R_{n-1}) * P_n``, where frames with equal scores share a
    threshold. It is what scikit-learn calls ``average_precision_score``; the trapezoidal area would
    be too optimistic (Davis and Goadrich, ICML 2006).

    Args:
        targets: ``(N,)``, 0 or 1.
        scores: ``(N,)``, finite; higher means more likely positive.

    Returns:
        In [0, 1]; NaN where no target is 1.

    Raises:
        ValueError: The two are not ``(N,)``, a target is neither 0 nor 1, or a score is not finite.
    """
    is_positive, values = checked_scores(targets, scores)
    num_positive = int(is_positive.sum())
    if not num_positive:
        return math.nan
    order = np.argsort(-values)
    sorted_values = values[order]
    # The last frame of each group of equal scores: only there is a threshold.
    is_last = np.append(sorted_values[1:] != sorted_values[:-1], True)
    num_hits = np.cumsum(is_positive[order])[is_last]
    num_taken = np.flatnonzero(is_last) + 1
    recall_steps = np.diff(num_hits, prepend=0) / num_positive
    return float(np.sum(recall_steps * num_hits / num_taken))


def auroc(targets: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a random positive frame scores above a random negative one; ties count half.

    The Mann-Whitney U statistic over the number of pairs, which is the area under the ROC curve
    (Hanley and McNeil, Radiology 143, 1982).

    Args:
        targets: ``(N,)``, 0 or 1.
        scores: ``(N,)``, finite; higher means more likely positive.

    Returns:
        In [0, 1]; NaN where all targets are equal.

    Raises:
        ValueError: The two are not ``(N,)``, a target is neither 0 nor 1, or a score is not finite.
    """
    is_positive, values = checked_scores(targets, scores)
    num_positive = int(is_positive.sum())
    num_negative = len(values) - num_positive
    if not num_positive or not num_negative:
        return math.nan
    _, group, group_sizes = np.unique(values, return_inverse=True, return_counts=True)
    # 1-based ranks; frames with equal scores share the middle rank of their group.
    ranks = (np.cumsum(group_sizes) - (group_sizes - 1) / 2)[group]
    u = ranks[is_positive].sum() - num_positive * (num_positive + 1) / 2
    return float(u / (num_positive * num_negative))


def frame_metrics(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str]) -> FrameMetrics:
    """Average precision and AUROC of each class, and their means.

    Args:
        targets: ``(N, K)``, 0 or 1; frames of several videos one after the other. As of
            `utils.data.annotations.frame_targets`.
        scores: ``(N, K)``, finite.
        labels: K class names.

    Raises:
        ValueError: Shapes do not fit, a target is neither 0 nor 1, or a score is not finite.
    """
    target_array, score_array = np.asarray(targets), np.asarray(scores)
    expected = (len(target_array) if target_array.ndim else 0, len(labels))
    if target_array.shape != expected or score_array.shape != expected:
        raise ValueError(
            f"targets and scores must be (N, {len(labels)}), one column for each of "
            f"{', '.join(labels)}; got {target_array.shape} and {score_array.shape}"
        )
    per_class = {
        label: ClassFrameMetrics(
            average_precision=average_precision(target_array[:, k], score_array[:, k]),
            auroc=auroc(target_array[:, k], score_array[:, k]),
            num_frames=len(target_array),
            num_positive_frames=int(np.count_nonzero(target_array[:, k])),
        )
        for k, label in enumerate(labels)
    }
    return FrameMetrics(
        average_precision=mean_of_defined(v.average_precision for v in per_class.values()),
        auroc=mean_of_defined(v.auroc for v in per_class.values()),
        per_class=per_class,
    )


class FrameRanking:
    """`average_precision` and `auroc` of one class, for any selection of the videos.

    The frames are sorted once; what a selection counts, each frame as often as its video, is summed
    up over what is sorted.

    Args:
        targets: ``(N,)``, 0 or 1; frames of V videos.
        scores: ``(N,)``, finite.
        owners: ``(N,)`` number of the video that each frame is of, from 0 to V - 1.

    Raises:
        ValueError: Shapes do not fit, a target is neither 0 nor 1, or a score is not finite.
    """

    def __init__(self, targets: ArrayLike, scores: ArrayLike, owners: ArrayLike) -> None:
        is_positive, values = checked_scores(targets, scores)
        numbers = np.asarray(owners, np.int64)
        if numbers.shape != values.shape:
            raise ValueError(f"owners must be {values.shape}, got {numbers.shape}")
        _, steps = np.unique(-values, return_inverse=True)
        # Frames of one video with equal scores count alike: most of a gated video scores 0.
        num_videos = int(numbers.max(initial=0)) + 1
        keys, entries = np.unique(steps * num_videos + numbers, return_inverse=True)
        self._owners = keys % num_videos
        self._num_frames = np.bincount(entries, minlength=len(keys))
        self._num_positive = np.bincount(entries[is_positive], minlength=len(keys))
        self._borders = np.flatnonzero(np.diff(keys // num_videos, prepend=-1))

    def average_precision(self, weights: NDArray[np.int64] | None = None) -> float:
        """As the function of this name; NaN where no frame is positive.

        Args:
            weights: ``(V,)`` how often each video counts; None: once.
        """
        num_hits, num_taken = self._steps(weights)
        total = num_hits.sum()
        if not total:
            return math.nan
        precision = np.cumsum(num_hits) / np.maximum(np.cumsum(num_taken), 1)
        return float(np.sum(num_hits * precision) / total)

    def auroc(self, weights: NDArray[np.int64] | None = None) -> float:
        """As the function of this name; NaN where all targets are equal.

        Args:
            weights: ``(V,)`` how often each video counts; None: once.
        """
        num_hits, num_taken = self._steps(weights)
        num_misses = num_taken - num_hits
        pairs = float(num_hits.sum()) * float(num_misses.sum())
        if not pairs:
            return math.nan
        num_below = num_misses.sum() - np.cumsum(num_misses) + num_misses / 2
        return float(np.sum(num_hits * num_below) / pairs)

    def curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Recall and precision at each threshold, from the highest; to be drawn.

        Without a positive frame the recall is NaN.
        """
        num_hits, num_taken = (np.cumsum(counts) for counts in self._steps(None))
        total = num_hits[-1] if len(num_hits) else 0
        recall = num_hits / total if total else np.full(len(num_hits), math.nan)
        return recall, num_hits / num_taken

    def _steps(
        self, weights: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positive frames, and frames, at each distinct score, from the highest."""
        num_hits, num_frames = self._num_positive, self._num_frames
        if not len(num_frames):
            return num_hits, num_frames
        if weights is not None:
            counts = weights[self._owners]
            num_hits, num_frames = num_hits * counts, num_frames * counts
        if len(self._borders) == len(num_frames):  # No two videos share a score.
            return num_hits, num_frames
        return (
            np.add.reduceat(num_hits, self._borders),
            np.add.reduceat(num_frames, self._borders),
        )


def mean_of_defined(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN where none is left."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def none_if_nan(value: float) -> float | None:
    """``value``, or None for NaN, which JSON has no word for."""
    return None if math.isnan(value) else value


def checked_scores(
    targets: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which targets are 1, and the scores in double precision.

    Raises:
        ValueError: The two are not ``(N,)``, a target is neither 0 nor 1, or a score is not finite.
    """
    target_array, values = np.asarray(targets), np.asarray(scores, dtype=np.float64)
    if target_array.ndim != 1 or target_array.shape != values.shape:
        raise ValueError(
            f"targets and scores must both be (N,), got {target_array.shape} and {values.shape}"
        )
    is_positive = target_array == 1
    is_wrong = ~(is_positive | (target_array == 0))
    if is_wrong.any():
        raise ValueError(f"targets must be 0 or 1, got {target_array[is_wrong][0]}")
    is_wrong = ~np.isfinite(values)
    if is_wrong.any():
        raise ValueError(f"scores must be finite, got {values[is_wrong][0]}")
    return is_positive, values
