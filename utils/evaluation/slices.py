"""Slices: the same figures over parts of the videos, such as night and day, or kinds of events.

In evaluation. A part is told by a field of the annotation file, one that the format knows, such as
``group``, or any other that somebody wrote there. Those that lack it are a part of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from utils.data.annotations import AnnotatedEvent, VideoAnnotation
from utils.errors import UsageError
from utils.registry import suggestion

MISSING = "(none)"
"""The part of those that do not have the field."""

_VIDEO_FIELDS = ("video", "group", "fps", "duration")


def slices_of_videos(videos: Sequence[VideoAnnotation], field: str) -> dict[str, list[int]] | None:
    """Which videos have which value of a field.

    Args:
        videos: To be parted.
        field: Its name.

    Returns:
        Positions by value, as text, in alphabetical order; a list, as of tags, puts the video into
        the part of each item. None where no video has the field.
    """
    return _parts([_video_value(video, field) for video in videos])


def slices_of_events(events: Sequence[AnnotatedEvent], field: str) -> dict[str, list[int]] | None:
    """Which events have which value of a field, as `slices_of_videos`."""
    return _parts([event.extra.get(field) for event in events])


def check_slice_fields(videos: Iterable[VideoAnnotation], fields: Iterable[str]) -> None:
    """Refuse fields that nothing has.

    Raises:
        UsageError: No video and no event has the field; the message lists those that there are.
    """
    videos = list(videos)
    known = {name for name in _VIDEO_FIELDS if any(_video_value(v, name) for v in videos)}
    known.update(name for video in videos for name in video.extra)
    known.update(name for video in videos for event in video.events for name in event.extra)
    for field in fields:
        if field not in known:
            raise UsageError(
                f"--slice-by {field}: no video and no event of the annotations has this field; "
                f"they have {', '.join(sorted(known))}{suggestion(field, sorted(known))}"
            )


def _video_value(video: VideoAnnotation, field: str) -> Any:
    return getattr(video, field) if field in _VIDEO_FIELDS else video.extra.get(field)


def _parts(values: Sequence[Any]) -> dict[str, list[int]] | None:
    if all(value is None for value in values):
        return None
    parts: dict[str, list[int]] = {}
    for position, value in enumerate(values):
        names = {_name(item) for item in value} if isinstance(value, list) else {_name(value)}
        for name in names or {MISSING}:
            parts.setdefault(name, []).append(position)
    return dict(sorted(parts.items()))


def _name(value: Any) -> str:
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
