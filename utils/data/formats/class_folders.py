"""Folders named by class: ``ROOT/LABEL/video.mp4``, each video one event from its start to its end.

The way in which data sets of trimmed clips are handed round (UCF101, Kinetics).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from utils.data.annotations import AnnotationSet, VideoAnnotation
from utils.data.formats.base import VIDEO_SUFFIXES, AnnotationFormat, ImportOptions, try_probe
from utils.data.formats.draft import Draft, DraftEvent, DraftVideo
from utils.errors import AnnotationError, UsageError, VideoError
from utils.video.source import VideoSource


class ClassFolders(AnnotationFormat):
    """A folder of folders."""

    title = "class folders"
    default_name = "clips"
    is_folder = True
    is_tree = True

    def read(self, path: Path, options: ImportOptions) -> Draft:
        """As the base class says; the files are always asked, for nothing else knows how long."""
        root = options.video_dir or path
        if not root.is_dir():
            raise AnnotationError(f"{root}: no such folder; it must hold a folder for each class")
        folders = sorted(folder for folder in root.iterdir() if _is_class(folder))
        if not folders:
            raise AnnotationError(f"{root}: holds no folders, which would name the classes")
        draft = Draft(path=path, labels=tuple(folder.name for folder in folders))
        for folder in folders:
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
            if not videos:
                draft.warning("empty-class", f"folder '{folder.name}'", "holds no video")
            for file in videos:
                _read_video(draft, root, folder.name, file)
        return draft

    def write(self, annotations: AnnotationSet, path: Path) -> Mapping[str, str]:
        """As the base class says. Videos are hard links where the file system has them."""
        places: dict[str, str] = {}
        for video in annotations.videos:
            label = _only_label(video)
            place = f"{label}/{Path(video.video).name}"
            if place in places.values():
                raise AnnotationError(
                    f"video '{video.video}': there are two of the name "
                    f"'{Path(video.video).name}' in class '{label}'; rename one"
                )
            places[video.video] = place
        for video in annotations.videos:
            _link(video.path, path / places[video.video])
        for label in annotations.labels:
            (path / label).mkdir(parents=True, exist_ok=True)
        return {old: new for old, new in places.items() if old != new}


def _is_class(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".")


def _read_video(draft: Draft, root: Path, label: str, file: Path) -> None:
    name = file.relative_to(root).as_posix()
    where = f"video '{name}'"
    info = try_probe(draft, where, file)
    if info is None:
        return
    duration = info.duration_seconds
    if duration is None:
        duration = _decoded_seconds(draft, where, file, info.source_fps)
    if duration is None:
        return
    draft.videos.append(
        DraftVideo(
            video=name,
            path=file,
            duration=duration,
            fps=info.source_fps,
            events=[
                DraftEvent(label=label, start=0.0, end=duration, is_point=False, place="event 0")
            ],
        )
    )


def _decoded_seconds(draft: Draft, where: str, file: Path, fps: float | None) -> float | None:
    """When the last frame ends, for containers that do not say how long they are.

    A warning where something in the file is lost; a problem and None where it cannot be read to its
    end, which would pass for the end of its event.
    """
    last = 0.0
    try:
        with VideoSource.open(file, decoder="pyav_isolated") as source:
            for frame in source.frames():
                last = frame.timestamp
            lost, gave_up = "; ".join(source.loss.notes), source.gave_up
    except VideoError as error:
        draft.error("unreadable", where, error.reason)
        return None
    if gave_up:
        draft.error("unreadable", where, f"does not say how long it is, and {lost}")
        return None
    seconds = last + (1 / fps if fps else 0.0)
    if lost:
        draft.warning(
            "damaged",
            where,
            f"{lost}; its event is taken to end with the last frame, {seconds:.2f} s",
        )
    return seconds


def _only_label(video: VideoAnnotation) -> str:
    if len(video.events) != 1:
        raise AnnotationError(
            f"video '{video.video}': has {len(video.events)} events; in class folders each "
            "video is one event from its start to its end: choose another format"
        )
    label = video.events[0].label
    if label in (".", "..") or "/" in label or os.sep in label or "\0" in label:
        raise AnnotationError(f"video '{video.video}': '{label}' cannot be the name of a folder")
    return label


def _link(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if os.path.samefile(source, target):
                return
            raise UsageError(f"{target}: exists already; choose an empty folder")
        try:
            os.link(os.path.realpath(source), target)
        except FileNotFoundError:
            raise
        except OSError:
            # Another disk, or a file system without links.
            shutil.copy2(source, target)
    except FileNotFoundError as error:
        raise AnnotationError(f"{source}: no such video file") from error
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror or error}") from error
