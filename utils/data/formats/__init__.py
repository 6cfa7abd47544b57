"""Other people's annotation formats: importers and exporters, one file each.

The door between the annotation tools and data sets of the field and the project's own format
(`utils.data.annotations`). ``docs/formats.md`` says what each holds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UsageError
from utils.registry import Registry

if TYPE_CHECKING:
    from utils.data.annotations import AnnotationSet
    from utils.data.formats.base import AnnotationFormat
    from utils.data.formats.losses import Loss

FORMATS = Registry(
    "annotation format",
    {
        "activitynet": "utils.data.formats.activitynet:ActivityNet",
        "csv": "utils.data.formats.csv_rows:CsvRows",
        "cvat": "utils.data.formats.cvat:CvatVideo",
        "e2e_spot": "utils.data.formats.e2e_spot:E2ESpot",
        "folders": "utils.data.formats.class_folders:ClassFolders",
        "label_studio": "utils.data.formats.label_studio:LabelStudio",
        "native": "utils.data.formats.native:Native",
        "soccernet": "utils.data.formats.soccernet:SoccerNet",
    },
)


def get_format(name: str) -> AnnotationFormat:
    """The format of that name.

    Raises:
        UnknownNameError: There is none.
    """
    found: AnnotationFormat = FORMATS.resolve(name)()
    return found


def import_annotations(
    path: str | os.PathLike[str],
    name: str,
    *,
    video_dir: str | os.PathLike[str] | None = None,
    fps: float | Mapping[str, float] | None = None,
    look_at_files: bool = True,
) -> AnnotationSet:
    """Read annotations of any known format.

    Args:
        path: File or folder.
        name: Of the format, in `FORMATS`.
        video_dir: Folder that video names are relative to; by default that of the annotations.
        fps: Frames a second where the format counts frames and does not say it; one for all videos,
            or by video name.
        look_at_files: Ask the video files for what is stated nowhere.

    Raises:
        AnnotationError: Something is wrong; the message names file, video, event and field.
            `utils.data.validation` lists all that is wrong instead.
        UnknownNameError: There is no such format.
    """
    from utils.data.formats.base import ImportOptions
    from utils.data.formats.draft import finish, raise_errors
    from utils.data.validation import check_events

    options = ImportOptions(
        video_dir=None if video_dir is None else Path(video_dir),
        fps=fps,
        look_at_files=look_at_files,
    )
    draft = get_format(name).read(Path(path), options)
    raise_errors([*draft.problems, *check_events(draft)])
    return finish(draft)


def export_annotations(
    annotations: AnnotationSet, path: str | os.PathLike[str], name: str
) -> list[Loss]:
    """Write annotations in any known format, read them back, and say what is gone.

    Args:
        annotations: What to write. Video names are written as they are; `relocate` adapts them.
        path: File or folder, as the format has it.
        name: Of the format, in `FORMATS`.

    Returns:
        What the format cannot hold of these annotations, a sentence for each kind; empty where they
        read back equal.

    Raises:
        AnnotationError: Something is missing that the format needs, or what was written is not
            what reads back.
        UsageError: There is no such format, or ``path`` cannot be written.
    """
    from utils.data.formats.base import ImportOptions
    from utils.data.formats.draft import raise_errors
    from utils.data.formats.losses import find_losses

    chosen = get_format(name)
    path = Path(path)
    if chosen.is_folder and path.is_dir() and any(path.iterdir()):
        raise UsageError(f"{path}: is not empty, and would be read as part of the set; clear it")
    renamed = chosen.write(annotations, path)
    fps = {
        renamed.get(video.video, video.video): video.fps
        for video in annotations.videos
        if video.fps is not None
    }
    back = chosen.read(path, ImportOptions(fps=fps, look_at_files=False))
    raise_errors(back.problems)
    if not chosen.states_fps:
        for video in back.videos:
            video.fps = None
    return find_losses(annotations, back, renamed=renamed, title=chosen.title)


def relocate(annotations: AnnotationSet, folder: str | os.PathLike[str]) -> AnnotationSet:
    """The same set with video names relative to ``folder``, as a file written there needs them."""
    base = os.path.abspath(folder)
    return replace(
        annotations,
        videos=tuple(
            replace(video, video=Path(os.path.relpath(video.path, base)).as_posix())
            for video in annotations.videos
        ),
    )
