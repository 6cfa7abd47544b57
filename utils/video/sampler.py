"""`FrameSampler`: picks frames at a steady rate, with the source frames next to each.

Second room of the cascade: decoded frames in, samples out. Only frames that are sampled, or are a
neighbour of one, are converted to RGB.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.errors import EmptyVideoError, UsageError
from utils.video.source import DecodedFrame, Image, VideoSource

_log = logging.getLogger(__name__)

TIMESTAMP_ROUNDING_SECONDS = 1e-3
"""Matroska and FLV round timestamps to the millisecond: the frame for 2/3 s may say 0.666."""

MAX_ARRAY_BYTES = 4 * 1024**3
"""Where `FrameSampler.sample_frames` refuses: 4 minutes of 1080p at 3 fps, 2 hours of 320x180."""


@dataclass(frozen=True, kw_only=True)
class SampledFrame:
    """One sample.

    Attributes:
        sample_index: Position among the samples of this stream.
        frame_index: Position in the source.
        timestamp: Seconds.
        image: The frame, ``(H, W, 3)``.
        neighbors: The source frames nearest to ``t - d`` and ``t + d`` for each offset ``d`` in
            turn. Samples share these arrays where they share a frame: do not write to them.
    """

    sample_index: int
    frame_index: int
    timestamp: float
    image: Image
    neighbors: tuple[Image, ...] = ()


class _Held:
    """A decoded frame that is converted at most once."""

    def __init__(self, frame: DecodedFrame, short_side: int | None) -> None:
        self._short_side = short_side
        self.frame_index = frame.frame_index
        self.timestamp = frame.timestamp
        self._frame: DecodedFrame | None = frame
        self._image: Image | None = None

    def image(self) -> Image:
        if self._image is None:
            assert self._frame is not None
            self._image = (
                self._frame.rgb()
                if self._short_side is None
                else self._frame.rgb(short_side=self._short_side)
            )
            self._frame = None
        return self._image


class _Pending:
    """A sample that waits for the source to pass the times of its neighbours.

    Args:
        held: The sampled frame.
        wanted: The neighbours' times.
        earlier: The frames before it that could be a neighbour.
    """

    def __init__(self, held: _Held, wanted: Sequence[float], earlier: Iterable[_Held]) -> None:
        self.held = held
        self._wanted = wanted
        seen = [*earlier, held]
        self._chosen = [_nearest(time, seen) if time <= held.timestamp else None for time in wanted]

    @property
    def is_complete(self) -> bool:
        return None not in self._chosen

    def pass_by(self, previous: _Held, held: _Held) -> None:
        """Take note of the next source frame, which follows ``previous``."""
        for index, time in enumerate(self._wanted):
            if self._chosen[index] is None and held.timestamp >= time:
                self._chosen[index] = _nearest(time, (previous, held))

    def sample(self, sample_index: int, *, last: _Held | None = None) -> SampledFrame:
        """The finished record; ``last`` stands in for neighbours beyond the end of the video."""
        neighbors = [chosen or last for chosen in self._chosen]
        return SampledFrame(
            sample_index=sample_index,
            frame_index=self.held.frame_index,
            timestamp=self.held.timestamp,
            image=self.held.image(),
            neighbors=tuple(held.image() for held in neighbors if held is not None),
        )


def _nearest(time: float, frames: Iterable[_Held]) -> _Held:
    """The frame nearest to ``time``, the earlier of two that are equally near."""
    return min(frames, key=lambda held: (abs(held.timestamp - time), held.timestamp))


class FrameSampler:
    """Samples a video at ``fps``.

    The rule is causal and does not drift. Targets are ``k / fps`` for k = 0, 1, ...; the sample
    for a target is the first source frame at or after it (1 ms of tolerance for rounded
    timestamps). A frame that is first after several targets is sampled once. So times rise
    strictly, never exceed ``fps`` on average, and a source slower than ``fps`` gives every frame.
    Whether a frame is sampled depends on it and the frame before it alone, so a part of a video
    gives the samples of the whole.

    Args:
        fps: Samples a second, or None for every frame of the source.
        max_frames: Stop after so many samples.
        neighbor_offsets_seconds: Distances ``d``; every sample then carries the source frames
            nearest to ``t - d`` and ``t + d`` (the earlier of two that are equally near; the first
            or last frame beyond the ends of the video). The source frames of the largest offset are
            held in memory, in the decoder's pixel format.
        decoder: Name in `utils.video.decoders.DECODERS`, for videos given as a path.
        short_side: Scale pictures down inside the decoder until the shorter side has so many
            pixels. Fewer bytes are converted and moved, but the pixels are others than those that
            `VideoProcessor` makes of full-size ones: whatever is trained with one must run with it,
            and a cache of frames must have it in its key.
        is_sparse: Let the decoder skip frames that no other refers to, where that moves a sample by
            less than half a sampling step; `VideoSource.skipping` tells by how much it did.

    Raises:
        UsageError: An argument is out of range.
        UnknownNameError: There is no such decoder.
    """

    def __init__(
        self,
        fps: float | None = 3.0,
        *,
        max_frames: int | None = None,
        neighbor_offsets_seconds: Sequence[float] = (),
        decoder: str = "pyav",
        short_side: int | None = None,
        is_sparse: bool = False,
    ) -> None:
        from utils.video.decoders import DECODERS

        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise UsageError(f"fps must be above 0, or None for every frame; got {fps}")
        if max_frames is not None and max_frames < 1:
            raise UsageError(f"max_frames must be at least 1, or None for all; got {max_frames}")
        for offset in neighbor_offsets_seconds:
            if not (math.isfinite(offset) and offset > 0):
                raise UsageError(f"neighbor_offsets_seconds must be above 0; got {offset}")
        if short_side is not None and short_side < 1:
            raise UsageError(f"short_side must be at least 1, or None for all; got {short_side}")
        if is_sparse and (fps is None or neighbor_offsets_seconds):
            # Every frame is wanted, or the very ones beside a sample.
            raise UsageError(
                "is_sparse skips frames: it needs an fps, and goes with no neighbor_offsets_seconds"
            )
        DECODERS.check(decoder)
        self.fps = fps
        self.max_frames = max_frames
        self.neighbor_offsets_seconds = tuple(neighbor_offsets_seconds)
        self.decoder = decoder
        self.short_side = short_side
        self.is_sparse = is_sparse

    def stream(
        self,
        video: str | os.PathLike[str] | VideoSource,
        *,
        start_seconds: float = 0.0,
        end_seconds: float | None = None,
    ) -> Iterator[SampledFrame]:
        """The samples with ``start_seconds <= timestamp < end_seconds``, in bounded memory.

        They are those that the whole video would give there, neighbours included; ``sample_index``
        counts from 0. A sample comes out as soon as its last neighbour is known.

        To see what the file is and what was lost in it, open it and keep hold of the source::

            with VideoSource.open(path) as source:
                for sample in sampler.stream(source):
                    ...
                print(source.info, source.loss)

        A path is opened and closed here, and what was lost is logged as a warning.

        Raises:
            UsageError: The interval is empty or starts before 0.
            VideoError: The video cannot be used; see `VideoSource`.
        """
        if not (math.isfinite(start_seconds) and start_seconds >= 0):
            raise UsageError(f"start_seconds must be 0 or more, got {start_seconds}")
        end = math.inf if end_seconds is None else end_seconds
        if not end > start_seconds:
            raise UsageError(
                f"end_seconds must be after start_seconds, got [{start_seconds}, {end_seconds})"
            )
        return self._stream(video, start_seconds, end)

    def sample_frames(
        self,
        video: str | os.PathLike[str] | VideoSource,
        *,
        max_array_bytes: int = MAX_ARRAY_BYTES,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """All samples of a short clip at once.

        Args:
            video: Path or open source.
            max_array_bytes: Refuse to build a larger array.

        Returns:
            frames: ``(T, H, W, 3)`` RGB; with S neighbour offsets ``(T, 1 + 2 S, H, W, 3)``, the
                frame itself first, then its neighbours in the order of `SampledFrame.neighbors`.
            timestamps: ``(T,)`` seconds.

        Raises:
            UsageError: The array would be larger than ``max_array_bytes``.
            VideoError: The video cannot be used; see `VideoSource`.
        """
        pictures: list[tuple[Image, ...]] = []
        timestamps: list[float] = []
        num_bytes = 0
        with closing(self._stream(video, 0.0, math.inf)) as samples:
            for sample in samples:
                row = (sample.image, *sample.neighbors)
                num_bytes += sum(image.nbytes for image in row)
                if num_bytes > max_array_bytes:
                    raise UsageError(
                        f"{_name(video)}: its samples pass {max_array_bytes / 1024**3:.3g} GiB at "
                        f"{sample.timestamp:.1f} s; read them one by one with stream(), or set "
                        "max_frames or a lower fps"
                    )
                pictures.append(row)
                timestamps.append(sample.timestamp)
        if not pictures:
            raise EmptyVideoError(_name(video), "gave no frame")
        num_images = len(pictures[0])
        frames = np.empty((len(pictures), num_images, *pictures[0][0].shape), dtype=np.uint8)
        # From the back, and let go as we go: the clip is then never in memory twice.
        for index in range(len(pictures) - 1, -1, -1):
            frames[index] = pictures.pop()
        if num_images == 1:
            frames = frames[:, 0]
        return frames, np.array(timestamps, dtype=np.float64)

    def _stream(
        self, video: str | os.PathLike[str] | VideoSource, start: float, end: float
    ) -> Generator[SampledFrame]:
        if isinstance(video, VideoSource):
            yield from self._samples(video, start, end)
            return
        with VideoSource.open(video, decoder=self.decoder) as source:
            try:
                yield from self._samples(source, start, end)
            finally:
                for note in source.loss.notes:
                    _log.warning("%s: %s", source.info.path, note)

    def _samples(self, source: VideoSource, start: float, end: float) -> Generator[SampledFrame]:
        reach = max(self.neighbor_offsets_seconds, default=0.0)
        period = 0.0 if self.fps is None else 1 / self.fps
        # A neighbour at `t - d` lies at `t - 2 d` or later, because the sample itself is only `d`
        # away; and a frame that follows a gap of a period is a sample whatever came before.
        read_from = max(0.0, start - 2 * reach - period - TIMESTAMP_ROUNDING_SECONDS)
        num_sampled = num_given = 0
        pending: deque[_Pending] = deque()
        # What the next sample can have as a neighbour; at least the frame before it.
        recent: deque[_Held] = deque()
        if self.is_sparse:
            frames = source.sparse_frames(read_from, max_time_error_seconds=period / 2)
        else:
            frames = source.frames(read_from)
        for frame in frames:
            held = _Held(frame, self.short_side)
            previous = recent[-1] if recent else None
            if previous is not None:
                for sample in pending:
                    sample.pass_by(previous, held)
            is_over = num_sampled == self.max_frames or held.timestamp >= end
            if not is_over and held.timestamp >= start and self._is_sampled(previous, held):
                wanted = [
                    held.timestamp + sign * offset
                    for offset in self.neighbor_offsets_seconds
                    for sign in (-1, 1)
                ]
                pending.append(_Pending(held, wanted, recent))
                num_sampled += 1
                is_over = num_sampled == self.max_frames
            while pending and pending[0].is_complete:
                yield pending.popleft().sample(num_given)
                num_given += 1
            if is_over and not pending:
                return
            recent.append(held)
            while len(recent) > 1 and recent[1].timestamp <= held.timestamp - reach:
                recent.popleft()
        for sample in pending:
            yield sample.sample(num_given, last=recent[-1])
            num_given += 1

    def _is_sampled(self, previous: _Held | None, held: _Held) -> bool:
        """Whether a target lies after ``previous`` and not after ``held``."""
        if previous is None or self.fps is None:
            return True
        return self._target(held) > self._target(previous)

    def _target(self, held: _Held) -> int:
        """The k of the last target ``k / fps`` that the frame is not before."""
        assert self.fps is not None
        return math.floor((held.timestamp + TIMESTAMP_ROUNDING_SECONDS) * self.fps)


def _name(video: str | os.PathLike[str] | VideoSource) -> str:
    return video.info.path if isinstance(video, VideoSource) else os.fspath(video)
