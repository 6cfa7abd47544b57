"""`VideoSource`: the interface that every decoder implements, and the records it gives out.

First room of the cascade: path in, frames with true times out. Time is seconds from the first
presented frame (presentation timestamp minus the first one, after edit lists), never index over
fps.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from utils.errors import UsageError

Image = NDArray[np.uint8]
"""``(H, W, 3)`` RGB, upright (rotation applied)."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What the container says of its best video stream.

    Attributes:
        path: As given.
        codec: FFmpeg's short name of the format ("h264").
        width: Pixels, after rotation.
        height: Pixels, after rotation.
        rotation: Degrees clockwise that were applied to make the picture upright: 0, 90, 180, 270
            (after mirroring it left to right, where the file asks for that too).
        source_fps: Average frames a second, or None where the container does not know.
        duration_seconds: As the container claims; None where it does not know.
    """

    path: str
    codec: str
    width: int
    height: int
    rotation: int
    source_fps: float | None
    duration_seconds: float | None

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"picture of {self.width}x{self.height} pixels")
        if self.rotation not in (0, 90, 180, 270):
            raise ValueError(f"rotation must be 0, 90, 180 or 270, got {self.rotation}")
        if self.source_fps is not None and self.source_fps <= 0:
            raise ValueError(f"source_fps must be positive, got {self.source_fps}")


@dataclass(kw_only=True)
class DecodeLoss:
    """What a decoder could not give; grows while frames are read, complete after the last one.

    Attributes:
        num_corrupt_packets: Packets or frames that the decoder refused.
        lost_seconds: Video time for which no frame came out, the missing end of a truncated file
            included.
        notes: One plain sentence per kind of loss.
    """

    num_corrupt_packets: int = 0
    lost_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.num_corrupt_packets or self.lost_seconds or self.notes)


@dataclass(kw_only=True)
class Skipping:
    """What `VideoSource.sparse_frames` left out on purpose; grows while frames are read.

    Attributes:
        num_frames: Frames that were not decoded.
        max_time_error_seconds: How much later than the frame that was wanted the next one came, at
            worst.
    """

    num_frames: int = 0
    max_time_error_seconds: float = 0.0

    def __str__(self) -> str:
        if not self.num_frames:
            return "no frame could be skipped; all were decoded"
        return (
            f"{self.num_frames} frames were skipped; a sample is at most "
            f"{self.max_time_error_seconds:.3f} s late"
        )


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """``(width, height)`` scaled until the shorter is ``short_side``; never enlarged."""
    if short_side is None or min(width, height) <= short_side:
        return width, height
    scale = short_side / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def check_time_error(max_time_error_seconds: float) -> None:
    """Raises `UsageError` unless it can bound an error."""
    if not max_time_error_seconds > 0:
        raise UsageError(f"max_time_error_seconds must be above 0, got {max_time_error_seconds}")


def check_num_threads(num_threads: int | None) -> None:
    """Raises `UsageError` unless a decoder can run on so many."""
    if num_threads is not None and num_threads < 1:
        raise UsageError(
            f"num_threads must be at least 1, or None for as many as there are cores; "
            f"got {num_threads}"
        )


class DecodedFrame(abc.ABC):
    """One frame in presentation order; its pixels are converted when they are asked for.

    Attributes:
        frame_index: 0-based position among the presented frames of the source.
        timestamp: Seconds from the first presented frame.
    """

    frame_index: int
    timestamp: float

    @abc.abstractmethod
    def rgb(self, *, short_side: int | None = None) -> Image:
        """The picture, ``(H, W, 3)`` uint8 RGB, upright.

        Args:
            short_side: Scale down, in the same step as the conversion, until the shorter side has
                so many pixels. Smaller pictures stay as they are.
        """


class VideoSource(abc.ABC):
    """An open video. A context manager; ``frames`` may be called again and starts anew each time.

    Raises on construction one of `VideoNotFoundError`, `EmptyVideoError`, `NotAVideoError`,
    `NoVideoStreamError`, or `VideoError` where the file may not be read. A file that is damaged
    further on opens; what could be read is given out and ``loss`` says what the latest call of
    ``frames`` could not give.
    """

    info: VideoInfo
    loss: DecodeLoss
    skipping: Skipping
    gave_up: bool = False
    """Whether the latest call of ``frames`` ended because the decoder stalled or died, and not
    where the file ends: another try may give more."""

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, decoder: str = "pyav") -> VideoSource:
        """Open ``path`` with the named decoder of `utils.video.decoders.DECODERS`."""
        from utils.video.decoders import DECODERS

        source: VideoSource = DECODERS.resolve(decoder)(path)
        return source

    @abc.abstractmethod
    def frames(self, start_seconds: float = 0.0) -> Iterator[DecodedFrame]:
        """Frames in presentation order with ``timestamp >= start_seconds``; times rise strictly.

        Raises:
            VideoDecodeError: Nothing can be decoded from here on and nothing was given out.
        """

    def sparse_frames(
        self, start_seconds: float = 0.0, *, max_time_error_seconds: float
    ) -> Iterator[DecodedFrame]:
        """As `frames`, but cheap frames may be left out where a decoder knows how.

        For those who look for the first frame at or after some time: it comes at most
        ``max_time_error_seconds`` later than it could, as the beginning of the file shows;
        ``skipping`` says what was left out and the largest error that was made. This one leaves out
        nothing.

        Raises:
            UsageError: ``max_time_error_seconds`` is not above 0.
        """
        check_time_error(max_time_error_seconds)
        self.skipping = Skipping()
        return self.frames(start_seconds)

    @abc.abstractmethod
    def close(self) -> None:
        """Release the file. Closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
