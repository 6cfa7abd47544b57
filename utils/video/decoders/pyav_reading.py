"""`Reading`: one pass of FFmpeg over a file, and the account of what is lost in it.

First room of the cascade, under `PyAvSource`. Packets go in as they lie in the file; frames come
out in the order of their times, and whatever is missing between and after them is known in seconds.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import av

from utils.video.decoders.matroska import is_shorter_than_stated
from utils.video.decoders.mp4_boxes import is_broken_row_of_fragments
from utils.video.decoders.pyav_packets import MAX_REORDERED_FRAMES, PacketReader
from utils.video.decoders.transport_stream import ends_inside_a_packet
from utils.video.source import DecodeLoss, Skipping

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

NO_PACKETS = "the file ends before its first frame: it is cut off or still being written"

ONE_PACKET_ONE_FRAME = frozenset({"h264", "hevc", "vp9", "av1", "mjpeg", "ffv1"})
"""Codecs whose packets can be counted instead of their frames. VP8 hides reference frames in
packets of their own, and MPEG-4 in AVI packs two frames into one and an empty one after it."""

HEADER_STATES_DURATION = frozenset({"mov", "matroska", "avi", "flv", "asf"})
"""Containers that write the duration down; elsewhere FFmpeg only estimates it, and an estimate is
no proof that something is missing."""

SUSPECT_JUMP_SECONDS = 1.0
"""A jump ahead by this much is believed once the frame after it confirms it."""

MAX_FRAMES_BEHIND_END = 50
"""So many frames in a row that lie behind the end which the header states refute the header."""

MAX_OVERTAKEN_FRAMES = 4
"""A frame that comes before more frames than these, all of them earlier, has a damaged time. H.264
decoders that lost their place in the display order were seen to be off by one."""


@dataclass(kw_only=True)
class Records:
    """What readings write down; one may go on in the place of another.

    Attributes:
        loss: What could not be given; each reading begins it anew.
        skipping: What was left out on purpose, by all of them together.
        max_skip_seconds: Leave out frames that no other refers to, as long as whoever waits for
            one of them gets the next one at most so much later; None decodes all.
    """

    loss: DecodeLoss = field(default_factory=DecodeLoss)
    skipping: Skipping = field(default_factory=Skipping)
    max_skip_seconds: float | None = None


class Reading:
    """One pass over the file: its own container and decoder, and the account of what is lost.

    Args:
        container: Is closed with the reading.
        stream: The video in it.
        path: Of the file.
        first_pts: Ticks of the first frame; None as long as nobody knows.
        records: Where to write what is lost, and what may be skipped.
        num_threads: Of the decoder; None for one more than there are cores, and 16 at most.

    Attributes:
        first_due: Ticks of the frame that should have been the first, once there is one: an earlier
            one than that where the file shows that it is damaged before it.
        is_too_sparse: Whether the frames end because more was skipped behind the last one than may
            be, or because something is lost: all must be decoded to tell what.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        *,
        path: str,
        first_pts: int | None = None,
        records: Records,
        num_threads: int | None = None,
    ) -> None:
        self.container = container
        self.stream = stream
        self.records = records
        self._path = path
        self.first_due = first_pts
        self._is_at_start = True
        # Frame threads decode several frames at once; without them one core does all the work.
        self.stream.thread_type = "AUTO"
        self.stream.codec_context.thread_count = num_threads or 0
        self._max_skip_seconds = records.max_skip_seconds
        if self._max_skip_seconds is not None:
            self.stream.codec_context.skip_frame = "NONREF"
        self.is_too_sparse = False
        self._packets = PacketReader(container, stream, path=path)
        self._num_smeared = 0
        self.num_without_time = 0
        self._gap_seconds = 0.0
        self._tail_seconds = 0.0
        self._unplaced_seconds = 0.0
        # Gaps in time that nothing explains yet: frame number and ticks.
        self._open_gaps: deque[tuple[int, int]] = deque(maxlen=MAX_REORDERED_FRAMES)
        self._num_open_gaps = 0
        self._is_cut = self._lacks_fragments = False
        # Frames to come whose time is doubtful, because one close before them had none.
        self._num_near_left_out = 0
        self._write_notes()

    def seconds(self, ticks: int) -> float:
        base = self.stream.time_base
        assert base is not None
        return ticks * base.numerator / base.denominator

    @property
    def has_packets(self) -> bool:
        """Whether the file has held any packet of the stream so far."""
        return self._packets.has_packets

    def close(self) -> None:
        self.container.close()

    def frames(self) -> Generator[tuple[int, VideoFrame]]:
        """``(pts, frame)`` in presentation order; ``pts`` in stream ticks, strictly rising."""
        last: int | None = None
        end: int | None = None
        if self.first_due is not None and self._is_at_start:
            last, end = self.first_due - 1, self.first_due
        number = left_out_ticks = 0
        for pts, frame in self._timed():
            if last is not None and pts <= last:
                self._leave_out(pts)
                left_out_ticks += frame.duration or 0
                continue
            duration = frame.duration or (pts - last if last is not None else 0)
            missing = []
            while self._packets.awaited and self._packets.awaited[0] <= pts:
                due = heapq.heappop(self._packets.awaited)
                if due != pts:
                    missing.append(due)
            if self.first_due is None:
                # Time starts with the first frame, unless one before it is known to be lost.
                self.first_due = min(missing, default=pts) if self._shows_its_start() else pts
            if end is not None and last is not None:
                missing = [due for due in missing if due > last]
                if not missing or self._max_skip_seconds is None:
                    self._account_for_gap(number, end, pts, duration, missing)
                elif not self._may_skip(missing, pts):
                    return
            last, end = pts, pts + duration
            number += 1
            left_out_ticks = 0
            self._num_near_left_out = max(0, self._num_near_left_out - 1)
            yield pts, frame
        if last is None or end is None:
            return
        if self._max_skip_seconds is not None:
            skipped = [due for due in self._packets.awaited if due > last]
            if skipped:
                end += max(skipped) - last
                if not self._may_skip(skipped, end):
                    return
                self._packets.awaited.clear()
        self._account_for_tail(number, last, end)
        if left_out_ticks:
            # Nothing after them says where in time they belong.
            self._unplaced_seconds = self.seconds(left_out_ticks)
            self._write_notes()
        if self._max_skip_seconds is not None:
            self.is_too_sparse = bool(self.records.loss)

    def _shows_its_start(self) -> bool:
        """Whether damage was met, in a file that begins with a frame that can be decoded.

        A transport stream may have been switched on in the midst of a film.
        """
        formats = HEADER_STATES_DURATION.intersection(self.container.format.name.split(","))
        return bool(formats and (self._packets.num_damaged or self._packets.jumps))

    def seek(self, pts: int) -> None:
        """As `PacketReader.seek`; to be called before ``frames``."""
        self._packets.seek(pts)
        self._is_at_start = False

    def _may_skip(self, missing: list[int], pts: int) -> bool:
        """Whether frames may stay away that were due before ``pts``, and take note of it.

        Not where anything is lost: among frames that are left out on purpose it could not be told
        how much.
        """
        error = self.seconds(pts - min(missing))
        assert self._max_skip_seconds is not None
        if error > self._max_skip_seconds or self.records.loss or self._packets.jumps:
            self.is_too_sparse = True
            return False
        skipping = self.records.skipping
        skipping.num_frames += len(missing)
        skipping.max_time_error_seconds = max(skipping.max_time_error_seconds, error)
        return True

    def scan(self) -> tuple[list[int], int, str | None]:
        """Rising presentation times of all packets, how many are hidden, and what is wrong."""
        ticks: list[int] = []
        num_hidden = 0
        duration = 0
        for packet in self._packets.packets():
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
        if self._packets.num_damaged or self._packets.jumps:
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
        return any(last < due < pts for due in self._packets.awaited)

    def _leave_out(self, pts: int | None) -> None:
        self.num_without_time += 1
        self._num_near_left_out = MAX_REORDERED_FRAMES
        if pts in self._packets.awaited:
            self._packets.awaited.remove(pts)
            heapq.heapify(self._packets.awaited)
        self._write_notes()

    def _account_for_gap(
        self, number: int, end: int, pts: int, duration: int, missing: list[int]
    ) -> None:
        """The time between a frame that stays until ``end`` and the next one at ``pts``.

        A gap in which no packet was due is how variable frame rate looks.
        """
        if pts - end <= duration // 2:
            return
        if (
            missing
            or self._num_near_left_out
            or any(low < pts and end <= high for low, high in self._packets.jumps)
        ):
            self._gap_seconds += self.seconds(pts - end)
            self._write_notes()
        else:
            self._open_gaps.append((number, pts - end))
            self._num_open_gaps += 1

    def _account_for_tail(self, number: int, last: int, end: int) -> None:
        """What the container promised after the last frame, the ``number``-th, and what is cut."""
        claimed_end = self._claimed_end()
        missing = max(self._packets.awaited, default=last)
        if missing > last and (claimed_end is None or claimed_end < missing):
            claimed_end = missing + (end - last)
        # Headers round and VFR files do not know how long their last frame stays; where nothing
        # else points to damage, only more than a frame is taken for a loss.
        is_suspect = bool(
            self._packets.num_damaged or missing > last or self._gap_seconds or self._is_short()
        )
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
        self._lacks_fragments = self._is_file_of("mov") and is_broken_row_of_fragments(self._path)
        self._write_notes()

    def _is_file_of(self, container: str) -> bool:
        """Whether this is a file, and no URL, in a container of FFmpeg's name ``container``."""
        return "://" not in self._path and container in self.container.format.name.split(",")

    def _is_short(self) -> bool:
        """Whether a Matroska file has fewer bytes than it says."""
        return self._is_file_of("matroska") and is_shorter_than_stated(self._path)

    def _ends_inside_a_packet(self) -> bool:
        """Whether a transport stream, which states no duration, is visibly cut off."""
        num_bytes = self.container.size
        return self._is_file_of("mpegts") and ends_inside_a_packet(self._path, num_bytes)

    def _claimed_end(self) -> int | None:
        """Where the header says that the video stream ends, in ticks on the stream's clock."""
        container, stream = self.container, self.stream
        if not HEADER_STATES_DURATION.intersection(container.format.name.split(",")):
            return None
        if stream.duration is not None:
            # Where an AVI's index is cut off FFmpeg shortens the duration to what is left, but not
            # the number of frames, each of which is one tick there.
            if container.format.name == "avi":
                return (self.first_due or 0) + max(stream.duration, stream.frames)
            return (stream.start_time or 0) + stream.duration
        seconds = tagged_duration(stream)
        if seconds is None and container.duration is not None and len(container.streams) == 1:
            # With other streams beside it the file's duration may be that of its sound.
            seconds = container.duration / av.time_base
        assert stream.time_base is not None
        return None if seconds is None else round(seconds / stream.time_base)

    def _decoded(self) -> Iterator[VideoFrame]:
        """Everything that the decoder gives out; what it refuses is counted and passed over."""
        num_damaged = 0
        for packet in self._packets.packets():
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self._packets.num_damaged += 1
                frames = []
            if self._packets.num_damaged > num_damaged:
                num_damaged = self._packets.num_damaged
                self._write_notes()
            for frame in frames:
                if frame.is_corrupt:
                    self._num_smeared += 1
                    self._write_notes()
                yield frame
        self._write_notes()

    def _write_notes(self) -> None:
        loss = self.records.loss
        loss.num_corrupt_packets = self._packets.num_damaged
        loss.lost_seconds = self._gap_seconds + self._tail_seconds + self._unplaced_seconds
        notes = []
        if self._packets.num_damaged:
            notes.append(f"{_count(self._packets.num_damaged, 'damaged packet')} skipped")
        if self._num_smeared:
            notes.append(f"{_count(self._num_smeared, 'picture')} known to be damaged")
        if self._gap_seconds:
            notes.append(f"{self._gap_seconds:.2f} s of video in between could not be decoded")
        if self._tail_seconds:
            notes.append(f"the file is cut off: {self._tail_seconds:.2f} s at its end are missing")
        elif self._is_cut:
            notes.append("the file is cut off; its format does not say how much is missing")
        if self._lacks_fragments:
            notes.append("the file is broken off between its fragments; nothing says what followed")
        if self.num_without_time:
            notes.append(
                f"{_count(self.num_without_time, 'frame')} left out for want of a time that rises"
                + (f": {self._unplaced_seconds:.2f} s" if self._unplaced_seconds else "")
            )
        loss.notes[:] = notes


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
