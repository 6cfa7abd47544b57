"""CVAT: "CVAT for video 1.1" XML, a file for each task, which is a video.

An event is a stretch of frames in which a track is visible: from a shape to the next one that is
``outside``, or to the end of the task, as CVAT itself reads it. A stretch of one frame is a point,
as is a ``tag``. The file does not say how many frames make a second. Where in the picture the
shapes are is not read; what is written covers the picture where its size is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.data.formats.base import (
    AnnotationFormat,
    ImportOptions,
    find_video,
    frame_span,
    frame_to_seconds,
    resolve_fps,
    seconds_to_frame,
    stated_fps,
    write_text,
)
from utils.data.formats.draft import Draft, DraftEvent, DraftVideo
from utils.errors import AnnotationError

_SHAPES = {"box", "polygon", "polyline", "points", "cuboid", "ellipse", "mask", "skeleton"}
_DESCRIPTION = "description"
_NOT_IN_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""XML 1.0, section 2.2: characters that no document may hold, not even escaped."""
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")


class CvatVideo(AnnotationFormat):
    """One file, or a folder of them."""

    title = "CVAT"
    default_name = "cvat"
    is_folder = True
    states_fps = False

    def read(self, path: Path, options: ImportOptions) -> Draft:
        """As the base class says."""
        files = sorted(path.glob("*.xml")) if path.is_dir() else [path]
        if not files:
            raise AnnotationError(f"{path}: there is no .xml file in this folder")
        draft = Draft(path=path)
        labels: dict[str, None] = {}
        folder = options.video_dir or (path if path.is_dir() else path.parent)
        for file in files:
            root = _parse(file)
            if root.tag != "annotations":
                raise AnnotationError(
                    f"{file}: the root element must be 'annotations', got '{root.tag}'; is it "
                    "another format?"
                )
            if root.find("image") is not None:
                raise AnnotationError(
                    f"{file}: is 'CVAT for images', which has no events; export the task as 'CVAT "
                    "for video 1.1'"
                )
            for task in _tasks(root):
                self._read_task(draft, file, folder, root, task, options)
            labels |= dict.fromkeys(
                name.text or "" for name in root.iterfind("./meta//labels/label/name")
            )
        draft.labels = tuple(label for label in labels if label) or None
        return draft

    def _read_task(
        self,
        draft: Draft,
        file: Path,
        folder: Path,
        root: ElementTree.Element,
        task: ElementTree.Element,
        options: ImportOptions,
    ) -> None:
        # In the export of a project, of several tasks; elsewhere of the one that there is.
        number = None if task.tag == "meta" else task.findtext("id")
        source = task.findtext("source") or root.findtext("./meta/source") or task.findtext("name")
        name = draft.video_name(file.name, "source", source)
        if name is None:
            return
        name = find_video(folder, [name])
        where = f"video '{name}'"
        size = task.find("original_size")
        video = DraftVideo(
            video=name,
            path=folder / name,
            extra={
                key: int(size.findtext(key, ""))
                for key in ("width", "height")
                if size is not None and size.findtext(key, "").isdecimal()
            },
        )
        draft.videos.append(video)
        elements = [
            element
            for element in root
            if element.tag in ("track", "tag")
            and (
                element.get("task_id") is None or number is None or element.get("task_id") == number
            )
        ]
        if elements:
            video.fps = resolve_fps(draft, where, name, video.path, None, options)
        else:
            video.fps = options.fps_of(name)
        if video.fps is None:
            return
        end = _end_frame(task)
        for index, element in enumerate(elements):
            place = f"{element.tag} {element.get('id', index)}"
            label = draft.required_text(f"{where}, {place}", "label", element.get("label"))
            if label is None:
                continue
            for first, last, described in _stretches(draft, f"{where}, {place}", element, end):
                is_point = last - first <= 1
                start = frame_to_seconds(first, video.fps)
                video.events.append(
                    DraftEvent(
                        label=label,
                        start=start,
                        end=start if is_point else frame_to_seconds(last, video.fps),
                        is_point=is_point,
                        place=place,
                        description=described.pop(_DESCRIPTION, None),
                        extra=described,
                    )
                )

    def write(self, annotations: AnnotationSet, path: Path) -> Mapping[str, str]:
        """As the base class says."""
        width = len(str(len(annotations.videos)))
        for number, video in enumerate(annotations.videos):
            stem = _NOT_IN_NAMES.sub("_", video.video)[-60:].strip("._")
            root = _document(number, video, annotations.labels)
            ElementTree.indent(root, " ")
            text = ElementTree.tostring(root, encoding="unicode")
            # Numbered, so that they are read in their order and none takes another's place.
            write_text(
                f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n',
                path / f"{number:0{width}d}_{stem}.xml",
            )
        return {}


class _Parser:
    """Feeds a file to expat, which is stopped at the first document type declaration.

    Entities, which can blow a few bytes up to gigabytes or name files of this machine, can only be
    declared there; no annotation tool writes one.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._builder = ElementTree.TreeBuilder()

    # What `ElementTree.XMLParser` calls.

    def start(self, tag: str, attributes: dict[str, str]) -> ElementTree.Element:
        return self._builder.start(tag, attributes)

    def end(self, tag: str) -> ElementTree.Element:
        return self._builder.end(tag)

    def data(self, text: str) -> None:
        self._builder.data(text)

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise AnnotationError(
            f"{self._file}: has a document type declaration (<!DOCTYPE {name}>), which CVAT does "
            "not write and which could name other files; remove it"
        )

    def close(self) -> ElementTree.Element:
        return self._builder.close()


def _parse(file: Path) -> ElementTree.Element:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise AnnotationError(f"{file}: no such annotation file") from None
    except OSError as error:
        raise AnnotationError(f"{file}: cannot be read: {error.strerror or error}") from error
    parser = ElementTree.XMLParser(target=_Parser(file))  # noqa: S314 - see `_Parser`
    try:
        parser.feed(content)
        root: ElementTree.Element = parser.close()
    except ElementTree.ParseError as error:
        raise AnnotationError(f"{file}: not valid XML: {error}") from error
    return root


def _tasks(root: ElementTree.Element) -> list[ElementTree.Element]:
    """Where the name and length of each video stand; the export of a project holds several."""
    found = root.findall("./meta/project/tasks/task") or root.findall("./meta/task")
    found = found or root.findall("./meta/job") or root.findall("./meta")
    return found or [ElementTree.Element("meta")]


def _end_frame(task: ElementTree.Element) -> int | None:
    """The first frame after the task, or None where the file does not say."""
    for name, offset in (("stop_frame", 1), ("size", 0)):
        text = (task.findtext(name) or "").strip()
        if text.isdecimal():
            return int(text) + offset
    return None


def _stretches(
    draft: Draft, where: str, element: ElementTree.Element, end: int | None
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """``(first, end, attributes)`` of each stretch in which the track can be seen."""
    if element.tag == "tag":
        frame = _frame(draft, where, element)
        if frame is not None:
            yield frame, frame + 1, _attributes(element)
        return
    first: int | None = None
    last = 0
    attributes: dict[str, Any] = {}
    for shape in element:
        if shape.tag not in _SHAPES:
            continue
        frame = _frame(draft, where, shape)
        if frame is None:
            return
        is_outside = shape.get("outside") == "1"
        if is_outside and first is not None:
            yield first, frame, attributes
            first = None
        elif not is_outside and first is None:
            first, attributes = frame, _attributes(shape)
        last = frame
    if first is not None:
        yield first, max(last + 1, end or 0), attributes


def _frame(draft: Draft, where: str, element: ElementTree.Element) -> int | None:
    text = element.get("frame", "").strip()
    if not text.isdecimal():
        draft.error("field", where, f"'frame' must be a frame number, got '{text:.40}'")
        return None
    return int(text)


def _attributes(shape: ElementTree.Element) -> dict[str, Any]:
    return {
        name: attribute.text or ""
        for attribute in shape.iterfind("attribute")
        if (name := attribute.get("name"))
    }


def _document(number: int, video: VideoAnnotation, labels: tuple[str, ...]) -> ElementTree.Element:
    fps = stated_fps(video, CvatVideo.title) if video.events else (video.fps or 1.0)
    names = ["description"] if any(event.description for event in video.events) else []
    root = ElementTree.Element("annotations")
    _child(root, "version", "1.1")
    task = _child(_child(root, "meta"), "task")
    _child(task, "id", str(number))
    _child(task, "name", _xml_text(video.video, video.video))
    _child(task, "mode", "interpolation")
    if video.duration is not None and video.fps is not None:
        # At least to where the last event ends: there the closing shapes lie.
        last = max((frame_span(event, fps)[1] for event in video.events), default=0)
        num_frames = max(seconds_to_frame(video.duration, fps), last)
        _child(task, "size", str(num_frames))
        _child(task, "start_frame", "0")
        _child(task, "stop_frame", str(num_frames - 1))
    declared = _child(task, "labels")
    for label in labels:
        entry = _child(declared, "label")
        _child(entry, "name", _xml_text(video.video, label))
        attributes = _child(entry, "attributes")
        for name in names:
            attribute = _child(attributes, "attribute")
            for key, value in (("name", name), ("mutable", "False"), ("input_type", "text")):
                _child(attribute, key, value)
    width, height = (video.extra.get(key) for key in ("width", "height"))
    if isinstance(width, int) and isinstance(height, int):
        size = _child(task, "original_size")
        _child(size, "width", str(width))
        _child(size, "height", str(height))
    else:
        width = height = 1
    _child(task, "source", _xml_text(video.video, video.video))
    for index, event in enumerate(video.events):
        _add_track(root, index, video, event, fps, (width, height))
    return root


def _add_track(
    root: ElementTree.Element,
    index: int,
    video: VideoAnnotation,
    event: AnnotatedEvent,
    fps: float,
    size: tuple[int, int],
) -> None:
    label = _xml_text(video.video, event.label)
    track = _child(root, "track", id=str(index), label=label, source="manual")
    first, end = frame_span(event, fps)
    for frame, outside in ((first, "0"), (end, "1")):
        shape = _child(
            track,
            "box",
            frame=str(frame),
            outside=outside,
            occluded="0",
            keyframe="1",
            xtl="0.00",
            ytl="0.00",
            xbr=f"{size[0]:.2f}",
            ybr=f"{size[1]:.2f}",
            z_order="0",
        )
        if event.description is not None:
            text = _xml_text(video.video, event.description)
            _child(shape, "attribute", text, name=_DESCRIPTION)


def _child(
    parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str
) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text
    return child


def _xml_text(video: str, text: str) -> str:
    found = _NOT_IN_XML.search(text)
    if found:
        raise AnnotationError(
            f"video '{video}': {text!r:.80} holds the character {found[0]!r}, which no XML can "
            "hold; remove it"
        )
    return text
