"""`ClassCurve`: alarms, misses and time in events of one class at every threshold worth trying.

Between `utils.evaluation.scored_video` and `pipeline.operating_points`: scores of the calibration
videos in, counts by threshold out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.alarms import AlarmCounts, match_alarms, video_alarms
from utils.evaluation.calibration import logits_of
from utils.evaluation.scored_video import EventRules, ScoredVideo

MARGIN_LOGITS = 1e-3
"""Thresholds keep so far from the score that decided them: the same frame scores a little
differently in another batch, on another device, and after its temperature is applied in float32."""

_FLOAT32_STEP = 2.0**-24
"""Between probabilities next to 1: there a score is only known to some hundredths of a logit."""
_NUM_QUIET_PEAKS = 200
"""Highest scores outside of events that are tried: more false alarms than a wish allows."""
_NUM_OTHER_PEAKS = 100
_NUM_EVENT_PEAKS = 400


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassCurve:
    """What one class does at each of G thresholds; curves of several videos add up.

    Attributes:
        label: The class.
        thresholds: ``(G,)`` rising.
        num_alarms: ``(G,)``.
        num_false: ``(G,)`` false alarms.
        num_detected: ``(G,)`` annotated events with an alarm.
        sent_seconds: ``(G,)`` time in events.
        sent_squares: ``(G,)`` sum of the squares of their lengths.
        longest_seconds: ``(G,)`` the longest; at least the longest annotated one, which is likelier
            to come than nothing where the threshold let nothing through.
        num_references: Annotated events.
        quiet_hours: Time at which any alarm is false.
    """

    label: str
    thresholds: NDArray[np.float64]
    num_alarms: NDArray[np.int64]
    num_false: NDArray[np.int64]
    num_detected: NDArray[np.int64]
    sent_seconds: NDArray[np.float64]
    sent_squares: NDArray[np.float64]
    longest_seconds: NDArray[np.float64]
    num_references: int
    quiet_hours: float

    @classmethod
    def of(
        cls,
        video: ScoredVideo,
        label: str,
        thresholds: NDArray[np.float64],
        rules: EventRules,
        *,
        tolerance_seconds: float,
        point_radius_seconds: float,
    ) -> Self:
        """Of one video.

        Args:
            video: Truth and scores.
            label: The class.
            thresholds: ``(G,)`` rising, in (0, 1].
            rules: How scores become events.
            tolerance_seconds: See `match_alarms`.
            point_radius_seconds: How far an event that is a point reaches to either side.
        """
        references = video.intervals(label, point_radius_seconds=point_radius_seconds)
        longest = float(np.max(references[:, 1] - references[:, 0], initial=0.0))
        rows = []
        for threshold in thresholds:
            stretches = video.stretches(label, float(threshold), rules)
            match = match_alarms(
                references,
                video.timestamps[stretches.crossings],
                tolerance_seconds=tolerance_seconds,
            )
            lengths = stretches.ends - stretches.starts
            rows.append(
                (
                    len(stretches),
                    np.count_nonzero(match.is_false),
                    np.count_nonzero(~np.isnan(match.delays)),
                    lengths.sum(),
                    np.square(lengths).sum(),
                    np.max(lengths, initial=longest),
                )
            )
        columns = np.array(rows, np.float64).reshape(len(thresholds), 6).T
        counts = video_alarms(
            video,
            label,
            1.0,
            rules,
            tolerance_seconds=tolerance_seconds,
            point_radius_seconds=point_radius_seconds,
        ).counts
        return cls(
            label=label,
            thresholds=thresholds,
            num_alarms=columns[0].astype(np.int64),
            num_false=columns[1].astype(np.int64),
            num_detected=columns[2].astype(np.int64),
            sent_seconds=columns[3],
            sent_squares=columns[4],
            longest_seconds=columns[5],
            num_references=counts.num_references,
            quiet_hours=counts.quiet_hours,
        )

    def __add__(self, other: ClassCurve) -> ClassCurve:
        """Of the videos of both, which share class and thresholds."""
        return ClassCurve(
            label=self.label,
            thresholds=self.thresholds,
            num_alarms=self.num_alarms + other.num_alarms,
            num_false=self.num_false + other.num_false,
            num_detected=self.num_detected + other.num_detected,
            sent_seconds=self.sent_seconds + other.sent_seconds,
            sent_squares=self.sent_squares + other.sent_squares,
            longest_seconds=np.maximum(self.longest_seconds, other.longest_seconds),
            num_references=self.num_references + other.num_references,
            quiet_hours=self.quiet_hours + other.quiet_hours,
        )

    def counts(self, position: int) -> AlarmCounts:
        """At one of the thresholds."""
        return AlarmCounts(
            num_references=self.num_references,
            num_detected=int(self.num_detected[position]),
            num_alarms=int(self.num_alarms[position]),
            num_false_alarms=int(self.num_false[position]),
            quiet_hours=self.quiet_hours,
        )


def threshold_grid(
    videos: Sequence[ScoredVideo],
    label: str,
    *,
    temperature_ratio: float = 1.0,
    tolerance_seconds: float,
    point_radius_seconds: float,
) -> NDArray[np.float64]:
    """Thresholds worth trying for one class: just below and just above scores that decide.

    These are the highest peaks outside of annotated events, one after the other, the highest score
    in each event, and some of all other peaks.

    Args:
        videos: Truth and scores.
        label: The class.
        temperature_ratio: By how much the temperature of these scores is higher than that of the
            probabilities that they were computed from.
        tolerance_seconds: How far an event's scores are looked for around it.
        point_radius_seconds: How far an event that is a point reaches to either side.

    Returns:
        Rising, in (0, 1]; empty where the class has no score above 0.
    """
    quiet, events, others = [], [], []
    for video in videos:
        scores = video.temporal[:, video.labels.index(label)].astype(np.float64)
        is_peak = _is_peak(scores)
        is_in_event = np.zeros(len(scores), np.bool_)
        for start, end in video.intervals(label, point_radius_seconds=point_radius_seconds):
            inside = slice(
                int(np.searchsorted(video.timestamps, start - tolerance_seconds)),
                int(np.searchsorted(video.timestamps, end + tolerance_seconds, side="right")),
            )
            is_in_event[inside] = True
            events.append(scores[inside].max(initial=0.0))
        quiet.append(scores[is_peak & ~is_in_event])
        others.append(scores[is_peak])
    kept = np.concatenate(
        [
            np.sort(np.concatenate([*quiet, np.zeros(0)]))[-_NUM_QUIET_PEAKS:],
            _thinned(np.array(events), _NUM_EVENT_PEAKS),
            _thinned(np.concatenate([*others, np.zeros(0)]), _NUM_OTHER_PEAKS),
        ]
    )
    logits = logits_of(np.unique(kept[kept > 0]))
    margins = MARGIN_LOGITS + _FLOAT32_STEP * np.exp(logits * temperature_ratio) / temperature_ratio
    around = np.concatenate((logits - margins, logits + margins))
    grid: NDArray[np.float64] = np.unique(1 / (1 + np.exp(-around)))
    return grid


def _thinned(values: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    """At most ``limit`` of the distinct values, the lowest and the highest among them; rising."""
    distinct = np.unique(values)
    if len(distinct) <= limit:
        return distinct
    chosen: NDArray[np.float64] = distinct[
        np.round(np.linspace(0, len(distinct) - 1, limit)).astype(int)
    ]
    return chosen


def _is_peak(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """``(T,)``: frames that no neighbour exceeds."""
    padded = np.concatenate(([-np.inf], scores, [-np.inf]))
    is_peak: NDArray[np.bool_] = (scores >= padded[:-2]) & (scores >= padded[2:])
    return is_peak
