"""Cutting a clip: the frames asked for, upright, at their times; whole files or none."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from utils.errors import EmptyVideoError
from utils.video.clip_file import cut_clip
from utils.video.source import VideoSource
from video_files import Recipe, read_number

VARIABLE = (0, 1, 2, 3, 10, 11, 12, 20, 21, 22, 30, 31, 32, 33, 34)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(name="steady.mp4"),
        Recipe(name="turned.mp4", rotation=90),
        Recipe(name="variable.mkv", ticks=VARIABLE, time_base=Fraction(1, 10)),
        Recipe(name="trimmed.mp4", num_trimmed=5),
        Recipe(name="odd.avi", codec="mjpeg", pixel_format="yuvj444p", width=65, height=49),
    ],
    ids=lambda recipe: recipe.name,
)
def test_frames_and_times(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe.write(tmp_path)
    start, end = 0.41, 1.21
    expected = [
        (number, time)
        for number, time in zip(recipe.numbers, recipe.times, strict=True)
        if start <= time < end
    ]
    with VideoSource.open(path) as source:
        clip = cut_clip(source, tmp_path / "clip.mp4", start=start, end=end)
        size = (source.info.width & ~1, source.info.height & ~1)
    assert clip.start == pytest.approx(expected[0][1], abs=1e-6)
    with VideoSource.open(clip.path) as cut:
        assert (cut.info.width, cut.info.height) == size
        assert cut.info.duration_seconds == pytest.approx(clip.duration, abs=0.5 / clip.fps)
        frames = [(read_number(frame.rgb()), frame.timestamp) for frame in cut.frames()]
    assert [number for number, _ in frames] == [number for number, _ in expected]
    assert [time for _, time in frames] == pytest.approx(
        [time - expected[0][1] for _, time in expected], abs=1e-3
    )
    assert clip.fps == pytest.approx(
        (len(expected) - 1) / (expected[-1][1] - expected[0][1]), rel=1e-6
    )
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_nothing_there(tmp_path: Path) -> None:
    path = Recipe(name="v.mp4").write(tmp_path)
    with (
        VideoSource.open(path) as source,
        pytest.raises(EmptyVideoError, match=r"v\.mp4: has no frame from 90 to 91 s"),
    ):
        cut_clip(source, tmp_path / "clip.mp4", start=90, end=91)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["v.mp4"]


def test_one_frame(tmp_path: Path) -> None:
    path = Recipe(name="v.mp4").write(tmp_path)
    with VideoSource.open(path) as source:
        clip = cut_clip(source, tmp_path / "clip.mp4", start=0.4, end=0.41)
    assert (clip.start, clip.duration) == pytest.approx((0.4, 0.04))


def test_a_folder_that_went_away(tmp_path: Path) -> None:
    path = Recipe(name="v.mp4").write(tmp_path)
    with VideoSource.open(path) as source, pytest.raises(OSError, match="No such file"):
        cut_clip(source, tmp_path / "gone" / "clip.mp4", start=0, end=1)
