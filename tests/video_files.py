"""Makes small video files whose frames carry their number in their pixels.

A picture is a grid of 4 x 3 cells. The first is red and the last blue, so that a turned or mirrored
picture is noticed; the ten between are the bits of the number, white or black.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

COLUMNS, ROWS = 4, 3
RED, BLUE = (255, 0, 0), (0, 0, 255)


def draw(number: int, *, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """The picture of ``number``, ``(height, width, 3)``."""
    image = np.zeros((height, width, 3), np.uint8)
    for cell in range(COLUMNS * ROWS):
        row, column = divmod(cell, COLUMNS)
        rows = slice(row * height // ROWS, (row + 1) * height // ROWS)
        columns = slice(column * width // COLUMNS, (column + 1) * width // COLUMNS)
        if cell == 0:
            image[rows, columns] = RED
        elif cell == COLUMNS * ROWS - 1:
            image[rows, columns] = BLUE
        else:
            image[rows, columns] = 255 * (number >> (cell - 1) & 1)
    return image


def read_number(image: NDArray[np.uint8], *, has_color: bool = True) -> int:
    """The number in a picture; fails where colored corners say that it is not upright."""
    height, width = image.shape[:2]

    def cell_color(cell: int) -> NDArray[np.float64]:
        row, column = divmod(cell, COLUMNS)
        y, x = (2 * row + 1) * height // (2 * ROWS), (2 * column + 1) * width // (2 * COLUMNS)
        color: NDArray[np.float64] = image[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1))
        return color

    if has_color:
        red, blue = cell_color(0), cell_color(COLUMNS * ROWS - 1)
        assert red[0] > 180 and red[2] < 80, f"the first cell is not red: {red}"
        assert blue[2] > 180 and blue[0] < 80, f"the last cell is not blue: {blue}"
    bits = [cell_color(cell).mean() > 128 for cell in range(1, COLUMNS * ROWS - 1)]
    return sum(1 << index for index, bit in enumerate(bits) if bit)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to write a file, and so what must come out of it.

    Attributes:
        name: File name; its ending chooses the container.
        codec: FFmpeg's encoder.
        ticks: Presentation times in units of ``time_base``.
        time_base: Seconds a tick.
        width: Upright pixels.
        height: Upright pixels.
        pixel_format: As stored.
        rotation: Degrees clockwise that a player must apply.
        options: For the encoder.
        container_options: For the muxer.
        num_trimmed: Frames at the start that the file's edit list hides.
        has_sound: Add a track of silence, two seconds longer than the video.
        has_color: Whether the corners can be told apart.
        noise: Amplitude of random noise, which gives a frame bytes that can be damaged.
    """

    name: str
    codec: str = "libx264"
    ticks: Sequence[int] = tuple(range(40))
    time_base: Fraction = Fraction(1, 25)
    width: int = 64
    height: int = 48
    pixel_format: str = "yuv420p"
    rotation: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)
    num_trimmed: int = 0
    has_sound: bool = False
    has_color: bool = True
    noise: int = 0

    @property
    def numbers(self) -> list[int]:
        """The presented frames' numbers."""
        return list(range(self.num_trimmed, len(self.ticks)))

    @property
    def times(self) -> list[float]:
        """The presented frames' seconds from the first one."""
        first = self.ticks[self.num_trimmed]
        return [float((tick - first) * self.time_base) for tick in self.ticks[self.num_trimmed :]]

    def write(self, folder: Path) -> Path:
        """Write the file into ``folder`` and return its path."""
        path = folder / self.name
        with av.open(str(path), "w", options=dict(self.container_options)) as container:
            video = container.add_stream(
                self.codec, rate=round(1 / self.time_base), options=dict(self.options)
            )
            assert isinstance(video, av.VideoStream)
            is_lying = self.rotation % 180 == 90
            video.width = self.height if is_lying else self.width
            video.height = self.width if is_lying else self.height
            video.pix_fmt = self.pixel_format
            video.codec_context.time_base = self.time_base
            if self.rotation:
                # The muxer counts anticlockwise.
                video.set_display_rotation(-self.rotation)
            sound = (
                container.add_stream("aac", rate=16000, layout="mono") if self.has_sound else None
            )
            offset = self.ticks[self.num_trimmed] if self.num_trimmed else 0
            for number, tick in enumerate(self.ticks):
                image = draw(number, width=self.width, height=self.height)
                if self.noise:
                    random = np.random.default_rng(number)
                    change = random.integers(-self.noise, self.noise + 1, image.shape)
                    image = (image + change).clip(0, 255).astype(np.uint8)
                stored = np.ascontiguousarray(np.rot90(image, self.rotation // 90))
                frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
                frame = frame.reformat(format=self.pixel_format)
                frame.pts, frame.time_base = tick, self.time_base
                for packet in video.encode(frame):
                    _mux(container, packet, offset)
            for packet in video.encode(None):
                _mux(container, packet, offset)
            if sound is not None:
                assert isinstance(sound, av.AudioStream)
                _write_silence(container, sound, self.times[-1] + 2)
        return path


def _mux(
    container: av.container.OutputContainer, packet: av.Packet[av.VideoStream], offset: int
) -> None:
    """Write a packet; what falls before time 0 is hidden by an edit list."""
    if offset:
        assert packet.pts is not None and packet.dts is not None
        packet.pts -= offset
        packet.dts -= offset
    container.mux(packet)


def _write_silence(
    container: av.container.OutputContainer, stream: av.AudioStream, seconds: float
) -> None:
    size, rate = 1024, 16000
    for start in range(0, round(seconds * rate), size):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, size), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_sound(path: Path, *, seconds: float = 0.5) -> Path:
    """A file with sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        _write_silence(container, stream, seconds)
    return path


BFRAMES = {"bf": "2", "g": "12"}
AV1 = {"preset": "12", "g": "12", "svtav1-params": "lp=1"}
VARIABLE = tuple(sorted({*range(0, 400, 40), 450, 460, 900, *range(1000, 2000, 33), 2700, 2710}))

RECIPES = [
    Recipe(name="h264_bframes.mp4", options=BFRAMES),
    Recipe(name="h264_open_gop.mp4", options={**BFRAMES, "x264-params": "open-gop=1:scenecut=0"}),
    Recipe(name="h264_front_index.mp4", container_options={"movflags": "faststart"}),
    Recipe(name="h264_sound.mp4", options=BFRAMES, has_sound=True),
    Recipe(name="h264_offset.mp4", options=BFRAMES, ticks=tuple(range(30, 70))),
    Recipe(
        name="h264_edit_list.mp4",
        options=BFRAMES,
        num_trimmed=7,
        container_options={"avoid_negative_ts": "disabled"},
    ),
    Recipe(name="h264_turned_90.mp4", rotation=90),
    Recipe(name="h264_turned_180.mp4", rotation=180),
    Recipe(name="h264_turned_270.mp4", rotation=270),
    Recipe(name="h264_10_bit.mp4", pixel_format="yuv420p10le"),
    Recipe(name="h264_gray.mkv", pixel_format="gray", has_color=False),
    Recipe(name="h264_odd.mkv", width=99, height=75, pixel_format="yuv444p"),
    Recipe(name="h264_ntsc.mp4", time_base=Fraction(1001, 30000), options=BFRAMES),
    Recipe(name="h264_variable.mkv", ticks=VARIABLE, time_base=Fraction(1, 1000), options=BFRAMES),
    Recipe(name="h264_variable.mp4", ticks=VARIABLE, time_base=Fraction(1, 1000), options=BFRAMES),
    Recipe(
        name="h264_variable_sound.mkv",
        ticks=VARIABLE,
        time_base=Fraction(1, 1000),
        options=BFRAMES,
        has_sound=True,
    ),
    Recipe(name="h264_sound.mkv", options=BFRAMES, has_sound=True),
    Recipe(name="h264.ts", options=BFRAMES),
    Recipe(name="h264.flv", options=BFRAMES),
    Recipe(name="h264_sound.flv", options=BFRAMES, has_sound=True),
    Recipe(name="h264_refresh.mkv", options={"x264-params": "intra-refresh=1:keyint=12"}),
    Recipe(name="hevc.mp4", codec="libx265", options={"x265-params": "log-level=none:keyint=12"}),
    Recipe(
        name="hevc_10_bit.mkv",
        codec="libx265",
        pixel_format="yuv420p10le",
        options={"x265-params": "log-level=none:keyint=12:bframes=2"},
    ),
    Recipe(name="hevc.ts", codec="libx265", options={"x265-params": "log-level=none:keyint=12"}),
    Recipe(name="av1.mp4", codec="libsvtav1", options=AV1),
    Recipe(name="vp9.mkv", codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
    Recipe(
        name="vp9_variable.webm",
        codec="libvpx-vp9",
        ticks=VARIABLE,
        time_base=Fraction(1, 1000),
        options={"deadline": "realtime", "cpu-used": "8"},
    ),
    Recipe(name="mpeg4.mp4", codec="mpeg4", options=BFRAMES),
    Recipe(name="h264_offset.ts", options=BFRAMES, ticks=tuple(range(250, 290))),
    Recipe(name="h264.avi", options={"g": "12", "bf": "0"}),
    Recipe(name="vp8.webm", codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "10"}),
    Recipe(name="vp9.webm", codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
    Recipe(name="mpeg4.avi", codec="mpeg4", options={"g": "12"}),
    Recipe(name="mpeg4_bframes.avi", codec="mpeg4", options=BFRAMES),
    Recipe(name="mjpeg.avi", codec="mjpeg", pixel_format="yuvj420p", width=65, height=49),
    Recipe(name="ffv1.mkv", codec="ffv1"),
    Recipe(name="qtrle.mov", codec="qtrle", pixel_format="rgb24"),
    Recipe(name="palette.gif", codec="gif", pixel_format="rgb8", time_base=Fraction(1, 25)),
]

_NEED_NOT_MATCH = r"packets of {} and its frames need not match"
_BY_BOTH = {
    "h264.ts": "it gets mpegts files wrong",
    "h264_offset.ts": "it gets mpegts files wrong",
    "hevc.ts": "it gets mpegts files wrong",
    "mpeg4.avi": _NEED_NOT_MATCH.format("mpeg4"),
    "mpeg4.mp4": _NEED_NOT_MATCH.format("mpeg4"),
    "mpeg4_bframes.avi": _NEED_NOT_MATCH.format("mpeg4"),
    "qtrle.mov": _NEED_NOT_MATCH.format("qtrle"),
    "vp8.webm": _NEED_NOT_MATCH.format("vp8"),
}

REFUSALS: dict[str, dict[str, str]] = {
    "decord": {
        **_BY_BOTH,
        "av1.mp4": "it cannot decode av1",
        "h264_edit_list.mp4": "it shows the 7 frames that an edit list hides",
        "palette.gif": "it gets gif files wrong",
    },
    "torchcodec": {**_BY_BOTH, "palette.gif": _NEED_NOT_MATCH.format("gif")},
}
"""Which decoder refuses which recipe, and why; whatever is not here it must read."""
