"""Odd and broken files: nothing hangs, nothing crashes, and what is lost is said in seconds."""

from __future__ import annotations

import itertools
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

import utils.errors
from broken_files import BROKEN, FRAME_SECONDS, Broken
from utils.errors import MissingPackageError, VideoError
from utils.video.decoders import DECODERS
from utils.video.source import VideoSource
from video_files import read_number

MAX_SECONDS = 120.0
"""For one file. The slowest takes 1 s: this tells a hang from a busy machine, and nothing else."""

MAX_GROWTH_BYTES = 600 * 1024**2
"""Of this process over the whole suite of files, whatever a file says of its size."""

READABLE = [broken for broken in BROKEN if broken.error is None]

DECODERS_TRIED = ("pyav", "pyav_isolated")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broken")


@pytest.fixture(params=BROKEN, ids=lambda broken: broken.name, scope="module")
def broken(request: pytest.FixtureRequest, folder: Path) -> tuple[Broken, Path]:
    path = folder / request.param.name
    request.param.make(path)
    return request.param, path


def test_there_are_enough() -> None:
    assert len(BROKEN) >= 40
    assert len({broken.name for broken in BROKEN}) == len(BROKEN)


@pytest.mark.parametrize("reader", DECODERS_TRIED)
def test_no_hang_no_crash_and_the_true_loss(broken: tuple[Broken, Path], reader: str) -> None:
    what, path = broken
    if what.name == "no_permission.mkv" and os.geteuid() == 0:
        pytest.skip("the superuser may read everything")
    began, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if what.error is not None:
        with pytest.raises(VideoError) as caught:
            VideoSource.open(path, decoder=reader)
        assert type(caught.value) is getattr(utils.errors, what.error)
        assert what.match in caught.value.reason
    else:
        read_all(what, path, reader)
    assert time.monotonic() - began < MAX_SECONDS
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown * 1024 < MAX_GROWTH_BYTES


def read_all(what: Broken, path: Path, reader: str) -> None:
    times, is_right = [], []
    with VideoSource.open(path, decoder=reader) as source:
        for frame in source.frames():
            image = frame.rgb()
            assert image.shape == (source.info.height, source.info.width, 3)
            times.append(frame.timestamp)
            if what.has_numbers:
                is_right.append(shows(image, round(frame.timestamp / FRAME_SECONDS)))
        loss = source.loss
    if not what.name.startswith("beginning"):
        assert times[0] == 0.0
    assert len(times) >= what.min_frames
    assert all(before < after for before, after in itertools.pairwise(times))
    true_loss = (what.num_frames - len(times)) * FRAME_SECONDS
    if what.max_error_frames is not None:
        bound = what.max_error_frames * FRAME_SECONDS
        assert loss.lost_seconds == pytest.approx(true_loss, abs=bound + 1e-3), loss
    if true_loss > 0 and not what.is_loss_invisible:
        assert loss.notes, "frames are missing and nothing says so"
    assert what.match in "; ".join(loss.notes)
    if what.has_numbers:
        # Next to damage a decoder paints over what is missing: right in time, wrong in content.
        assert sum(is_right) >= len(is_right) - what.max_smeared_frames, loss


@pytest.mark.parametrize("what", READABLE, ids=lambda broken: broken.name)
def test_what_is_lost_is_told_from_what_is_skipped(what: Broken, folder: Path) -> None:
    path = folder / what.name
    if not path.exists():
        what.make(path)
    with VideoSource.open(path, decoder="pyav") as source:
        times = [frame.timestamp for frame in source.frames()]
        lost = source.loss.lost_seconds
        some = [frame.timestamp for frame in source.sparse_frames(max_time_error_seconds=0.1)]
        assert source.loss.lost_seconds == pytest.approx(lost, abs=1e-6)
        assert source.skipping.max_time_error_seconds <= 0.1
    assert set(some) <= set(times)
    assert all(before < after for before, after in itertools.pairwise(some))
    if not lost:
        assert len(times) - len(some) == source.skipping.num_frames


def shows(image: Any, number: int) -> bool:
    """Whether the picture is that of the frame that was written for this time."""
    try:
        return read_number(image) == number
    except AssertionError:
        return False


def test_pipe_with_a_writer_that_never_ends(tmp_path: Path, decoder: str) -> None:
    try:
        DECODERS.resolve(decoder)
    except MissingPackageError as error:
        pytest.skip(str(error))
    path = tmp_path / "camera.mp4"
    os.mkfifo(path)
    # Open on both ends, so that a reader would wait for bytes for ever.
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(end, b"\0\0\0\x20ftypisom")
        with pytest.raises(VideoError, match="a named pipe, not a regular file"):
            VideoSource.open(path, decoder=decoder)
    finally:
        os.close(end)
