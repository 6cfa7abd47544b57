"""`PacketReader`: the packets of a video stream in the file, and what lies between them.

First room of the cascade, under `Reading`. FFmpeg passes over stretches that it cannot read, and
says so for some containers alone. What the bytes between two packets tell of such a stretch is
found out here, so that a gap in time can be told from a video of variable frame rate.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import av

from utils.video.decoders.avi_index import AviIndex
from utils.video.decoders.matroska import first_cluster
from utils.video.decoders.transport_stream import MAX_SPAN_BYTES, is_damaged_between

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

    VideoPacket = Packet[VideoStream]

MAX_FRUITLESS_READS = 100
"""Read errors in a row, without one packet between, after which the rest is given up as lost."""

WITHOUT_SPACE_BETWEEN = frozenset({"matroska", "flv"})
"""Containers in which one packet follows the other but for a short header."""

MAX_HEADER_BYTES = 64
"""What stands between two packets there is shorter than this. More bytes that belong to no packet,
and a gap in time with them, are a stretch that FFmpeg jumped over."""

MAX_REMEMBERED_JUMPS = 64
"""Damaged stretches whose frames may still be in the decoder."""

MAX_REORDERED_FRAMES = 16
"""As many frames a decoder may hold back (H.264 and HEVC), and so a cut can split from others."""


class PacketReader:
    """One pass over the packets of a file.

    Args:
        container: Open, at the place to begin with.
        stream: The video in it.
        path: Of the file.

    Attributes:
        awaited: Heap of the times, in ticks, of packets that were given and whose frames have not
            been seen; who sees one takes it out.
        jumps: From where to where in ticks packets were lost, known by what lies around them.
        num_damaged: Packets that are not given because they are damaged, and what the demuxer
            could not read.
        has_packets: Whether there was any.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, *, path: str) -> None:
        self._container = container
        self._stream = stream
        self._path = path if "://" not in path else None
        self._formats = frozenset(container.format.name.split(","))
        self._is_at_start = True
        self._avi_index: AviIndex | None = None
        self._avi_shift = 0
        self.awaited: list[int] = []
        self.jumps: deque[tuple[int, int]] = deque(maxlen=MAX_REMEMBERED_JUMPS)
        self.num_damaged = 0
        self.has_packets = False

    def seek(self, pts: int) -> None:
        """Go on with the key frame at or before ``pts``, or where FFmpeg takes that to be.

        Raises:
            av.FFmpegError: The container cannot.
        """
        self._container.seek(pts, stream=self._stream)
        self._is_at_start = False

    def packets(self) -> Iterator[VideoPacket]:
        """All packets worth decoding, and the empty one that flushes the decoder."""
        num_failures = 0
        while True:
            try:
                for packet in self._demuxed():
                    num_failures = 0
                    self.has_packets = self.has_packets or packet.size > 0
                    if "avi" in self._formats and not self._retime(packet):
                        self.num_damaged += 1
                        continue
                    if packet.pts is not None and packet.size and not packet.is_discard:
                        heapq.heappush(self.awaited, packet.pts)
                    if packet.is_corrupt:
                        self.num_damaged += 1
                        if packet.dts is not None:
                            # Packets next to it can be lost with their times.
                            self._note_jump(packet.dts, packet.dts + _reach(packet))
                        continue
                    yield packet
                return
            except av.FFmpegError:
                # The demuxer looks for the next sound packet when it is asked again.
                self.num_damaged += 1
                num_failures += 1
                if num_failures >= MAX_FRUITLESS_READS:
                    return

    def _note_jump(self, low: int, high: int) -> None:
        self.jumps.append((min([low, *self.awaited[:1]]), high))

    def _demuxed(self) -> Iterator[VideoPacket]:
        if self._formats & WITHOUT_SPACE_BETWEEN:
            return self._demuxed_in_a_row()
        if "mpegts" in self._formats and self._path is not None:
            return self._demuxed_transport_stream(self._path)
        return self._container.demux(self._stream)

    def _demuxed_in_a_row(self) -> Iterator[VideoPacket]:
        """Packets, with a look at the bytes between two of them."""
        is_matroska = "matroska" in self._formats
        last_pos: int | None = None
        last_end: int | None = None
        last_video_pts: int | None = None
        has_jumped = was_video = False
        if is_matroska and self._path is not None and self._is_at_start:
            last_end, last_video_pts = first_cluster(self._path)
            if last_end is None:
                # What lies before the first picture is damaged; nearly all clocks begin at 0.
                last_video_pts, has_jumped = 0, True
        # Also of the other streams: what lies between two packets of video is then known.
        for packet in self._container.demux():
            is_video = packet.stream is not None and packet.stream.index == self._stream.index
            if packet.pos is not None and packet.size:
                is_laced = packet.pos == last_pos
                if last_end is not None and not is_laced:
                    unexplained = packet.pos - last_end
                    has_jumped |= unexplained > MAX_HEADER_BYTES
                    # One that ends behind where the next begins had its end cut out. Of subtitles,
                    # which may be compressed, the size in the file is not known.
                    overlaps = unexplained < -MAX_HEADER_BYTES
                    has_jumped |= overlaps and was_video and is_video
                last_end = packet.size + (last_end if is_laced and last_end else packet.pos)
                last_pos, was_video = packet.pos, is_video
            if not is_video:
                continue
            video = cast("VideoPacket", packet)
            if video.size and video.pts is not None:
                if has_jumped and last_video_pts is not None:
                    high = max(video.pts, last_video_pts)
                    # FFmpeg goes on with the next key frame in Matroska, and elsewhere with the
                    # next packet, which may be shown before others that are lost.
                    self._note_jump(last_video_pts, high if is_matroska else high + _reach(video))
                    if not self.has_packets:
                        heapq.heappush(self.awaited, last_video_pts)
                has_jumped = False
                last_video_pts = video.pts
            yield video

    def _demuxed_transport_stream(self, path: str) -> Iterator[VideoPacket]:
        """Packets, with a look at the bytes between two that do not follow each other in time."""
        # Where the latest one began that says so, and how many bytes were given since.
        start: int | None = None
        num_bytes = 0
        last_dts: int | None = None
        with open(path, "rb") as file:
            for packet in self._container.demux(self._stream):
                pos, dts = packet.pos, packet.dts
                if self._is_at_start and pos is not None:
                    # Of what lies before the first picture, nobody knows how much of it was video.
                    self.num_damaged += is_damaged_between(
                        file, 0, min(pos, MAX_SPAN_BYTES), pid=self._stream.id, num_bytes=pos
                    )
                    self._is_at_start = False
                if pos is not None and (start is None or pos > start):
                    if start is not None and last_dts is not None and dts is not None:
                        is_late = dts - last_dts > 1.5 * (packet.duration or 0)
                        if is_late and is_damaged_between(
                            file, start, pos, pid=self._stream.id, num_bytes=num_bytes
                        ):
                            self._note_jump(last_dts, dts + _reach(packet))
                    start, num_bytes = pos, 0
                num_bytes += packet.size
                last_dts = dts if dts is not None else last_dts
                yield packet

    def _retime(self, packet: VideoPacket) -> bool:
        """Correct the time of an AVI packet that follows a damaged stretch; False: it has none."""
        if self._avi_index is None:
            self._avi_index = AviIndex(self._path, self._stream)
        if packet.pos is None or packet.dts is None:
            return True
        place = self._avi_index.place(packet.pos, packet.size)
        if place is None:
            # FFmpeg has counted it; what follows is missing from one place earlier on.
            self._avi_shift -= self._avi_index.is_complete
            return not self._avi_index.is_complete
        shift = place - packet.dts
        packet.dts += shift
        shown_later = 0
        if packet.pts is not None:
            packet.pts += shift
            shown_later = packet.pts - packet.dts
        for missing in range(self._avi_shift, shift):
            heapq.heappush(self.awaited, packet.dts - shift + missing + shown_later)
            self.jumps.append((self.awaited[0], packet.dts))
        self._avi_shift = shift
        return True


def _reach(packet: VideoPacket) -> int:
    """How far, in ticks, the frames around a packet can be from it."""
    return MAX_REORDERED_FRAMES * (packet.duration or 0)
