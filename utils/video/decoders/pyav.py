"""`PyAvSource`: the default decoder, FFmpeg through PyAV.

First room of the cascade. Three things are done here that a plain decode loop gets wrong: times are
presentation times after edit lists, damage is skipped and accounted for in seconds, and a seek is
believed only after a look at where it landed.
"""

from __future__ import annotations

import itertools
import math
import os
import weakref
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from utils.errors import (
    EmptyVideoError,
    NotAVideoError,
    NoVideoStreamError,
    UsageError,
    VideoDecodeError,
    VideoError,
)
from utils.video.decoders.file_checks import check_file, why_no_container
from utils.video.decoders.orientation import Orientation
from utils.video.decoders.pyav_reading import (
    NO_PACKETS,
    ONE_PACKET_ONE_FRAME,
    Reading,
    Records,
    codec_name,
    tagged_duration,
)
from utils.video.source import (
    DecodedFrame,
    DecodeLoss,
    Image,
    Skipping,
    VideoInfo,
    VideoSource,
    check_num_threads,
    check_time_error,
    scaled_size,
)

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    _Frames = Iterator[tuple[int, VideoFrame]]
    _Position = tuple[Reading, _Frames, int]

URL_TIMEOUT_SECONDS = 30.0
"""How long a server may keep us waiting, to open and for each read; local files are not timed."""

NO_TIMESTAMPS = 0x80
"""FFmpeg's ``AVFMT_NOTIMESTAMPS``: whatever times come out were made up."""


class _PyAvFrame(DecodedFrame):
    """A decoded frame in the decoder's own pixel format."""

    def __init__(
        self, source: PyAvSource, frame: VideoFrame, *, frame_index: int, timestamp: float
    ) -> None:
        self._source = source
        self._frame = frame
        self.frame_index = frame_index
        self.timestamp = timestamp

    def rgb(self, *, short_side: int | None = None) -> Image:
        return self._source._to_rgb(self._frame, short_side)


@dataclass(frozen=True, kw_only=True)
class PacketScan:
    """What the packets of a file say without being decoded; see `PyAvSource.scan_packets`.

    Attributes:
        format_names: FFmpeg's names of the container.
        timestamps: ``(N,)`` seconds of the presented frames, strictly rising; empty where
            ``problem`` says why they are not known.
        num_hidden: Frames that an edit list hides.
        is_mirrored: Whether the picture must be mirrored to be shown right.
        problem: Why packets do not tell the frames and their times, or what is damaged.
    """

    format_names: tuple[str, ...]
    timestamps: NDArray[np.float64]
    num_hidden: int
    is_mirrored: bool
    problem: str | None


class PyAvSource(VideoSource):
    """A video file or URL read by FFmpeg.

    The first frame is decoded on construction: its time is second 0, and it shows the true size,
    rotation and that there is anything to see. Every call of `frames` reads through a container of
    its own, so iterators do not disturb each other; ``loss`` is that of the latest call. URLs
    cannot be rewound in general: each call opens the address anew.

    Frames whose size changes in mid-stream are scaled to that of the first one. A source and its
    frames belong to one thread.

    Args:
        path: File or URL.
        num_threads: Of the decoder; None for one more than there are cores, and 16 at most.

    Raises:
        VideoNotFoundError: No such file, a link to nowhere, or a folder, pipe, socket or device.
        VideoError: The file may not be read, or the URL cannot be opened.
        EmptyVideoError: No bytes, or no frame that can be decoded.
        NotAVideoError: No container that FFmpeg knows, or an MP4 without its index.
        NoVideoStreamError: Only sound, subtitles or a cover picture.
        VideoDecodeError: No decoder for the codec, or a bare stream that carries no times.
    """

    def __init__(self, path: str | os.PathLike[str], *, num_threads: int | None = None) -> None:
        check_num_threads(num_threads)
        self._path = os.fspath(path)
        self._num_threads = num_threads
        self._is_url = "://" in self._path
        self._is_closed = False
        self._running: weakref.WeakSet[Generator[DecodedFrame]] = weakref.WeakSet()
        self._reformatter = VideoReformatter()
        self.skipping = Skipping()
        if not self._is_url:
            check_file(self._path)

        reading = self._open_reading(Records(), first_pts=None)
        try:
            self._first_pts, first = self._first_frame(reading)
            self._width, self._height = first.width, first.height
            self._orientation = Orientation.of(first)
            assert reading.stream.time_base is not None
            self._time_base = reading.stream.time_base
            self.info = self._describe(reading)
            self.loss = reading.records.loss
        finally:
            reading.close()

    def frames(self, start_seconds: float = 0.0) -> Iterator[DecodedFrame]:
        """Frames in presentation order with ``timestamp >= start_seconds``; times rise strictly.

        A start behind the first frame is sought. ``frame_index`` is then the number of packets
        before the frame sought, counted without decoding; where packets and frames need not match
        (see `ONE_PACKET_ONE_FRAME`) or the seek landed elsewhere, decoding starts from the
        beginning. Where a sequential read loses frames to damage before ``start_seconds``, the
        count includes them.

        Raises:
            UsageError: The source is closed, or ``start_seconds`` is no number.
            VideoDecodeError: Nothing was given out because everything from here on is damaged.
        """
        return self._start(start_seconds, None)

    def sparse_frames(
        self, start_seconds: float = 0.0, *, max_time_error_seconds: float
    ) -> Iterator[DecodedFrame]:
        """As `frames`, without those that no other refers to, where the bound allows it.

        The decoder skips them (FFmpeg's ``NONREF``). At the first run of them that is longer than
        the bound it goes back, and all is decoded from there on. Of a URL, where there is no going
        back, nothing is skipped.
        """
        check_time_error(max_time_error_seconds)
        return self._start(start_seconds, None if self._is_url else max_time_error_seconds)

    def scan_packets(self) -> PacketScan:
        """Read all packets and decode none.

        Raises:
            VideoError: The file cannot be opened any more.
        """
        reading = self._reading()
        try:
            ticks, num_hidden, problem = reading.scan()
        finally:
            reading.close()
        base = self._time_base
        shown = np.array([tick for tick in ticks if tick >= self._first_pts], np.float64)
        timestamps = (shown - self._first_pts) * base.numerator / base.denominator
        if problem is None and self.info.codec not in ONE_PACKET_ONE_FRAME:
            problem = f"packets of {self.info.codec} and its frames need not match"
        return PacketScan(
            format_names=tuple(reading.container.format.name.split(",")),
            timestamps=timestamps if problem is None else timestamps[:0],
            num_hidden=num_hidden,
            is_mirrored=self._orientation.is_mirrored,
            problem=problem,
        )

    def close(self) -> None:
        self._is_closed = True
        for generator in list(self._running):
            generator.close()

    def _start(
        self, start_seconds: float, max_skip_seconds: float | None
    ) -> Generator[DecodedFrame]:
        if self._is_closed:
            raise UsageError(f"{self._path}: the source is closed; open it again to read on")
        if not math.isfinite(start_seconds):
            raise UsageError(f"start_seconds must be a finite number, got {start_seconds}")
        self.loss, self.skipping = DecodeLoss(), Skipping()
        records = Records(loss=self.loss, skipping=self.skipping, max_skip_seconds=max_skip_seconds)
        generator = self._read(start_seconds, records)
        self._running.add(generator)
        return generator

    def _read(self, start_seconds: float, records: Records) -> Generator[DecodedFrame]:
        reading, frames, index = self._positioned(start_seconds, records)
        num_given = num_skipped = 0
        last: int | None = None
        try:
            while True:
                for pts, frame in frames:
                    if last is not None and pts <= last:
                        continue
                    index += records.skipping.num_frames - num_skipped
                    num_skipped = records.skipping.num_frames
                    timestamp = reading.seconds(pts - self._first_pts)
                    if timestamp >= start_seconds:
                        num_given += 1
                        yield _PyAvFrame(self, frame, frame_index=index, timestamp=timestamp)
                    index += 1
                    last = pts
                if not reading.is_too_sparse:
                    break
                reading.close()
                reading, frames = self._decoding_all(last, start_seconds, records)
        finally:
            reading.close()
        if not num_given and records.loss.num_corrupt_packets:
            raise VideoDecodeError(
                self._path,
                f"nothing can be decoded from {start_seconds:.3f} s on: "
                + "; ".join(records.loss.notes),
            )

    def _positioned(self, start_seconds: float, records: Records) -> _Position:
        """A reading at or before ``start_seconds``, its frames, and the first one's index."""
        if start_seconds > 0 and not self._is_url:
            sought = self._sought(start_seconds, records)
            if sought is not None:
                return sought
        reading = self._reading(records)
        return reading, reading.frames(), 0

    def _decoding_all(
        self, pts: int | None, start_seconds: float, records: Records
    ) -> tuple[Reading, _Frames]:
        """A reading that skips nothing and has all frames behind ``pts``; None: behind the start.

        Where something is lost it begins where the first one did, to count that once and in full.
        """
        records.max_skip_seconds = None
        landed = None if pts is None or records.loss else self._landed(pts, records)
        if landed is None:
            reading, frames, _ = self._positioned(start_seconds, records)
            return reading, frames
        return landed

    def _sought(self, start_seconds: float, records: Records | None = None) -> _Position | None:
        """As `_positioned`, by seeking; None where the landing cannot be trusted."""
        target = self._first_pts + int(start_seconds / self._time_base)
        landed = self._landed(target, records)
        if landed is None:
            return None
        reading, frames = landed
        first = next(frames)
        index = self._count_packets_before(first[0])
        if index is None:
            reading.close()
            return None
        return reading, itertools.chain([first], frames), index

    def _landed(self, target: int, records: Records | None) -> tuple[Reading, _Frames] | None:
        """A reading from the key frame at or before ``target`` on; None where that is in doubt."""
        reading = self._reading(records)
        try:
            reading.seek(target)
            frames = reading.frames()
            pts, frame = next(frames)
        except (av.FFmpegError, StopIteration):
            reading.close()
            return None
        # A first frame that is no key frame was decoded without what it refers to; one behind the
        # target means that frames which belong to the answer were jumped over.
        if frame.key_frame and not frame.interlaced_frame and self._first_pts <= pts <= target:
            return reading, itertools.chain([(pts, frame)], frames)
        reading.close()
        return None

    def _count_packets_before(self, pts: int) -> int | None:
        """Presented packets before ``pts``; None where they are no count of the frames."""
        count = 0
        previous: int | None = None
        container = self._open_container()
        try:
            stream = self._pick_stream(container)
            if codec_name(stream) not in ONE_PACKET_ONE_FRAME:
                return None
            for packet in container.demux(stream):
                if not packet.size:
                    break
                if packet.pts is None or packet.pts == previous or packet.is_corrupt:
                    return None
                previous = packet.pts
                if packet.dts is not None and packet.dts >= pts:
                    break
                count += not packet.is_discard and self._first_pts <= packet.pts < pts
        except av.FFmpegError:
            return None
        finally:
            container.close()
        return count

    def _to_rgb(self, frame: VideoFrame, short_side: int | None) -> Image:
        width, height = scaled_size(self._width, self._height, short_side)
        # One thread: slices of a picture that are converted apart can differ along the seam.
        converted = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", threads=1
        )
        return self._orientation.apply(cast("Image", converted.to_ndarray()))

    def _reading(self, records: Records | None = None) -> Reading:
        return self._open_reading(records or Records(), first_pts=self._first_pts)

    def _open_reading(self, records: Records, *, first_pts: int | None) -> Reading:
        container = self._open_container()
        return Reading(
            container,
            self._pick_stream(container),
            path=self._path,
            first_pts=first_pts,
            records=records,
            num_threads=self._num_threads,
        )

    def _open_container(self) -> InputContainer:
        # An absolute path, because FFmpeg takes "10:30.mp4" for an address of protocol "10".
        name = self._path if self._is_url else os.path.abspath(self._path)
        timeout = URL_TIMEOUT_SECONDS if self._is_url else None
        try:
            return av.open(name, "r", metadata_errors="replace", timeout=timeout)
        except av.InvalidDataError:
            raise NotAVideoError(self._path, why_no_container(self._path)) from None
        except av.EOFError:
            raise EmptyVideoError(self._path, NO_PACKETS) from None
        except (av.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise VideoError(self._path, f"cannot be opened: {reason}") from error

    def _pick_stream(self, container: InputContainer) -> VideoStream:
        if container.format.name == "tty":
            # FFmpeg plays any text file as a film of a terminal.
            container.close()
            raise NotAVideoError(self._path, "a text file, not a video")
        if container.format.flags & NO_TIMESTAMPS:
            container.close()
            raise VideoDecodeError(
                self._path,
                f"a bare {container.format.name} stream without times; convert it with the frame "
                f"rate that you know: ffmpeg -r RATE -i {os.path.basename(self._path)} "
                "converted.mp4",
            )
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            kinds = sorted({found.type for found in container.streams if found is not stream})
            container.close()
            what = f"no video, only {' and '.join(kinds)}" if kinds else "no streams at all"
            raise NoVideoStreamError(self._path, f"holds {what}")
        assert isinstance(stream, av.VideoStream)
        if stream.codec_context is None:
            container.close()
            raise VideoDecodeError(self._path, "this FFmpeg has no decoder for its video codec")
        return stream

    def _first_frame(self, reading: Reading) -> tuple[int, VideoFrame]:
        for _, frame in reading.frames():
            assert reading.first_due is not None
            return reading.first_due, frame
        if reading.num_without_time:
            raise VideoDecodeError(
                self._path,
                f"a bare {reading.stream.codec_context.name} stream without times; convert it with "
                f"the frame rate that you know: ffmpeg -r RATE -i "
                f"{os.path.basename(self._path)} converted.mp4",
            )
        if not reading.has_packets and not reading.records.loss:
            raise EmptyVideoError(self._path, NO_PACKETS)
        notes = f" ({'; '.join(reading.records.loss.notes)})" if reading.records.loss else ""
        raise EmptyVideoError(self._path, f"no frame can be decoded{notes}")

    def _describe(self, reading: Reading) -> VideoInfo:
        container, stream = reading.container, reading.stream
        turned = self._orientation.transpose
        duration: float | None = None
        if stream.duration is not None:
            duration = reading.seconds(stream.duration)
        else:
            end = tagged_duration(stream)
            if end is None and container.duration is not None:
                end = container.duration / av.time_base
            # Matroska states where the last frame ends on its own clock, which need not start at 0.
            if end is not None:
                duration = end - reading.seconds(self._first_pts)
        rate = stream.average_rate
        return VideoInfo(
            path=self._path,
            codec=codec_name(stream),
            width=self._height if turned else self._width,
            height=self._width if turned else self._height,
            rotation=self._orientation.rotation,
            source_fps=float(rate) if rate else None,
            duration_seconds=duration if duration is not None and duration > 0 else None,
        )
