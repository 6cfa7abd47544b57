"""The annotation format: which events happen when in which video, validated when it is read.

First step of the training road. A file is JSON::

    {"labels": ["fight"],
     "videos": [{"video": "stream_00.mp4", "duration": 34.64, "fps": 25, "group": "train_0",
                 "events": [{"start": 7.48, "end": 9.48, "label": "fight"}]}]}

Times are seconds from the first frame; ``[start, end)`` is half-open. An event may be a point,
``{"time": 7.5, "label": ...}``. Events and videos may carry a ``description``. Paths are relative
to ``video_dir``, by default the folder of the file. Fields that are not known here are kept.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.atomic_file import write_json
from utils.data.strict_json import read_json
from utils.errors import AnnotationError
from utils.registry import suggestion

END_TOLERANCE_SECONDS = 0.5
"""How far an event may pass the stated duration: containers round, or leave out the last frame."""

_TOP_FIELDS = {"labels", "videos"}
_EVENT_FIELDS = {"start", "end", "time", "label", "description"}
_VIDEO_FIELDS = {"video", "duration", "fps", "group", "description", "events"}


@dataclass(frozen=True, kw_only=True)
class AnnotatedEvent:
    """One event of the ground truth: a segment, or a point where ``start == end``.

    Attributes:
        label: Class name.
        start: Seconds; of a point, its time.
        end: Seconds, exclusive; of a point, its time.
        description: Free text, or None.
        extra: Further fields of the file, as they were.

    Raises:
        ValueError: The times are negative, not finite, or the wrong way round.
    """

    label: str
    start: float
    end: float
    description: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Written so that NaN fails.
        if not 0 <= self.start <= self.end < math.inf:
            raise ValueError(f"'{self.label}' from {self.start} to {self.end} is no interval")

    @property
    def is_point(self) -> bool:
        return self.start == self.end

    def spread(self, radius_seconds: float) -> tuple[float, float]:
        """``[start, end)`` in seconds; a point reaches ``radius_seconds`` to either side."""
        if self.is_point:
            return max(0.0, self.start - radius_seconds), self.end + radius_seconds
        return self.start, self.end


@dataclass(frozen=True, kw_only=True)
class VideoAnnotation:
    """One video and its events.

    Attributes:
        video: Path as the file states it.
        path: Where the video lies.
        duration: Seconds, or None where the file does not say.
        fps: Source frames a second, or None where the file does not say.
        group: Set of cameras or person; no group belongs in two splits.
        events: By start.
        description: Free text, or None.
        extra: Further fields of the file, as they were.
    """

    video: str
    path: Path
    duration: float | None = None
    fps: float | None = None
    group: str | None = None
    events: tuple[AnnotatedEvent, ...] = ()
    description: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AnnotationSet:
    """All videos of one annotation file.

    Attributes:
        labels: Class names; their order is the order of the model's K outputs.
        videos: In the order of the file.
        path: The file, or None for a set made in memory.
        extra: Further fields of the file, as they were.
    """

    labels: tuple[str, ...]
    videos: tuple[VideoAnnotation, ...]
    path: Path | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def with_labels(self, labels: Sequence[str]) -> AnnotationSet:
        """The same videos for a model that knows ``labels``, in the model's order.

        Raises:
            AnnotationError: An event has a label that is not among them.
        """
        for video in self.videos:
            for index, event in enumerate(video.events):
                if event.label not in labels:
                    raise _unknown_label(self.path, video.video, index, event.label, labels)
        return replace(self, labels=tuple(labels))


def frame_targets(
    events: Iterable[AnnotatedEvent],
    labels: Sequence[str],
    timestamps: NDArray[np.float64],
    *,
    point_radius_seconds: float = 0.5,
    soft_border_seconds: float = 0.0,
) -> NDArray[np.float32]:
    """Which classes are on at which frame.

    Args:
        events: Of one video.
        labels: K class names.
        timestamps: ``(T,)`` seconds.
        point_radius_seconds: How far a point reaches to either side.
        soft_border_seconds: How long a target takes to rise from 0 to 1 around the start of an
            event and to fall around its end; both lie in the middle, at 0.5. Around an event that
            is shorter than that it takes as long as the event, which so reaches 1 in its middle.

    Returns:
        ``(T, K)`` float32. With hard borders 1 where ``start <= t < end`` of an event of the class,
        else 0. With soft ones in [0, 1], at least 0.5 there, and the highest of events that meet.
    """
    targets = np.zeros((len(timestamps), len(labels)), np.float32)
    positions = {label: index for index, label in enumerate(labels)}
    for event in events:
        # Not `spread`, which cuts a point off at 0: no border is there.
        reach = point_radius_seconds if event.is_point else 0.0
        start, end = event.start - reach, event.end + reach
        column = targets[:, positions[event.label]]
        if ramp := min(soft_border_seconds, end - start):
            # How far inside, in seconds: rises up to the middle of the event, then falls.
            depth = np.minimum(timestamps - start, end - timestamps)
            np.maximum(column, 0.5 + np.clip(depth, -ramp / 2, ramp / 2) / ramp, out=column)
        else:
            column[(timestamps >= start) & (timestamps < end)] = 1.0
    return targets


def load_annotations(
    path: str | os.PathLike[str],
    *,
    video_dir: str | os.PathLike[str] | None = None,
    named_by: str | None = None,
) -> AnnotationSet:
    """Read and validate an annotation file.

    Args:
        path: The JSON file.
        video_dir: Folder that video paths are relative to; by default that of ``path``.
        named_by: The setting that gave ``path``, for the message where there is no such file.

    Raises:
        AnnotationError: The file is missing, no JSON, or breaks a rule; the message names the
            video, the event by its number and label, and the field.
    """
    path = Path(path)
    content = read_json(path, named_by=named_by, needs="'labels' and 'videos'")
    folder = Path(video_dir) if video_dir is not None else path.parent
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: the top level must be an object with 'labels' and 'videos'")
    labels = _read_labels(path, content.get("labels"))
    entries = content.get("videos")
    if not isinstance(entries, list) or not entries:
        raise AnnotationError(f"{path}: 'videos' must be a list with at least one video")
    videos: list[VideoAnnotation] = []
    seen: dict[str, int] = {}  # By normal path: 'a.mp4' and './a.mp4' are one video.
    for number, entry in enumerate(entries):
        video = _read_video(path, folder, number, entry, labels)
        normal = os.path.normpath(video.path)
        if normal in seen:
            raise AnnotationError(
                f"{path}: video '{video.video}' is listed twice (entries {seen[normal]} and "
                f"{number}); join their events"
            )
        seen[normal] = number
        videos.append(video)
    extra = {key: value for key, value in content.items() if key not in _TOP_FIELDS}
    return AnnotationSet(labels=labels, videos=tuple(videos), path=path, extra=extra)


def save_annotations(annotations: AnnotationSet, path: str | os.PathLike[str]) -> None:
    """Write ``annotations`` as JSON; no half file is ever seen.

    Raises:
        UsageError: The file cannot be written.
    """
    path = Path(path)
    content = {
        "labels": list(annotations.labels),
        **annotations.extra,
        "videos": [_video_to_plain(video) for video in annotations.videos],
    }
    write_json(content, path)


def _video_to_plain(video: VideoAnnotation) -> dict[str, Any]:
    optional = {
        "duration": video.duration,
        "fps": video.fps,
        "group": video.group,
        "description": video.description,
    }
    return {
        "video": video.video,
        **{key: value for key, value in optional.items() if value is not None},
        **video.extra,
        "events": [_event_to_plain(event) for event in video.events],
    }


def _event_to_plain(event: AnnotatedEvent) -> dict[str, Any]:
    times: dict[str, Any] = (
        {"time": event.start} if event.is_point else {"start": event.start, "end": event.end}
    )
    described = {} if event.description is None else {"description": event.description}
    return {**times, "label": event.label, **described, **event.extra}


def _read_labels(path: Path, value: Any) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(label, str) and label.strip() for label in value)
    ):
        raise AnnotationError(f"{path}: 'labels' must be a list of at least one name")
    if len(set(value)) != len(value):
        raise AnnotationError(f"{path}: 'labels' names a class twice: {value}")
    return tuple(value)


def _read_video(
    path: Path, folder: Path, number: int, entry: Any, labels: Sequence[str]
) -> VideoAnnotation:
    if not isinstance(entry, dict):
        raise AnnotationError(f"{path}: video {number} must be an object, got {entry!r:.80}")
    name = entry.get("video")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise AnnotationError(f"{path}: video {number}: 'video' must be a path, got {name!r:.80}")
    where = f"{path}: video '{name}'"
    duration = _number(where, "duration", entry.get("duration"), optional=True)
    if duration is not None and duration <= 0:
        raise AnnotationError(f"{where}: 'duration' must be above 0 seconds, got {duration:g}")
    fps = _number(where, "fps", entry.get("fps"), what="a number", optional=True)
    if fps is not None and fps <= 0:
        raise AnnotationError(f"{where}: 'fps' must be above 0, got {fps:g}")
    events = entry.get("events", [])
    if not isinstance(events, list):
        raise AnnotationError(f"{where}: 'events' must be a list, got {events!r:.80}")
    read = [
        _read_event(path, name, index, event, labels, duration)
        for index, event in enumerate(events)
    ]
    return VideoAnnotation(
        video=name,
        path=folder / name,
        duration=duration,
        fps=fps,
        group=_text(where, "group", entry.get("group")),
        events=tuple(sorted(read, key=lambda event: (event.start, event.end, event.label))),
        description=_text(where, "description", entry.get("description")),
        extra={key: value for key, value in entry.items() if key not in _VIDEO_FIELDS},
    )


def _read_event(
    path: Path,
    video: str,
    index: int,
    event: Any,
    labels: Sequence[str],
    duration: float | None,
) -> AnnotatedEvent:
    where = f"{path}: video '{video}', event {index}"
    if not isinstance(event, dict):
        raise AnnotationError(f"{where}: must be an object, got {event!r:.80}")
    label = event.get("label")
    if not isinstance(label, str):
        raise AnnotationError(f"{where}: 'label' must be one of {list(labels)}, got {label!r:.80}")
    if label not in labels:
        raise _unknown_label(path, video, index, label, labels)
    where = f"{where} ('{label}')"
    has_interval = "start" in event or "end" in event
    if has_interval == ("time" in event):
        raise AnnotationError(f"{where}: needs either 'start' and 'end', or 'time'")
    if has_interval:
        start = _number(where, "start", event.get("start"))
        end = _number(where, "end", event.get("end"))
        if end <= start:
            raise AnnotationError(f"{where}: 'end' ({end:g}) must lie after 'start' ({start:g})")
    else:
        start = end = _number(where, "time", event["time"])
    if start < 0:
        field_name = "start" if has_interval else "time"
        raise AnnotationError(f"{where}: '{field_name}' must not be negative, got {start:g}")
    if duration is not None and end > duration + END_TOLERANCE_SECONDS:
        field_name = "end" if has_interval else "time"
        raise AnnotationError(
            f"{where}: '{field_name}' ({end:g}) lies past the end of the video ({duration:g} s)"
        )
    return AnnotatedEvent(
        label=label,
        start=start,
        end=end,
        description=_text(where, "description", event.get("description")),
        extra={key: value for key, value in event.items() if key not in _EVENT_FIELDS},
    )


def _number(
    where: str,
    name: str,
    value: Any,
    *,
    what: str = "a number of seconds",
    optional: bool = False,
) -> Any:
    """``value`` as a finite float; None passes where it is ``optional``."""
    if value is None and optional:
        return None
    # bool is an int in Python, and JSON's `true` is no time. Integers of JSON have no largest.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= sys.float_info.max:
        raise AnnotationError(f"{where}: '{name}' must be {what}, got {value!r:.80}")
    return float(value)


def _text(where: str, name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise AnnotationError(f"{where}: '{name}' must be text, got {value!r:.80}")
    return value


def _unknown_label(
    path: Path | None, video: str, index: int, label: str, labels: Sequence[str]
) -> AnnotationError:
    return AnnotationError(
        f"{path or 'annotations'}: video '{video}', event {index}: unknown label '{label}'; "
        f"known: {', '.join(labels)}{suggestion(label, labels)}"
    )
