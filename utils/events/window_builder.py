"""`WindowBuilder`: turns the temporal encoder's scores into events, while they come in.

Last step of the cascade before words and sinks. Each class by itself:

1. **Hysteresis** (as in Canny's edge detector): frames at or above ``threshold * hysteresis_ratio``
   that follow each other form a run; runs without a frame at or above ``threshold`` are dropped.
2. **Merging**: what remains is joined where the gap is at most ``merge_gap_seconds``.
3. **Minimum duration**: events shorter than ``min_duration_seconds`` are dropped.
4. **Cool-down**: an event that starts less than ``cooldown_seconds`` after the end of the last one
   published is dropped.

In this order a higher threshold never covers a moment that a lower one leaves out, as long as there
is no cool-down (which lets one event silence another) and no maximum duration: each of the first
three steps keeps "is contained in".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from utils.events.frame_extent import TIME_TOLERANCE_SECONDS, FrameExtents
from utils.events.records import Event, FrameScore
from utils.thresholds import per_class


@dataclass(frozen=True, kw_only=True)
class _Rules:
    """What `WindowBuilder` documents as its arguments; ``max_duration`` may be infinite."""

    hysteresis_ratio: float
    min_duration: float
    merge_gap: float
    cooldown: float
    max_duration: float


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """One frame of one class: its interval, and its score."""

    start: float
    end: float
    timestamp: float
    frame_index: int
    score: float


@dataclass(kw_only=True)
class _Stretch:
    """A run of frames that still grows. Its peak is the first frame with the highest score."""

    start: float
    end: float
    peak: _Moment

    @property
    def duration(self) -> float:
        return self.end - self.start

    def extend(self, end: float, peak: _Moment) -> None:
        self.end = end
        if peak.score > self.peak.score:
            self.peak = peak


class _ClassTrack:
    """The four steps for one class, in constant memory."""

    def __init__(self, label: str, threshold: float, rules: _Rules) -> None:
        self._label = label
        self._threshold = threshold
        self._low = threshold * rules.hysteresis_ratio
        self._rules = rules
        self._run: _Stretch | None = None
        # A closed event that a later run may still be merged into. While a run is open it is always
        # within reach of it: a frame below the low threshold that ends out of reach publishes it.
        self._waiting: _Stretch | None = None
        self._published_end: float | None = None

    def push(self, moment: _Moment) -> list[Event]:
        """Take the class's next frame; returns the events that this finishes."""
        if moment.score < self._low:
            return self._below(moment)
        if self._run is None:
            self._run = _Stretch(start=moment.start, end=moment.end, peak=moment)
        else:
            self._run.extend(moment.end, moment)
        run, waiting = self._run, self._waiting
        if run.peak.score < self._threshold:
            return self._grown_weak(run, waiting)
        if waiting is not None:
            waiting.extend(run.end, run.peak)
            self._run = run = waiting
            self._waiting = None
        if run.duration >= self._rules.max_duration:
            self._run = None
            return self._publish(run)
        return []

    def open_peaks(self) -> list[int]:
        """`frame_index` of the strongest frame of each stretch that is not finished."""
        return [
            stretch.peak.frame_index
            for stretch in (self._run, self._waiting)
            if stretch is not None
        ]

    def settle(self) -> list[Event]:
        """Nothing follows, or nothing that belongs to this: finish what is open."""
        self._close_run()
        waiting, self._waiting = self._waiting, None
        return [] if waiting is None else self._publish(waiting)

    def _below(self, moment: _Moment) -> list[Event]:
        self._close_run()
        waiting = self._waiting
        # The next run cannot start before this frame's interval ends.
        if waiting is None or not self._exceeds(moment.end - waiting.end, self._rules.merge_gap):
            return []
        self._waiting = None
        return self._publish(waiting)

    def _grown_weak(self, run: _Stretch, waiting: _Stretch | None) -> list[Event]:
        """The run has no frame at the threshold so far; it must not hold things up for ever."""
        if run.duration >= self._rules.max_duration:
            self._run = None
        if waiting is not None and run.end - waiting.start >= self._rules.max_duration:
            self._waiting = None
            return self._publish(waiting)
        return []

    def _close_run(self) -> None:
        run, self._run = self._run, None
        if run is not None and run.peak.score >= self._threshold:
            self._waiting = run

    def _publish(self, stretch: _Stretch) -> list[Event]:
        # Stretches touch only where the maximum duration cut them: the rest of an event that was
        # published is neither a blip nor news.
        if stretch.start != self._published_end:
            if self._exceeds(self._rules.min_duration, stretch.duration):
                return []
            if self._published_end is not None and self._exceeds(
                self._rules.cooldown, stretch.start - self._published_end
            ):
                return []
        self._published_end = stretch.end
        return [
            Event(
                label=self._label,
                start=stretch.start,
                end=stretch.end,
                timestamp=stretch.peak.timestamp,
                frame_index=stretch.peak.frame_index,
                confidence=stretch.peak.score,
            )
        ]

    @staticmethod
    def _exceeds(seconds: float, limit: float) -> bool:
        return seconds > limit + TIME_TOLERANCE_SECONDS


class WindowBuilder:
    """Turns scores into events with hysteresis, minimum duration, merging and cool-down.

    Frames are pushed one by one; an event comes out once it is certain that nothing changes it any
    more: when ``merge_gap_seconds`` have passed since its end without a run that might yet be
    merged. Memory is constant in the length of events and stream. How the frames are grouped into
    calls changes nothing.

    An event begins and ends midway between two samples (why: `utils.events.frame_extent`). A hole
    in the stream ends every open event, and nothing is merged across it: nobody knows what happened
    there. Frames that the temporal encoder did not look at count with score 0 and so are in no
    event.

    Args:
        labels: K class names, in the order of the scores.
        threshold: In (0, 1]; an event has a frame with at least this score. One for all classes, or
            K of them.
        hysteresis_ratio: In (0, 1]; an event extends over neighbouring frames that score at least
            ``threshold * hysteresis_ratio``.
        min_duration_seconds: Shorter events are dropped, after merging.
        merge_gap_seconds: Events of one class with at most this between them are one.
        cooldown_seconds: Silence of a class after each of its published events.
        max_duration_seconds: An event that has lasted this long is published at once, so that
            someone who watches live hears of it, and what goes on is the next event, which touches
            it. That one is held back neither by cool-down nor by minimum duration, but needs a
            frame at ``threshold`` of its own. None: an event lasts as long as it lasts.
        max_gap_seconds: A larger jump between timestamps is a hole in the stream; None: no jump is.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        threshold: float | Sequence[float],
        hysteresis_ratio: float = 0.6,
        min_duration_seconds: float = 0.0,
        merge_gap_seconds: float = 0.5,
        cooldown_seconds: float = 0.0,
        max_duration_seconds: float | None = None,
        max_gap_seconds: float | None = None,
    ) -> None:
        if isinstance(labels, str) or not labels or len(set(labels)) != len(labels):
            raise ValueError(f"labels must name each class once, got {labels!r}")
        self.labels = tuple(labels)
        self.thresholds = per_class(threshold, self.labels)
        if not 0 < hysteresis_ratio <= 1:
            raise ValueError(f"hysteresis_ratio must be in (0, 1], got {hysteresis_ratio}")
        for name, value in (
            ("min_duration_seconds", min_duration_seconds),
            ("merge_gap_seconds", merge_gap_seconds),
            ("cooldown_seconds", cooldown_seconds),
        ):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be 0 or more seconds, got {value}")
        if max_duration_seconds is None:
            max_duration_seconds = math.inf
        elif not max_duration_seconds > 0 or max_duration_seconds < min_duration_seconds:
            raise ValueError(
                "max_duration_seconds must be above 0 and not below min_duration_seconds "
                f"({min_duration_seconds}), got {max_duration_seconds}"
            )
        self._rules = _Rules(
            hysteresis_ratio=hysteresis_ratio,
            min_duration=min_duration_seconds,
            merge_gap=merge_gap_seconds,
            cooldown=cooldown_seconds,
            max_duration=max_duration_seconds,
        )
        self._max_gap_seconds = max_gap_seconds
        self._reset()

    def _reset(self) -> None:
        self._extents = FrameExtents(max_gap_seconds=self._max_gap_seconds)
        self._tracks = [
            _ClassTrack(label, threshold, self._rules)
            for label, threshold in zip(self.labels, self.thresholds, strict=True)
        ]
        # The newest frame and where its interval begins; where it ends, the next frame tells.
        self._newest: tuple[FrameScore, float] | None = None

    def push(self, frame: FrameScore) -> list[Event]:
        """Take the next frame.

        Returns:
            The events that became certain, by start, then in the order of ``labels``.

        Raises:
            ValueError: The frame has not K scores, or its time is not after that of the one before.
        """
        if frame.confidence.shape != (len(self.labels),):
            raise ValueError(
                f"sample {frame.sample_index}: scores must be ({len(self.labels)},), one for each "
                f"of {', '.join(self.labels)}; got {frame.confidence.shape}"
            )
        arrival = self._extents.push(frame.timestamp)
        events: list[Event] = []
        if arrival.previous_end is not None:
            events += self._advance(arrival.previous_end)
        if arrival.is_after_hole:
            events += self._settle()
        self._newest = (frame, arrival.start)
        return self._ordered(events)

    def extend(self, frames: Iterable[FrameScore]) -> list[Event]:
        """`push` for each of ``frames``; returns all that they finish."""
        return [event for frame in frames for event in self.push(frame)]

    def open_peaks(self) -> frozenset[int]:
        """`frame_index` of all frames so far that an event yet to come may name as its strongest.

        At most two for each class, and the newest frame. A caller that keeps pictures of frames can
        drop all others.
        """
        peaks = {index for track in self._tracks for index in track.open_peaks()}
        if self._newest is not None:
            peaks.add(self._newest[0].frame_index)
        return frozenset(peaks)

    def flush(self, end_seconds: float | None = None) -> list[Event]:
        """End the stream and finish what is open. After that the next stream may be pushed.

        Args:
            end_seconds: Where the video ends, if known; an event that lasts to the end reaches to
                there. See `FrameExtents.finish`.

        Returns:
            The last events, by start, then in the order of ``labels``.
        """
        end = self._extents.finish(end_seconds)
        events = [] if end is None else self._advance(end)
        events += self._settle()
        self._reset()
        return self._ordered(events)

    def _advance(self, end: float) -> list[Event]:
        """The newest frame's interval ends at ``end``: hand it to the classes."""
        assert self._newest is not None
        frame, start = self._newest
        return [
            event
            for track, score in zip(self._tracks, frame.confidence.tolist(), strict=True)
            for event in track.push(
                _Moment(
                    start=start,
                    end=end,
                    timestamp=frame.timestamp,
                    frame_index=frame.frame_index,
                    score=score,
                )
            )
        ]

    def _settle(self) -> list[Event]:
        return [event for track in self._tracks for event in track.settle()]

    def _ordered(self, events: list[Event]) -> list[Event]:
        return sorted(events, key=lambda event: (event.start, self.labels.index(event.label)))
