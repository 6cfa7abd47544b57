"""`ArrayCache`: arrays of a video on disk, keyed by all that made them, written whole or not at all.

Decode once, train many times. An entry is a folder named by the hash of its key; it holds one raw array
that grows while the video is read (so a long video never lies in memory), small side arrays, and the key
itself for people. A reader maps the raw array and touches only what it needs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
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

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._row: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self.num_rows = 0
        self.side: dict[str, NDArray[Any]] = {}

    def append(self, rows: NDArray[Any]) -> None:
        """Write ``(N, ...)`` rows; all calls agree in shape and type.

        Raises:
            ValueError: They do not.
        """
        row = (rows.shape[1:], rows.dtype)
        if self._row is None:
            self._row = row
        elif self._row != row:
            raise ValueError(f"rows of {row}, but the entry began with {self._row}")
        self._file.write(np.ascontiguousarray(rows).data)
        self.num_rows += len(rows)

    def header(self) -> dict[str, Any]:
        """Shape and type of what was written."""
        if self._row is None:
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
        except (OSError, ValueError, KeyError) as error:
            logger.warning("cache entry %s is damaged (%s); it is made anew", folder, error)
            shutil.rmtree(folder)
            return None

    @contextmanager
    def create(self, key: Mapping[str, Any]) -> Iterator[EntryWriter]:
        """A writer for the entry of ``key``; it appears when the block ends without an exception.

        Raises:
            CacheError: The disk is full or not writable.
        """
        temporary: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".new-"))
            with open(temporary / _DATA, "wb") as file:
                writer = EntryWriter(file)
                yield writer
                file.flush()
                os.fsync(file.fileno())
            np.savez(temporary / _SIDE, **writer.side)  # type: ignore[arg-type]
            header = {**writer.header(), "key": dict(key)}
            (temporary / _HEADER).write_text(json.dumps(header, indent=1), encoding="utf-8")
            target = self.folder / _digest(key)
            if target.is_dir():
                return  # Another run was faster; its entry is as good.
            os.rename(temporary, target)
            temporary = None
        except OSError as error:
            raise CacheError(
                f"the cache in {self.folder} cannot be written: {error}; free disk space or set "
                "data.cache_dir to another folder"
            ) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)


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
    expected = int(np.prod(shape)) * dtype.itemsize
    size = (folder / _DATA).stat().st_size
    if size != expected:
        raise ValueError(f"{size} bytes, expected {expected}")
    with np.load(folder / _SIDE, allow_pickle=False) as side:
        arrays = {name: side[name] for name in side.files}
    return CacheEntry(data=np.memmap(folder / _DATA, dtype, "r", shape=shape), side=arrays)
