"""E2E-Spot: points as frame numbers, one JSON list for each split and a ``class.txt`` beside it.

The format of Hong et al., "Spotting Temporally Precise, Fine-Grained Events in Video" (ECCV 2022),
"Using your own data" in its repository. Its loader needs ``num_frames`` and ``fps``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.atomic_file import write_json
from utils.data.annotations import AnnotationSet, VideoAnnotation
from utils.data.formats.base import (
    AnnotationFormat,
    ImportOptions,
    find_video,
    frame_to_seconds,
    resolve_fps,
    seconds_to_frame,
    stated_fps,
    write_text,
)
from utils.data.formats.draft import Draft, DraftEvent, DraftVideo
from utils.data.strict_json import read_json, read_text
from utils.errors import AnnotationError

CLASSES_NAME = "class.txt"


class E2ESpot(AnnotationFormat):
    """``[{"video", "num_frames", "fps", "events": [{"frame", "label", "comment"}]}]``."""

    title = "E2E-Spot"
    default_name = "annotations.json"

    def read(self, path: Path, options: ImportOptions) -> Draft:
        """As the base class says."""
        content = read_json(path)
        if not isinstance(content, list):
            raise AnnotationError(
                f"{path}: E2E-Spot is a list of videos, this is {_kind(content)}; is it another "
                "format?"
            )
        folder = options.video_dir or path.parent
        draft = Draft(path=path)
        classes = path.parent / CLASSES_NAME
        if classes.is_file():
            names = (line.strip() for line in read_text(classes).split("\n"))
            draft.labels = tuple(dict.fromkeys(name for name in names if name))
        for number, entry in draft.items("", "video", content):
            self._read_video(draft, folder, number, entry, options)
        return draft

    def _read_video(
        self,
        draft: Draft,
        folder: Path,
        number: int,
        entry: dict[str, Any],
        options: ImportOptions,
    ) -> None:
        name = draft.video_name(f"video {number}", "video", entry.get("video"))
        if name is None:
            return
        where = f"video '{name}'"
        name = find_video(folder, [name])
        video = DraftVideo(
            video=name,
            path=folder / name,
            extra={key: entry[key] for key in ("width", "height") if key in entry},
        )
        draft.videos.append(video)
        video.fps = resolve_fps(draft, where, name, video.path, entry.get("fps"), options)
        if video.fps is None:
            return
        if entry.get("num_frames") is not None:
            num_frames = draft.frame(where, "num_frames", entry["num_frames"])
            video.duration = None if num_frames is None else num_frames / video.fps
        for index, event in draft.items(where, "events", entry.get("events", [])):
            place = f"{where}, event {index}"
            label = draft.required_text(place, "label", event.get("label"))
            frame = draft.frame(place, "frame", event.get("frame"))
            comment = draft.text(place, "comment", event.get("comment"))
            if label is None or frame is None:
                continue
            time = frame_to_seconds(frame, video.fps)
            video.events.append(
                DraftEvent(
                    label=label,
                    start=time,
                    end=time,
                    is_point=True,
                    place=f"event {index}",
                    description=comment or None,
                )
            )
        stated = entry.get("num_events")
        if stated is not None and stated != len(entry.get("events", [])):
            draft.warning(
                "count",
                where,
                f"'num_events' is {stated!r:.20}, but there are {len(entry.get('events', []))}",
            )

    def write(self, annotations: AnnotationSet, path: Path) -> Mapping[str, str]:
        """As the base class says."""
        write_json([_to_plain(video) for video in annotations.videos], path)
        classes = "".join(f"{label}\n" for label in annotations.labels)
        write_text(classes, path.parent / CLASSES_NAME)
        return {}


def _to_plain(video: VideoAnnotation) -> dict[str, Any]:
    fps = stated_fps(video, E2ESpot.title)
    if video.duration is None:
        raise AnnotationError(
            f"video '{video.video}': has no 'duration', and E2E-Spot needs the number of frames; "
            "add it to the annotations"
        )
    events = [
        {
            "frame": seconds_to_frame(event.start, fps),
            "label": event.label,
            "comment": event.description or "",
        }
        for event in video.events
    ]
    size = {key: video.extra[key] for key in ("width", "height") if key in video.extra}
    return {
        "video": video.video,
        "num_frames": seconds_to_frame(video.duration, fps),
        "num_events": len(events),
        "events": events,
        "fps": fps,
        **size,
    }


def _kind(content: Any) -> str:
    return "an object" if isinstance(content, dict) else f"{content!r:.20}"
