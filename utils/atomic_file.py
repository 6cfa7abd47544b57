"""Files that are there whole or not at all: written aside, synced, renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from utils.data.cache_leases import try_lock
from utils.errors import UsageError

_NEW_FILE_MODE = 0o666
_NAME_LETTERS = 40
"""Of the file's name, in the temporary one's: the whole name may be as long as names can be."""
_ASIDE_NAME = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp")
_ABANDONED_SECONDS = 86_400.0
"""Where nobody can lock files, a temporary one that nobody wrote to for so long is abandoned."""
_FOLDERS_NEED_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to; it takes the place of ``path`` when the block ends without an exception.

    The folder is made where it is missing. Whatever happens inside, ``path`` is the old file or the
    whole new one, and nothing is left beside it.

    Raises:
        OSError: The folder or the disk does not take it, or ``path`` is a device or a pipe, which
            a rename would do away with.
    """
    _check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = _open_aside(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are private; the result is as public as any other new file.
        os.chmod(aside, _NEW_FILE_MODE & ~_umask())
        os.replace(aside, path)
    except BaseException:
        # Gone already, where somebody cleared the folder: what went wrong is told all the same.
        with suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    _sync_folder(path.parent)


def remove_abandoned(folder: Path, is_ours: Callable[[str], bool]) -> list[Path]:
    """Remove temporary files of `replacing` whose writer was killed; returns which.

    Args:
        folder: To look in.
        is_ours: Whether it is a file of this name (its first letters, where it is long) that was
            being written.
    """
    removed: list[Path] = []
    for file in sorted(folder.iterdir()):
        match = _ASIDE_NAME.fullmatch(file.name)
        if match and is_ours(match[1]) and _is_abandoned(file):
            # Another run may have been faster, and what is of another user stays.
            with suppress(FileNotFoundError, PermissionError):
                file.unlink()
                removed.append(file)
    return removed


def _open_aside(path: Path) -> tuple[int, str]:
    """A new temporary file for ``path``, which stays locked while it is open."""
    while True:
        descriptor, aside = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name[:_NAME_LETTERS]}.", suffix=".tmp"
        )
        try_lock(descriptor)
        # Removed as abandoned before it was locked?
        if os.fstat(descriptor).st_nlink:
            return descriptor, aside
        os.close(descriptor)


def _is_abandoned(file: Path) -> bool:
    """Whether no living process writes to a temporary file: the system drops locks of the dead."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return False  # Gone, or of another user.
    try:
        is_free = try_lock(descriptor)
        if is_free is None:
            return time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_SECONDS
        return is_free
    finally:
        os.close(descriptor)


def write_json(content: Any, path: Path) -> None:
    """Write ``content`` as strict JSON (no NaN), indented, in UTF-8.

    A file name need not be text; of its odd bytes this makes what JSON reads back.

    Raises:
        UsageError: ``path`` cannot be written.
        ValueError: ``content`` holds a number that JSON has no word for.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with replacing(path) as file:
            file.write(text.encode(errors="backslashreplace"))
    except OSError as error:
        raise _not_writable(path, error) from error


def check_writable(path: Path, *, inputs: Iterable[Path] = ()) -> None:
    """Find out before hours of work that ``path`` cannot, or must not, be written.

    Args:
        path: Of the file to be.
        inputs: Files that the work reads, under whatever name.

    Raises:
        UsageError: It is a folder or a device, it is one of the inputs, or its folder cannot be
            made or written to.
    """
    if any(_is_same_file(path, file) for file in inputs):
        raise UsageError(f"{path}: is one of the inputs, which stay as they are; choose another")
    try:
        _check_replaceable(path)
        _try_folder(path.parent)
    except OSError as error:
        raise _not_writable(path, error) from error


def check_folder(folder: Path, *, remedy: str) -> None:
    """Make ``folder`` where it is missing, and find out before hours of work that it takes no file.

    Args:
        folder: Where files are to be.
        remedy: What to do about it, for the message.

    Raises:
        UsageError: It cannot be made or written to.
    """
    try:
        _try_folder(folder)
    except OSError as error:
        raise UsageError(
            f"{folder}: no files can be written there: {error.strerror or error}; {remedy}"
        ) from error


def _try_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _is_same_file(first: Path, second: Path) -> bool:
    return first.exists() and second.exists() and first.samefile(second)


def _check_replaceable(path: Path) -> None:
    if path.exists() and not path.is_file():
        what = "it is a folder" if path.is_dir() else "it is no regular file"
        raise FileExistsError(errno.EEXIST, what, str(path))


def _not_writable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path}: cannot be written: {error.strerror or error}; choose another file")


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    umask = os.umask(0o022)
    os.umask(umask)
    return umask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the file is in its place all the same.
        if error.errno not in _FOLDERS_NEED_NO_SYNC:
            raise
    finally:
        os.close(descriptor)
