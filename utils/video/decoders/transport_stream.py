"""What the bytes of an MPEG transport stream say of damage that FFmpeg passes over in silence.

First room of the cascade, under `Reading`. A transport stream states no duration and keeps no
index, but it is cut into packets that each begin with the same byte (ISO/IEC 13818-1), and FFmpeg
notices a lost one only by a counter that comes round after 16.
"""

from __future__ import annotations

from typing import BinaryIO

PACKET_BYTES = 188
SYNC_BYTE = 0x47

MAX_HEADER_BYTES = 300
"""Of one picture's packet, beside the picture itself: its header has up to 265 bytes, and the last
of its transport packets is filled up."""

MAX_SPAN_BYTES = 16 * 1024**2
"""How far to look. Between two pictures there is never so much without damage."""


def ends_inside_a_packet(path: str, num_bytes: int) -> bool:
    """Whether a file of ``num_bytes`` is visibly cut off."""
    with open(path, "rb") as file:
        # Variants with a time before every packet do not begin with the sync byte.
        is_plain = file.read(1)[:1] == bytes([SYNC_BYTE])
    return is_plain and num_bytes % PACKET_BYTES != 0


def is_damaged_between(file: BinaryIO, start: int, end: int, *, pid: int, num_bytes: int) -> bool:
    """Whether something was lost between two pictures of one stream that follow each other.

    Args:
        file: The transport stream.
        start: Where the first transport packet of the first picture begins.
        end: Likewise of the second.
        pid: Number of the stream in the file.
        num_bytes: Size of the first picture.

    Returns:
        True where a transport packet does not begin as it must, or the stream has bytes there that
        belong to no picture.
    """
    if end - start > MAX_SPAN_BYTES:
        return True
    file.seek(start)
    span = file.read(end - start)
    if span[:1] != bytes([SYNC_BYTE]):
        # A variant with a time before every packet.
        return False
    num_payload = 0
    for place in range(0, len(span), PACKET_BYTES):
        packet = span[place : place + PACKET_BYTES]
        if packet[0] != SYNC_BYTE or len(packet) < PACKET_BYTES:
            return True
        if int.from_bytes(packet[1:3], "big") & 0x1FFF == pid:
            num_payload += _payload_bytes(packet)
    return num_payload > num_bytes + MAX_HEADER_BYTES


def _payload_bytes(packet: bytes) -> int:
    """Bytes of a transport packet that belong to its stream."""
    has_adaptation, has_payload = packet[3] & 0x20, packet[3] & 0x10
    if not has_payload:
        return 0
    return PACKET_BYTES - 4 - (1 + packet[4] if has_adaptation else 0)
