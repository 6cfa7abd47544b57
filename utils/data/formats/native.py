"""The project's own format, read so that all of its mistakes are found, not only the first.

`utils.data.annotations.load_annotations` is what training reads it with; both accept the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.data.annotations import AnnotationSet, save_annotations
from utils.data.formats.base import AnnotationFormat, ImportOptions
from utils.data.formats.draft import Draft, DraftEvent, DraftVideo
from utils.data.strict_json import read_json
from utils.errors import AnnotationError

_TOP_FIELDS = {"labels", "videos"}
_VIDEO_FIELDS = {"video", "duration", "fps", "group", "description", "events"}
_EVENT_FIELDS = {"start", "end", "time", "label", "description"}
_SECONDS = "a number of seconds"


class Native(AnnotationFormat):
    """``{"labels": [...], "videos": [...]}``; see docs/annotations.md."""

    title = "the project's own format"
    default_name = "annotations.json"

    def read(self, path: Path, options: ImportOptions) -> Draft:
        """As the base class says."""
        content = read_json(path)
        if not isinstance(content, dict):
            raise AnnotationError(
                f"{path}: the top level must be an object with 'labels' and 'videos'"
            )
        folder = options.video_dir or path.parent
        draft = Draft(path=path, extra=_others(content, _TOP_FIELDS))
        draft.labels = _read_labels(draft, content.get("labels"))
        entries = content.get("videos")
        if entries == []:
            draft.error("field", "", "'videos' must be a list with at least one video")
        for number, entry in draft.items("", "videos", entries):
            self._read_video(draft, folder, number, entry)
        return draft

    def write(self, annotations: AnnotationSet, path: Path) -> Mapping[str, str]:
        """As the base class says."""
        save_annotations(annotations, path)
        return {}

    def _read_video(self, draft: Draft, folder: Path, number: int, entry: dict[str, Any]) -> None:
        name = draft.video_name(f"video {number}", "video", entry.get("video"))
        if name is None:
            return
        where = f"video '{name}'"
        video = DraftVideo(
            video=name,
            path=folder / name,
            duration=draft.number(where, "duration", entry.get("duration"), what=_SECONDS),
            fps=draft.number(where, "fps", entry.get("fps")),
            group=draft.text(where, "group", entry.get("group")),
            description=draft.text(where, "description", entry.get("description")),
            extra=_others(entry, _VIDEO_FIELDS),
        )
        for index, event in draft.items(where, "events", entry.get("events", [])):
            read = _read_event(draft, f"{where}, event {index}", index, event)
            if read is not None:
                video.events.append(read)
        draft.videos.append(video)


def _read_labels(draft: Draft, value: Any) -> tuple[str, ...] | None:
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(label, str) and label.strip() for label in value)
    ):
        draft.error("field", "", "'labels' must be a list of at least one name")
        return None
    if len(set(value)) != len(value):
        draft.error("field", "", f"'labels' names a class twice: {value}")
    return tuple(dict.fromkeys(value))


def _read_event(draft: Draft, where: str, index: int, event: dict[str, Any]) -> DraftEvent | None:
    label = draft.required_text(where, "label", event.get("label"))
    if label is None:
        return None
    where = f"{where} ('{label}')"
    has_interval = "start" in event or "end" in event
    if has_interval == ("time" in event):
        draft.error("field", where, "needs either 'start' and 'end', or 'time'")
        return None
    names = ("start", "end") if has_interval else ("time", "time")
    start, end = (
        draft.required_number(where, name, event.get(name), what=_SECONDS) for name in names
    )
    if start is None or end is None:
        return None
    return DraftEvent(
        label=label,
        start=start,
        end=end,
        is_point=not has_interval,
        place=f"event {index}",
        description=draft.text(where, "description", event.get("description")),
        extra=_others(event, _EVENT_FIELDS),
    )


def _others(content: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in known}
