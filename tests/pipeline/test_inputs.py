"""What ``--video`` means."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.inputs import find_inputs
from utils.errors import UsageError, VideoNotFoundError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.MP4", "a.mkv", "notes.txt", ".hidden.mp4", "deep/c.mp4", "odd[1].mp4"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "folder.mp4").mkdir()
    return tmp_path


def names(pattern: str) -> list[str]:
    return [path.name for path in find_inputs(pattern).paths]


def test_file_is_single_whatever_its_name(folder: Path) -> None:
    found = find_inputs(str(folder / "notes.txt"))
    assert found.is_single
    assert found.paths == (folder / "notes.txt",)


def test_folder_gives_its_videos_sorted(folder: Path) -> None:
    found = find_inputs(str(folder))
    assert not found.is_single
    assert [path.name for path in found.paths] == ["a.mkv", "b.MP4", "odd[1].mp4"]


def test_glob(folder: Path) -> None:
    assert names(f"{folder}/*.mkv") == ["a.mkv"]
    assert names(f"{folder}/**/*.mp4") == ["c.mp4", "odd[1].mp4"]
    assert not find_inputs(f"{folder}/*.mkv").is_single


def test_name_that_looks_like_a_glob_is_the_file(folder: Path) -> None:
    assert find_inputs(str(folder / "odd[1].mp4")).is_single


def test_other_suffixes(folder: Path) -> None:
    (folder / "a.scores.npz").touch()
    found = find_inputs(str(folder), suffixes=(".scores.npz",))
    assert [path.name for path in found.paths] == ["a.scores.npz"]


def test_nothing_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoNotFoundError, match=r"gone\.mp4: no such file or folder"):
        find_inputs(str(folder / "gone.mp4"))
    with pytest.raises(UsageError, match=r"no file matches this glob"):
        find_inputs(str(folder / "*.webm"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UsageError, match=r"empty: no file in this folder ends in \.3gp, .*in quotes"
    ):
        find_inputs(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="got an empty name"):
        find_inputs("")
    with pytest.raises(UsageError, match="rtsp://camera/1: addresses are not read yet"):
        find_inputs("rtsp://camera/1")
