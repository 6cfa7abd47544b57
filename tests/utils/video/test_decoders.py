"""The contract of `VideoSource`, once for every decoder and every generated file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from utils.errors import MissingPackageError, UnknownNameError, UsageError, VideoError
from utils.video.decoders import DECODERS
from utils.video.source import VideoSource, scaled_size

Write = Callable[[Any], Path]

# Matroska, FLV and GIF round to milliseconds or hundredths.
TOLERANCE_SECONDS = 6e-4

MAX_MEAN_DIFFERENCE = 3.0
"""Of 255, between decoders: where colour is stored coarser than brightness each of them fills in
between in its own way, and the cells of these small pictures are all edges."""


def test_the_files_cover_what_people_have(video_files: ModuleType) -> None:
    recipes = video_files.RECIPES
    codecs = {recipe.codec for recipe in recipes}
    assert {"libx264", "libx265", "libvpx-vp9", "libsvtav1", "mpeg4", "mjpeg", "ffv1"} <= codecs
    endings = {recipe.name.rpartition(".")[2] for recipe in recipes}
    assert {"mp4", "mkv", "webm", "avi", "ts"} <= endings
    assert len(recipes) >= 16


def test_frames_and_times_are_those_written(case: Any, video_files: ModuleType) -> None:
    recipe, source = case.recipe, case.source
    frames = list(source.frames())
    numbers = [video_files.read_number(frame.rgb(), has_color=recipe.has_color) for frame in frames]
    assert numbers == recipe.numbers
    assert [frame.frame_index for frame in frames] == list(range(len(frames)))
    times = [frame.timestamp for frame in frames]
    assert times[0] == 0.0
    assert times == pytest.approx(recipe.times, abs=TOLERANCE_SECONDS)
    assert not source.loss, source.loss


def test_info_is_upright_and_agrees_with_the_pixels(case: Any) -> None:
    image = next(iter(case.source.frames())).rgb()
    info, recipe = case.source.info, case.recipe
    assert (info.width, info.height) == (recipe.width, recipe.height)
    assert info.rotation == recipe.rotation
    assert image.shape == (recipe.height, recipe.width, 3)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    assert info.codec in {"av1", "ffv1", "gif", "h264", "hevc", "mjpeg", "mpeg4", "qtrle"} | {
        "vp8",
        "vp9",
    }


def test_start_gives_the_end_of_a_sequential_read(case: Any) -> None:
    frames = list(case.source.frames())
    expected = [(frame.frame_index, frame.timestamp) for frame in frames]
    images = [frame.rgb() for frame in frames]
    for first in (1, 11, 12, 13, 14, 24, len(frames) - 1):
        late = list(case.source.frames(frames[first].timestamp))
        assert [(frame.frame_index, frame.timestamp) for frame in late] == expected[first:]
        for frame, image in zip(late, images[first:], strict=True):
            np.testing.assert_array_equal(frame.rgb(), image)
        assert not case.source.loss, case.source.loss


def test_start_between_frames_and_beyond_the_end(case: Any) -> None:
    frames = list(case.source.frames())
    between = (frames[4].timestamp + frames[5].timestamp) / 2
    assert next(iter(case.source.frames(between))).frame_index == 5
    assert list(case.source.frames(frames[-1].timestamp + 10)) == []
    with pytest.raises(UsageError, match="start_seconds must be a finite number, got nan"):
        case.source.frames(float("nan"))


def test_iterators_do_not_disturb_each_other(case: Any) -> None:
    pairs = zip(case.source.frames(), case.source.frames(), strict=True)
    assert all(one.timestamp == other.timestamp for one, other in pairs)


def test_pictures_are_those_of_the_default_decoder(case: Any, written: Write) -> None:
    with VideoSource.open(written(case.recipe)) as reference:
        for frame, other in zip(case.source.frames(), reference.frames(), strict=True):
            difference = np.abs(frame.rgb().astype(int) - other.rgb())
            assert difference.mean() < MAX_MEAN_DIFFERENCE


def test_pictures_are_scaled_to_their_shorter_side(case: Any) -> None:
    frame = next(iter(case.source.frames()))
    whole = frame.rgb()
    height, width = whole.shape[:2]
    np.testing.assert_array_equal(frame.rgb(short_side=1000), whole)
    small = frame.rgb(short_side=24)
    assert small.shape == (*reversed(scaled_size(width, height, 24)), 3)
    assert small.dtype == np.uint8 and small.flags.c_contiguous
    assert abs(float(small.mean()) - float(whole.mean())) < 4


def test_sparse_frames_are_some_of_all_and_miss_by_no_more_than_they_say(case: Any) -> None:
    all_frames = {frame.frame_index: frame for frame in case.source.frames()}
    some = list(case.source.sparse_frames(max_time_error_seconds=0.2))
    skipping, times = case.source.skipping, [frame.timestamp for frame in some]
    assert len(all_frames) - len(some) == skipping.num_frames
    assert not case.source.loss, case.source.loss
    for frame in some:
        same = all_frames[frame.frame_index]
        assert same.timestamp == frame.timestamp
        np.testing.assert_array_equal(same.rgb(), frame.rgb())
    errors = [
        min(time for time in times if time >= frame.timestamp) - frame.timestamp
        for frame in all_frames.values()
        if frame.timestamp <= times[-1]
    ]
    assert max(errors) == pytest.approx(skipping.max_time_error_seconds, abs=1e-9)
    assert skipping.max_time_error_seconds <= 0.2
    with pytest.raises(UsageError, match="max_time_error_seconds must be above 0, got 0"):
        case.source.sparse_frames(max_time_error_seconds=0)


def test_sparse_frames_skip_something(written: Write, video_files: ModuleType) -> None:
    path = written(video_files.RECIPES[0])
    for decoder in ("pyav", "pyav_isolated"):
        with VideoSource.open(path, decoder=decoder) as source:
            given = [frame.frame_index for frame in source.sparse_frames(max_time_error_seconds=1)]
            assert given[:6] == [0, 1, 3, 4, 6, 7]
            assert source.skipping.num_frames == 40 - len(given) > 10
            # One frame too late at worst, which is more than this bound.
            exact = list(source.sparse_frames(max_time_error_seconds=0.01))
            assert len(exact) == 40 and source.skipping.num_frames == 0


def test_close_ends_reading_and_may_be_repeated(
    decoder: str, written: Write, video_files: ModuleType
) -> None:
    try:
        source = VideoSource.open(written(video_files.RECIPES[0]), decoder=decoder)
    except MissingPackageError as error:
        pytest.skip(str(error))
    frames = source.frames()
    next(frames)
    source.close()
    source.close()
    assert list(frames) == []
    with pytest.raises(UsageError, match="the source is closed; open it again"):
        source.frames()


def test_what_is_not_read_right_is_refused(refused: Any, written: Write) -> None:
    decoder, recipe, why = refused
    try:
        DECODERS.resolve(decoder)
    except MissingPackageError as error:
        pytest.skip(str(error))
    path = written(recipe)
    with pytest.raises(VideoError) as caught:
        VideoSource.open(path, decoder=decoder)
    assert str(caught.value) == (
        f"{path}: decoder '{decoder}' is not used on this file: {why}; use decoder 'pyav'"
    )


@pytest.mark.parametrize("other", ["decord", "torchcodec"])
def test_damage_is_refused_by_those_that_hide_it(
    other: str, written: Write, video_files: ModuleType, tmp_path: Path
) -> None:
    try:
        DECODERS.resolve(other)
    except MissingPackageError as error:
        pytest.skip(str(error))
    recipe = video_files.Recipe(
        name="long.mkv",
        ticks=tuple(range(100)),
        width=128,
        height=96,
        noise=30,
        options=video_files.BFRAMES,
    )
    data = bytearray(written(recipe).read_bytes())
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="its end is missing; use decoder 'pyav'"):
        VideoSource.open(tmp_path / "cut.mkv", decoder=other)
    start = len(data) // 3
    data[start : start + 9000] = bytes(9000)
    (tmp_path / "hole.mkv").write_bytes(data)
    with pytest.raises(VideoError, match="a part of it is damaged; use decoder 'pyav'"):
        VideoSource.open(tmp_path / "hole.mkv", decoder=other)
    with pytest.raises(VideoError, match="no such file"):
        VideoSource.open(tmp_path / "none.mp4", decoder=other)


@pytest.mark.parametrize("name", ["decord", "torchcodec"])
def test_missing_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"utils.video.decoders.{name}", raising=False)
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingPackageError,
        match=rf"decoder '{name}' needs the package '{name}.*; run: pip install {name}",
    ):
        VideoSource.open("video.mp4", decoder=name)


def test_unknown_decoder() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown decoder 'pyaw'.*did you mean 'pyav'"):
        VideoSource.open("video.mp4", decoder="pyaw")


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((1920, 1080), 256, (455, 256)),
        ((1080, 1920), 256, (256, 455)),
        ((320, 180), 256, (320, 180)),
        ((320, 180), None, (320, 180)),
        ((8192, 16), 8, (4096, 8)),
        ((10000, 1), 1, (10000, 1)),
    ],
)
def test_scaled_size(
    size: tuple[int, int], short_side: int | None, expected: tuple[int, int]
) -> None:
    assert scaled_size(*size, short_side) == expected
