"""What decoders other than PyAV share: PyAV tells them what a file holds, or refuses it for them.

Such a decoder is trusted with pixels alone. Which frames there are and when each is shown comes
from a scan of the file's packets, and what the decoder gives out is held against it.
"""

from __future__ import annotations

import abc
import math
import os
import weakref
from collections.abc import Generator, Iterator
from typing import ClassVar, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from utils.errors import UsageError, VideoDecodeError, VideoError
from utils.video.decoders.pyav import PyAvSource
from utils.video.source import (
    DecodedFrame,
    DecodeLoss,
    Image,
    Skipping,
    VideoSource,
    scaled_size,
)


class ArrayFrame(DecodedFrame):
    """A frame that is RGB already."""

    def __init__(self, image: Image, *, frame_index: int, timestamp: float) -> None:
        self._image = image
        self.frame_index = frame_index
        self.timestamp = timestamp

    def rgb(self, *, short_side: int | None = None) -> Image:
        height, width = self._image.shape[:2]
        size = scaled_size(width, height, short_side)
        if size == (width, height):
            return self._image
        frame = av.VideoFrame.from_ndarray(self._image, format="rgb24")
        scaled = VideoReformatter().reformat(frame, width=size[0], height=size[1], threads=1)
        return cast("Image", scaled.to_ndarray())


class CheckedSource(VideoSource):
    """A decoder whose frames are held against PyAV's scan of the file.

    It decodes from the first frame, wherever it is to start. Pictures are converted when they are
    decoded, whether anyone asks for them or not, and a file takes 8 bytes of memory for each of its
    frames.

    Raises:
        VideoError: As `PyAvSource`; and where this decoder is known to get such a file wrong, or
            the file is damaged, with the reason and the way out.
    """

    name: ClassVar[str]
    """In `utils.video.decoders.DECODERS`."""

    refused_formats: ClassVar[frozenset[str]] = frozenset()
    """FFmpeg's container names that the decoder gets wrong."""

    refused_codecs: ClassVar[frozenset[str]] = frozenset()
    """Codec names that the decoder cannot read."""

    honours_edit_lists: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        with PyAvSource(self._path) as probe:
            self.info = probe.info
            if "://" in self._path:
                raise self._refusal("it is a URL, which would be read twice")
            scan = probe.scan_packets()
        self.loss, self.skipping = DecodeLoss(), Skipping()
        self._is_closed = False
        self._running: weakref.WeakSet[Generator[DecodedFrame]] = weakref.WeakSet()
        if format_name := self.refused_formats.intersection(scan.format_names):
            raise self._refusal(f"it gets {', '.join(sorted(format_name))} files wrong")
        if self.info.codec in self.refused_codecs:
            raise self._refusal(f"it cannot decode {self.info.codec}")
        if scan.num_hidden and not self.honours_edit_lists:
            raise self._refusal(f"it shows the {scan.num_hidden} frames that an edit list hides")
        if scan.is_mirrored:
            raise self._refusal("the picture is mirrored, which it does not undo")
        if scan.problem is not None:
            raise self._refusal(scan.problem)
        self._times: NDArray[np.float64] = scan.timestamps

    def frames(self, start_seconds: float = 0.0) -> Iterator[DecodedFrame]:
        """See `VideoSource.frames`.

        Raises:
            UsageError: The source is closed, or ``start_seconds`` is no number.
            VideoDecodeError: The decoder broke off, or its frames are not those of the file.
        """
        if self._is_closed:
            raise UsageError(f"{self._path}: the source is closed; open it again to read on")
        if not math.isfinite(start_seconds):
            raise UsageError(f"start_seconds must be a finite number, got {start_seconds}")
        self.loss = DecodeLoss()
        generator = self._read(int(np.searchsorted(self._times, start_seconds)))
        self._running.add(generator)
        return generator

    def close(self) -> None:
        self._is_closed = True
        for generator in list(self._running):
            generator.close()

    @abc.abstractmethod
    def _images(self, first_index: int, num_frames: int) -> Iterator[Image]:
        """Pictures from ``first_index`` on, through a reader of their own.

        Raises:
            VideoError: The decoder counts other than ``num_frames`` frames, or broke off.
        """

    def _read(self, first_index: int) -> Generator[DecodedFrame]:
        if first_index == len(self._times):
            return
        shape = (self.info.height, self.info.width, 3)
        index = first_index
        for image in self._images(first_index, len(self._times)):
            if image.shape != shape:
                raise self._broken(index, f"gave a picture of {image.shape} in place of {shape}")
            yield ArrayFrame(image, frame_index=index, timestamp=float(self._times[index]))
            index += 1
        if index != len(self._times):
            raise self._broken(index, f"ended {len(self._times) - index} frames early")

    def _refusal(self, why: str) -> VideoError:
        return VideoError(
            self._path, f"decoder '{self.name}' is not used on this file: {why}; use decoder 'pyav'"
        )

    def _broken(self, index: int, what: str) -> VideoDecodeError:
        return VideoDecodeError(
            self._path,
            f"decoder '{self.name}' {what} at {self._times[index]:.3f} s; use decoder 'pyav', "
            "which passes over damage and counts it",
        )


def first_line(error: Exception) -> str:
    """An error of a library on one line; some bring a stack trace in their text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
