"""`ThresholdSweep`: alarms and budget at many thresholds, from one pass over the scores.

In evaluation, behind the curves "recall against false alarms per hour" and "recall against the
share of video sent to stage three". What each video adds is kept, so any selection of videos, such
as a draw of the bootstrap, has its curves at the price of a few matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.alarms import DEFAULT_TOLERANCE_SECONDS, covered_seconds, match_alarms
from utils.evaluation.budget import is_touched
from utils.evaluation.scored_video import EventRules, ScoredVideo

DEFAULT_NUM_THRESHOLDS = 200
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True, eq=False)
class RecallCurve:
    """Recall against its price, from the highest threshold to the lowest.

    Attributes:
        prices: ``(P,)``: false alarms per hour, or the share of video sent to stage three; NaN
            where there is no time to count it in.
        recalls: ``(P,)`` in [0, 1]; NaN where there is no reference.
        thresholds: ``(P,)`` falling; the first is infinite: nothing is published.
    """

    prices: NDArray[np.float64]
    recalls: NDArray[np.float64]
    thresholds: NDArray[np.float64]

    def recall_at(self, price: float) -> float:
        """Highest recall of a threshold that costs at most ``price``; NaN where it is undefined.

        Not interpolated: between two thresholds there is nothing that one could set. The threshold
        is chosen with the truth in sight, so on other videos expect a little less.
        """
        affordable = self.recalls[self.prices <= price]
        return float(affordable.max()) if len(affordable) else math.nan


class ThresholdSweep:
    """What moving one threshold, shared by some classes, does to alarms and budget.

    Args:
        videos: V of them, with truth and scores.
        labels: K classes that count; one for the curves of a class.
        rules: How scores become events.
        thresholds: P to try, in (0, 1]; None: `spread_thresholds`.
        tolerance_seconds: See `match_alarms`.
        point_radius_seconds: How far a reference that is a point reaches to either side.

    Attributes:
        labels: As given.
        thresholds: ``(P + 1,)`` falling; the first is infinite.
    """

    def __init__(
        self,
        videos: Sequence[ScoredVideo],
        labels: Sequence[str],
        rules: EventRules,
        *,
        thresholds: Sequence[float] | NDArray[np.float64] | None = None,
        tolerance_seconds: float = DEFAULT_TOLERANCE_SECONDS,
        point_radius_seconds: float = DEFAULT_TOLERANCE_SECONDS,
    ) -> None:
        tried = spread_thresholds(videos, labels) if thresholds is None else thresholds
        self.labels = tuple(labels)
        self.thresholds: NDArray[np.float64] = np.append(np.inf, np.unique(tried)[::-1])
        shape = (len(videos), len(self.labels))
        self._num_references = np.zeros(shape, np.int64)
        self._quiet_hours = np.zeros(shape)
        self._durations = np.array([video.duration_seconds for video in videos])
        self._num_detected = np.zeros((*shape, len(self.thresholds)), np.int64)
        self._num_false = np.zeros((*shape, len(self.thresholds)), np.int64)
        self._num_recalled = np.zeros((*shape, len(self.thresholds)), np.int64)
        self._sent_seconds = np.zeros((len(videos), len(self.thresholds)))
        for number, video in enumerate(videos):
            references = [
                video.intervals(label, point_radius_seconds=point_radius_seconds)
                for label in self.labels
            ]
            self._take(number, video, references, rules, tolerance_seconds)

    def _take(
        self,
        number: int,
        video: ScoredVideo,
        references: Sequence[NDArray[np.float64]],
        rules: EventRules,
        tolerance_seconds: float,
    ) -> None:
        whole = (0.0, video.duration_seconds)
        for k, own in enumerate(references):
            self._num_references[number, k] = len(own)
            noisy = covered_seconds(own, within=whole, margin_seconds=tolerance_seconds)
            self._quiet_hours[number, k] = (video.duration_seconds - noisy) / _SECONDS_PER_HOUR
        for p, threshold in enumerate(self.thresholds[1:], 1):
            sent = []
            for k, (label, own) in enumerate(zip(self.labels, references, strict=True)):
                stretches = video.stretches(label, float(threshold), rules)
                match = match_alarms(
                    own,
                    video.timestamps[stretches.crossings],
                    tolerance_seconds=tolerance_seconds,
                )
                self._num_detected[number, k, p] = np.count_nonzero(~np.isnan(match.delays))
                self._num_false[number, k, p] = np.count_nonzero(match.is_false)
                self._num_recalled[number, k, p] = np.count_nonzero(is_touched(own, stretches))
                sent.append(np.stack((stretches.starts, stretches.ends), axis=1))
            self._sent_seconds[number, p] = covered_seconds(np.concatenate(sent), within=whole)

    def alarm_curve(self, weights: NDArray[np.int64] | None = None) -> RecallCurve:
        """Recall of alarms against false alarms per hour.

        It need not rise everywhere: at a low threshold events run into each other and raise one
        alarm in the place of two.

        Args:
            weights: ``(V,)`` how often each video counts; None: once.
        """
        counts = self._counts(weights)
        # As `over_classes`: the rates of the classes add up, an hour stays an hour.
        hours = float(counts @ self._quiet_hours.mean(axis=1))
        num_false = np.tensordot(counts, self._num_false, 1).sum(axis=0)
        return RecallCurve(
            prices=num_false / hours if hours > 0 else np.full(len(num_false), math.nan),
            recalls=self._recalls(counts, self._num_detected),
            thresholds=self.thresholds,
        )

    def budget_curve(self, weights: NDArray[np.int64] | None = None) -> RecallCurve:
        """Recall of stage three against the share of video that it is sent.

        Without cool-down both can only grow as the threshold falls.

        Args:
            weights: ``(V,)`` how often each video counts; None: once.
        """
        counts = self._counts(weights)
        return RecallCurve(
            prices=(counts @ self._sent_seconds) / float(counts @ self._durations),
            recalls=self._recalls(counts, self._num_recalled),
            thresholds=self.thresholds,
        )

    def _counts(self, weights: NDArray[np.int64] | None) -> NDArray[np.int64]:
        return np.ones(len(self._durations), np.int64) if weights is None else weights

    def _recalls(
        self, counts: NDArray[np.int64], num_found: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        found = np.tensordot(counts, num_found, 1).sum(axis=0)
        num_references = int((counts @ self._num_references).sum())
        return found / num_references if num_references else np.full(len(found), math.nan)


def spread_thresholds(
    videos: Sequence[ScoredVideo],
    labels: Sequence[str],
    *,
    limit: int = DEFAULT_NUM_THRESHOLDS,
) -> NDArray[np.float64]:
    """Thresholds worth trying: the scores that stretches peak at, thinned out to ``limit``.

    What moves the counts is where peaks are. They crowd near 0 and 1, so an even grid would waste
    most of its points.

    Args:
        videos: Truth and scores.
        labels: The classes that share the threshold.
        limit: At most so many.

    Returns:
        Rising, in (0, 1]; empty where no score is above 0.
    """
    peaks = [
        _local_peaks(video.temporal[:, video.labels.index(label)])
        for video in videos
        for label in labels
    ]
    scores = np.unique(np.concatenate([*peaks, np.zeros(0)]))
    scores = scores[scores > 0]
    if len(scores) > limit:
        scores = scores[np.round(np.linspace(0, len(scores) - 1, limit)).astype(int)]
    return scores


def _local_peaks(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores of the frames that no neighbour exceeds."""
    padded = np.concatenate(([-np.inf], scores.astype(np.float64), [-np.inf]))
    is_peak = (padded[1:-1] >= padded[:-2]) & (padded[1:-1] >= padded[2:])
    peaks: NDArray[np.float64] = padded[1:-1][is_peak]
    return peaks
