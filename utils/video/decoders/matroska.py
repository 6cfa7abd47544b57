"""What the bytes of a Matroska or WebM file say that FFmpeg does not pass on.

First room of the cascade, under `PacketReader` and `Reading`. An element is its name, its size, and
so many bytes (EBML, RFC 8794); the file is a header and one segment, which holds clusters of
pictures that each begin with their time (RFC 9559).
"""

from __future__ import annotations

from typing import BinaryIO

EBML, SEGMENT, CLUSTER, TIMESTAMP = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xE7

MAX_ELEMENTS_BEFORE_CLUSTER = 100
"""Description, tracks, chapters, fonts: a handful."""

MAX_ELEMENTS_BEFORE_TIME = 4


def is_shorter_than_stated(path: str) -> bool:
    """Whether the file ends before its segment does, which holds everything but the first bytes.

    False where the file does not say: a recording that was never finished, or a live one.
    """
    with open(path, "rb") as file:
        size = _enter_segment(file)
        return size is not None and file.tell() + size > file.seek(0, 2)


def first_cluster(path: str) -> tuple[int | None, int | None]:
    """Where the first cluster begins, and its time in ticks of the file.

    None for the place where what lies before it is damaged; for the time where it is not found.
    """
    with open(path, "rb") as file:
        _enter_segment(file)
        for _ in range(MAX_ELEMENTS_BEFORE_CLUSTER):
            start = file.tell()
            name, size = _read_element(file)
            if name == CLUSTER:
                return start, _cluster_time(file)
            if name is None or size is None:
                break
            file.seek(size, 1)
    return None, None


def _cluster_time(file: BinaryIO) -> int | None:
    """Found among the first elements of a cluster; a checksum may precede it."""
    for _ in range(MAX_ELEMENTS_BEFORE_TIME):
        name, size = _read_element(file)
        if name is None or size is None:
            break
        if name == TIMESTAMP:
            return int.from_bytes(file.read(size), "big") if size <= 8 else None
        file.seek(size, 1)
    return None


def _enter_segment(file: BinaryIO) -> int | None:
    """Go to the first element of the segment; its size, or None where the file does not say."""
    name, size = _read_element(file)
    if name != EBML or size is None:
        return None
    file.seek(size, 1)
    name, size = _read_element(file)
    return size if name == SEGMENT else None


def _read_element(file: BinaryIO) -> tuple[int | None, int | None]:
    """Name and size of the element that begins here; None for what is no number."""
    name = _read_number(file, keep_length=True)
    size = None if name is None else _read_number(file, keep_length=False)
    return name, size


def _read_number(file: BinaryIO, *, keep_length: bool) -> int | None:
    """A number whose first byte says by its leading zeros how many follow; all ones: not known."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    data = first + file.read(length - 1)
    number = int.from_bytes(data, "big")
    if len(data) < length or keep_length:
        return number if len(data) == length else None
    value = number & ((1 << (7 * length)) - 1)
    return None if value == (1 << (7 * length)) - 1 else value
