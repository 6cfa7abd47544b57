"""Label Studio: exports of projects with ``<TimelineLabels>`` on a ``<Video>``, JSON or JSON-MIN.

A region has ranges of frames that count from 1 and include both ends; a range of one frame is a
point. Notes on a region (``meta.text``) are its description. Task data are free columns: ``fps``,
``duration``, ``group`` and ``description`` there are read and written as the video's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from utils.atomic_file import write_json
from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.data.formats.base import (
    AnnotationFormat,
    ImportOptions,
    find_video,
    frame_span,
    frame_to_seconds,
    resolve_fps,
    stated_fps,
)
from utils.data.formats.draft import Draft, DraftEvent, DraftVideo
from utils.data.strict_json import read_json
from utils.errors import AnnotationError

_FROM_NAME, _TO_NAME = "timeline", "video"
"""As in the labeling interface of docs/formats.md."""
_TYPE = "timelinelabels"
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""
_VIDEO_KEYS = ("video", "video_url", "url")
_FPS_KEYS = ("fps", "frame_rate", "frameRate", "framerate")


class LabelStudio(AnnotationFormat):
    """A list of tasks."""

    title = "Label Studio"
    default_name = "tasks.json"

    def read(self, path: Path, options: ImportOptions) -> Draft:
        """As the base class says."""
        content = read_json(path)
        if not isinstance(content, list):
            raise AnnotationError(
                f"{path}: Label Studio's JSON export is a list of tasks, this is none; is it "
                "another format?"
            )
        folder = options.video_dir or path.parent
        draft = Draft(path=path)
        for number, task in draft.items("", "task", content):
            # JSON-MIN puts the columns of the data at the top level of the task.
            data = task.get("data", task)
            if isinstance(data, dict):
                self._read_task(draft, folder, number, task, data, options)
            else:
                draft.error(
                    "field", f"task {number}", f"'data' must be an object, got {data!r:.80}"
                )
        return draft

    def _read_task(
        self,
        draft: Draft,
        folder: Path,
        number: int,
        task: dict[str, Any],
        data: dict[str, Any],
        options: ImportOptions,
    ) -> None:
        key = next((key for key in _VIDEO_KEYS if key in data), _VIDEO_KEYS[0])
        url = draft.video_name(f"task {number}", key, data.get(key))
        if url is None:
            return
        name = _file_of_url(folder, url)
        where = f"video '{name}'"
        video = DraftVideo(
            video=name,
            path=folder / name,
            duration=draft.number(where, "duration", data.get("duration")),
            group=draft.text(where, "group", data.get("group")),
            description=draft.text(where, "description", data.get("description")),
        )
        draft.videos.append(video)
        regions = list(_regions(draft, where, task))
        stated = next((data[key] for key in _FPS_KEYS if data.get(key) is not None), None)
        if regions or stated is not None:
            video.fps = resolve_fps(draft, where, name, video.path, stated, options)
        if video.fps is None:
            return
        for index, region in enumerate(regions):
            video.events += _read_region(draft, where, index, region, video.fps)

    def write(self, annotations: AnnotationSet, path: Path) -> Mapping[str, str]:
        """As the base class says."""
        write_json(
            [_task(number, video) for number, video in enumerate(annotations.videos, 1)], path
        )
        return {}


def _regions(draft: Draft, where: str, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Objects with ``ranges``, ``timelinelabels`` and perhaps ``meta``."""
    if "annotations" not in task:
        for key, value in task.items():
            for _, entry in draft.items(where, key, value) if _is_timeline(value) else ():
                yield entry
        return
    made = [
        annotation
        for _, annotation in draft.items(where, "annotations", task["annotations"])
        if not annotation.get("was_cancelled")
    ]
    if not made:
        return
    # Several people may have marked the same video; their events must not be added up.
    chosen = next((annotation for annotation in made if annotation.get("ground_truth")), made[0])
    if len(made) > 1:
        which = "the one marked as ground truth" if chosen.get("ground_truth") else "the first"
        draft.warning("annotators", where, f"has {len(made)} annotations; {which} is used")
    for _, result in draft.items(where, "result", chosen.get("result", [])):
        value = result.get("value")
        if result.get("type") == _TYPE and isinstance(value, dict):
            yield {"meta": result.get("meta"), **value}


def _is_timeline(value: Any) -> bool:
    return isinstance(value, list) and any(
        isinstance(entry, dict) and _TYPE in entry for entry in value
    )


def _read_region(
    draft: Draft, where: str, index: int, region: dict[str, Any], fps: float
) -> Iterator[DraftEvent]:
    place = f"event {index}"
    where = f"{where}, {place}"
    labels = region.get(_TYPE)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        draft.error("field", where, f"'{_TYPE}' must be a list of names, got {labels!r:.80}")
        return
    meta = region.get("meta")
    notes = meta.get("text") if isinstance(meta, dict) else None
    if isinstance(notes, list):
        notes = "\n".join(note for note in notes if isinstance(note, str))
    for _, frames in draft.items(where, "ranges", region.get("ranges")):
        first, last = (draft.frame(where, key, frames.get(key)) for key in ("start", "end"))
        if first is None or last is None:
            continue
        if first < 1:
            draft.error("field", where, f"'start' must be 1 or more (frames count from 1): {first}")
            continue
        is_point = first == last
        start = frame_to_seconds(first - 1, fps)
        for label in labels:
            yield DraftEvent(
                label=label,
                start=start,
                end=start if is_point else frame_to_seconds(last, fps),
                is_point=is_point,
                place=place,
                description=notes if isinstance(notes, str) and notes else None,
            )


def _file_of_url(folder: Path, url: str) -> str:
    """The video's path in ``folder`` behind what a task calls it."""
    if (folder / url).is_file():
        return url
    if not url.startswith("/data/") and "://" not in url:
        return url
    parts = urlsplit(url)
    local = parse_qs(parts.query).get("d")
    if local:
        # Local storage: /data/local-files/?d=FOLDER/FILE; the folder may be there, or not.
        return find_video(folder, [local[0], PurePosixPath(local[0]).name])
    path = PurePosixPath(unquote(parts.path))
    if path.parts[:3] == ("/", "data", "upload"):
        return find_video(folder, [_UPLOAD_PREFIX.sub("", path.name, count=1), path.name])
    return find_video(folder, [path.name])


def review_task(
    number: int, video: VideoAnnotation, suggestions: Iterable[AnnotatedEvent]
) -> dict[str, Any]:
    """A task that nobody has looked at yet: Label Studio shows suggestions as predictions.

    Args:
        number: From 1.
        video: What to look at; its events are left out.
        suggestions: What a model takes for events of it.

    Raises:
        AnnotationError: The video's frame rate is not known.
    """
    result = [_result(video, index, event) for index, event in enumerate(suggestions)]
    return {"id": number, "data": _columns(video), "predictions": [{"result": result}]}


def unannotated_videos(path: Path, folder: Path) -> set[str]:
    """Names of the videos whose tasks nobody has annotated, as `LabelStudio.read` names them.

    Args:
        path: An export that `LabelStudio.read` could read.
        folder: That video names are relative to.
    """
    names: set[str] = set()
    for task in read_json(path):
        data = task.get("data", task)
        made = task.get("annotations")
        # JSON-MIN holds what was annotated, and nothing else.
        if made is not None and all(annotation.get("was_cancelled") for annotation in made):
            key = next((key for key in _VIDEO_KEYS if key in data), _VIDEO_KEYS[0])
            names.add(_file_of_url(folder, data[key]))
        elif made is None and "predictions" in task:
            names.add(_file_of_url(folder, data[_VIDEO_KEYS[0]]))
    return names


def _columns(video: VideoAnnotation) -> dict[str, Any]:
    columns = {
        "video": video.video,
        "fps": video.fps,
        "duration": video.duration,
        "group": video.group,
        "description": video.description,
    }
    return {key: value for key, value in columns.items() if value is not None}


def _task(number: int, video: VideoAnnotation) -> dict[str, Any]:
    return {
        "id": number,
        "data": _columns(video),
        "annotations": [
            {"result": [_result(video, index, event) for index, event in enumerate(video.events)]}
        ],
    }


def _result(video: VideoAnnotation, index: int, event: AnnotatedEvent) -> dict[str, Any]:
    first, end = frame_span(event, stated_fps(video, LabelStudio.title))
    described = {} if event.description is None else {"meta": {"text": [event.description]}}
    return {
        "id": f"event_{index}",
        "from_name": _FROM_NAME,
        "to_name": _TO_NAME,
        "type": _TYPE,
        # From 1, and the last frame belongs to it.
        "value": {"ranges": [{"start": first + 1, "end": end}], _TYPE: [event.label]},
        **described,
    }
