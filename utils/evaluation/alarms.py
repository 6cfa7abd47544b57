"""Alarms: how often the cascade cries wolf, what it misses, and how soon it speaks.

In evaluation, beside the event F1, which asks where an event begins and ends. Here an event is what
its user hears of it: an alarm, raised at the first frame that reaches the threshold. It is right
where that moment lies inside an annotated event of its class, give or take a tolerance. So an alarm
that never stops is one alarm, and wrong, however many events it covers. Misses against the rate of
false alarms are the axes of NIST's evaluation of activities in extended video (ActEV), too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.intervals import DEFAULT_CONFIDENCE, poisson_interval, wilson_interval
from utils.evaluation.scored_video import EventRules, ScoredVideo
from utils.events.frame_extent import TIME_TOLERANCE_SECONDS

DEFAULT_TOLERANCE_SECONDS = 0.5
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True, eq=False)
class AlarmMatch:
    """Alarms of one class in one video beside what is annotated.

    Attributes:
        delays: ``(R,)`` seconds from the start of each reference to its first alarm, negative where
            it came early; NaN where the reference is missed.
        is_false: ``(A,)`` whether the alarm is in no reference.
    """

    delays: NDArray[np.float64]
    is_false: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class AlarmCounts:
    """What alarms came to, of one class or of several, in one video or in many.

    Attributes:
        num_references: Annotated events.
        num_detected: Those with an alarm.
        num_alarms: Alarms; more than one in a reference are repetitions, neither hits nor false.
        num_false_alarms: Those in no reference.
        quiet_hours: Time at which any alarm is false: outside of all references of the class.
    """

    num_references: int = 0
    num_detected: int = 0
    num_alarms: int = 0
    num_false_alarms: int = 0
    quiet_hours: float = 0.0

    @property
    def recall(self) -> float:
        """Share of the references with an alarm; NaN where there is no reference."""
        return self.num_detected / self.num_references if self.num_references else math.nan

    @property
    def false_alarms_per_hour(self) -> float:
        """Per hour at which nothing is annotated; NaN where there is no such time."""
        return self.num_false_alarms / self.quiet_hours if self.quiet_hours > 0 else math.nan

    def false_alarms_interval(
        self, confidence: float = DEFAULT_CONFIDENCE
    ) -> tuple[float, float] | None:
        """Exact Poisson interval of the rate (Garwood, 1936); None where there is no quiet time."""
        if not self.quiet_hours > 0:
            return None
        return poisson_interval(self.num_false_alarms, self.quiet_hours, confidence=confidence)

    def recall_interval(self, confidence: float = DEFAULT_CONFIDENCE) -> tuple[float, float] | None:
        """Wilson interval of the recall; None where there is no reference.

        It takes the events for independent. Where they come in a few videos they are not, and a
        bootstrap over groups (`utils.evaluation.bootstrap`) is the wider and truer one.
        """
        if not self.num_references:
            return None
        return wilson_interval(self.num_detected, self.num_references, confidence=confidence)

    def __add__(self, other: AlarmCounts) -> AlarmCounts:
        """Of one class, in both videos together."""
        return AlarmCounts(
            num_references=self.num_references + other.num_references,
            num_detected=self.num_detected + other.num_detected,
            num_alarms=self.num_alarms + other.num_alarms,
            num_false_alarms=self.num_false_alarms + other.num_false_alarms,
            quiet_hours=self.quiet_hours + other.quiet_hours,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoAlarms:
    """The alarms of one class in one video.

    Attributes:
        counts: What they came to.
        delays: ``(R,)``; see `AlarmMatch`.
    """

    counts: AlarmCounts
    delays: NDArray[np.float64]


def match_alarms(
    references: NDArray[np.float64],
    alarms: NDArray[np.float64],
    *,
    tolerance_seconds: float = DEFAULT_TOLERANCE_SECONDS,
) -> AlarmMatch:
    """Which references have an alarm, and which alarms no reference.

    An alarm at ``a`` is in a reference where ``start - tolerance <= a <= end + tolerance``. Where
    references overlap it is in all of them.

    Args:
        references: ``(R, 2)`` seconds, start and end, of one class in one video.
        alarms: ``(A,)`` seconds, of the same class and video, rising.
        tolerance_seconds: Annotated borders are no sharper than that.

    Raises:
        ValueError: The tolerance is negative or not finite.
    """
    if not (math.isfinite(tolerance_seconds) and tolerance_seconds >= 0):
        raise ValueError(f"tolerance_seconds must be 0 or more, got {tolerance_seconds}")
    reach = tolerance_seconds + TIME_TOLERANCE_SECONDS
    opens, closes = references[:, 0] - reach, references[:, 1] + reach
    first = np.searchsorted(alarms, opens)
    times = np.append(alarms, np.inf)[first]
    delays = np.where(times <= closes, times - references[:, 0], np.nan)
    # Open at an alarm: those that opened by then, less those that closed before.
    num_open = np.searchsorted(np.sort(opens), alarms, side="right")
    num_closed = np.searchsorted(np.sort(closes), alarms, side="left")
    return AlarmMatch(delays=delays, is_false=num_open == num_closed)


def video_alarms(
    video: ScoredVideo,
    label: str,
    threshold: float,
    rules: EventRules,
    *,
    tolerance_seconds: float = DEFAULT_TOLERANCE_SECONDS,
    point_radius_seconds: float = DEFAULT_TOLERANCE_SECONDS,
) -> VideoAlarms:
    """The alarms of one class in one video at one threshold.

    Args:
        video: Truth and scores.
        label: The class.
        threshold: In (0, 1].
        rules: How scores become events.
        tolerance_seconds: See `match_alarms`.
        point_radius_seconds: How far a reference that is a point reaches to either side. Its delay
            counts from the point itself.
    """
    references = video.intervals(label, point_radius_seconds=point_radius_seconds)
    stretches = video.stretches(label, threshold, rules)
    match = match_alarms(
        references,
        video.timestamps[stretches.crossings],
        tolerance_seconds=tolerance_seconds,
    )
    onsets = np.array([event.start for event in video.references if event.label == label])
    quiet_seconds = video.duration_seconds - covered_seconds(
        references, within=(0.0, video.duration_seconds), margin_seconds=tolerance_seconds
    )
    return VideoAlarms(
        counts=AlarmCounts(
            num_references=len(references),
            num_detected=int(np.count_nonzero(~np.isnan(match.delays))),
            num_alarms=len(stretches),
            num_false_alarms=int(np.count_nonzero(match.is_false)),
            quiet_hours=quiet_seconds / _SECONDS_PER_HOUR,
        ),
        delays=match.delays + (references[:, 0] - onsets) if len(onsets) else match.delays,
    )


def alarm_counts(
    videos: Iterable[ScoredVideo],
    label: str,
    threshold: float,
    rules: EventRules,
    *,
    tolerance_seconds: float = DEFAULT_TOLERANCE_SECONDS,
    point_radius_seconds: float = DEFAULT_TOLERANCE_SECONDS,
) -> AlarmCounts:
    """`video_alarms` of all videos together."""
    found = (
        video_alarms(
            video,
            label,
            threshold,
            rules,
            tolerance_seconds=tolerance_seconds,
            point_radius_seconds=point_radius_seconds,
        ).counts
        for video in videos
    )
    return sum(found, AlarmCounts())


def over_classes(per_class: Mapping[str, AlarmCounts]) -> AlarmCounts:
    """All classes together: their alarms, over the mean of their quiet hours.

    On a camera that sees nothing the rates of the classes add up, and so do the false alarms here,
    while an hour stays an hour.
    """
    counts = sum(per_class.values(), AlarmCounts())
    return AlarmCounts(
        num_references=counts.num_references,
        num_detected=counts.num_detected,
        num_alarms=counts.num_alarms,
        num_false_alarms=counts.num_false_alarms,
        quiet_hours=counts.quiet_hours / max(1, len(per_class)),
    )


@dataclass(frozen=True, kw_only=True)
class TimeToDetect:
    """How long after their start events are detected.

    Attributes:
        num_detected: How many it is about; misses have no delay.
        median: Seconds; negative is early. NaN where nothing is detected.
        p95: Seconds within which 95 % of the detected are; NaN likewise.
        early_share: Share detected before their annotated start; NaN likewise.
        late_share: Share detected more than the tolerance after it; NaN likewise.
    """

    num_detected: int
    median: float
    p95: float
    early_share: float
    late_share: float


def time_to_detect(
    delays: NDArray[np.float64], *, tolerance_seconds: float = DEFAULT_TOLERANCE_SECONDS
) -> TimeToDetect:
    """Sum up delays.

    The time is that of the video: when the frame that raised the alarm was shown. A live stream
    hears of it later by what the model must see beyond that frame.

    Args:
        delays: Seconds; NaN for what is missed.
        tolerance_seconds: More than that is late.
    """
    found = delays[~np.isnan(delays)]
    if not len(found):
        return TimeToDetect(
            num_detected=0, median=math.nan, p95=math.nan, early_share=math.nan, late_share=math.nan
        )
    return TimeToDetect(
        num_detected=len(found),
        median=float(np.median(found)),
        p95=float(np.quantile(found, 0.95)),
        early_share=float(np.mean(found < 0)),
        late_share=float(np.mean(found > tolerance_seconds)),
    )


def covered_seconds(
    intervals: NDArray[np.float64],
    *,
    within: tuple[float, float],
    margin_seconds: float = 0.0,
) -> float:
    """Seconds of ``within`` that lie in at least one of the intervals.

    Args:
        intervals: ``(N, 2)`` start and end, in any order.
        within: Start and end of what counts.
        margin_seconds: By which each interval is longer at both ends.
    """
    if not len(intervals):
        return 0.0
    bounds = np.clip(
        intervals[np.argsort(intervals[:, 0])] + (-margin_seconds, margin_seconds), *within
    )
    # What the intervals before have covered already.
    reached = np.maximum.accumulate(bounds[:, 1])[:-1]
    begins = np.maximum(bounds[:, 0], np.append(within[0], reached))
    return float(np.maximum(bounds[:, 1] - begins, 0.0).sum())
