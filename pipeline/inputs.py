"""`find_inputs`: what ``--video`` and ``--from-scores`` mean."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UsageError, VideoNotFoundError

VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"),
        *(".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".mxf", ".vob"),
    )
)
"""What counts as a video in a folder. A file named by itself or by a glob may have any name."""
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The files that were asked for.

    Attributes:
        paths: At least one, sorted, each once.
        is_single: One file was named as such: its report is flat, and its failure is the command's.
    """

    paths: tuple[Path, ...]
    is_single: bool


def find_inputs(pattern: str, *, suffixes: Collection[str] = VIDEO_SUFFIXES) -> Inputs:
    """A file, a folder or a glob.

    A folder means the files directly in it whose names end in one of ``suffixes``, whatever the
    case; hidden ones are left out. In a glob ``**`` reaches into subfolders: ``'videos/**/*.mp4'``.

    Args:
        pattern: As typed. What exists under this very name is never read as a glob.
        suffixes: Lower case, with the dot.

    Raises:
        VideoNotFoundError: There is no such file or folder.
        UsageError: The folder or glob holds nothing of the kind, or this is no name at all.
    """
    if not pattern:
        # To a path it would be the current folder.
        raise UsageError("got an empty name; give a file, a folder, or a glob in quotes")
    if _URL.match(pattern):
        raise UsageError(f"{pattern}: addresses are not read yet; download the video first")
    path = Path(pattern)
    if path.is_dir():
        endings = tuple(suffixes)
        found = [
            file
            for file in path.iterdir()
            if file.name.lower().endswith(endings)
            and not file.name.startswith(".")
            and not file.is_dir()
        ]
        if not found:
            raise UsageError(
                f"{pattern}: no file in this folder ends in {', '.join(sorted(endings))}; for "
                f"subfolders write a glob in quotes: '{path}/**/*{min(endings)}'"
            )
        return Inputs(paths=tuple(sorted(found)), is_single=False)
    if not path.exists() and not path.is_symlink() and glob.has_magic(pattern):
        matches = {Path(name) for name in glob.glob(pattern, recursive=True)}
        found = [match for match in matches if not match.is_dir()]
        if not found:
            raise UsageError(f"{pattern}: no file matches this glob")
        return Inputs(paths=tuple(sorted(found)), is_single=False)
    if not path.exists():
        raise VideoNotFoundError(path, "no such file or folder")
    return Inputs(paths=(path,), is_single=True)
