"""Slices by any field: values, lists, what is missing, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from utils.data.annotations import AnnotatedEvent, VideoAnnotation
from utils.errors import UsageError
from utils.evaluation.slices import (
    MISSING,
    check_slice_fields,
    slices_of_events,
    slices_of_videos,
)


def video(name: str, group: str | None = None, **extra: Any) -> VideoAnnotation:
    return VideoAnnotation(video=name, path=Path(name), group=group, extra=extra)


VIDEOS = [
    video("a", "north", light="night", tags=["rain", "crowd"], floor=2),
    video("b", "south", light="day", tags=[]),
    video("c", "north", tags=["rain", "rain"], floor=10),
]


def test_videos_by_what_they_have() -> None:
    assert slices_of_videos(VIDEOS, "group") == {"north": [0, 2], "south": [1]}
    assert slices_of_videos(VIDEOS, "video") == {"a": [0], "b": [1], "c": [2]}
    assert slices_of_videos(VIDEOS, "light") == {MISSING: [2], "day": [1], "night": [0]}
    assert slices_of_videos(VIDEOS, "floor") == {MISSING: [1], "10": [2], "2": [0]}


def test_a_list_is_several_parts() -> None:
    assert slices_of_videos(VIDEOS, "tags") == {MISSING: [1], "crowd": [0], "rain": [0, 2]}


def test_events() -> None:
    events = [
        AnnotatedEvent(label="fall", start=1, end=2, extra={"severity": severity})
        for severity in ("low", None, {"level": 3})
    ]
    found = slices_of_events(events, "severity")
    assert found == {MISSING: [1], "low": [0], '{"level": 3}': [2]}
    assert slices_of_events(events, "light") is None
    assert slices_of_videos(VIDEOS, "fps") is None
    assert slices_of_events([], "severity") is None


def test_a_field_that_nothing_has_is_refused() -> None:
    event = AnnotatedEvent(label="fall", start=1, end=2, extra={"severity": 1})
    videos = [*VIDEOS, VideoAnnotation(video="d", path=Path("d"), events=(event,))]
    check_slice_fields(videos, ["group", "light", "severity", "video"])
    with pytest.raises(
        UsageError,
        match=r"--slice-by lihgt: no video and no event of the annotations has this field; they "
        r"have floor, group, light, severity, tags, video \(did you mean 'light'\?\)",
    ):
        check_slice_fields(videos, ["lihgt"])
