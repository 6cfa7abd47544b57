"""Segments: how well predicted intervals cover the annotated ones.

In evaluation. Two definitions:

- mAP over temporal intersections over unions (tIoU) as in ActivityNet (Caba Heilbron et al., CVPR
  2015; ``Evaluation/eval_detection.py`` of github.com/activitynet/ActivityNet) for ranked
  predictions: at 0.5:0.95 as there, at 0.3:0.7 as on THUMOS14.
- Segmental F1 at overlaps and the edit score as in MS-TCN (Abu Farha and Gall, CVPR 2019;
  ``eval.py`` of github.com/yabufarha/ms-tcn; Lea et al., CVPR 2017), of events that are published.
  There in percent, here in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.evaluation.proposals import Proposals
from utils.evaluation.ranking import VideoRanking

ACTIVITYNET_TIOUS = tuple(float(tiou) for tiou in np.linspace(0.5, 0.95, 10))
THUMOS_TIOUS = tuple(float(tiou) for tiou in np.linspace(0.3, 0.7, 5))
OVERLAPS = (0.1, 0.25, 0.5)


def temporal_iou(predictions: ArrayLike, references: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of each prediction with each reference.

    Args:
        predictions: ``(P, 2)`` start and end, seconds; each longer than nothing.
        references: ``(R, 2)`` likewise.

    Returns:
        ``(P, R)`` in [0, 1].

    Raises:
        ValueError: Shapes do not fit, or an interval is empty.
    """
    first, second = _intervals("predictions", predictions), _intervals("references", references)
    starts = np.maximum(first[:, None, 0], second[None, :, 0])
    ends = np.minimum(first[:, None, 1], second[None, :, 1])
    intersection = np.maximum(ends - starts, 0)
    lengths = (first[:, 1] - first[:, 0])[:, None] + (second[:, 1] - second[:, 0])
    overlap: NDArray[np.float64] = intersection / (lengths - intersection)
    return overlap


def segment_ranking(references: ArrayLike, proposals: Proposals) -> VideoRanking:
    """What `RankedPredictions` ranks, of one class in one video, with `tiou_limits`.

    Args:
        references: ``(R, 2)`` of that class in that video.
        proposals: Likewise.
    """
    intervals = np.stack((proposals.starts, proposals.ends), axis=1)
    return VideoRanking(scores=proposals.scores, gaps=-temporal_iou(intervals, references))


def tiou_limits(tious: Sequence[float]) -> NDArray[np.float64]:
    """The limits of `segment_ranking`'s gaps at which a tIoU is reached."""
    return -np.asarray(tious, np.float64)


def segmental_counts(
    predictions: ArrayLike, references: ArrayLike, overlaps: Sequence[float] = OVERLAPS
) -> NDArray[np.int64]:
    """Right predictions, predictions and references, of one class in one video.

    Each prediction claims the reference that it overlaps most, and is wrong where that is too
    little or another one has claimed the reference rightly. Of several the definition counts the
    first; how many are right does not depend on which.

    Args:
        predictions: ``(P, 2)`` start and end, seconds.
        references: ``(R, 2)`` likewise.
        overlaps: L tIoUs, above 0, that are enough.

    Returns:
        ``(L, 3)``.
    """
    first, second = _intervals("predictions", predictions), _intervals("references", references)
    num_hits = np.zeros(len(overlaps), np.int64)
    if len(first) and len(second):
        iou = temporal_iou(first, second)
        claimed, values = iou.argmax(axis=1), iou.max(axis=1)
        num_hits = np.array(
            [len(np.unique(claimed[values >= overlap])) for overlap in overlaps], np.int64
        )
    others = np.full((len(overlaps), 2), (len(first), len(second)), np.int64)
    return np.concatenate((num_hits[:, None], others), axis=1)


def segmental_f1(counts: ArrayLike) -> NDArray[np.float64]:
    """F1 of summed `segmental_counts`, ``(..., 3)``; NaN where there is nothing to find or found.

    Where nothing found is right it is 0.
    """
    summed = np.asarray(counts, np.float64)
    total = summed[..., 1] + summed[..., 2]
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is documented.
        f1: NDArray[np.float64] = 2 * summed[..., 0] / total
    return f1


def edit_score(predicted: Sequence[str], annotated: Sequence[str]) -> float:
    """Whether the right things happened in the right order, however long each took.

    ``1 - d / max(P, R)`` with the Levenshtein distance ``d`` between the sequences of labels.

    Args:
        predicted: Labels of P segments, in the order of time.
        annotated: Labels of R segments, in the order of time.

    Returns:
        In [0, 1]; NaN where both are empty.
    """
    longer = max(len(predicted), len(annotated))
    if not longer:
        return float("nan")
    row = list(range(len(annotated) + 1))
    for taken, label in enumerate(predicted, 1):
        diagonal, row[0] = row[0], taken
        for position, other in enumerate(annotated, 1):
            substituted = diagonal + (label != other)
            diagonal = row[position]
            row[position] = min(substituted, diagonal + 1, row[position - 1] + 1)
    return 1 - row[-1] / longer


def _intervals(name: str, values: ArrayLike) -> NDArray[np.float64]:
    intervals = np.asarray(values, np.float64)
    if not intervals.size:
        return np.zeros((0, 2))
    if intervals.ndim != 2 or intervals.shape[1] != 2:
        raise ValueError(f"{name} must be (N, 2), got {intervals.shape}")
    is_empty = ~(intervals[:, 0] < intervals[:, 1])
    if is_empty.any():
        start, end = intervals[is_empty][0]
        raise ValueError(f"{name} must be intervals with start < end, got [{start}, {end})")
    return intervals
