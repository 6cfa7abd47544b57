"""`AviIndex`: the place in the video of each chunk of an AVI file.

First room of the cascade, under `PacketReader`. AVI stores an order and no times: FFmpeg counts
chunks, and behind a stretch that it could not read it counts on as if nothing were missing. The
index at the end of the file says which chunk lies where. Where bytes in front of it are gone or
damaged FFmpeg does not find it, or misreads it; it is then looked for here.
"""

from __future__ import annotations

import bisect
import mmap
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.video.stream import VideoStream

CHUNK_HEADER_BYTES = 8
"""A name of four letters and a length, before the bytes of every chunk."""

_ENTRY = np.dtype([("name", "S4"), ("flags", "<u4"), ("offset", "<u4"), ("size", "<u4")])
"""Of ``idx1``, one for each chunk of each stream, in the order of the file."""


class AviIndex:
    """Looks chunks of one stream up by where they lie.

    Args:
        path: Of the file; None where there is no file to look into, such as of a URL.
        stream: The video.

    Attributes:
        is_complete: Whether every chunk of the video is listed; one that is not found has no place
            that anyone knows.
    """

    def __init__(self, path: str | None, stream: VideoStream) -> None:
        self._path = path
        self._stream_index = stream.index
        self._known = stream.index_entries
        self._offsets: NDArray[np.int64] = np.empty(0, np.int64)
        self._sizes: NDArray[np.int64] = np.empty(0, np.int64)
        # By how much chunks lie nearer to the start than the index says: by what is gone in front
        # of them, from nothing to all that is gone.
        self._shifts = [0]
        self.is_complete = False
        if len(self._known) < stream.frames:
            # What FFmpeg has not read it makes up on the way, by counting.
            self._look_for_it()

    def place(self, pos: int, size: int) -> int | None:
        """The number in the video of the chunk whose ``size`` bytes begin at ``pos``, if known."""
        start = pos - CHUNK_HEADER_BYTES
        if self.is_complete:
            return self._moved(start, size)
        number = bisect.bisect_left(self._known, start, key=lambda entry: entry.pos)
        if number < len(self._known) and self._known[number].pos == start:
            return self._known[number].timestamp
        self._look_for_it()
        return self._moved(start, size) if self.is_complete else None

    def _moved(self, start: int, size: int) -> int | None:
        for shift in self._shifts:
            number = int(np.searchsorted(self._offsets, start + shift))
            is_listed = number < len(self._offsets) and self._offsets[number] == start + shift
            if is_listed and self._sizes[number] == size:
                return number
        # Between two holes: the only chunk of its size between here and where it can have lain.
        low, high = np.searchsorted(self._offsets, [start, start + self._shifts[-1] + 1])
        alike = low + np.flatnonzero(self._sizes[low:high] == size)
        if len(alike) != 1:
            return None
        self._shifts.insert(1, int(self._offsets[alike[0]]) - start)
        return int(alike[0])

    def _look_for_it(self) -> None:
        if self._path is not None:
            with open(self._path, "rb") as file:
                self._read(file)
            # It is there or not; once is enough.
            self._path = None

    def _read(self, file: BinaryIO) -> None:
        """Find ``idx1`` where it should lie, or wherever it has moved to."""
        found = _find_movi(file)
        if found is None:
            return
        start, num_removed = found
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            begin = data.rfind(b"idx1", start) + CHUNK_HEADER_BYTES
            if begin < CHUNK_HEADER_BYTES:
                return
            num_bytes = int.from_bytes(data[begin - 4 : begin], "little")
            num_entries = min(num_bytes, len(data) - begin) // _ENTRY.itemsize
            raw = data[begin : begin + num_entries * _ENTRY.itemsize]
        entries = np.frombuffer(raw, _ENTRY)
        names = [b"%02d%s" % (self._stream_index, kind) for kind in (b"dc", b"db")]
        entries = entries[np.isin(entries["name"], names)]
        if not len(entries):
            return
        offsets = entries["offset"].astype(np.int64)
        # From the word "movi" on, but some programs count from the start of the file.
        if offsets[0] < start:
            offsets += start
        if (np.diff(offsets) > 0).all():
            self._offsets, self._sizes = offsets, entries["size"].astype(np.int64)
            self._shifts.append(num_removed)
            self.is_complete = True


def _find_movi(file: BinaryIO) -> tuple[int, int] | None:
    """Where the word ``movi`` stands or stood, and how many bytes the file has lost."""
    header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"AVI ":
        return None
    num_stated = int.from_bytes(header[4:8], "little") + CHUNK_HEADER_BYTES
    while len(header := file.read(12)) == 12:
        length = int.from_bytes(header[4:8], "little")
        # Pictures follow the description; what is no chunk any more was the beginning of theirs.
        if header[8:] == b"movi" or not header[:4].isalnum():
            start = file.tell() - 4
            return start, max(0, num_stated - file.seek(0, 2))
        file.seek(length + length % 2 - 4, 1)
    return None
