"""`PyAvSource`: the default decoder, FFmpeg through PyAV.

First room of the cascade. Three things are done here that a plain decode loop gets wrong: times are
presentation times after edit lists, damage is skipped and accounted for in seconds, and a seek is
believed only after a look at where it landed.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
import os
import stat
import weakref
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from utils.errors import (
    EmptyVideoError,
    NotAVideoError,
    NoVideoStreamError,
    UsageError,
    VideoDecodeError,
    VideoError,
    VideoNotFoundError,
)
from utils.video.source import DecodedFrame, DecodeLoss, Image, VideoInfo, VideoSource

if TYPE_CHECKING:
    from av.buffer import Buffer
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

URL_TIMEOUT_SECONDS = 30.0
"""How long a server may keep us waiting, to open and for each read; local files are not timed."""

MAX_FRUITLESS_READS = 100
"""Read errors in a row, without one packet between, after which the rest is given up as lost."""

NO_PACKETS = "the file ends before its first frame: it is cut off or still being written"

ONE_PACKET_ONE_FRAME = frozenset({"h264", "hevc", "vp9", "av1", "mjpeg", "ffv1"})
"""Codecs whose packets can be counted instead of their frames. VP8 hides reference frames in
packets of their own, and MPEG-4 in AVI packs two frames into one and an empty one after it."""

HEADER_STATES_DURATION = frozenset({"mov", "matroska", "avi", "flv", "asf"})
"""Containers that write the duration down; elsewhere FFmpeg only estimates it, and an estimate is
no proof that something is missing."""


@dataclass(frozen=True, slots=True)
class _Orientation:
    """How stored pixels become upright ones: transpose, then flip columns, then rows."""

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> _Orientation:
        """From the frame's display matrix, to the nearest quarter turn."""
        # PyAV's `frame.rotation` knows turns only and takes a mirror image for half a turn, so the
        # matrix is read here: (x', y') = (a x + c y, b x + d y) with x to the right and y down.
        # PyAV's own annotation of side_data is wrong: it maps names to buffers.
        side_data = cast("Mapping[str, Buffer]", frame.side_data)
        if "DISPLAYMATRIX" not in side_data:
            return cls()
        matrix = np.frombuffer(bytes(side_data["DISPLAYMATRIX"]), dtype=np.int32)
        a, b, _, c, d = matrix[:5].tolist()
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(flip_columns=a < 0, flip_rows=d < 0)
        return cls(transpose=True, flip_columns=c < 0, flip_rows=b < 0)

    @property
    def rotation(self) -> int:
        """Degrees clockwise; a mirror image counts as mirrored first and turned then."""
        if self.transpose:
            return 90 if self.flip_columns else 270
        return 180 if self.flip_rows else 0

    def apply(self, image: Image) -> Image:
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.flip_columns:
            image = image[:, ::-1]
        if self.flip_rows:
            image = image[::-1]
        return np.ascontiguousarray(image)


class _PyAvFrame(DecodedFrame):
    """A decoded frame in the decoder's own pixel format."""

    def __init__(
        self, source: PyAvSource, frame: VideoFrame, *, frame_index: int, timestamp: float
    ) -> None:
        self._source = source
        self._frame = frame
        self.frame_index = frame_index
        self.timestamp = timestamp

    def rgb(self) -> Image:
        return self._source._to_rgb(self._frame)


class _Reading:
    """One pass over the file: its own container and decoder, and the account of what is lost."""

    def __init__(self, source: PyAvSource) -> None:
        self.loss = DecodeLoss()
        self.container = source._open_container()
        self.stream = source._pick_stream(self.container)
        # Frame threads decode several frames at once; without them one core does all the work.
        self.stream.thread_type = "AUTO"
        self._num_damaged = 0
        self.num_without_time = 0
        self.has_packets = False
        self._gap_seconds = 0.0
        self._tail_seconds = 0.0
        self._avi_shift = 0
        # Times of packets that went into the decoder and have not come out as frames yet.
        self._awaited: list[int] = []

    def seconds(self, ticks: int) -> float:
        base = self.stream.time_base
        assert base is not None
        return ticks * base.numerator / base.denominator

    def close(self) -> None:
        self.container.close()

    def frames(self) -> Generator[tuple[int, VideoFrame]]:
        """``(pts, frame)`` in presentation order; ``pts`` in stream ticks, strictly rising."""
        last: int | None = None
        end: int | None = None
        for frame in self._decoded():
            pts = frame.pts if frame.pts is not None else frame.dts
            if pts is None or (last is not None and pts <= last):
                self.num_without_time += 1
                self._write_notes()
                continue
            duration = frame.duration or (pts - last if last is not None else 0)
            num_missing = 0
            while self._awaited and self._awaited[0] <= pts:
                num_missing += heapq.heappop(self._awaited) != pts
            # Before the first frame nothing is missing: time starts with it. A gap in which no
            # packet was due is how variable frame rate looks.
            if num_missing and end is not None and pts - end > duration // 2:
                self._gap_seconds += self.seconds(pts - end)
                self._write_notes()
            last, end = pts, pts + duration
            yield pts, frame
        if last is not None and end is not None:
            self._account_for_tail(last, end)

    def _account_for_tail(self, last: int, end: int) -> None:
        """What the container promised after the last frame."""
        claimed_end = self._claimed_end()
        missing = max((pts for pts in self._awaited), default=last)
        if missing > last and (claimed_end is None or claimed_end < missing):
            claimed_end = missing + (end - last)
        if claimed_end is None:
            return
        # Headers round and VFR files do not know how long their last frame stays; where nothing
        # else points to damage, only more than a frame is taken for a loss.
        is_suspect = bool(self._num_damaged or missing > last)
        if claimed_end - end > (end - last) * (0.5 if is_suspect else 1.5):
            self._tail_seconds = self.seconds(claimed_end - end)
            self._write_notes()

    def _claimed_end(self) -> int | None:
        """Where the header says that the video stream ends, in ticks on the stream's clock."""
        container, stream = self.container, self.stream
        if not HEADER_STATES_DURATION.intersection(container.format.name.split(",")):
            return None
        if stream.duration is not None:
            # Where an AVI's index is cut off FFmpeg shortens the duration to what is left, but not
            # the number of frames, each of which is one tick there.
            num_ticks = max(stream.duration, stream.frames if container.format.name == "avi" else 0)
            return (stream.start_time or 0) + num_ticks
        seconds = _tagged_duration(stream)
        if seconds is None and container.duration is not None and len(container.streams) == 1:
            # With other streams beside it the file's duration may be that of its sound.
            seconds = container.duration / av.time_base
        assert stream.time_base is not None
        return None if seconds is None else round(seconds / stream.time_base)

    def _decoded(self) -> Iterator[VideoFrame]:
        """Everything that the decoder gives out; what it refuses is counted and passed over."""
        for packet in self._packets():
            try:
                yield from packet.decode()
            except av.FFmpegError:
                self._count_damage()

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """All packets worth decoding, and the empty one that flushes the decoder."""
        num_failures = 0
        while True:
            try:
                for packet in self.container.demux(self.stream):
                    num_failures = 0
                    self.has_packets = self.has_packets or packet.size > 0
                    if self.container.format.name == "avi":
                        self._retime(packet)
                    if packet.pts is not None and packet.size and not packet.is_discard:
                        heapq.heappush(self._awaited, packet.pts)
                    if packet.is_corrupt:
                        self._count_damage()
                        continue
                    yield packet
                return
            except av.FFmpegError:
                # The demuxer looks for the next sound packet when it is asked again.
                self._count_damage()
                num_failures += 1
                if num_failures >= MAX_FRUITLESS_READS:
                    return

    def _retime(self, packet: Packet[VideoStream]) -> None:
        """Correct the time of an AVI packet that follows a damaged stretch.

        AVI stores an order and no times: FFmpeg counts chunks, and after a stretch that it could
        not read counts on as if nothing were missing. The index says which chunk lies where.
        """
        index = self.stream.index_entries
        if packet.pos is None or packet.dts is None:
            return
        # The index points at the chunk's header, of 8 bytes.
        place = bisect.bisect_left(index, packet.pos - 8, key=lambda entry: entry.pos)
        if place < len(index) and index[place].pos == packet.pos - 8:
            shift = index[place].timestamp - packet.dts
            packet.dts += shift
            if packet.pts is not None:
                packet.pts += shift
            for missing in range(self._avi_shift, shift):
                heapq.heappush(self._awaited, packet.dts - shift + missing)
            self._avi_shift = shift

    def _count_damage(self) -> None:
        self._num_damaged += 1
        self._write_notes()

    def _write_notes(self) -> None:
        self.loss.num_corrupt_packets = self._num_damaged
        self.loss.lost_seconds = self._gap_seconds + self._tail_seconds
        notes = []
        if self._num_damaged:
            notes.append(f"{_count(self._num_damaged, 'damaged packet')} skipped")
        if self._gap_seconds:
            notes.append(f"{self._gap_seconds:.2f} s of video in between could not be decoded")
        if self._tail_seconds:
            notes.append(f"the file is cut off: {self._tail_seconds:.2f} s at its end are missing")
        if self.num_without_time:
            notes.append(
                f"{_count(self.num_without_time, 'frame')} left out for want of a time that rises"
            )
        self.loss.notes[:] = notes


class PyAvSource(VideoSource):
    """A video file or URL read by FFmpeg.

    The first frame is decoded on construction: its time is second 0, and it shows the true size,
    rotation and that there is anything to see. Every call of `frames` reads through a container of
    its own, so iterators do not disturb each other; ``loss`` is that of the latest call. URLs
    cannot be rewound in general: each call opens the address anew.

    Frames whose size changes in mid-stream are scaled to that of the first one. A source and its
    frames belong to one thread.

    Raises:
        VideoNotFoundError: No such file, a link to nowhere, or a folder, pipe, socket or device.
        VideoError: The file may not be read, or the URL cannot be opened.
        EmptyVideoError: No bytes, or no frame that can be decoded.
        NotAVideoError: No container that FFmpeg knows, or an MP4 without its index.
        NoVideoStreamError: Only sound, subtitles or a cover picture.
        VideoDecodeError: No decoder for the codec, or a bare stream that carries no times.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._is_url = "://" in self._path
        self._is_closed = False
        self._running: weakref.WeakSet[Generator[DecodedFrame]] = weakref.WeakSet()
        self._reformatter = VideoReformatter()
        if not self._is_url:
            _check_file(self._path)

        reading = _Reading(self)
        try:
            self._first_pts, first = self._first_frame(reading)
            self._width, self._height = first.width, first.height
            self._orientation = _Orientation.of(first)
            self.info = self._describe(reading)
            self.loss = reading.loss
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
        if self._is_closed:
            raise UsageError(f"{self._path}: the source is closed; open it again to read on")
        if not math.isfinite(start_seconds):
            raise UsageError(f"start_seconds must be a finite number, got {start_seconds}")
        self.loss = DecodeLoss()
        generator = self._read(start_seconds)
        self._running.add(generator)
        return generator

    def close(self) -> None:
        self._is_closed = True
        for generator in list(self._running):
            generator.close()

    def _read(self, start_seconds: float) -> Generator[DecodedFrame]:
        reading, frames, index = self._positioned(start_seconds)
        self.loss = reading.loss
        num_given = 0
        try:
            for pts, frame in frames:
                timestamp = reading.seconds(pts - self._first_pts)
                if timestamp >= start_seconds:
                    num_given += 1
                    yield _PyAvFrame(self, frame, frame_index=index, timestamp=timestamp)
                index += 1
        finally:
            reading.close()
        if not num_given and reading.loss.num_corrupt_packets:
            raise VideoDecodeError(
                self._path,
                f"nothing can be decoded from {start_seconds:.3f} s on: "
                + "; ".join(reading.loss.notes),
            )

    def _positioned(
        self, start_seconds: float
    ) -> tuple[_Reading, Iterator[tuple[int, VideoFrame]], int]:
        """A reading at or before ``start_seconds``, its frames, and the first one's index."""
        if start_seconds > 0 and not self._is_url:
            sought = self._sought(start_seconds)
            if sought is not None:
                return sought
        reading = _Reading(self)
        return reading, reading.frames(), 0

    def _sought(
        self, start_seconds: float
    ) -> tuple[_Reading, Iterator[tuple[int, VideoFrame]], int] | None:
        """As `_positioned`, by seeking; None where the landing cannot be trusted."""
        reading = _Reading(self)
        base = reading.stream.time_base
        assert base is not None
        target = self._first_pts + int(start_seconds / base)
        try:
            reading.container.seek(target, stream=reading.stream)
            frames = reading.frames()
            pts, frame = next(frames)
        except (av.FFmpegError, StopIteration):
            reading.close()
            return None
        # A first frame that is no key frame was decoded without what it refers to; one behind the
        # target means that frames which belong to the answer were jumped over.
        if frame.key_frame and not frame.interlaced_frame and self._first_pts <= pts <= target:
            index = self._count_packets_before(pts)
            if index is not None:
                return reading, itertools.chain([(pts, frame)], frames), index
        reading.close()
        return None

    def _count_packets_before(self, pts: int) -> int | None:
        """Presented packets before ``pts``; None where they are no count of the frames."""
        count = 0
        previous: int | None = None
        container = self._open_container()
        try:
            stream = self._pick_stream(container)
            if stream.codec_context.name not in ONE_PACKET_ONE_FRAME:
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

    def _to_rgb(self, frame: VideoFrame) -> Image:
        # One thread: slices of a picture that are converted apart can differ along the seam.
        converted = self._reformatter.reformat(
            frame, width=self._width, height=self._height, format="rgb24", threads=1
        )
        return self._orientation.apply(cast("Image", converted.to_ndarray()))

    def _open_container(self) -> InputContainer:
        # An absolute path, because FFmpeg takes "10:30.mp4" for an address of protocol "10".
        name = self._path if self._is_url else os.path.abspath(self._path)
        timeout = URL_TIMEOUT_SECONDS if self._is_url else None
        try:
            return av.open(name, "r", metadata_errors="replace", timeout=timeout)
        except av.InvalidDataError:
            raise NotAVideoError(self._path, _why_no_container(self._path)) from None
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

    def _first_frame(self, reading: _Reading) -> tuple[int, VideoFrame]:
        for pts, frame in reading.frames():
            return pts, frame
        if reading.num_without_time:
            raise VideoDecodeError(
                self._path,
                f"a bare {reading.stream.codec_context.name} stream without times; convert it with "
                f"the frame rate that you know: ffmpeg -r RATE -i "
                f"{os.path.basename(self._path)} converted.mp4",
            )
        if not reading.has_packets and not reading.loss:
            raise EmptyVideoError(self._path, NO_PACKETS)
        notes = f" ({'; '.join(reading.loss.notes)})" if reading.loss else ""
        raise EmptyVideoError(self._path, f"no frame can be decoded{notes}")

    def _describe(self, reading: _Reading) -> VideoInfo:
        container, stream = reading.container, reading.stream
        turned = self._orientation.transpose
        duration: float | None = None
        if stream.duration is not None:
            duration = reading.seconds(stream.duration)
        else:
            end = _tagged_duration(stream)
            if end is None and container.duration is not None:
                end = container.duration / av.time_base
            # Matroska states where the last frame ends on its own clock, which need not start at 0.
            if end is not None:
                duration = end - reading.seconds(self._first_pts)
        rate = stream.average_rate
        return VideoInfo(
            path=self._path,
            codec=stream.codec_context.name,
            width=self._height if turned else self._width,
            height=self._width if turned else self._height,
            rotation=self._orientation.rotation,
            source_fps=float(rate) if rate else None,
            duration_seconds=duration if duration is not None and duration > 0 else None,
        )


def _check_file(path: str) -> None:
    """Everything that can be said of a local path without FFmpeg, which would wait on a pipe."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            target = os.readlink(path)
            raise VideoNotFoundError(path, f"a link to '{target}', which does not exist") from None
        raise VideoNotFoundError(path, "no such file") from None
    except NotADirectoryError:
        raise VideoNotFoundError(path, "no such file: a folder in the path is a file") from None
    except PermissionError:
        raise VideoError(path, "a folder in the path may not be entered (chmod +x it)") from None
    except (OSError, ValueError) as error:
        raise VideoNotFoundError(path, f"no usable file name: {error}") from None
    if stat.S_ISDIR(status.st_mode):
        raise VideoNotFoundError(path, "a folder, not a file; give the videos in it")
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "device")
        raise VideoNotFoundError(path, f"a {kind}, not a regular file")
    try:
        with open(path, "rb"):
            pass
    except PermissionError:
        raise VideoError(
            path, "permission denied; make it readable (chmod u+r) or run as its owner"
        ) from None
    if status.st_size == 0:
        raise EmptyVideoError(path, "the file is empty (0 bytes)")


def _why_no_container(path: str) -> str:
    """The reason for FFmpeg's "invalid data", as far as the first bytes tell it."""
    if "://" not in path:
        with open(path, "rb") as file:
            if file.read(8)[4:8] == b"ftyp":
                return (
                    "an MP4 without a readable index (moov): the file is cut off or still being "
                    "written; wait for it, or record to MKV, which survives being cut"
                )
    return "not a video: the bytes are in no container that FFmpeg knows"


def _tagged_duration(stream: VideoStream) -> float | None:
    """Matroska's per-stream ``DURATION`` tag, "HH:MM:SS.fraction", in seconds."""
    tag = stream.metadata.get("DURATION", "")
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
