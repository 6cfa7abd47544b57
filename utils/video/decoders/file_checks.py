"""What can be said of a path before, or instead of, asking FFmpeg.

First room of the cascade: one class of error for each kind of file that is no video.
"""

from __future__ import annotations

import os
import stat

from utils.errors import EmptyVideoError, VideoError, VideoNotFoundError


def check_file(path: str) -> None:
    """Everything that can be said of a local path without FFmpeg, which would wait on a pipe.

    Raises:
        VideoNotFoundError: There is no such file, or it is no regular one.
        EmptyVideoError: It is empty.
        VideoError: It may not be read.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            target = os.readlink(path)
            raise VideoNotFoundError(path, f"a link to '{target}', which does not exist") from None
        raise VideoNotFoundError(path, "no such file") from None
    except NotADirectoryError:
        raise VideoNotFoundError(path, "no such file: a folder in the path is a file") from None
    except PermissionError:
        raise VideoError(path, "a folder in the path may not be entered (chmod +x it)") from None
    except (OSError, ValueError) as error:
        raise VideoNotFoundError(path, f"no usable file name: {error}") from None
    if stat.S_ISDIR(status.st_mode):
        raise VideoNotFoundError(path, "a folder, not a file; give the videos in it")
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "device")
        raise VideoNotFoundError(path, f"a {kind}, not a regular file")
    try:
        with open(path, "rb"):
            pass
    except PermissionError:
        raise VideoError(
            path, "permission denied; make it readable (chmod u+r) or run as its owner"
        ) from None
    if status.st_size == 0:
        raise EmptyVideoError(path, "the file is empty (0 bytes)")


def why_no_container(path: str) -> str:
    """The reason for FFmpeg's "invalid data", as far as the first bytes tell it."""
    if "://" not in path:
        with open(path, "rb") as file:
            if file.read(8)[4:8] == b"ftyp":
                return (
                    "an MP4 without a readable index (moov): the file is cut off or still being "
                    "written; wait for it, or record to MKV, which survives being cut"
                )
    return "not a video: the bytes are in no container that FFmpeg knows"
