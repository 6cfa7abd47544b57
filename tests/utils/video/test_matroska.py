"""What the first bytes of a Matroska file say, also where they are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import broken_files
from utils.video.decoders.matroska import first_cluster, is_shorter_than_stated

EBML = bytes.fromhex("1a45dfa3 82 ffff")
CLUSTER = bytes.fromhex("1f43b675 ff e7 82 0123")
"""Of unknown size, as live recordings have it; its time is 291."""


def segment(size: str, *elements: bytes) -> bytes:
    return EBML + bytes.fromhex("18538067" + size) + b"".join(elements)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (segment("ff", CLUSTER), (12, 291)),
        (segment("01 00000000000000", CLUSTER), (19, 291)),
        # Behind the description and a void; a checksum precedes the time.
        (segment("ff", bytes.fromhex("1549a966 81 00 ec 82 0000"), CLUSTER), (22, 291)),
        (segment("ff", bytes.fromhex("1f43b675 ff bf 84 01020304 e7 81 07")), (12, 7)),
        (
            segment("ff", bytes.fromhex("1f43b675 ff a3 81 00 a3 81 00 a3 81 00 a3 81 00")),
            (12, None),
        ),
        (segment("ff", bytes.fromhex("1f43b675 ff e7 89 000000000000000001")), (12, None)),
        (segment("ff", bytes(50), CLUSTER), (None, None)),
        (segment("ff"), (None, None)),
        (b"", (None, None)),
    ],
)
def test_first_cluster(
    tmp_path: Path, content: bytes, expected: tuple[int | None, int | None]
) -> None:
    (tmp_path / "a.mkv").write_bytes(content)
    assert first_cluster(str(tmp_path / "a.mkv")) == expected


def test_of_a_real_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    data = broken_files.base("mkv")
    path.write_bytes(data)
    start, time = first_cluster(str(path))
    assert start == data.index(bytes.fromhex("1f43b675"))
    assert time == 0
    assert not is_shorter_than_stated(str(path))
    path.write_bytes(data[:-1])
    assert is_shorter_than_stated(str(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (segment("88", bytes(8)), False),
        (segment("88", bytes(7)), True),
        (segment("4008", bytes(7)), True),
        # It does not say.
        (segment("ff", bytes(7)), False),
        (segment("01 ffffffffffffff", bytes(7)), False),
        (b"\x1a\x45\xdf\xa3", False),
        (b"no Matroska", False),
    ],
)
def test_is_shorter_than_stated(tmp_path: Path, content: bytes, expected: bool) -> None:
    (tmp_path / "a.mkv").write_bytes(content)
    assert is_shorter_than_stated(str(tmp_path / "a.mkv")) is expected


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=60))
def test_whatever_follows_the_header_is_no_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.mkv"
    path.write_bytes(segment("ff", content))
    start, time = first_cluster(str(path))
    assert start is None or start >= 12
    assert time is None or time >= 0
