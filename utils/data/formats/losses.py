"""What a file cannot hold of a data set, found by comparing it with what reads back.

Last step of every export. No format keeps a list of its own shortcomings, which could be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.data.formats.draft import Draft, DraftEvent, DraftVideo


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One kind of thing that was lost.

    Attributes:
        kind: A short fixed name, such as ``end``.
        text: One plain sentence.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


class _Tally:
    """Counts losses by kind, and remembers how far times moved."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.farthest_seconds = 0.0

    def add(self, kind: str, is_lost: bool = True) -> None:
        if is_lost:
            self.counts[kind] = self.counts.get(kind, 0) + 1

    def add_time(self, before: float, after: float) -> None:
        self.add("time", before != after)
        self.farthest_seconds = max(self.farthest_seconds, abs(before - after))


def find_losses(
    annotations: AnnotationSet, back: Draft, *, renamed: Mapping[str, str], title: str
) -> list[Loss]:
    """What differs between a set and what was read back of it.

    Args:
        annotations: What was written.
        back: What was read; its events are in the order in which they were written.
        renamed: New names of videos.
        title: The format's, for the sentences.
    """
    tally = _Tally()
    found = {video.video: video for video in back.videos}
    for video in annotations.videos:
        name = renamed.get(video.video, video.video)
        tally.add("name", name != video.video)
        if name in found:
            _compare_videos(tally, video, found[name])
        else:
            tally.add("video")
    tally.add("labels", back.class_names() != annotations.labels)
    # What a format states beside our fields comes back as extra; only what is gone is a loss.
    tally.add("set extra", not annotations.extra.items() <= back.extra.items())
    return [
        Loss(kind=kind, text=_sentence(kind, tally, title))
        for kind in _SENTENCES
        if kind in tally.counts
    ]


def _compare_videos(tally: _Tally, before: VideoAnnotation, after: DraftVideo) -> None:
    tally.add("duration", before.duration is not None and after.duration is None)
    if before.duration is not None and after.duration is not None:
        tally.add("rounded duration", before.duration != after.duration)
    tally.add("fps", before.fps is not None and after.fps != before.fps)
    tally.add("group", before.group is not None and after.group != before.group)
    tally.add("video description", before.description != after.description)
    tally.add("video extra", not before.extra.items() <= after.extra.items())
    missing = len(before.events) - len(after.events)
    if missing:
        tally.counts["event"] = tally.counts.get("event", 0) + missing
        return
    for event, read in zip(before.events, after.events, strict=True):
        _compare_events(tally, event, read)


def _compare_events(tally: _Tally, before: AnnotatedEvent, after: DraftEvent) -> None:
    tally.add_time(before.start, after.start)
    if before.is_point != after.is_point:
        tally.add("end" if after.is_point else "point")
    elif not before.is_point:
        tally.add_time(before.end, after.end)
    tally.add("label", before.label != after.label)
    tally.add("description", before.description != after.description)
    tally.add("event extra", not before.extra.items() <= after.extra.items())


_SENTENCES = {
    "video": ("{n} video without events is left out", "{n} videos without events are left out"),
    "event": ("{n} event is left out", "{n} events are left out"),
    "end": (
        "{n} interval became a point at its start",
        "{n} intervals became points at their start",
    ),
    "point": ("{n} point became an interval", "{n} points became intervals"),
    "time": (
        "{n} time moved, by {far:.3g} s",
        "{n} times moved, by at most {far:.3g} s",
    ),
    "label": ("the label of {n} event changed", "the labels of {n} events changed"),
    "labels": (
        "the list of classes is not kept: it reads back as the events have them, in its own order",
    )
    * 2,
    "description": (
        "the description of {n} event is lost",
        "the descriptions of {n} events are lost",
    ),
    "event extra": (
        "further fields of {n} event are lost",
        "further fields of {n} events are lost",
    ),
    "name": ("{n} video has another name", "{n} videos have other names"),
    "duration": ("the duration of {n} video is lost", "the durations of {n} videos are lost"),
    "rounded duration": (
        "the duration of {n} video is rounded to frames",
        "the durations of {n} videos are rounded to frames",
    ),
    "fps": ("the frame rate of {n} video is lost", "the frame rates of {n} videos are lost"),
    "group": ("the group of {n} video is lost", "the groups of {n} videos are lost"),
    "video description": (
        "the description of {n} video is lost",
        "the descriptions of {n} videos are lost",
    ),
    "video extra": (
        "further fields of {n} video are lost",
        "further fields of {n} videos are lost",
    ),
    "set extra": ("further fields of the file are lost",) * 2,
}
"""By kind: of one, and of several; in the order in which they are said."""


def _sentence(kind: str, tally: _Tally, title: str) -> str:
    count = tally.counts[kind]
    words = _SENTENCES[kind][count > 1].format(n=count, far=tally.farthest_seconds)
    return f"{title}: {words}"
