"""Strips of frames around events and around background, to see label errors at a glance.

A strip shows a few frames before, inside and after one event, in order, each with its time. A
background strip shows a stretch in which no event is.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.video.source import DecodedFrame, Image, VideoSource

Part = Literal["before", "inside", "after"]

NUM_INSIDE = 4
"""Frames of a segment; of a point there is one."""
NUM_BACKGROUND = 8
STEP_SECONDS = 0.5
"""Between frames outside of an event: near enough to see whether the border is well placed."""
_BORDER_SECONDS = 0.1
"""How far the frames next to a border lie from it."""
_MAX_STRETCH_SECONDS = 60.0
"""Long background is cut into stretches of this length: an hour of it has more than one to show."""
_SEEK_SECONDS = 4.0
"""Where the next frame is further away, the decoder seeks instead of reading on."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Strip:
    """What to show of one event, or of background.

    Attributes:
        video: Where it is.
        event: Which; None for background.
        moments: Seconds, rising.
    """

    video: VideoAnnotation
    event: AnnotatedEvent | None
    moments: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StripFrame:
    """One picture of a strip.

    Attributes:
        timestamp: Seconds, of the frame that is shown, not of the moment that was asked for.
        part: On which side of the event's borders it lies; of background, "inside".
        image: The picture.
    """

    timestamp: float
    part: Part
    image: Image


def choose_strips(annotations: AnnotationSet, per_class: int, *, seed: int = 0) -> list[Strip]:
    """Events of each class, spread over the videos, then as many stretches of background.

    Args:
        annotations: What to show.
        per_class: At most so many of each class, and of background.
        seed: Another seed, other events; the same gives the same.
    """
    draw = random.Random(seed)
    strips: list[Strip] = []
    for label in annotations.labels:
        events = [
            [(video, event) for event in video.events if event.label == label]
            for video in annotations.videos
        ]
        strips += [event_strip(video, event) for video, event in _spread(events, per_class, draw)]
    gaps = [[(video, gap) for gap in background(video)] for video in annotations.videos]
    strips += [_background_strip(video, gap) for video, gap in _spread(gaps, per_class, draw)]
    return strips


def event_strip(video: VideoAnnotation, event: AnnotatedEvent) -> Strip:
    """Moments before, in and after an event, as far as the video reaches."""
    last = float("inf") if video.duration is None else video.duration
    # Annotations may pass the end a little; the last frames are still to be seen.
    start, end = event.start, max(event.start, min(event.end, last))
    if event.is_point:
        moments = [start + STEP_SECONDS * step for step in range(-3, 4)]
    else:
        # Short events have their inner frames nearer to their borders.
        margin = min(_BORDER_SECONDS, (end - start) / 4)
        inner = (end - margin - start) / (NUM_INSIDE - 1)
        moments = [
            *(start - STEP_SECONDS, start - _BORDER_SECONDS),
            *(start + inner * index for index in range(NUM_INSIDE)),
            *(end, end + STEP_SECONDS),
        ]
    return Strip(
        video=video,
        event=event,
        moments=tuple(moment for moment in moments if 0 <= moment < last),
    )


def background(video: VideoAnnotation) -> list[tuple[float, float]]:
    """Stretches ``[start, end)`` of at least four steps that keep a step away from all events.

    After the last event there is one only where the duration is known.
    """
    least = 4 * STEP_SECONDS
    spans = sorted((event.start - STEP_SECONDS, event.end + STEP_SECONDS) for event in video.events)
    if video.duration is not None:
        # The end bounds background as an event does, and nothing that lies past it does.
        spans = [span for span in spans if span[0] < video.duration]
        spans.append((video.duration, video.duration))
    found: list[tuple[float, float]] = []
    reached = 0.0
    for start, end in spans:
        while start - reached >= least:
            stop = min(start, reached + _MAX_STRETCH_SECONDS)
            found.append((reached, stop))
            reached = stop
        reached = max(reached, end)
    return found


def read_strip(
    source: VideoSource, strip: Strip, *, short_side: int | None = None
) -> Iterator[StripFrame]:
    """The frames of a strip: for each moment the first frame at or after it, none twice.

    Args:
        source: The strip's video, open.
        strip: What to show.
        short_side: Of the pictures, in pixels; None: as they are. They are never enlarged.

    Raises:
        VideoDecodeError: Nothing can be decoded.
    """
    event = strip.event
    has_point = False
    for frame in frames_at(source, strip.moments):
        part: Part = "inside"
        if event is not None:
            # By the frame's own time: at few frames a second it may lie beyond the border.
            if frame.timestamp < event.start:
                part = "before"
            elif has_point or (not event.is_point and frame.timestamp >= event.end):
                part = "after"
            has_point = event.is_point and part != "before"
        yield StripFrame(
            timestamp=frame.timestamp, part=part, image=frame.rgb(short_side=short_side)
        )


def frames_at(source: VideoSource, moments: Iterable[float]) -> Iterator[DecodedFrame]:
    """For each moment the first frame at or after it, none twice; fewer where the video ends.

    Args:
        source: An open video.
        moments: Seconds, rising.
    """
    frames: Iterator[DecodedFrame] | None = None
    held: DecodedFrame | None = None
    given: float | None = None
    for moment in moments:
        if frames is None or held is None or moment - held.timestamp > _SEEK_SECONDS:
            frames, held = source.frames(max(0.0, moment)), None
        while held is None or held.timestamp < moment:
            held = next(frames, None)
            if held is None:
                return
        if held.timestamp != given:
            given = held.timestamp
            yield held


def _background_strip(video: VideoAnnotation, gap: tuple[float, float]) -> Strip:
    """Frames in the middle of a stretch."""
    start, end = gap
    step = min(STEP_SECONDS, (end - start) / NUM_BACKGROUND)
    first = (start + end - step * NUM_BACKGROUND) / 2
    moments = tuple(first + step * (index + 0.5) for index in range(NUM_BACKGROUND))
    return Strip(video=video, event=None, moments=moments)


def _spread(by_video: Iterable[Sequence[_T]], count: int, draw: random.Random) -> list[_T]:
    """Up to ``count``, one of each video in turn; in the order of the videos."""
    queues = [list(enumerate(items)) for items in by_video]
    order = list(range(len(queues)))
    draw.shuffle(order)
    for queue in queues:
        draw.shuffle(queue)
    chosen: list[tuple[int, int, _T]] = []
    while len(chosen) < count and any(queues):
        for index in order:
            if queues[index] and len(chosen) < count:
                chosen.append((index, *queues[index].pop()))
    chosen.sort(key=lambda entry: entry[:2])
    return [item for _, _, item in chosen]
