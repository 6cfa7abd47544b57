"""`ArrayCache`: arrays of a video on disk, keyed by all that made them, written whole or not.

Decode once, train many times. An entry is a folder named by the hash of its key; it holds one raw
array that grows while the video is read (so a long video never lies in memory), checksums of its
blocks, small side arrays, and the key itself for people. A reader maps the raw array and touches
only what it needs. Where the folder has a bound, entries that were not used for longest make way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import mmap
import os
import random
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from utils.data.cache_leases import (
    Lease,
    gate,
    locked_folder,
    names_in_use,
    remove_abandoned,
)
from utils.errors import VideoTriggerError

logger = logging.getLogger(__name__)

_HEADER = "entry.json"
_DATA = "data.raw"
_SIDE = "side.npz"
_CHECKSUMS = "data.crc32"
_VERIFIED = "verified"
"""Size and time of the data that were last compared with all of their checksums."""
_PROVISIONAL = "provisional"
"""Marks an entry whose maker was broken off, and may do better another time."""
_BLOCK_BYTES = 256 * 1024
_NUM_SAMPLED_BLOCKS = 8
"""Of data that were verified before: 2 MiB, whatever the length of the video."""

_leases: dict[Path, Lease] = {}
"""By cache folder: a process has one, whatever number of `ArrayCache`s it makes."""


class CacheError(VideoTriggerError):
    """The cache cannot be written; the message names the folder and the remedy."""


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """Arrays of one video.

    Attributes:
        data: ``(T, ...)``, mapped read-only from disk.
        side: Small arrays by name, such as ``timestamps`` ``(T,)``.
    """

    data: NDArray[Any]
    side: Mapping[str, NDArray[Any]]


class EntryWriter:
    """Takes the rows of a new entry, a few at a time.

    Attributes:
        side: To be filled by the maker before it ends.
        is_provisional: To be set by a maker that was broken off, where another try may give more:
            the entry then serves the runs that live, and the next one makes it anew.
        is_retry: Whether such an entry made way for this one.
    """

    def __init__(self, file: IO[bytes], folder: Path, *, is_retry: bool) -> None:
        self._file = file
        self._folder = folder
        self._checksums = _Checksums()
        self._row: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self.num_rows = 0
        self.is_provisional = False
        self.is_retry = is_retry
        self.side: dict[str, NDArray[Any]] = {}

    def append(self, rows: NDArray[Any]) -> None:
        """Write ``(N, ...)`` rows; all calls agree in shape and type.

        Raises:
            ValueError: They do not.
            CacheError: The disk is full.
        """
        row = (rows.shape[1:], rows.dtype)
        if self._row is None:
            self._row = row
        elif self._row != row:
            raise ValueError(f"rows of {row}, but the entry began with {self._row}")
        with _as_cache_error(self._folder):
            data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
            self._file.write(data)
            self._checksums.add(data)
        self.num_rows += len(rows)

    def checksums(self) -> NDArray[np.uint32]:
        """CRC-32 of each block of what was written."""
        return self._checksums.all()

    def header(self) -> dict[str, Any]:
        """Shape and type of what was written.

        Raises:
            ValueError: Nothing was.
        """
        if self._row is None or not self.num_rows:
            raise ValueError("the maker of a cache entry wrote no row")
        shape, dtype = self._row
        return {"shape": [self.num_rows, *shape], "dtype": dtype.str}


class ArrayCache:
    """Entries in one folder.

    Two runs may fill it at once: each writes its own copy aside, and the first to finish wins. What
    a run that died left half written is removed by the next one that writes.

    Args:
        folder: Made when the first entry is written.
        max_bytes: Room for all entries together; None: no bound. Entries that a living run uses
            stay even where they alone need more.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self._max_bytes = max_bytes
        self._is_tidy = False
        self._has_warned = False
        # Names of provisional entries that were removed to be made anew.
        self._retried: set[str] = set()

    def get(self, key: Mapping[str, Any]) -> CacheEntry | None:
        """The entry made for ``key``, or None; a damaged one is removed and reported.

        A provisional one is removed where no living run uses it.
        """
        folder = self.folder / _digest(key)
        if not folder.is_dir() or self._retire(folder):
            return None
        self._hold(folder.name)
        if not folder.is_dir():
            return None  # Evicted before it could be held.
        try:
            entry = _read(folder)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("cache entry %s is damaged (%s); it is made anew", folder, error)
        else:
            _touch(folder / _HEADER)
            return entry
        with _as_cache_error(self.folder):
            self._remove(folder)
        return None

    @contextmanager
    def create(self, key: Mapping[str, Any]) -> Iterator[EntryWriter]:
        """A writer for the entry of ``key``; it appears when the block ends without an exception.

        Raises:
            CacheError: The disk is full or not writable.
        """
        with _as_cache_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._tidy()
            temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".new-"))
        try:
            with locked_folder(temporary):
                with _closing(temporary / _DATA, self.folder) as file:
                    is_retry = _digest(key) in self._retried
                    writer = EntryWriter(file, self.folder, is_retry=is_retry)
                    # Outside of `_as_cache_error`: what cannot be read is no trouble of ours.
                    yield writer
                header = {**writer.header(), "key": dict(key)}
                with _as_cache_error(self.folder):
                    writer.checksums().astype("<u4").tofile(temporary / _CHECKSUMS)
                    np.savez(temporary / _SIDE, **writer.side)  # type: ignore[arg-type]
                    text = json.dumps(header, indent=1)
                    (temporary / _HEADER).write_text(text, encoding="utf-8")
                    if writer.is_provisional:
                        (temporary / _PROVISIONAL).touch()
                    self._hold(_digest(key))
                    self._publish(temporary, self.folder / _digest(key))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        if self._max_bytes is not None:
            with _as_cache_error(self.folder):
                self._evict(self._max_bytes)

    def _publish(self, temporary: Path, target: Path) -> None:
        # Made for its owner alone, as temporary folders are; a cache may be shared.
        temporary.chmod(0o755)
        try:
            temporary.rename(target)
        except OSError:
            # Renaming onto a folder that is not empty fails: another run was faster, and its entry
            # is as good.
            if not target.is_dir():
                raise

    def _remove(self, folder: Path) -> None:
        """Remove an entry that another run may be removing at this moment."""
        aside = Path(tempfile.mkdtemp(dir=self.folder, prefix=".old-"))
        try:
            folder.rename(aside / folder.name)
        except FileNotFoundError:
            logger.debug("%s: another run removed it first", folder)
        finally:
            # The next run may find it abandoned, and help.
            shutil.rmtree(aside, ignore_errors=True)

    def _retire(self, folder: Path) -> bool:
        """Remove a provisional entry, unless a living run has begun with what it holds."""
        if not (folder / _PROVISIONAL).exists():
            return False
        try:
            with gate(self.folder, exclusive=True):
                in_use = names_in_use(self.folder)
                if in_use is None or folder.name in in_use:
                    return False
                self._remove(folder)
        except OSError as error:
            # A cache that may only be read: its owner will make it anew.
            logger.debug("%s: cannot be made anew: %s", folder, error)
            return False
        self._retried.add(folder.name)
        return True

    def _tidy(self) -> None:
        """Once: remove what runs that died left behind."""
        if not self._is_tidy:
            num_removed = sum(remove_abandoned(self.folder, name) for name in (".new-*", ".old-*"))
            if num_removed:
                logger.info("%s: removed %d half-written entries", self.folder, num_removed)
            self._is_tidy = True

    def _hold(self, name: str) -> None:
        """Keep the entry ``name`` from being evicted while this process lives."""
        folder = self.folder.resolve()
        lease = _leases.get(folder)
        try:
            if lease is None or not lease.is_own:
                lease = _leases[folder] = Lease(folder)
            lease.add(name)
        except OSError as error:
            # A cache that may only be read is still of use; nobody but its owner evicts from it.
            logger.debug("%s: cannot note what is in use: %s", self.folder, error)

    def _evict(self, max_bytes: int) -> None:
        """Remove the entries that were not used for longest, until the rest fits."""
        with gate(self.folder, exclusive=True):
            in_use = names_in_use(self.folder)
            entries = sorted(self._entries())
            total = sum(size for _, size, _ in entries)
            for _, size, folder in entries:
                if total <= max_bytes:
                    return
                if in_use is None or folder.name in in_use:
                    continue
                logger.debug("%s: evicted for room", folder)
                self._remove(folder)
                total -= size
        if total > max_bytes and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the cache in %s holds %.1f GB that are in use, more than data.cache_max_gb (%.1f)",
                self.folder,
                total / 1e9,
                max_bytes / 1e9,
            )

    def _entries(self) -> Iterator[tuple[int, int, Path]]:
        """``(time of last use in nanoseconds, bytes, folder)`` of each entry."""
        for folder in self.folder.iterdir():
            try:
                if not folder.name.startswith("."):
                    sizes = [file.stat() for file in folder.iterdir()]
                    used = (folder / _HEADER).stat().st_mtime_ns
                    yield used, sum(status.st_size for status in sizes), folder
            except (FileNotFoundError, NotADirectoryError):
                continue  # Another run has just removed it, or it is no entry at all.


@contextmanager
def _as_cache_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the cache in {folder} cannot be written: {error}; free disk space or set "
            "data.cache_dir to another folder"
        ) from error


@contextmanager
def _closing(path: Path, folder: Path) -> Iterator[IO[bytes]]:
    """A new file that is on disk when the block has ended well."""
    with _as_cache_error(folder):
        file = open(path, "wb")  # noqa: SIM115 - closed below, where the error is ours
    try:
        yield file
        with _as_cache_error(folder):
            file.flush()
            os.fsync(file.fileno())
    finally:
        with _as_cache_error(folder):
            file.close()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_hash(arrays: Iterable[tuple[str, NDArray[Any]]]) -> str:
    """SHA-256 of named arrays: names, types, shapes and content, in hex."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _digest(key: Mapping[str, Any]) -> str:
    text = json.dumps(dict(key), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(folder: Path) -> CacheEntry:
    header = json.loads((folder / _HEADER).read_text(encoding="utf-8"))
    shape, dtype = tuple(header["shape"]), np.dtype(header["dtype"])
    # NumPy maps objects and negative sides without a word, and reading them ends the process.
    if dtype.hasobject or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ValueError(f"{dtype} of shape {shape}")
    expected = math.prod(shape) * dtype.itemsize
    size = (folder / _DATA).stat().st_size
    if size != expected:
        raise ValueError(f"{size} bytes, expected {expected}")
    _verify(folder)
    # Opened here, because np.load leaves a file open that it cannot read.
    with open(folder / _SIDE, "rb") as file, np.load(file, allow_pickle=False) as side:
        arrays = {name: side[name] for name in side.files}
    return CacheEntry(data=_MappedArray(folder / _DATA, dtype, "r", shape=shape), side=arrays)


def _verify(folder: Path) -> None:
    """Compare the data with their checksums: all blocks once, and then a few at each use.

    All of them after whatever changed the file's time or size: a write that went astray, a copy, a
    power cut before the disk had everything. A disk that rots leaves these as they are; there the
    samples, which are others each time, find it sooner or later, at a cost that does not grow.

    Raises:
        ValueError: A block is not what was written.
    """
    checksums = np.fromfile(folder / _CHECKSUMS, "<u4")
    with open(folder / _DATA, "rb") as file:
        status = os.fstat(file.fileno())
        if len(checksums) != -(-status.st_size // _BLOCK_BYTES):
            raise ValueError(f"{len(checksums)} checksums for {status.st_size} bytes")
        memo = f"{status.st_size} {status.st_mtime_ns}"
        is_known = _read_memo(folder / _VERIFIED) == memo
        blocks: Iterable[int] = range(len(checksums))
        if is_known:
            # From the system, not from a seed: each use looks elsewhere, and no run is changed.
            count = min(_NUM_SAMPLED_BLOCKS, len(checksums))
            blocks = sorted(random.SystemRandom().sample(range(len(checksums)), count))
        for block in blocks:
            file.seek(block * _BLOCK_BYTES)
            if zlib.crc32(file.read(_BLOCK_BYTES)) != checksums[block]:
                raise ValueError(f"block {block} of {len(checksums)} is not what was written")
    if not is_known:
        with suppress(PermissionError):  # Of another user: it is compared whole each time.
            (folder / _VERIFIED).write_text(memo, encoding="ascii")


def _read_memo(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return None


def _touch(path: Path) -> None:
    """Note that an entry was used."""
    with suppress(PermissionError):  # Of another user, who evicts by his own use.
        os.utime(path)


class _Checksums:
    """CRC-32 of each block of a file that is written in parts of any length."""

    def __init__(self) -> None:
        self._complete: list[int] = []
        self._current = 0
        self._num_bytes = 0

    def add(self, data: memoryview) -> None:
        while len(data):
            part = data[: _BLOCK_BYTES - self._num_bytes]
            self._current = zlib.crc32(part, self._current)
            self._num_bytes += len(part)
            if self._num_bytes == _BLOCK_BYTES:
                self._complete.append(self._current)
                self._current = self._num_bytes = 0
            data = data[len(part) :]

    def all(self) -> NDArray[np.uint32]:
        last = [self._current] if self._num_bytes else []
        return np.array([*self._complete, *last], np.uint32)


class _MappedArray(np.memmap):
    """A mapped file that stays one when it is pickled, as loader processes that are spawned need.

    NumPy pickles the content: each worker would hold the whole data set in memory.
    """

    # NumPy's own, also of views; None of what was computed from one.
    _mmap: mmap.mmap | None

    def __reduce__(self) -> Any:
        if self._mmap is None:
            return super().__reduce__()
        begin = np.frombuffer(self._mmap, np.uint8).__array_interface__["data"][0]
        offset = self.__array_interface__["data"][0] - begin
        where = (self.filename, self.dtype.str, self.shape, self.strides, offset)
        return _map_view, where


def _map_view(
    path: str, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> NDArray[Any]:
    whole = _MappedArray(path, np.uint8, "r")
    view = np.ndarray.__new__(_MappedArray, shape, dtype, whole, offset, strides)
    view.__dict__.update(whole.__dict__)
    return view
