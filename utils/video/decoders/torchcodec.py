"""`TorchcodecSource`: torchcodec in its exact mode, which scans the file before it decodes.

First room of the cascade. Times are compared frame by frame with those that PyAV finds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from utils.video.decoders.checked import CheckedSource, first_line
from utils.video.source import Image

try:
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined, unused-ignore]
except (RuntimeError, OSError) as error:
    raise ImportError(
        "torchcodec found no FFmpeg; install FFmpeg 4 to 8 with its shared libraries, such as "
        "with: apt install ffmpeg",
        name="torchcodec",
    ) from error

TIME_TOLERANCE_SECONDS = 1e-6
"""Both compute seconds from the same ticks."""


class TorchcodecSource(CheckedSource):
    """A video read by torchcodec on the CPU."""

    name = "torchcodec"
    refused_formats = frozenset({"mpegts"})

    def _images(self, first_index: int, num_frames: int) -> Iterator[Image]:
        try:
            reader = VideoDecoder(
                self._path, dimension_order="NHWC", seek_mode="exact", num_ffmpeg_threads=0
            )
            if len(reader) != num_frames:
                raise self._refusal(f"it counts {len(reader)} frames where there are {num_frames}")
            begin = reader.get_frame_at(0).pts_seconds
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._refusal(f"it cannot open it ({first_line(error)})") from error
        # From the first frame: where a stream refreshes its pictures in slices, its seek misses.
        for index in range(num_frames):
            try:
                frame = reader.get_frame_at(index)
            except (RuntimeError, IndexError) as error:
                raise self._broken(index, f"broke off ({first_line(error)})") from error
            time = frame.pts_seconds - begin
            if abs(time - self._times[index]) > TIME_TOLERANCE_SECONDS:
                raise self._broken(index, f"gave the frame of {time:.3f} s")
            if index >= first_index:
                image: Image = frame.data.numpy()
                yield np.ascontiguousarray(image)
