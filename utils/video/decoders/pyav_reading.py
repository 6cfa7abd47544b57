"""`Reading`: one pass of FFmpeg over a file, and the account of what is lost in it.

First room of the cascade, under `PyAvSource`. Packets go in as they lie in the file; frames come
out in the order of their times, and whatever is missing between and after them is known in seconds.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections import deque
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, cast

import av

from utils.video.source import DecodeLoss, Skipping

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_FRUITLESS_READS = 100
"""Read errors in a row, without one packet between, after which the rest is given up as lost."""

NO_PACKETS = "the file ends before its first frame: it is cut off or still being written"

ONE_PACKET_ONE_FRAME = frozenset({"h264", "hevc", "vp9", "av1", "mjpeg", "ffv1"})
"""Codecs whose packets can be counted instead of their frames. VP8 hides reference frames in
packets of their own, and MPEG-4 in AVI packs two frames into one and an empty one after it."""

HEADER_STATES_DURATION = frozenset({"mov", "matroska", "avi", "flv", "asf"})
"""Containers that write the duration down; elsewhere FFmpeg only estimates it, and an estimate is
no proof that something is missing."""

MAX_CLUSTER_HEADER_BYTES = 64
"""What Matroska writes between two packets that follow each other is shorter than this. More bytes
that belong to no packet, and a gap in time with them, are a stretch that FFmpeg jumped over."""

SUSPECT_JUMP_SECONDS = 1.0
"""A jump ahead by this much is believed once the frame after it confirms it."""

MAX_FRAMES_BEHIND_END = 50
"""So many frames in a row that lie behind the end which the header states refute the header."""

MAX_REMEMBERED_JUMPS = 64
"""Damaged stretches whose frames may still be in the decoder."""

MAX_OVERTAKEN_FRAMES = 4
"""A frame that comes before more frames than these, all of them earlier, has a damaged time. H.264
decoders that lost their place in the display order were seen to be off by one."""

MAX_REORDERED_FRAMES = 16
"""As many frames a decoder may hold back (H.264 and HEVC), and so a cut can split from others."""

TS_PACKET_BYTES = 188
"""ISO/IEC 13818-1; a transport stream of another length ends inside a packet."""


class Reading:
    """One pass over the file: its own container and decoder, and the account of what is lost.

    Args:
        container: Is closed with the reading.
        stream: The video in it.
        path: Of the file.
        first_pts: Ticks of the first frame; 0 as long as nobody knows.
        max_skip_seconds: Leave out frames that no other refers to, as long as whoever waits for
            one of them gets the next one at most so much later; None decodes all.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        *,
        path: str,
        first_pts: int = 0,
        max_skip_seconds: float | None = None,
    ) -> None:
        self.container = container
        self.stream = stream
        self.loss = DecodeLoss()
        self._path = path
        self._first_pts = first_pts
        # Frame threads decode several frames at once; without them one core does all the work.
        self.stream.thread_type = "AUTO"
        self.skipping = Skipping()
        self._max_skip_seconds = max_skip_seconds
        if max_skip_seconds is not None:
            self.stream.codec_context.skip_frame = "NONREF"
        self._num_damaged = self._num_smeared = 0
        self.num_without_time = 0
        self.has_packets = False
        self._gap_seconds = 0.0
        self._tail_seconds = 0.0
        self._unplaced_seconds = 0.0
        self._avi_shift = 0
        # From where to where on the stream's clock packets were lost without a trace.
        self._jumps: deque[tuple[int, int]] = deque(maxlen=MAX_REMEMBERED_JUMPS)
        # Gaps in time that nothing explains yet: frame number and ticks.
        self._open_gaps: deque[tuple[int, int]] = deque(maxlen=MAX_REORDERED_FRAMES)
        self._num_open_gaps = 0
        self._has_jumped = False
        self._last_pos: int | None = None
        self._last_end: int | None = None
        self._last_video_pts: int | None = None
        self._is_cut = False
        # Frames to come whose time is doubtful, because one close before them had none.
        self._num_near_left_out = 0
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
        number = left_out_ticks = 0
        for pts, frame in self._timed():
            if last is not None and pts <= last:
                self._leave_out(pts)
                left_out_ticks += frame.duration or 0
                continue
            duration = frame.duration or (pts - last if last is not None else 0)
            missing = []
            while self._awaited and self._awaited[0] <= pts:
                due = heapq.heappop(self._awaited)
                if due != pts:
                    missing.append(due)
            # Before the first frame nothing is missing: time starts with it.
            if end is not None and last is not None:
                missing = [due for due in missing if due > last]
                self._account_for_gap(number, end, pts, duration, missing)
            last, end = pts, pts + duration
            number += 1
            left_out_ticks = 0
            self._num_near_left_out = max(0, self._num_near_left_out - 1)
            yield pts, frame
        if last is not None and end is not None:
            self._account_for_tail(number, last, end)
            if left_out_ticks:
                # Nothing after them says where in time they belong.
                self._unplaced_seconds = self.seconds(left_out_ticks)
                self._write_notes()

    def scan(self) -> tuple[list[int], int, str | None]:
        """Rising presentation times of all packets, how many are hidden, and what is wrong."""
        ticks: list[int] = []
        num_hidden = 0
        duration = 0
        for packet in self._packets():
            if not packet.size:
                continue
            if packet.pts is None:
                return [], num_hidden, "some of its packets carry no time"
            if packet.is_discard:
                num_hidden += 1
                continue
            ticks.append(packet.pts)
            duration = packet.duration or duration
        ticks.sort()
        if any(before == after for before, after in itertools.pairwise(ticks)):
            return [], num_hidden, "some of its packets have the same time"
        if not ticks:
            return [], num_hidden, NO_PACKETS
        if self._num_damaged or self._jumps:
            return ticks, num_hidden, "a part of it is damaged"
        claimed_end = self._claimed_end()
        if claimed_end is not None and claimed_end - ticks[-1] - duration > 1.5 * max(duration, 1):
            return ticks, num_hidden, "its end is missing"
        if self._ends_inside_a_packet():
            return ticks, num_hidden, "its end is missing"
        return ticks, num_hidden, None

    def _timed(self) -> Iterator[tuple[int, VideoFrame]]:
        """Decoded frames that have a time, put in order next to damage.

        There a decoder gives a frame before those that it should follow, and a damaged time stands
        alone far ahead. So a frame behind a gap waits for the next one to confirm it.
        """
        waiting: tuple[int, VideoFrame] | None = None
        is_far = False
        num_before = 0
        last: int | None = None
        num_behind_end = 0
        for frame in self._decoded():
            pts = frame.pts if frame.pts is not None else frame.dts
            if pts is None:
                self._leave_out(None)
                continue
            # A header that many frames contradict was written before they were.
            if num_behind_end < MAX_FRAMES_BEHIND_END and self._is_jump_behind_end(last, pts):
                num_behind_end += 1
                self._leave_out(pts)
                continue
            if num_behind_end < MAX_FRAMES_BEHIND_END:
                num_behind_end = 0
            if waiting is not None and last is not None:
                if last < pts < waiting[0]:
                    num_before += 1
                    if num_before > MAX_OVERTAKEN_FRAMES:
                        self._leave_out(waiting[0])
                        waiting = None
                    last = pts
                    yield pts, frame
                    continue
                # A camera that was off stays in the new time.
                if is_far and num_before:
                    self._leave_out(waiting[0])
                else:
                    last = waiting[0]
                    yield waiting
                waiting = None
            if last is not None and self._is_behind_a_gap(last, pts):
                waiting, num_before = (pts, frame), 0
                is_far = self.seconds(pts - last) > SUSPECT_JUMP_SECONDS
            else:
                last = pts if last is None else max(last, pts)
                yield pts, frame
        if waiting is not None:
            yield waiting

    def _is_jump_behind_end(self, last: int | None, pts: int) -> bool:
        """Whether a frame lies far from the one before it, and far behind the end of the file."""
        if last is None or self.seconds(pts - last) <= SUSPECT_JUMP_SECONDS:
            return False
        end = self._claimed_end()
        return end is not None and self.seconds(pts - end) > SUSPECT_JUMP_SECONDS

    def _is_behind_a_gap(self, last: int, pts: int) -> bool:
        if self.seconds(pts - last) > SUSPECT_JUMP_SECONDS:
            return True
        return any(last < due < pts for due in self._awaited)

    def _leave_out(self, pts: int | None) -> None:
        self.num_without_time += 1
        self._num_near_left_out = MAX_REORDERED_FRAMES
        if pts in self._awaited:
            self._awaited.remove(pts)
            heapq.heapify(self._awaited)
        self._write_notes()

    def _account_for_gap(
        self, number: int, end: int, pts: int, duration: int, missing: list[int]
    ) -> None:
        """The time between a frame that stays until ``end`` and the next one at ``pts``.

        A gap in which no packet was due is how variable frame rate looks.
        """
        if missing and self._max_skip_seconds is not None:
            error = self.seconds(pts - missing[0])
            self.skipping.num_frames += len(missing)
            self.skipping.max_time_error_seconds = max(self.skipping.max_time_error_seconds, error)
            if error > self._max_skip_seconds:
                # Too sparse to go on with: all of it is decoded from here on.
                self.stream.codec_context.skip_frame = "DEFAULT"
            if error <= self._max_skip_seconds or not (self._num_damaged or self._jumps):
                return
        if pts - end <= duration // 2:
            return
        if (
            missing
            or self._num_near_left_out
            or any(low < pts and end <= high for low, high in self._jumps)
        ):
            self._gap_seconds += self.seconds(pts - end)
            self._write_notes()
        else:
            self._open_gaps.append((number, pts - end))
            self._num_open_gaps += 1

    def _account_for_tail(self, number: int, last: int, end: int) -> None:
        """What the container promised after the last frame, the ``number``-th, and what is cut."""
        claimed_end = self._claimed_end()
        missing = max(self._awaited, default=last)
        if self._max_skip_seconds is not None:
            missing = last
        if missing > last and (claimed_end is None or claimed_end < missing):
            claimed_end = missing + (end - last)
        # Headers round and VFR files do not know how long their last frame stays; where nothing
        # else points to damage, only more than a frame is taken for a loss.
        is_suspect = bool(self._num_damaged or missing > last)
        if claimed_end is not None and claimed_end - end > (end - last) * (
            0.5 if is_suspect else 1.5
        ):
            self._tail_seconds = self.seconds(claimed_end - end)
            # A cut can take B-frames and leave the one after them, which is stored before them.
            near = [gap for place, gap in self._open_gaps if place > number - MAX_REORDERED_FRAMES]
            # Where there are others, this is a stream of variable rate.
            if len(near) == self._num_open_gaps:
                self._gap_seconds += self.seconds(sum(near))
        self._is_cut = bool(self._tail_seconds) or self._ends_inside_a_packet()
        self._write_notes()

    def _ends_inside_a_packet(self) -> bool:
        """Whether a transport stream, which states no duration, is visibly cut off."""
        if self.container.format.name != "mpegts" or not self.container.size > 0:
            return False
        with open(self._path, "rb") as file:
            # Variants with a time before every packet do not begin with the sync byte.
            is_plain = file.read(1) == b"\x47"
        return is_plain and self.container.size % TS_PACKET_BYTES != 0

    def _claimed_end(self) -> int | None:
        """Where the header says that the video stream ends, in ticks on the stream's clock."""
        container, stream = self.container, self.stream
        if not HEADER_STATES_DURATION.intersection(container.format.name.split(",")):
            return None
        if stream.duration is not None:
            # Where an AVI's index is cut off FFmpeg shortens the duration to what is left, but not
            # the number of frames, each of which is one tick there.
            if container.format.name == "avi":
                return self._first_pts + max(stream.duration, stream.frames)
            return (stream.start_time or 0) + stream.duration
        seconds = tagged_duration(stream)
        if seconds is None and container.duration is not None and len(container.streams) == 1:
            # With other streams beside it the file's duration may be that of its sound.
            seconds = container.duration / av.time_base
        assert stream.time_base is not None
        return None if seconds is None else round(seconds / stream.time_base)

    def _decoded(self) -> Iterator[VideoFrame]:
        """Everything that the decoder gives out; what it refuses is counted and passed over."""
        for packet in self._packets():
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self._count_damage()
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self._num_smeared += 1
                    self._write_notes()
                yield frame

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """All packets worth decoding, and the empty one that flushes the decoder."""
        num_failures = 0
        while True:
            try:
                for packet in self._demuxed():
                    num_failures = 0
                    self.has_packets = self.has_packets or packet.size > 0
                    if self.container.format.name == "avi":
                        self._retime(packet)
                    if packet.pts is not None and packet.size and not packet.is_discard:
                        heapq.heappush(self._awaited, packet.pts)
                    if packet.is_corrupt:
                        self._count_damage()
                        if packet.dts is not None:
                            # Packets next to it can be lost with their times.
                            reach = MAX_REORDERED_FRAMES * (packet.duration or 0)
                            low = min([packet.dts, *self._awaited[:1]])
                            self._jumps.append((low, packet.dts + reach))
                        continue
                    yield packet
                return
            except av.FFmpegError:
                # The demuxer looks for the next sound packet when it is asked again.
                self._count_damage()
                num_failures += 1
                if num_failures >= MAX_FRUITLESS_READS:
                    return

    def _demuxed(self) -> Iterator[Packet[VideoStream]]:
        """Packets of the video stream; in Matroska with a look at the bytes between them."""
        if "matroska" not in self.container.format.name.split(","):
            yield from self.container.demux(self.stream)
            return
        # Also of the other streams: what lies between two packets of video is then known.
        for packet in self.container.demux():
            is_video = packet.stream is not None and packet.stream.index == self.stream.index
            if packet.pos is not None and packet.size:
                is_laced = packet.pos == self._last_pos
                unexplained = 0 if self._last_end is None else packet.pos - self._last_end
                self._last_pos = packet.pos
                self._last_end = packet.size + (
                    self._last_end if is_laced and self._last_end else packet.pos
                )
                self._has_jumped |= unexplained > MAX_CLUSTER_HEADER_BYTES
            if not is_video:
                continue
            video = cast("Packet[VideoStream]", packet)
            if video.size and video.pts is not None:
                if self._has_jumped and self._last_video_pts is not None:
                    low = min([self._last_video_pts, *self._awaited[:1]])
                    self._jumps.append((low, max(video.pts, self._last_video_pts)))
                self._has_jumped = False
                self._last_video_pts = video.pts
            yield video

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
        self.loss.lost_seconds = self._gap_seconds + self._tail_seconds + self._unplaced_seconds
        notes = []
        if self._num_damaged:
            notes.append(f"{_count(self._num_damaged, 'damaged packet')} skipped")
        if self._num_smeared:
            notes.append(f"{_count(self._num_smeared, 'picture')} known to be damaged")
        if self._gap_seconds:
            notes.append(f"{self._gap_seconds:.2f} s of video in between could not be decoded")
        if self._tail_seconds:
            notes.append(f"the file is cut off: {self._tail_seconds:.2f} s at its end are missing")
        elif self._is_cut:
            notes.append("the file is cut off; its format does not say how much is missing")
        if self.num_without_time:
            notes.append(
                f"{_count(self.num_without_time, 'frame')} left out for want of a time that rises"
                + (f": {self._unplaced_seconds:.2f} s" if self._unplaced_seconds else "")
            )
        self.loss.notes[:] = notes


def codec_name(stream: VideoStream) -> str:
    """The format's name ("av1"), not that of what decodes it ("libdav1d")."""
    return stream.codec_context.codec.canonical_name


def tagged_duration(stream: VideoStream) -> float | None:
    """Matroska's per-stream ``DURATION`` tag, "HH:MM:SS.fraction", in seconds."""
    tag = stream.metadata.get("DURATION", "")
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
