"""What the boxes of an MP4 file say that FFmpeg does not pass on.

First room of the cascade, under `Reading`. A file is a row of boxes, each with its size and name
(ISO/IEC 14496-12). One that is written in fragments has no index of the whole: each fragment brings
its own, and where the row of boxes is broken nobody knows what would have followed.
"""

from __future__ import annotations


def is_broken_row_of_fragments(path: str) -> bool:
    """Whether the file is written in fragments, and its boxes do not fill it to its end."""
    has_fragments = False
    with open(path, "rb") as file:
        num_bytes = file.seek(0, 2)
        start = 0
        while start < num_bytes:
            file.seek(start)
            header = file.read(16)
            size, name = int.from_bytes(header[:4], "big"), header[4:8]
            has_fragments |= name == b"moof"
            if size == 1:
                # Too large for four bytes: it stands behind the name.
                size = int.from_bytes(header[8:16], "big")
            elif size == 0 and name == b"mdat":
                return False  # Up to the end of the file.
            if size < 8 or not name.isalnum():
                return has_fragments
            start += size
    return has_fragments and start != num_bytes
