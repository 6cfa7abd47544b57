"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.atomic_file import (
    check_folder,
    check_writable,
    remove_abandoned,
    replacing,
    write_json,
)
from utils.errors import UsageError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    # Also lone surrogates, which a file name that is no text is made of.
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)  # fmt: skip


@contextmanager
def files_limited_to(num_bytes: int) -> Iterator[None]:
    """What a full disk looks like to the process, but for the error's number."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.bin"
    with replacing(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError("half way"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        write_half()
    assert caught.value is error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("num_bytes", [100, 1_000_000], ids=["at the flush", "while writing"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with (
        files_limited_to(50),
        pytest.raises(OSError, match="File too large"),
        replacing(path) as file,
    ):
        file.write(bytes(num_bytes))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_it_is_as_public_as_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a.bin") as file:
            file.write(b"x")
        assert os.umask(umask) == umask, "the process's own is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == mode


def test_it_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("sync folder" if is_folder else f"sync {os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def note_rename(source: str, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    with replacing(tmp_path / "a.bin") as file:
        file.write(b"four")
    assert done == ["sync 4 bytes", "rename", "sync folder"]


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + ".json")
    write_json([], path)
    assert names(tmp_path) == [path.name]


@settings(deadline=None, max_examples=50)
@given(content=PLAIN)
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(content, path)
    assert json.loads(path.read_text(encoding="utf-8")) == content
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_word_for_it(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"ap": value}, path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def unwritable(tmp_path: Path) -> list[tuple[Path, str]]:
    file = tmp_path / "file"
    file.touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    return [
        (folder, "it is a folder"),
        (file / "a.json", "File exists"),
        (file / "deep" / "a.json", "Not a directory"),
        (pipe, "it is no regular file"),
        (Path(os.devnull), "it is no regular file"),
    ]


@pytest.mark.parametrize("number", range(5))
def test_where_nothing_can_be_written(tmp_path: Path, number: int) -> None:
    path, reason = unwritable(tmp_path)[number]
    before = names(tmp_path)
    for attempt in (check_writable, lambda path: write_json({}, path)):
        with pytest.raises(UsageError) as caught:
            attempt(path)
        assert str(caught.value) == f"{path}: cannot be written: {reason}; choose another file"
    assert names(tmp_path) == before


def test_a_folder_that_takes_files(tmp_path: Path) -> None:
    check_folder(tmp_path / "deep" / "er", remedy="set another")
    assert names(tmp_path / "deep" / "er") == []


def test_a_folder_that_takes_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "x", "Not a")):
        with pytest.raises(UsageError) as caught:
            check_folder(folder, remedy="set another")
        assert str(caught.value).startswith(f"{folder}: no files can be written there: {reason}")
        assert str(caught.value).endswith("; set another")


def test_inputs_are_not_to_be_written_under_any_name(tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text("[]")
    alias = tmp_path / "alias.json"
    alias.symlink_to(truth)
    for path in (truth, alias, tmp_path / "." / "truth.json"):
        with pytest.raises(UsageError, match=r"\.json: is one of the inputs, which stay as they"):
            check_writable(path, inputs=[tmp_path / "gone", truth])
    check_writable(tmp_path / "other.json", inputs=[tmp_path / "gone", truth])
    check_writable(tmp_path / "gone", inputs=[tmp_path / "gone", truth])


def test_looking_whether_it_can_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    check_writable(path)
    check_writable(tmp_path / "deep" / "b.json")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json", "deep"]
    assert names(tmp_path / "deep") == []


# What a killed writer leaves


def is_json(name: str) -> bool:
    return name.endswith(".json")


def test_a_writer_that_is_gone_and_one_that_lives(tmp_path: Path) -> None:
    left = [".a.json.abcd_123.tmp", ".b.pt.abcd_123.tmp", ".a.json.tmp", "a.json.abcd_123.tmp"]
    for name in left:
        (tmp_path / name).touch()
    with replacing(tmp_path / "c.json") as file:
        file.write(b"x")
        assert remove_abandoned(tmp_path, is_json) == [tmp_path / left[0]]
        assert remove_abandoned(tmp_path, is_json) == []
    assert names(tmp_path) == sorted([*left[1:], "c.json"])


def test_a_writer_whose_file_is_removed_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one moment in which a living writer looks like a dead one."""
    mkstemp = tempfile.mkstemp
    num_removed: list[int] = []

    def make_and_lose(**options: Any) -> tuple[int, str]:
        descriptor, path = mkstemp(**options)
        if len(num_removed) < 2:
            num_removed.append(len(remove_abandoned(tmp_path, is_json)))
        return descriptor, path

    monkeypatch.setattr(tempfile, "mkstemp", make_and_lose)
    write_json([1], tmp_path / "a.json")
    assert num_removed == [1, 1]
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(("age_seconds", "is_removed"), [(3600, False), (100_000, True)])
def test_where_files_cannot_be_locked_age_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_seconds: float, is_removed: bool
) -> None:
    file = tmp_path / ".a.json.abcd_123.tmp"
    file.touch()
    changed = time.time() - age_seconds
    os.utime(file, (changed, changed))
    monkeypatch.setattr("utils.data.cache_leases.fcntl", None)
    assert remove_abandoned(tmp_path, is_json) == ([file] if is_removed else [])
    assert file.exists() != is_removed


def test_what_is_gone_or_not_ours_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".a.json.abcd_123.tmp").symlink_to(tmp_path / "gone")
    (tmp_path / ".b.json.abcd_123.tmp").touch()

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert remove_abandoned(tmp_path, is_json) == []
    assert len(names(tmp_path)) == 2


def test_the_error_is_told_where_the_folder_was_cleared_meanwhile(tmp_path: Path) -> None:
    def clear_and_fail() -> None:
        with replacing(tmp_path / "a.bin"):
            for file in tmp_path.iterdir():
                file.unlink()
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        clear_and_fail()


@pytest.mark.parametrize(
    ("number", "is_refused"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)]
)
def test_a_folder_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_refused: bool
) -> None:
    """Some network file systems cannot; a disk that fails is another matter."""
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    with (
        pytest.raises(OSError, match="Input/output") if is_refused else nullcontext(),
        replacing(tmp_path / "a.bin") as file,
    ):
        file.write(b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"
