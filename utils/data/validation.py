"""Everything that is wrong with a data set, all at once and each with a severity.

Between an importer and training. Errors keep a set from being used; warnings are for a person to
look at.
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.data.annotations import END_TOLERANCE_SECONDS
from utils.data.array_cache import file_hash
from utils.data.formats.base import probe
from utils.data.formats.draft import (
    Draft,
    DraftEvent,
    DraftVideo,
    Problem,
    Severity,
    place_of,
)
from utils.errors import VideoError, VideoNotFoundError
from utils.registry import suggestion

DURATION_TOLERANCE = 0.02
"""Share by which a stated duration or frame rate may differ from the file's before it is said."""


def check_events(draft: Draft, *, labels: Sequence[str] | None = None) -> list[Problem]:
    """What can be seen without the video files.

    Args:
        draft: As read.
        labels: The classes that there may be; None: those that the draft declares, if it does.

    Returns:
        Problems in the order of the file.
    """
    problems = _duplicates(draft)
    known = labels if labels is not None else draft.labels
    for video in draft.videos:
        problems += _check_video_fields(draft, video)
        for event in video.events:
            problems += _check_event(draft, video, event, known)
        problems += _overlaps(draft, video)
    if not draft.videos and not draft.problems:
        problems.append(_problem(draft, "empty", "error", None, None, "lists no video"))
    used = {event.label for video in draft.videos for event in video.events}
    problems += [
        _problem(draft, "unused-label", "warning", None, None, f"class '{label}' has no event")
        for label in known or ()
        if label not in used
    ]
    return problems


def check_files(draft: Draft, *, on_video: Callable[[str], object] | None = None) -> list[Problem]:
    """What only the video files can say; fills in durations and frame rates that are not stated.

    Each file is opened; only files of equal size are read whole, to compare their content.

    Args:
        draft: As read; ``duration`` and ``fps`` of its videos are set where they are None.
        on_video: Called with each video's name when it is done.
    """
    problems: list[Problem] = []
    by_size: defaultdict[int, list[DraftVideo]] = defaultdict(list)
    seen: set[str] = set()
    for video in draft.videos:
        problems += _check_file(draft, video)
        normal = os.path.normpath(video.path)
        # Listed twice is another problem, which `check_events` finds.
        if video.path.is_file() and normal not in seen:
            by_size[video.path.stat().st_size].append(video)
        seen.add(normal)
        if on_video is not None:
            on_video(video.video)
    for videos in by_size.values():
        if len(videos) > 1:
            problems += _same_content(draft, videos)
    return problems


def _problem(
    draft: Draft,
    kind: str,
    severity: Severity,
    video: DraftVideo | None,
    event: DraftEvent | None,
    text: str,
) -> Problem:
    where = str(draft.path) if video is None else f"{draft.path}: {place_of(video, event)}"
    return Problem(kind=kind, severity=severity, where=where, text=text)


def _duplicates(draft: Draft) -> list[Problem]:
    problems = []
    seen: dict[str, str] = {}  # By normal path: 'a.mp4' and './a.mp4' are one video.
    for video in draft.videos:
        normal = os.path.normpath(video.path)
        if normal in seen:
            as_what = f" as '{seen[normal]}'" if seen[normal] != video.video else ""
            text = f"is listed before{as_what}; join their events"
            problems.append(_problem(draft, "duplicate-video", "error", video, None, text))
        seen.setdefault(normal, video.video)
    return problems


def _check_video_fields(draft: Draft, video: DraftVideo) -> list[Problem]:
    return [
        _problem(draft, kind, "error", video, None, f"'{kind}' must be above 0, got {value:g}")
        for kind, value in (("duration", video.duration), ("fps", video.fps))
        if value is not None and value <= 0
    ]


def _check_event(
    draft: Draft, video: DraftVideo, event: DraftEvent, known: Sequence[str] | None
) -> list[Problem]:
    problems = []

    def error(kind: str, text: str) -> None:
        problems.append(_problem(draft, kind, "error", video, event, text))

    if known is not None and event.label not in known:
        near = suggestion(event.label, known)
        error("unknown-label", f"unknown label '{event.label}'; known: {', '.join(known)}{near}")
    start_name, end_name = ("time", "time") if event.is_point else ("start", "end")
    if event.start < 0:
        error("negative-time", f"'{start_name}' must not be negative, got {event.start:g}")
    if not event.is_point and event.end <= event.start:
        error(
            "end-before-start",
            f"'end' ({event.end:g}) must lie after 'start' ({event.start:g})",
        )
    if video.duration is not None and video.duration > 0:
        last = max(event.start, event.end)
        if last > video.duration + END_TOLERANCE_SECONDS:
            name = end_name if event.end >= event.start else start_name
            error(
                "past-end",
                f"'{name}' ({last:g}) lies past the end of the video ({video.duration:g} s)",
            )
    return problems


def _overlaps(draft: Draft, video: DraftVideo) -> list[Problem]:
    """Events of one class that share time: often one event marked twice."""
    problems = []
    by_label: defaultdict[str, list[DraftEvent]] = defaultdict(list)
    for event in video.events:
        by_label[event.label].append(event)
    for events in by_label.values():
        events.sort(key=lambda event: (event.start, event.end))
        longest = events[0]
        for event in events[1:]:
            is_same = (event.start, event.end) == (longest.start, longest.end)
            if event.start < longest.end or is_same:
                times = "time" if longest.is_point else "times"
                how = f"has the {times} of" if is_same else "overlaps"
                other = f"{longest.place} of the same label ({_span(longest)})"
                text = f"{_span(event)} {how} {other}; is it the same event?"
                problems.append(_problem(draft, "overlap", "warning", video, event, text))
            longest = max(longest, event, key=lambda event: event.end)
    return problems


def _span(event: DraftEvent) -> str:
    return f"{event.start:g} s" if event.is_point else f"{event.start:g}-{event.end:g} s"


def _check_file(draft: Draft, video: DraftVideo) -> list[Problem]:
    try:
        info = probe(video.path)
    except VideoNotFoundError as error:
        text = f"{video.path}: {error.reason}"
        return [_problem(draft, "missing-file", "error", video, None, text)]
    except VideoError as error:
        text = f"{video.path}: {error.reason}"
        return [_problem(draft, "unreadable-video", "error", video, None, text)]
    problems = []
    for name, unit, stated, actual in (
        ("duration", " s", video.duration, info.duration_seconds),
        ("fps", "", video.fps, info.source_fps),
    ):
        if stated is None or actual is None:
            continue
        slack = max(DURATION_TOLERANCE * actual, END_TOLERANCE_SECONDS if unit else 0.0)
        if abs(stated - actual) > slack:
            text = f"'{name}' is {stated:g}{unit}, but the file says {actual:g}{unit}"
            problems.append(_problem(draft, f"{name}-differs", "warning", video, None, text))
    video.duration = video.duration if video.duration is not None else info.duration_seconds
    video.fps = video.fps if video.fps is not None else info.source_fps
    return problems


def _same_content(draft: Draft, videos: Sequence[DraftVideo]) -> list[Problem]:
    """Videos of equal size whose bytes are equal, too."""
    by_hash: defaultdict[str, list[DraftVideo]] = defaultdict(list)
    for video in videos:
        by_hash[file_hash(Path(video.path))].append(video)
    problems = []
    for same in by_hash.values():
        first = same[0]
        for video in itertools.islice(same, 1, None):
            # In one group they stay in one split, and nothing that was trained on is tested on.
            is_leak = video.group is None or video.group != first.group
            text = f"has the same content as video '{first.video}'; remove one" + (
                ", or give both the same 'group'" if is_leak else ""
            )
            severity: Severity = "error" if is_leak else "warning"
            problems.append(_problem(draft, "same-content", severity, video, None, text))
    return problems
