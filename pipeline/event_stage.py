"""`EventStage`: scores to described events, the last part of every run."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

from pipeline.describers.base import Describer, EventContext
from pipeline.describers.template import TemplateDescriber
from pipeline.run_records import CascadeSettings, DescribedEvent, RunTotals, StageTotals, Stopwatch
from utils.events.records import Event, FrameScore
from utils.events.window_builder import WindowBuilder
from utils.video.source import Image

_log = logging.getLogger(__name__)

_NUM_RECENT_EVENTS = 64


class EventStage:
    """Scores to described events: last part of the cascade, the same for videos and saved scores.

    Args:
        labels: K class names.
        settings: Of the run.
        describer: Who words events.
        totals: Failures and times are counted here.
        max_gap_seconds: See `WindowBuilder`.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        settings: CascadeSettings,
        describer: Describer,
        totals: RunTotals,
        *,
        max_gap_seconds: float | None,
    ) -> None:
        events = settings.events
        self._labels = labels
        self._builder = WindowBuilder(
            labels,
            threshold=settings.threshold,
            hysteresis_ratio=events.hysteresis_ratio,
            min_duration_seconds=events.min_duration_seconds,
            merge_gap_seconds=events.merge_gap_seconds,
            cooldown_seconds=events.cooldown_seconds,
            max_gap_seconds=max_gap_seconds,
        )
        self._describer = describer
        self._totals = totals
        self._stage = totals.stages.setdefault("describe", StageTotals())
        # Only of frames that an event yet to come can name as its strongest.
        self._pictures: dict[int, Image] = {}
        self._recent: deque[Event] = deque(maxlen=_NUM_RECENT_EVENTS)

    def push(self, score: FrameScore, picture: Image | None) -> list[DescribedEvent]:
        """Take the next frame; returns what it finishes."""
        if picture is not None:
            self._pictures[score.frame_index] = picture
        return self._publish(self._builder.push(score))

    def flush(self, end_seconds: float | None) -> list[DescribedEvent]:
        """End the video; returns the last events."""
        return self._publish(self._builder.flush(end_seconds))

    def _publish(self, events: Iterable[Event]) -> list[DescribedEvent]:
        described = [
            DescribedEvent(
                event=event,
                analysis=self._words(event),
                picture=self._pictures.get(event.frame_index),
            )
            for event in events
        ]
        open_peaks = self._builder.open_peaks()
        for frame_index in [index for index in self._pictures if index not in open_peaks]:
            del self._pictures[frame_index]
        return described

    def _words(self, event: Event) -> str:
        context = EventContext(
            labels=self._labels,
            earlier=tuple(self._recent),
            picture=self._pictures.get(event.frame_index),
        )
        self._recent.append(event)
        self._stage.num_frames += 1
        with Stopwatch(self._stage):
            try:
                return self._describer.describe(event, context)
            except Exception as error:  # Whatever fails here, no event is lost.
                self._totals.num_describer_failures += 1
                _log.warning(
                    "the describer failed on '%s' at %.1f s (%s: %s); the template words it",
                    event.label,
                    event.start,
                    type(error).__name__,
                    error,
                )
                _log.debug("the describer's traceback", exc_info=True)
                return TemplateDescriber().describe(event, context)


def summarize_video(
    describer: Describer,
    events: Iterable[Event],
    totals: RunTotals,
    labels: tuple[str, ...],
) -> str:
    """The sentence about a whole video; the template's where ``describer`` fails."""
    ordered = sorted(events, key=lambda event: (event.start, event.label))
    try:
        return describer.summarize(ordered, duration_seconds=totals.duration_seconds, labels=labels)
    except Exception as error:  # As for single events.
        totals.num_describer_failures += 1
        _log.warning(
            "the describer failed on the summary (%s: %s); the template words it",
            type(error).__name__,
            error,
        )
        return TemplateDescriber().summarize(
            ordered, duration_seconds=totals.duration_seconds, labels=labels
        )
