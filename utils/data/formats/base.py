"""`AnnotationFormat`: what every importer and exporter is, and what they share.

A format reads a file or folder into a `Draft` and writes an `AnnotationSet`. It does not say what
is lost on the way: `export_annotations` reads back what was written and compares.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from utils.atomic_file import replacing
from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.data.formats.draft import Draft
from utils.errors import AnnotationError, UsageError, VideoError
from utils.video.source import VideoInfo, VideoSource

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".ts", ".mpg", ".mpeg", ".wmv")
"""What is looked for where a format names a video without its ending."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What an importer cannot know from the file.

    Attributes:
        video_dir: Folder that video names are relative to; None: that of the annotations.
        fps: Frames a second of videos of which the file does not say it; one number for all, or by
            video name.
        look_at_files: Ask the video files for what neither the annotations nor ``fps`` state.
    """

    video_dir: Path | None = None
    fps: float | Mapping[str, float] | None = None
    look_at_files: bool = True

    def fps_of(self, video: str) -> float | None:
        """As given for ``video``."""
        return self.fps.get(video) if isinstance(self.fps, Mapping) else self.fps


class AnnotationFormat(abc.ABC):
    """One way to write annotations down.

    Attributes:
        title: Its name in sentences.
        default_name: Of the file or folder that is written where only a folder is given.
        is_folder: Whether it is written as a folder of its own.
        is_tree: Whether a data set is a folder in which the videos have their places, so that their
            names cannot be paths to elsewhere.
        states_fps: Whether the file says how many frames make a second.
    """

    title: ClassVar[str]
    default_name: ClassVar[str]
    is_folder: ClassVar[bool] = False
    is_tree: ClassVar[bool] = False
    states_fps: ClassVar[bool] = True

    @abc.abstractmethod
    def read(self, path: Path, options: ImportOptions) -> Draft:
        """Everything in ``path``, with the problems met.

        Raises:
            AnnotationError: ``path`` is missing, or as a whole not of this format.
        """

    @abc.abstractmethod
    def write(self, annotations: AnnotationSet, path: Path) -> Mapping[str, str]:
        """Write ``annotations`` to ``path``; events stay in their order within each video.

        Returns:
            The new name of each video that could not keep its own.

        Raises:
            AnnotationError: Something is missing that the format needs.
            UsageError: ``path`` cannot be written.
        """


# Time and frames. A frame number is a time only where frames come at a steady rate: on other video
# it is wrong, and nothing in these files could mend it. So frames end here, at the border.


def frame_to_seconds(frame: int, fps: float) -> float:
    """When ``frame`` (0-based) is shown, if frames come at a steady rate."""
    return frame / fps


def seconds_to_frame(seconds: float, fps: float) -> int:
    """The frame nearest to ``seconds``; gives back what `frame_to_seconds` was given."""
    return round(seconds * fps)


def frame_span(event: AnnotatedEvent, fps: float) -> tuple[int, int]:
    """``[first, end)`` in frames, at least one; of a point, its frame alone."""
    first = seconds_to_frame(event.start, fps)
    if event.is_point:
        return first, first + 1
    return first, max(first + 1, seconds_to_frame(event.end, fps))


def stated_fps(video: VideoAnnotation, title: str) -> float:
    """The video's frame rate, for a format that counts frames.

    Raises:
        AnnotationError: It is not known.
    """
    if video.fps is None:
        raise AnnotationError(
            f"video '{video.video}': has no 'fps', and {title} counts frames; add it to the "
            "annotations, or give --fps"
        )
    return video.fps


def resolve_fps(
    draft: Draft, where: str, video: str, path: Path, stated: Any, options: ImportOptions
) -> float | None:
    """Frames a second: as stated, else as given, else as the file has it; else a problem."""
    if stated is not None:
        fps = draft.number(where, "fps", stated)
        if fps is not None and fps <= 0:
            draft.error("fps", where, f"'fps' must be above 0, got {fps:g}")
            return None
        return fps
    fps = options.fps_of(video)
    if fps is not None:
        return fps
    if options.look_at_files and path.is_file():
        info = try_probe(draft, where, path)
        if info is None:
            return None
        if info.source_fps is not None:
            return info.source_fps
    draft.error(
        "fps",
        where,
        "events are counted in frames, and nothing says how many make a second; give --fps, or put "
        "the video where it is looked for",
    )
    return None


# Files


def probe(path: Path) -> VideoInfo:
    """What the container says.

    Raises:
        VideoError: The file is no video that can be used.
    """
    with VideoSource.open(path, decoder="pyav_isolated") as source:
        return source.info


def try_probe(draft: Draft, where: str, path: Path) -> VideoInfo | None:
    """As `probe`; a problem and None where the file cannot be used."""
    try:
        return probe(path)
    except VideoError as error:
        draft.error("unreadable", where, error.reason)
        return None


def find_video(folder: Path, names: Iterable[str]) -> str:
    """The first of ``names``, as they are or with a video's ending, that is a file in ``folder``.

    The first name as it is where there is none: that the file is missing is for the checks to say.
    """
    names = list(names)
    for name in names:
        for suffix in ("", *VIDEO_SUFFIXES):
            if (folder / f"{name}{suffix}").is_file():
                return f"{name}{suffix}"
    return names[0]


def write_text(text: str, path: Path) -> None:
    """Write ``text`` in UTF-8, whole or not at all.

    Raises:
        UsageError: ``path`` cannot be written.
    """
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
