"""`VideoProcessor`: sizes, values and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import utils.video
from utils.errors import UsageError
from utils.video import VideoProcessor

MODES = ["crop", "stretch", "letterbox"]


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [17, 224, (30, 50), (50, 30)])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (33, 99), (1, 7), (50, 50)])
def test_shape_and_range(mode: Any, size: Any, height: int, width: int) -> None:
    processor = VideoProcessor(size, resize_mode=mode)
    expected = size if isinstance(size, tuple) else (size, size)
    result = processor.process_frames(noise(2, height, width, 3))
    assert result.shape == (2, 3, *expected)
    assert result.dtype == torch.float32
    assert result.min() >= 0 and result.max() <= 1
    assert processor.process_frames(noise(2, 3, height, width, 3)).shape == (2, 9, *expected)


@pytest.mark.parametrize("mode", MODES)
def test_uint8_is_the_same_but_for_the_scale(mode: Any) -> None:
    processor = VideoProcessor(20, resize_mode=mode)
    frames = noise(3, 48, 64, 3)
    stored = processor.process_uint8(frames)
    assert stored.dtype == torch.uint8
    assert torch.equal(processor.process_frames(frames), stored / 255)


@pytest.mark.parametrize("mode", MODES)
def test_pixels_do_not_depend_on_the_number_of_frames(mode: Any) -> None:
    processor = VideoProcessor(20, resize_mode=mode)
    frames = noise(5, 48, 64, 3)
    together = processor.process_uint8(frames)
    apart = torch.cat([processor.process_uint8(frames[index : index + 1]) for index in range(5)])
    assert torch.equal(together, apart)


def test_pictures_of_a_sample_stack_along_channels_as_each_alone() -> None:
    processor = VideoProcessor(20)
    frames = noise(2, 3, 48, 64, 3)
    stacked = processor.process_uint8(frames)
    for picture in range(3):
        alone = processor.process_uint8(frames[:, picture])
        assert torch.equal(stacked[:, 3 * picture : 3 * picture + 3], alone)


def test_every_kind_of_input_gives_the_same() -> None:
    processor = VideoProcessor(20)
    frames = noise(3, 48, 64, 3)
    expected = processor.process_uint8(frames)
    read_only = frames.copy()
    read_only.flags.writeable = False
    mirrored = np.ascontiguousarray(frames[:, :, ::-1])[:, :, ::-1]
    for same in (list(frames), torch.from_numpy(frames), read_only, mirrored):
        assert torch.equal(processor.process_uint8(same), expected)


def test_same_size_keeps_the_pixels() -> None:
    frames = noise(2, 32, 32, 3)
    for mode in MODES:
        result = VideoProcessor(32, resize_mode=mode).process_uint8(frames)  # type: ignore[arg-type]
        np.testing.assert_array_equal(result.permute(0, 2, 3, 1).numpy(), frames)


def test_crop_keeps_the_middle() -> None:
    frame = np.zeros((1, 32, 96, 3), np.uint8)
    frame[:, :, 32:64] = (10, 20, 30)
    result = VideoProcessor(32).process_uint8(frame)
    assert result.amax((2, 3)).tolist() == result.amin((2, 3)).tolist() == [[10, 20, 30]]


def test_stretch_keeps_everything() -> None:
    frame = np.zeros((1, 32, 96, 3), np.uint8)
    frame[:, :, 48:] = 200
    result = VideoProcessor(32, resize_mode="stretch").process_uint8(frame)
    assert (result[..., :14] == 0).all() and (result[..., 18:] == 200).all()


def test_letterbox_pads_with_gray() -> None:
    frame = np.full((1, 32, 64, 3), 200, np.uint8)
    result = VideoProcessor(32, resize_mode="letterbox").process_uint8(frame)
    assert (result[:, :, 8:24] == 200).all()
    assert (result[:, :, :8] == 128).all() and (result[:, :, 24:] == 128).all()


def test_shrinking_averages() -> None:
    # A one-pixel checkerboard becomes its mean; without antialiasing it stays black and white.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    frame = np.repeat(board[None, :, :, None], 3, 3)
    result = VideoProcessor(8).process_uint8(frame)
    assert (result.int() - 127).abs().max() <= 2


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), "no frames to process: the first axis is empty"),
        ([], "no frames to process"),
        (np.zeros((2, 4, 4, 1), np.uint8), r"\(T, H, W, 3\).*frame 0 is of shape \(4, 4, 1\)"),
        (np.zeros((4, 4, 3), np.uint8), r"frame 0 is of shape \(4, 3\)"),
        (np.zeros((1, 3, 4, 4), np.uint8), r"frame 0 is of shape \(3, 4, 4\)"),
        (np.zeros((1, 0, 4, 3), np.uint8), r"frame 0 is of shape \(0, 4, 3\)"),
        (np.zeros((1, 4, 4, 3), np.float32), r"must be uint8.*frame 0 is float32 of \(4, 4, 3\)"),
        (torch.zeros(1, 4, 4, 3), r"must be uint8.*frame 0 is torch\.float32 of \(4, 4, 3\)"),
        (["frame.png"], "frame 0 is a str"),
        (
            [np.zeros((2, 4, 4, 3), np.uint8), np.zeros((3, 4, 4, 3), np.uint8)],
            "sample 0 has 2, sample 1 has 3",
        ),
    ],
)
def test_wrong_frames(frames: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        VideoProcessor().process_frames(frames)


@pytest.mark.parametrize("size", [0, -1, (4,), (4, 0), (4, 4.5), (1, 2, 3)])
def test_wrong_size(size: Any) -> None:
    with pytest.raises(UsageError, match=r"image_size must be a number of pixels or \(height"):
        VideoProcessor(size)


def test_wrong_mode() -> None:
    with pytest.raises(
        UsageError, match=r"unknown resize_mode 'croop'; known: crop, stretch, letterbox .*'crop'"
    ):
        VideoProcessor(resize_mode="croop")  # type: ignore[arg-type]


def test_package_exports() -> None:
    for name in utils.video.__all__:
        assert getattr(utils.video, name).__name__ == name
    assert set(dir(utils.video)) >= set(utils.video.__all__)
    with pytest.raises(AttributeError, match=r"'utils\.video' has no attribute 'FrameSample'"):
        utils.video.FrameSample  # noqa: B018


def test_asking_for_decoder_names_imports_nothing_heavy() -> None:
    code = (
        "import sys; from utils.video.decoders import DECODERS; list(DECODERS); "
        "sys.exit(bool({'av', 'torch', 'numpy'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
