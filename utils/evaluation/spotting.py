"""Spotting: is each event named at the right moment? Ranked predictions against moments.

In evaluation, behind `utils.evaluation.proposals`. Two definitions, of which each field knows one:

- mAP at tolerances as in E2E-Spot (Hong et al., "Spotting Temporally Precise, Fine-Grained Events
  in Video", ECCV 2022; ``util/score.py`` of github.com/jhong93/spot).
- SoccerNet's average-mAP, loose and tight (Deliège et al., "SoccerNet-v2", CVPR Workshops 2021;
  ``SoccerNet.Evaluation.ActionSpotting``). Its windows are full widths: 5 s means 2.5 s either way.

The moment of a reference that is a point is the point, and it is compared with the peak of a
prediction; that of an interval is its start, and it is compared with the prediction's start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.data.annotations import AnnotatedEvent
from utils.evaluation.proposals import Proposals
from utils.evaluation.ranking import VideoRanking

TOLERANCES_SECONDS = (0.5, 1.0, 2.0, 4.0)
TOLERANCES_FRAMES = (0.0, 1.0, 2.0, 4.0)
"""Of E2E-Spot's own evaluation."""
TIGHT_WINDOWS_SECONDS = (1.0, 2.0, 3.0, 4.0, 5.0)
LOOSE_WINDOWS_SECONDS = tuple(float(width) for width in range(5, 65, 5))

_NUM_THRESHOLDS = 200
_RECALL_LEVELS = np.arange(11) / 10


def moment_gaps(
    references: Sequence[AnnotatedEvent], onsets: ArrayLike, peaks: ArrayLike
) -> NDArray[np.float64]:
    """Seconds between each prediction and each reference.

    Args:
        references: R of one class in one video.
        onsets: ``(P,)`` start of each prediction, seconds.
        peaks: ``(P,)`` its strongest moment, seconds.

    Returns:
        ``(P, R)``.
    """
    moments = np.array([reference.start for reference in references], np.float64)
    is_point = np.array([reference.is_point for reference in references], np.bool_)
    onsets, peaks = np.asarray(onsets, np.float64), np.asarray(peaks, np.float64)
    gaps: NDArray[np.float64] = np.abs(
        np.where(is_point, peaks[:, None], onsets[:, None]) - moments
    )
    return gaps


def frame_gaps(
    references: Sequence[AnnotatedEvent],
    onsets: ArrayLike,
    peaks: ArrayLike,
    timestamps: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Sampled frames between each prediction and each reference.

    A start is told as the first frame that is not before it, and a point, or the peak of a
    prediction, as the frame that is nearest.

    Args:
        references: R of one class in one video.
        onsets: ``(P,)`` seconds.
        peaks: ``(P,)`` seconds.
        timestamps: ``(T,)`` seconds of the sampled frames, rising; at least one.

    Returns:
        ``(P, R)``, whole numbers.
    """
    moments = np.array([reference.start for reference in references], np.float64)
    is_point = np.array([reference.is_point for reference in references], np.bool_)
    positions = np.where(
        is_point, _nearest(timestamps, moments), np.searchsorted(timestamps, moments)
    )
    first = np.searchsorted(timestamps, np.asarray(onsets, np.float64))
    nearest = _nearest(timestamps, np.asarray(peaks, np.float64))
    gaps = np.where(is_point, nearest[:, None], first[:, None]) - positions
    sizes: NDArray[np.float64] = np.abs(gaps).astype(np.float64)
    return sizes


def _nearest(timestamps: NDArray[np.float64], moments: NDArray[np.float64]) -> NDArray[np.int64]:
    borders = (timestamps[1:] + timestamps[:-1]) / 2
    positions: NDArray[np.int64] = np.searchsorted(borders, moments, side="right")
    return positions


def spotting_ranking(
    references: Sequence[AnnotatedEvent],
    proposals: Proposals,
    *,
    timestamps: NDArray[np.float64] | None = None,
) -> VideoRanking:
    """What `RankedPredictions` ranks, of one class in one video.

    Args:
        references: Of that class in that video.
        proposals: Likewise.
        timestamps: ``(T,)`` of the sampled frames; given, the gaps are frames and not seconds.
    """
    gaps = (
        moment_gaps(references, proposals.starts, proposals.peak_seconds)
        if timestamps is None
        else frame_gaps(references, proposals.starts, proposals.peak_seconds, timestamps)
    )
    return VideoRanking(scores=proposals.scores, gaps=gaps)


class SoccerNetSpotting:
    """SoccerNet's average precision of one class, averaged over windows.

    References choose here, in the order of time: each takes the highest prediction that is still
    free and lies within half the window. Precision and recall are read at 200 thresholds in [0, 1],
    and the precision is interpolated at eleven recalls. The mean over the windows is the area under
    the curve by the trapezoidal rule: the first and the last count half.

    Args:
        videos: One entry for each video; references in the order of time.
        windows_seconds: W full widths.
    """

    def __init__(self, videos: Sequence[VideoRanking], windows_seconds: Sequence[float]) -> None:
        reaches = np.asarray(windows_seconds, np.float64) / 2
        self._num_references = np.array([video.gaps.shape[1] for video in videos], np.int64)
        scores = np.concatenate([*(video.scores for video in videos), np.zeros(0)])
        owners = np.repeat(np.arange(len(videos)), [len(video.scores) for video in videos])
        is_hit = np.concatenate(
            [*(_chosen(video, reaches) for video in videos), np.zeros((0, len(reaches)), np.bool_)]
        )
        order = np.argsort(scores, kind="stable")
        self._owners = owners[order]
        self._is_hit = is_hit[order]
        # Where those begin that reach each threshold.
        self._first = np.searchsorted(scores[order], np.linspace(0, 1, _NUM_THRESHOLDS))

    def average_precision(self, weights: NDArray[np.int64] | None = None) -> float:
        """The mean over the windows, in [0, 1]; NaN where there is no reference.

        Args:
            weights: ``(V,)`` how often each video counts; None: once.
        """
        counts = np.ones_like(self._num_references) if weights is None else weights
        num_references = int(counts @ self._num_references)
        if not num_references:
            return math.nan
        weighted = counts[self._owners][:, None]
        num_taken = _sums_from(weighted, self._first)
        num_hits = _sums_from(weighted * self._is_hit, self._first)
        recalls = num_hits / num_references
        # A threshold that nothing reaches counts with a precision of 0.
        precisions = num_hits / np.maximum(num_taken, 1)
        values = [
            _eleven_points(recall, precision)
            for recall, precision in zip(recalls.T, precisions.T, strict=True)
        ]
        if len(values) == 1:
            return values[0]
        return float(np.trapezoid(values) / (len(values) - 1))


def _chosen(video: VideoRanking, reaches: NDArray[np.float64]) -> NDArray[np.bool_]:
    """``(P, W)``: which predictions a reference took."""
    is_taken = np.zeros((len(video.scores), len(reaches)), np.bool_)
    for window, reach in enumerate(reaches):
        for reference in range(video.gaps.shape[1]):
            is_free = (video.gaps[:, reference] <= reach) & ~is_taken[:, window]
            if is_free.any():
                best = int(np.where(is_free, video.scores, -np.inf).argmax())
                is_taken[best, window] = True
    return is_taken


def _eleven_points(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Mean of the best precisions at recalls of at least 0, 0.1, ... 1.

    Args:
        recall: ``(N,)`` at rising thresholds, so not rising.
        precision: ``(N,)`` at the same.
    """
    num_reaching = np.searchsorted(-recall, -_RECALL_LEVELS, side="right")
    best = np.maximum.accumulate(precision)
    return float(np.where(num_reaching > 0, best[np.maximum(num_reaching, 1) - 1], 0.0).mean())


def _sums_from(values: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums of ``(P, W)`` values from each of N positions to the end, ``(N, W)``."""
    sums = np.cumsum(values[::-1], axis=0)[::-1]
    padded: NDArray[np.int64] = np.concatenate((sums, np.zeros((1, values.shape[1]), np.int64)))
    return padded[first]
