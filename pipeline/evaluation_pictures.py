"""Mistakes of an evaluation in pictures: a strip of frames, and the scores around it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from pipeline.evaluation import Evaluation
from pipeline.svg_timeline import moment_svg
from utils.data.annotations import AnnotatedEvent
from utils.data.event_strips import event_strip, read_strip
from utils.data.strip_page import ShownStrip, escape, strip_block
from utils.errors import VideoError
from utils.evaluation.mistakes import FalseAlarm, Miss, Mistakes
from utils.events.wording import format_duration, format_time, spoken_label
from utils.video.source import VideoSource

_log = logging.getLogger(__name__)

_DECODER = "pyav_isolated"
"""One file that hangs must not cost the report."""
_PICTURE_HEIGHT = 110
_SECONDS_AROUND = 4.0
"""Of scores, to either side of a mistake."""


class MistakePictures:
    """Mistakes as strips of frames, with the scores around them.

    Args:
        evaluation: What was found.
        mistakes: All of it.
        places: Where the timeline of each video is.
    """

    def __init__(
        self, evaluation: Evaluation, mistakes: Mistakes, places: Mapping[int, str]
    ) -> None:
        self._evaluation = evaluation
        self._evidence = evaluation.evidence
        self._mistakes = mistakes
        self._places = places

    def of_miss(self, miss: Miss) -> str:
        """As a piece of HTML."""
        event = miss.event
        threshold = self._evidence.judgement.thresholds[event.label]
        about = f"highest score {miss.highest_score:.2f}, threshold {threshold:g}"
        if miss.raised_at is not None:
            raised = format_time(miss.raised_at, num_decimals=2)
            about += f", but in an event whose alarm came at {raised}"
        return self._article(miss.video, event, about)

    def of_false_alarm(self, alarm: FalseAlarm) -> str:
        """As a piece of HTML."""
        event = AnnotatedEvent(label=alarm.label, start=alarm.start, end=alarm.end)
        raised = format_time(alarm.raised_at, num_decimals=2)
        about = f"confidence {alarm.confidence:.2f}, alarm at {raised}"
        return self._article(alarm.video, event, about)

    def _article(self, number: int, event: AnnotatedEvent, about: str) -> str:
        scored = self._evidence.videos[number].scored
        name = escape(self._evaluation.videos[number].video)
        when = format_time(event.start, num_decimals=2)
        if event.is_point:
            when = f"at {when}"
        else:
            end = format_time(event.end, num_decimals=2)
            when = f"{when} to {end} ({format_duration(event.end - event.start)})"
        around = (
            max(0.0, event.start - _SECONDS_AROUND),
            min(scored.duration_seconds, event.end + _SECONDS_AROUND),
        )
        scores = moment_svg(
            self._evidence,
            number,
            event.label,
            around,
            [miss for miss in self._mistakes.misses if miss.video == number],
            [alarm for alarm in self._mistakes.false_alarms if alarm.video == number],
        )
        return (
            f'<article><h3>{escape(spoken_label(event.label))} <span class="soft">in '
            f'<a href="{self._places[number]}">{name}</a>, {when} · {escape(about)}</span></h3>'
            f"{strip_block(self._strip(number, event), _PICTURE_HEIGHT)}{scores}</article>\n"
        )

    def _strip(self, number: int, event: AnnotatedEvent) -> ShownStrip:
        duration = self._evidence.videos[number].scored.duration_seconds
        video = dataclasses.replace(self._evaluation.videos[number], duration=duration)
        strip = event_strip(video, event)
        try:
            with VideoSource.open(video.path, decoder=_DECODER) as source:
                frames = tuple(read_strip(source, strip))
        except VideoError as error:
            _log.warning("not shown: %s", error)
            return ShownStrip(strip=strip, frames=(), error=str(error))
        why = None if frames else "the video has no frame here"
        return ShownStrip(strip=strip, frames=frames, error=why)
