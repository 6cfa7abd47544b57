"""Annotation files as text and JSON: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.data.strict_json import read_json, read_text
from utils.errors import AnnotationError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.json"


def test_content_is_read_with_and_without_a_byte_order_mark(path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + '{"labels": ["Köln"]}'.encode())
        assert read_text(path) == '{"labels": ["Köln"]}'
        assert read_json(path) == {"labels": ["Köln"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"\xff\xfe", "cannot be read: 'utf-8' codec can't decode"),
        (b"{", "not valid JSON: "),
        (b"[NaN]", "not valid JSON: NaN is no JSON value"),
        (b"[-Infinity]", "not valid JSON: -Infinity is no JSON value"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "not valid JSON: an object has the field 'c' twice"),
        (b"[" * 100_000, "not valid JSON: maximum recursion depth exceeded"),
    ],
)
def test_what_is_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(AnnotationError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_remedies_are_the_callers(path: Path) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_json(path)
    assert str(caught.value) == f"{path}: no such annotation file"
    with pytest.raises(AnnotationError) as caught:
        read_json(path, named_by="data.val_annotations")
    assert str(caught.value) == f"{path}: no such annotation file; data.val_annotations names it"
    path.touch()
    with pytest.raises(AnnotationError) as caught:
        read_json(path, needs="'labels'")
    assert str(caught.value) == f"{path}: the file is empty; it needs 'labels'"
