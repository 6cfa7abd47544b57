"""Who uses what in a cache folder: leases of runs, and locks that end with the process.

Below `utils.data.array_cache`. A run notes the entries that it uses in a file that it holds locked;
the system drops the lock when the run ends, however it ends, so nothing is ever held by the dead.
Locks are advisory (``flock``); where the file system has none, everything counts as in use.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, which has no flock: everything counts as in use.
    fcntl = None  # type: ignore[assignment]

_FOLDER = ".runs"
_GATE = "gate"
_LEASE_SUFFIX = ".lease"
YOUNG_SECONDS = 60.0
"""Folders and leases younger than this are left alone: their maker may be about to lock them."""


class Lease:
    """The entries that this process uses, for other processes to see.

    Args:
        cache: The cache folder, which exists.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._names: set[str] = set()
        self._process = os.getpid()
        _make_folder(cache)
        # Never closed, and so locked for as long as the process lives.
        self._descriptor, path = tempfile.mkstemp(dir=cache / _FOLDER, suffix=_LEASE_SUFFIX)
        # Others must be able to see what is in use.
        os.chmod(path, 0o644)
        try_lock(self._descriptor)

    def add(self, name: str) -> None:
        """Note that ``name`` is in use; when this returns, nobody evicts it."""
        if name in self._names:
            return
        # While somebody evicts, the notes are being read: after it, the entry is there or gone.
        with gate(self._cache, exclusive=False):
            os.write(self._descriptor, f"{name}\n".encode())
        self._names.add(name)

    @property
    def is_own(self) -> bool:
        """False in a forked child, which shares its parent's lock and must not write beside it."""
        return self._process == os.getpid()


def _make_folder(cache: Path) -> None:
    """Who may write entries may note that they are in use."""
    folder = cache / _FOLDER
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        folder.chmod(stat.S_IMODE(cache.stat().st_mode))


@contextmanager
def gate(cache: Path, *, exclusive: bool) -> Iterator[None]:
    """Shared while a name is noted, exclusive while entries are evicted; waits for its turn."""
    _make_folder(cache)
    # Reading is enough to lock it, and all that other users of a shared cache may do.
    descriptor = os.open(cache / _FOLDER / _GATE, os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            # Where the file system has no locks `names_in_use` says so, and nothing is evicted.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        _release(descriptor)


def names_in_use(cache: Path) -> set[str] | None:
    """What living runs have noted; leases of the dead are removed on the way.

    None where locks do not work here, so that nothing is known of other runs.
    """
    names: set[str] = set()
    for lease in (cache / _FOLDER).glob(f"*{_LEASE_SUFFIX}"):
        try:
            with open(lease, "r+", encoding="utf-8") as file:
                state = try_lock(file.fileno())
                if state is None:
                    return None
                if state and not is_young(lease):
                    lease.unlink()
                else:
                    names.update(file.read().split())
        except FileNotFoundError:
            continue  # Another run has just cleaned up.
        except PermissionError:
            # Of another user; it can be read though not locked, and counts as alive.
            names.update(lease.read_text(encoding="utf-8").split())
    return names


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder: True, or False where another has it, None where nobody can."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _release(descriptor: int) -> None:
    """Unlock and close; closing alone leaves the lock to a child that was forked meanwhile."""
    if fcntl is not None:
        with suppress(OSError):  # Where there are no locks, there is none to release.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def is_young(path: Path) -> bool:
    """Whether ``path`` changed a moment ago."""
    return time.time() - path.stat().st_mtime < YOUNG_SECONDS


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Marks ``folder`` as being worked in, until the block ends or the process dies."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try_lock(descriptor)
        yield
    finally:
        _release(descriptor)


def remove_abandoned(cache: Path, pattern: str) -> int:
    """Remove folders of ``pattern`` whose maker is dead; returns how many."""
    num_removed = 0
    for folder in cache.glob(pattern) if fcntl is not None else ():
        try:
            if is_young(folder):
                continue
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:
            continue  # Another run has just removed it, or it is of another user.
        try:
            if try_lock(descriptor):
                shutil.rmtree(folder, ignore_errors=True)
                num_removed += 1
        finally:
            os.close(descriptor)
    return num_removed
