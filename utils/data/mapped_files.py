"""`MappedFiles`: the cache entries that training reads stay as they were when they were opened.

Arrays of the cache are mapped: their bytes come from disk when they are needed. Who reads behind
the end of such a file is ended by the system with SIGBUS, without a word.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from utils.data.video_inputs import VideoInputs
from utils.errors import TrainingError


class MappedFiles:
    """The files behind the inputs of some videos.

    Args:
        videos: Whose inputs lie in files or in memory; what is in memory cannot change.
    """

    def __init__(self, videos: Sequence[VideoInputs]) -> None:
        self._names = tuple(video.video for video in videos)
        self._files = tuple(_MappedFile.behind(video.inputs) for video in videos)

    def check_unchanged(self, index: int) -> None:
        """To be called before inputs are read.

        Args:
            index: Of the video.

        Raises:
            TrainingError: Its file is gone, or is not as it was.
        """
        file = self._files[index]
        if file is not None and (trouble := file.trouble()):
            raise TrainingError(
                f"{self._names[index]}: its cache entry {file.path} {trouble} while training reads "
                "it; the checkpoints so far are sound: go on with --resume latest, which reads the "
                "video anew"
            )


@dataclass(frozen=True, kw_only=True)
class _MappedFile:
    """A file whose bytes an array reads from disk when they are needed.

    Attributes:
        path: The file.
        state: What changes with its bytes: device, inode, size, and time in nanoseconds.
    """

    path: str
    state: tuple[int, ...]

    @classmethod
    def behind(cls, array: NDArray[Any]) -> Self | None:
        """Of a mapped array; None of one in memory."""
        path = getattr(array, "filename", None)
        return None if path is None else cls(path=os.fspath(path), state=_file_state(path))

    def trouble(self) -> str | None:
        """What has become of the file, or None where it is as it was."""
        try:
            state = _file_state(self.path)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return None if state == self.state else "was changed"


def _file_state(path: str | os.PathLike[str]) -> tuple[int, ...]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
