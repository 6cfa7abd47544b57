"""Mistakes, worst first: events that raised no alarm, and alarms that no event raised.

In evaluation, for people who want to see what went wrong. What counts as found, and as false, is
what `utils.evaluation.alarms` counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.data.annotations import AnnotatedEvent
from utils.evaluation.alarms import match_alarms
from utils.evaluation.evidence import Evidence, JudgedVideo


@dataclass(frozen=True, kw_only=True)
class Miss:
    """An annotated event without an alarm.

    Attributes:
        video: Position among the videos.
        event: As annotated.
        highest_score: Of its class within its borders; 0 where the temporal encoder did not look.
        raised_at: Seconds; when the alarm was raised that is still on in the event, where there is
            one: too early to be the event's own. Else None.
    """

    video: int
    event: AnnotatedEvent
    highest_score: float
    raised_at: float | None


@dataclass(frozen=True, kw_only=True)
class FalseAlarm:
    """A published event whose alarm lies in no annotated event of its class.

    Attributes:
        video: Position among the videos.
        label: Class name.
        start: Seconds.
        end: Seconds, exclusive.
        raised_at: Seconds; when the score reached the threshold.
        confidence: Its highest score.
    """

    video: int
    label: str
    start: float
    end: float
    raised_at: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """All mistakes of some videos.

    Attributes:
        misses: Those with the lowest scores first: there the threshold is not to blame.
        false_alarms: The surest first.
    """

    misses: tuple[Miss, ...]
    false_alarms: tuple[FalseAlarm, ...]


def find_mistakes(evidence: Evidence) -> Mistakes:
    """The mistakes at the thresholds that are judged."""
    misses: list[Miss] = []
    false_alarms: list[FalseAlarm] = []
    for number, video in enumerate(evidence.videos):
        for label in evidence.labels:
            references = evidence.references(video, label)
            misses += _misses(evidence, number, video, label, references)
            false_alarms += _false_alarms(evidence, number, video, label, references)
    misses.sort(key=lambda miss: (miss.highest_score, miss.video, miss.event.start))
    false_alarms.sort(key=lambda alarm: (-alarm.confidence, alarm.video, alarm.start))
    return Mistakes(misses=tuple(misses), false_alarms=tuple(false_alarms))


def _misses(
    evidence: Evidence,
    number: int,
    video: JudgedVideo,
    label: str,
    references: NDArray[np.float64],
) -> list[Miss]:
    scored, judgement = video.scored, evidence.judgement
    scores = scored.temporal[:, evidence.labels.index(label)]
    own = [event for event in scored.references if event.label == label]
    delays = evidence.alarms[number][label].delays
    stretches = scored.stretches(label, judgement.thresholds[label], judgement.rules)
    found = []
    for event, (start, end), delay in zip(own, references, delays, strict=True):
        if not np.isnan(delay):
            continue
        inside = scores[(scored.timestamps >= start) & (scored.timestamps < end)]
        still_on = np.flatnonzero((stretches.starts < end) & (stretches.ends > start))
        raised = scored.timestamps[stretches.crossings[still_on[:1]]].tolist()
        found.append(
            Miss(
                video=number,
                event=event,
                highest_score=float(inside.max(initial=0.0)),
                raised_at=raised[0] if raised else None,
            )
        )
    return found


def _false_alarms(
    evidence: Evidence,
    number: int,
    video: JudgedVideo,
    label: str,
    references: NDArray[np.float64],
) -> list[FalseAlarm]:
    scored, judgement = video.scored, evidence.judgement
    stretches = scored.stretches(label, judgement.thresholds[label], judgement.rules)
    raised = scored.timestamps[stretches.crossings]
    match = match_alarms(references, raised, tolerance_seconds=judgement.tolerance_seconds)
    scores = scored.temporal[:, evidence.labels.index(label)]
    return [
        FalseAlarm(
            video=number,
            label=label,
            start=float(stretches.starts[index]),
            end=float(stretches.ends[index]),
            raised_at=float(raised[index]),
            confidence=float(scores[stretches.peaks[index]]),
        )
        for index in np.flatnonzero(match.is_false)
    ]
