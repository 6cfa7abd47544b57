"""The contract of `VideoSource`, once for every decoder and every generated file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from utils.errors import UnknownNameError, UsageError
from utils.video.source import VideoSource

Write = Callable[[Any], Path]

# Matroska, FLV and GIF round to milliseconds or hundredths.
TOLERANCE_SECONDS = 6e-4


def test_frames_and_times_are_those_written(
    decoder: str, recipe: Any, written: Write, video_files: ModuleType
) -> None:
    with VideoSource.open(written(recipe), decoder=decoder) as source:
        frames = list(source.frames())
        numbers = [
            video_files.read_number(frame.rgb(), has_color=recipe.has_color) for frame in frames
        ]
        assert numbers == recipe.numbers
        assert [frame.frame_index for frame in frames] == list(range(len(frames)))
        times = [frame.timestamp for frame in frames]
        assert times[0] == 0.0
        assert times == pytest.approx(recipe.times, abs=TOLERANCE_SECONDS)
        assert not source.loss, source.loss


def test_info_is_upright_and_agrees_with_the_pixels(
    decoder: str, recipe: Any, written: Write
) -> None:
    with VideoSource.open(written(recipe), decoder=decoder) as source:
        image = next(iter(source.frames())).rgb()
        assert (source.info.width, source.info.height) == (recipe.width, recipe.height)
        assert source.info.rotation == recipe.rotation
        assert image.shape == (recipe.height, recipe.width, 3)
        assert image.dtype == np.uint8 and image.flags.c_contiguous


def test_start_gives_the_end_of_a_sequential_read(
    decoder: str, recipe: Any, written: Write
) -> None:
    with VideoSource.open(written(recipe), decoder=decoder) as source:
        frames = list(source.frames())
        for first in (1, 11, 12, 13, 14, 24, len(frames) - 1):
            late = list(source.frames(frames[first].timestamp))
            assert [(frame.frame_index, frame.timestamp) for frame in late] == [
                (frame.frame_index, frame.timestamp) for frame in frames[first:]
            ]
            for ours, theirs in zip(late, frames[first:], strict=True):
                np.testing.assert_array_equal(ours.rgb(), theirs.rgb())
            assert not source.loss, source.loss


def test_start_between_frames_and_beyond_the_end(decoder: str, recipe: Any, written: Write) -> None:
    with VideoSource.open(written(recipe), decoder=decoder) as source:
        frames = list(source.frames())
        between = (frames[4].timestamp + frames[5].timestamp) / 2
        assert next(iter(source.frames(between))).frame_index == 5
        assert list(source.frames(frames[-1].timestamp + 10)) == []
        with pytest.raises(UsageError, match="start_seconds must be a finite number, got nan"):
            source.frames(float("nan"))


def test_iterators_do_not_disturb_each_other(decoder: str, recipe: Any, written: Write) -> None:
    with VideoSource.open(written(recipe), decoder=decoder) as source:
        pairs = zip(source.frames(), source.frames(), strict=True)
        assert all(one.timestamp == other.timestamp for one, other in pairs)


def test_close_ends_reading_and_may_be_repeated(
    decoder: str, written: Write, video_files: ModuleType
) -> None:
    source = VideoSource.open(written(video_files.RECIPES[0]), decoder=decoder)
    frames = source.frames()
    next(frames)
    source.close()
    source.close()
    assert list(frames) == []
    with pytest.raises(UsageError, match="the source is closed; open it again"):
        source.frames()


def test_unknown_decoder() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown decoder 'pyaw'.*did you mean 'pyav'"):
        VideoSource.open("video.mp4", decoder="pyaw")
