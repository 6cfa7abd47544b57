"""ActivityNet: ``{"database": {ID: {"duration", "annotations": [{"segment", "label"}]}}}``.

The format of the ActivityNet challenge (version 1.3), which THUMOS and many others follow. IDs name
the videos; their files are commonly ``ID.mp4`` or ``v_ID.mp4``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.atomic_file import write_json
from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.data.formats.base import AnnotationFormat, ImportOptions, find_video
from utils.data.formats.draft import Draft, DraftEvent, DraftVideo
from utils.data.strict_json import read_json
from utils.errors import AnnotationError

_KEPT = ("subset", "resolution", "url")
"""Fields of a video that the format has and we have not."""
VERSION = "VERSION 1.3"


class ActivityNet(AnnotationFormat):
    """Segments in seconds; a segment without length is a point."""

    title = "ActivityNet"
    default_name = "annotations.json"
    states_fps = False

    def read(self, path: Path, options: ImportOptions) -> Draft:
        """As the base class says."""
        content = read_json(path)
        database = content.get("database") if isinstance(content, dict) else None
        if not isinstance(database, dict):
            raise AnnotationError(
                f"{path}: has no object 'database', which ActivityNet files are made of; is it "
                "another format?"
            )
        folder = options.video_dir or path.parent
        draft = Draft(path=path)
        draft.labels = _leaves(content.get("taxonomy"))
        for name, entry in database.items():
            where = f"video '{name}'"
            if not isinstance(entry, dict):
                draft.error("field", where, f"must be an object, got {entry!r:.80}")
            elif draft.video_name(where, "database key", name) is not None:
                self._read_video(draft, folder, name, entry, options)
        return draft

    def _read_video(
        self,
        draft: Draft,
        folder: Path,
        key: str,
        entry: dict[str, Any],
        options: ImportOptions,
    ) -> None:
        where = f"video '{key}'"
        name = find_video(folder, [key, f"v_{key}"])
        video = DraftVideo(
            video=name,
            path=folder / name,
            duration=draft.number(where, "duration", entry.get("duration")),
            fps=draft.number(where, "fps", entry.get("fps")) or options.fps_of(name),
            extra={field: entry[field] for field in _KEPT if field in entry},
        )
        for index, event in draft.items(where, "annotations", entry.get("annotations", [])):
            place = f"{where}, event {index}"
            label = draft.required_text(place, "label", event.get("label"))
            segment = event.get("segment")
            if not isinstance(segment, list) or len(segment) != 2:
                draft.error("field", place, f"'segment' must be [start, end], got {segment!r:.80}")
                continue
            start, end = (
                draft.required_number(place, "segment", time, what="two numbers of seconds")
                for time in segment
            )
            if label is None or start is None or end is None:
                continue
            video.events.append(
                DraftEvent(
                    label=label,
                    start=start,
                    end=end,
                    is_point=start == end,
                    place=f"event {index}",
                )
            )
        draft.videos.append(video)

    def write(self, annotations: AnnotationSet, path: Path) -> Mapping[str, str]:
        """As the base class says."""
        root = {"nodeId": 0, "nodeName": "Root", "parentId": None, "parentName": None}
        leaves = [
            {"nodeId": number, "nodeName": label, "parentId": 0, "parentName": "Root"}
            for number, label in enumerate(annotations.labels, start=1)
        ]
        content = {
            "version": VERSION,
            "taxonomy": [root, *leaves],
            "database": {video.video: _video_to_plain(video) for video in annotations.videos},
        }
        write_json(content, path)
        return {}


def _leaves(taxonomy: Any) -> tuple[str, ...] | None:
    """Class names: nodes that are no other node's parent, in the order of the file."""
    nodes = [
        node
        for node in (taxonomy if isinstance(taxonomy, list) else [])
        if isinstance(node, dict) and isinstance(node.get("nodeName"), str)
    ]
    parents = {node.get("parentId") for node in nodes if isinstance(node.get("parentId"), int)}
    names = [node["nodeName"] for node in nodes if node.get("nodeId") not in parents]
    return tuple(dict.fromkeys(names)) or None


def _video_to_plain(video: VideoAnnotation) -> dict[str, Any]:
    duration = {} if video.duration is None else {"duration": video.duration}
    extra = {field: video.extra[field] for field in _KEPT if field in video.extra}
    return {
        **duration,
        **extra,
        "annotations": [_event_to_plain(event) for event in video.events],
    }


def _event_to_plain(event: AnnotatedEvent) -> dict[str, Any]:
    return {"segment": [event.start, event.end], "label": event.label}
