"""Helpers of the inference tests: tiny checkpoint, videos, scorer and source without files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from models import VideoTriggerModel
from pipeline.scorers.base import FloatArray, FrameScorer, Sampling
from utils import FrameSampler, VideoProcessor
from utils.checkpoint import FORMAT_VERSION, save_checkpoint
from utils.config import Config, parse_config
from utils.errors import VideoDecodeError
from utils.video.source import DecodedFrame, DecodeLoss, Image, VideoInfo, VideoSource

LABELS = ("person_walking", "vehicle_stopping")
SAMPLING_FPS = 5.0
IMAGE_SIZE = 32


def tiny_config(*, causal: bool = False, motion: bool = False) -> Config:
    """A model that runs hundreds of frames a second on one core."""
    return parse_config(
        {
            # A decoder in a process of its own takes longer to start than these videos to decode.
            "data": {
                "frame_sampling_rate": SAMPLING_FPS,
                "image_size": IMAGE_SIZE,
                "decoder": "pyav",
            },
            "model": {
                "labels": list(LABELS),
                "visual_encoder": {
                    "type": "timm:test_resnet",
                    "weights": None,
                    "feature_dim": 16,
                    "motion": {"enabled": motion},
                },
                "trigger_detector": {
                    "hidden_dims": [16],
                    "threshold": 0.6,
                    "candidate_threshold": 0.5,
                },
                "time_aware_encoder": {
                    "hidden_dim": 16,
                    "num_layers": 1,
                    "num_heads": 2,
                    "window_size": 8,
                    "causal": causal,
                },
            },
        }
    )


def write_video(
    path: Path,
    *,
    num_frames: int = 100,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    seed: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Blocks that fade from color to color: scores rise and fall, and no two frames are alike."""
    random = np.random.default_rng(seed)
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        keys = random.integers(0, 256, (num_frames // 7 + 2, 3, 4, 3))
        for number in range(num_frames):
            key, step = divmod(number, 7)
            blocks = (keys[key] * (7 - step) + keys[key + 1] * step) / 7
            image = np.kron(blocks, np.ones((height // 3, width // 4, 1))).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def tiny_model(video: Path, *, causal: bool = False, motion: bool = False) -> VideoTriggerModel:
    """Random weights, with both heads stretched until their scores on ``video`` go up and down."""
    torch.manual_seed(1)
    config = tiny_config(causal=causal, motion=motion)
    model = VideoTriggerModel.from_config(config.model).eval()
    offsets = (config.model.visual_encoder.motion.offset_seconds,) if motion else ()
    frames, times = FrameSampler(
        SAMPLING_FPS, neighbor_offsets_seconds=offsets, max_frames=60
    ).sample_frames(video)
    pixels = VideoProcessor(IMAGE_SIZE).process_frames(frames)
    with torch.no_grad():
        features, _ = model.encode(pixels[None])
        heads = (
            (model.trigger_detector, model.trigger(features)[0]),
            (
                model.time_aware_encoder,
                model.contextualize(
                    features,
                    torch.from_numpy(times)[None],
                    torch.ones(1, len(times), dtype=torch.bool),
                )[0],
            ),
        )
        for head, logits in heads:
            last = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)][-1]
            scale = 2 / logits.std(0)
            last.weight.mul_(scale[:, None])
            last.bias.copy_((last.bias - logits.mean(0)) * scale - 1)
    return model


def write_checkpoint(
    path: Path, video: Path, *, causal: bool = False, motion: bool = False, **changes: Any
) -> Path:
    """What training writes, without its optimizer; ``changes`` replace top-level entries."""
    content: dict[str, Any] = {
        "model_state_dict": tiny_model(video, causal=causal, motion=motion).state_dict(),
        "config": tiny_config(causal=causal, motion=motion).to_plain(),
        "format_version": FORMAT_VERSION,
        "epoch": 3,
        "global_step": 12,
        "loss": 0.5,
        "metadata": {},
    }
    save_checkpoint({**content, **changes}, path)
    return path


class FakeScorer(FrameScorer):
    """Scores brightness: red drives the first class, green the second; context is a mean.

    Args:
        sampling_fps: Samples a second.
        window_size: W.
        causal: Whether the context is the past alone.
    """

    def __init__(
        self, *, sampling_fps: float = 5.0, window_size: int = 6, causal: bool = False
    ) -> None:
        self.labels = LABELS
        self.sampling = Sampling(
            sampling_fps=sampling_fps,
            image_size=16,
            resize_mode="stretch",
            neighbor_offsets_seconds=(),
        )
        self.threshold, self.candidate_threshold = 0.6, 0.5
        self.window_size = window_size
        self.causal = causal
        self.identity = {"checkpoint": "fake", "labels": list(LABELS)}
        self.num_encoded = 0
        self.states: list[Any] = []

    def encode_and_trigger(
        self, pixels: FloatArray, state: Any
    ) -> tuple[FloatArray, FloatArray, Any]:
        self.states.append(state)
        self.num_encoded += len(pixels)
        logits = 8 * (pixels.mean((2, 3))[:, :2] - 0.5)
        return logits.copy(), logits, (state or 0) + len(pixels)

    def contextualize(
        self, features: FloatArray, timestamps: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> FloatArray:
        assert valid.all()
        if self.causal:
            counts = np.arange(1, features.shape[1] + 1)[None, :, None]
            mean = np.cumsum(features, axis=1) / counts
        else:
            mean = np.broadcast_to(features.mean(1, keepdims=True), features.shape)
        return (0.8 * features + 0.2 * mean).astype(np.float32)


class _MemoryFrame(DecodedFrame):
    def __init__(self, frame_index: int, timestamp: float, color: tuple[int, int]) -> None:
        self.frame_index = frame_index
        self.timestamp = timestamp
        self._color = color

    def rgb(self) -> Image:
        image = np.zeros((12, 16, 3), np.uint8)
        image[..., :2] = self._color
        return image


class MemorySource(VideoSource):
    """A video that is computed while it is read.

    Args:
        colors: Red and green of each frame, 0 to 255.
        timestamps: Of each frame; by default 5 a second.
        fail_at: Index of the frame at which decoding raises; None: nowhere.
    """

    def __init__(
        self,
        colors: Sequence[tuple[int, int]],
        timestamps: Sequence[float] | None = None,
        *,
        fail_at: int | None = None,
    ) -> None:
        self._colors = colors
        self._timestamps = timestamps
        self._fail_at = fail_at
        self.is_closed = False
        self.num_decoded = 0
        self.info = VideoInfo(
            path="memory",
            codec="none",
            width=16,
            height=12,
            rotation=0,
            source_fps=5.0,
            duration_seconds=None,
        )
        self.loss = DecodeLoss()

    def frames(self, start_seconds: float = 0.0) -> Iterator[DecodedFrame]:
        for index in range(len(self._colors)):
            assert not self.is_closed, "read after close"
            if index == self._fail_at:
                raise VideoDecodeError("memory", "broken on purpose")
            time = index / 5 if self._timestamps is None else self._timestamps[index]
            if time >= start_seconds:
                self.num_decoded += 1
                yield _MemoryFrame(index, time, self._colors[index])

    def close(self) -> None:
        self.is_closed = True
