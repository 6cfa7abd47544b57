"""Packets of 188 bytes, and what is missing between them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from utils.video.decoders.transport_stream import (
    MAX_SPAN_BYTES,
    PACKET_BYTES,
    ends_inside_a_packet,
    is_damaged_between,
)

VIDEO, SOUND = 0x100, 0x101


def packet(pid: int = VIDEO, *, num_stuffing: int | None = None, has_payload: bool = True) -> bytes:
    head = b"\x47" + pid.to_bytes(2, "big")
    control = 0x10 * has_payload | (0 if num_stuffing is None else 0x20)
    stuffing = b"" if num_stuffing is None else bytes([num_stuffing]) + bytes(num_stuffing)
    return (head + bytes([control]) + stuffing).ljust(PACKET_BYTES, b"\x01")


@pytest.mark.parametrize(
    ("span", "num_bytes", "expected"),
    [
        # Three packets of video, with others between them: 552 bytes, of which some are a header.
        (packet() + packet(SOUND) * 9 + packet() * 2, 540, False),
        (packet() * 3, 300, False),
        # Two of them belong to no picture.
        (packet() * 5, 540, True),
        # What is filled up, or has no payload, is no picture.
        (packet() * 3 + packet(num_stuffing=183) * 4 + packet(has_payload=False) * 4, 540, False),
        (packet() + bytes(PACKET_BYTES) + packet(), 540, True),
        (packet() + packet()[1:] + packet(), 540, True),
        # A variant with four bytes before every packet is not looked into.
        (b"\0\0\0\0" + packet() + bytes(192), 10, False),
    ],
)
def test_between_two_pictures(span: bytes, num_bytes: int, expected: bool) -> None:
    file = io.BytesIO(b"before" + span + b"behind")
    found = is_damaged_between(file, 6, 6 + len(span), pid=VIDEO, num_bytes=num_bytes)
    assert found is expected


def test_no_picture_is_so_far_from_the_next() -> None:
    assert is_damaged_between(
        io.BytesIO(), 0, MAX_SPAN_BYTES + 1, pid=VIDEO, num_bytes=MAX_SPAN_BYTES
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (packet() * 2, False),
        (packet() * 2 + b"\x47", True),
        (b"\0\0\0\0" + packet(), False),
    ],
)
def test_ends_inside_a_packet(tmp_path: Path, content: bytes, expected: bool) -> None:
    (tmp_path / "a.ts").write_bytes(content)
    assert ends_inside_a_packet(str(tmp_path / "a.ts"), len(content)) is expected
