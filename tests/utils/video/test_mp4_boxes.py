"""A row of boxes, whole and broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.video.decoders.mp4_boxes import is_broken_row_of_fragments


def box(name: bytes, size: int = 16) -> bytes:
    return size.to_bytes(4, "big") + name + bytes(size - 8)


LARGE = b"\0\0\0\1mdat" + (24).to_bytes(8, "big") + bytes(8)
TO_THE_END = b"\0\0\0\0mdat" + bytes(30)
HEAD = box(b"ftyp") + box(b"moov")
FRAGMENT = box(b"moof") + box(b"mdat", 50)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEAD + FRAGMENT + FRAGMENT + box(b"mfra"), False),
        (HEAD + box(b"moof") + LARGE + FRAGMENT, False),
        (HEAD + FRAGMENT + box(b"moof") + TO_THE_END, False),
        (HEAD + FRAGMENT + FRAGMENT[:-1], True),
        (HEAD + FRAGMENT + FRAGMENT[:5], True),
        (HEAD + FRAGMENT + bytes(40) + FRAGMENT, True),
        (HEAD + FRAGMENT + b"\0\0\0\7free" + FRAGMENT, True),
        # Of a file with an index of the whole, that index tells what is missing.
        (HEAD + box(b"mdat", 50)[:-1], False),
        (HEAD + bytes(40), False),
        (b"", False),
    ],
)
def test_rows(tmp_path: Path, content: bytes, expected: bool) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    assert is_broken_row_of_fragments(str(tmp_path / "a.mp4")) is expected


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=60))
def test_whatever_follows_is_broken_or_not(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.mp4"
    path.write_bytes(HEAD + content)
    assert not is_broken_row_of_fragments(str(path)) or b"moof" in content
