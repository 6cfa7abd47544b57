"""`cut_clip`: a stretch of a video as a file of its own, decoded and encoded again.

Frames, times and orientation are those that every other room sees. Copying packets would begin at
the key frame before and need the container's edit list to say so.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.errors import EmptyVideoError
from utils.video.source import Image, VideoSource

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_TIME_BASE = Fraction(1, 90_000)
"""MPEG's clock: fine enough for any frame rate."""
_OPTIONS = {"preset": "veryfast", "crf": "18"}
"""Close enough to what the camera saw to be trained on."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A file that was cut out of a video.

    Attributes:
        path: The file.
        start: Seconds in the source at which its first frame lies.
        duration: Seconds, to the end of its last frame.
        fps: Frames a second.
    """

    path: Path
    start: float
    duration: float
    fps: float


def cut_clip(source: VideoSource, path: Path, *, start: float, end: float) -> Clip:
    """Write the frames of ``[start, end)`` as H.264 in MP4; the file is there whole or not at all.

    Args:
        source: An open video.
        path: The file to be.
        start: Seconds.
        end: Seconds.

    Raises:
        EmptyVideoError: There is no frame in that time.
        VideoDecodeError: Nothing can be decoded.
        OSError: The file cannot be written.
    """
    import av

    # With an ending of its own: a run that is killed leaves nothing that looks like a video.
    aside = path.with_name(f".{path.name}.partial")
    times: list[float] = []
    try:
        with av.open(os.fspath(aside), "w", format="mp4") as container:
            fps = Fraction(source.info.source_fps or 25).limit_denominator(1001)
            stream = container.add_stream("libx264", rate=fps, options=_OPTIONS)
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = _TIME_BASE
            with closing(_images(source, start, end)) as images:
                for time, image in images:
                    if not times:
                        stream.height, stream.width = image.shape[:2]
                    times.append(time)
                    container.mux(stream.encode(_frame(image, time - times[0])))
            if not times:
                raise EmptyVideoError(source.info.path, f"has no frame from {start:g} to {end:g} s")
            container.mux(stream.encode(None))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / float(fps)
    return Clip(path=path, start=times[0], duration=times[-1] - times[0] + step, fps=1 / step)


def _images(source: VideoSource, start: float, end: float) -> Generator[tuple[float, Image]]:
    for frame in source.frames(start):
        if frame.timestamp >= end:
            return
        image = frame.rgb()
        # 4:2:0 has a color for every two pixels, so an odd row or column cannot be stored.
        yield frame.timestamp, image[: image.shape[0] & ~1, : image.shape[1] & ~1]


def _frame(image: Image, seconds: float) -> VideoFrame:
    from av.video.frame import VideoFrame

    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    frame.pts, frame.time_base = round(seconds / _TIME_BASE), _TIME_BASE
    return frame
