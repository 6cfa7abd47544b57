"""`ArrayCache`: arrays of a video on disk, keyed by all that made them, written whole or not.

Decode once, train many times. An entry is a folder named by the hash of its key; it holds one raw
array that grows while the video is read (so a long video never lies in memory), small side arrays,
and the key itself for people. A reader maps the raw array and touches only what it needs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import mmap
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import VideoTriggerError

logger = logging.getLogger(__name__)

_HEADER = "entry.json"
_DATA = "data.raw"
_SIDE = "side.npz"


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
    """

    def __init__(self, file: IO[bytes], folder: Path) -> None:
        self._file = file
        self._folder = folder
        self._row: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self.num_rows = 0
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
            self._file.write(np.ascontiguousarray(rows).data)
        self.num_rows += len(rows)

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

    Two runs may fill it at once: each writes its own copy aside, and the first to finish wins.

    Args:
        folder: Made when the first entry is written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def get(self, key: Mapping[str, Any]) -> CacheEntry | None:
        """The entry made for ``key``, or None; a damaged one is removed and reported."""
        folder = self.folder / _digest(key)
        if not folder.is_dir():
            return None
        try:
            return _read(folder)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("cache entry %s is damaged (%s); it is made anew", folder, error)
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
            temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".new-"))
        try:
            with _closing(temporary / _DATA, self.folder) as file:
                writer = EntryWriter(file, self.folder)
                # Outside of `_as_cache_error`: a video that cannot be read is no trouble of ours.
                yield writer
            header = {**writer.header(), "key": dict(key)}
            with _as_cache_error(self.folder):
                np.savez(temporary / _SIDE, **writer.side)  # type: ignore[arg-type]
                (temporary / _HEADER).write_text(json.dumps(header, indent=1), encoding="utf-8")
                self._publish(temporary, self.folder / _digest(key))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

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
            shutil.rmtree(aside)


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
    # Opened here, because np.load leaves a file open that it cannot read.
    with open(folder / _SIDE, "rb") as file, np.load(file, allow_pickle=False) as side:
        arrays = {name: side[name] for name in side.files}
    return CacheEntry(data=_MappedArray(folder / _DATA, dtype, "r", shape=shape), side=arrays)


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
