"""Makes odd and broken video files, each with what is true of it.

Run as a script it writes them all into a folder, to try other programs on::

    python tests/broken_files.py FOLDER
"""

from __future__ import annotations

import io
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av

import video_files
from video_files import Recipe

NUM_FRAMES, FRAME_SECONDS = 100, 0.04
BASE = Recipe(
    name="base.mp4",
    ticks=tuple(range(NUM_FRAMES)),
    width=128,
    height=96,
    noise=30,
    options={"bf": "2", "g": "12"},
)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """One file.

    Attributes:
        name: Of the file.
        make: Writes it at the path that it is given.
        error: Name of the error that opening it must raise; None where it must open.
        match: What the error's text, or the notes of what was lost, must hold.
        num_frames: How many frames were written; what does not come out is lost.
        max_error_frames: By how many frames the reported loss may be off; None where the
            container does not tell how much is missing.
        min_frames: At least so many come out.
        has_numbers: Whether pictures tell their frame, and so times can be held against them.
        max_smeared_frames: How many may show something else: smeared next to damage.
        is_loss_invisible: The container looks whole, so nobody can say that something is missing.
    """

    name: str
    make: Callable[[Path], object]
    error: str | None = None
    match: str = ""
    num_frames: int = NUM_FRAMES
    max_error_frames: float | None = 0
    min_frames: int = 1
    has_numbers: bool = True
    max_smeared_frames: int = 0
    is_loss_invisible: bool = False


@cache
def base(ending: str, **options: str) -> bytes:
    """The bytes of the base video in another container."""
    import tempfile

    changes = {
        "mp4": {},
        "front.mp4": {"container_options": {"movflags": "faststart"}},
        "frag.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
        "flv": {},
        "mkv": {},
        "webm": {
            "codec": "libvpx-vp9",
            "options": {"deadline": "realtime", "cpu-used": "8", "g": "12", "b": "2000000"},
        },
        "ts": {},
        "avi": {"codec": "mjpeg", "pixel_format": "yuvj420p", "options": {}},
        "h264.avi": {"options": {"g": "12", "bf": "0"}},
    }[ending]
    with tempfile.TemporaryDirectory() as folder:
        return replace(BASE, name=f"base.{ending}", **changes).write(Path(folder)).read_bytes()


def cut(ending: str, part: float) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        data = base(ending)
        path.write_bytes(data[: int(part * len(data))])

    return make


def zeroed(ending: str, at: float, size: float) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        data = bytearray(base(ending))
        start, length = int(at * len(data)), int(size * len(data))
        data[start : start + length] = bytes(length)
        path.write_bytes(data)

    return make


def removed(ending: str, at: float, size: float) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        data = bytearray(base(ending))
        start = int(at * len(data))
        del data[start : start + int(size * len(data))]
        path.write_bytes(data)

    return make


def removed_twice(ending: str) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        removed(ending, 0.6, 0.1)(path)
        data = path.read_bytes()
        start, length = int(0.3 * len(data)), int(0.1 * len(data))
        path.write_bytes(data[:start] + data[start + length :])

    return make


def flipped(ending: str, seed: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        data = bytearray(base(ending))
        chance = random.Random(seed)
        for _ in range(20):
            data[chance.randrange(len(data) // 10, len(data) * 9 // 10)] ^= chance.randrange(1, 256)
        path.write_bytes(data)

    return make


def headless(ending: str, size: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        data = base(ending)
        path.write_bytes(bytes(size) + data[size:])

    return make


def without_index(ending: str, mark: bytes) -> Callable[[Path], object]:
    """Cut off at the index, which lies at the end."""

    def make(path: Path) -> None:
        data = base(ending)
        path.write_bytes(data[: data.rindex(mark)])

    return make


def huge(path: Path) -> None:
    """An MJPEG whose pictures say that they are 65,500 pixels wide and high."""
    data = bytearray(base("avi"))
    start = 0
    while (start := data.find(b"\xff\xc0\x00\x11\x08", start)) >= 0:
        data[start + 5 : start + 9] = (65500).to_bytes(2, "big") * 2
        start += 9
    path.write_bytes(data)


def timed(ticks: Sequence[int], codec: str = "mjpeg") -> Callable[[Path], object]:
    """Frames muxed with any times, in this order: every packet stands for itself."""

    def make(path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
            for number, tick in enumerate(ticks):
                encoder = av.CodecContext.create(codec, "w")
                assert isinstance(encoder, av.VideoCodecContext)
                encoder.width, encoder.height = 64, 48
                encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 1000)
                frame = av.VideoFrame.from_ndarray(video_files.draw(number), format="rgb24")
                frame = frame.reformat(format="yuvj420p")
                frame.pts, frame.time_base = 0, Fraction(1, 1000)
                for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                    packet.stream, packet.time_base = stream, Fraction(1, 1000)
                    packet.pts = packet.dts = tick
                    packet.duration = 40
                    container.mux(packet)

    return make


def stamped(number: int, milliseconds: int) -> Callable[[Path], object]:
    """Matroska with the time of one cluster overwritten."""

    def make(path: Path) -> None:
        timed([40 * index for index in range(20)])(path)
        # Every picture is a key frame and so begins a cluster, which starts with its time.
        old = b"\xe7\x82" + (40 * number).to_bytes(2, "big")
        data = path.read_bytes()
        assert data.count(old) == 1
        path.write_bytes(data.replace(old, b"\xe7\x82" + milliseconds.to_bytes(2, "big")))

    return make


def plain(**changes: object) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        replace(Recipe(name=path.name), **changes).write(path.parent)

    return make


def copy_of(ending: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(base(ending))


def changing_size(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(20):
            size = (128, 96) if number % 3 else (64, 48)
            encoder = av.CodecContext.create("mjpeg", "w")
            assert isinstance(encoder, av.VideoCodecContext)
            encoder.width, encoder.height = size
            encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
            image = video_files.draw(number, width=size[0], height=size[1])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.stream = stream
                container.mux(packet)


def no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def sound(path: Path) -> None:
    video_files.write_sound(path)


def noise(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(50_000))


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def no_permission(path: Path) -> None:
    copy_of("mkv")(path)
    path.chmod(0)


def start_of_pictures(ending: str) -> int:
    """Where in the file the first picture begins."""
    with av.open(io.BytesIO(base(ending))) as container:
        return next(packet.pos for packet in container.demux(video=0) if packet.pos is not None)


def beginning(ending: str, *, before: int = 0, size: float = 0.1) -> Callable[[Path], object]:
    """The first pictures are zeros, and so many bytes in front of them."""

    def make(path: Path) -> None:
        data = bytearray(base(ending))
        start, length = start_of_pictures(ending) - before, int(size * len(data))
        data[start : start + length] = bytes(length)
        path.write_bytes(data)

    return make


def _cuts() -> list[Broken]:
    found = []
    for part in (0.25, 0.5, 0.9):
        for ending in ("front.mp4", "mkv", "webm", "avi", "h264.avi"):
            found.append(
                Broken(name=f"cut_{part}.{ending}", make=cut(ending, part), match="is cut off")
            )
        found.append(
            Broken(
                name=f"cut_{part}.ts",
                make=cut("ts", part),
                max_error_frames=None,
                max_smeared_frames=1,
                is_loss_invisible=True,
            )
        )
        found.append(
            Broken(
                name=f"cut_{part}.mp4",
                make=cut("mp4", part),
                error="NotAVideoError",
                match="cut off or still being written",
            )
        )
    return found


BROKEN = [
    *_cuts(),
    Broken(name="no_index.avi", make=without_index("avi", b"idx1")),
    Broken(name="no_cues.mkv", make=without_index("mkv", b"\x1c\x53\xbb\x6b")),
    *(
        Broken(
            name=f"zeros.{ending}",
            make=zeroed(ending, 0.4, 0.1),
            min_frames=60,
            max_smeared_frames=12,
        )
        for ending in ("front.mp4", "mkv", "webm", "avi", "h264.avi", "ts")
    ),
    *(
        Broken(
            name=f"removed.{ending}",
            make=removed(ending, 0.4, 0.1),
            min_frames=50,
            max_smeared_frames=12,
        )
        for ending in ("mkv", "webm", "ts", "avi", "h264.avi")
    ),
    *(
        # The index does not tell how far what lies between two holes has moved.
        Broken(
            name=f"removed_twice.{ending}",
            make=removed_twice(ending),
            min_frames=50,
            max_smeared_frames=24,
        )
        for ending in ("avi", "h264.avi")
    ),
    # Time goes on from where the video began, though its first pictures are not to be had.
    *(
        Broken(name=f"beginning.{ending}", make=beginning(ending), max_smeared_frames=12)
        for ending in ("front.mp4", "mkv", "webm", "avi")
    ),
    # With what the container says of itself before the first picture.
    *(
        Broken(
            name=f"beginning_with_header.{ending}",
            make=beginning(ending, before=30),
            max_smeared_frames=12,
        )
        for ending in ("mkv", "webm", "h264.avi")
    ),
    # A transport stream has no beginning: it may have been switched on in the midst of a film.
    Broken(
        name="beginning.ts",
        make=beginning("ts", before=30, size=0.02),
        has_numbers=False,
        max_error_frames=None,
        match="1 damaged packet skipped",
    ),
    # A whole number of packets of 188 bytes, in which the counter of 16 comes round.
    Broken(
        name="counter_comes_round.ts",
        make=zeroed("ts", 0.3, 0.1187),
        min_frames=60,
        max_smeared_frames=12,
    ),
    Broken(name="zeros.flv", make=zeroed("flv", 0.4, 0.1), min_frames=60, max_smeared_frames=12),
    Broken(name="removed.flv", make=removed("flv", 0.4, 0.1), min_frames=50, max_smeared_frames=12),
    Broken(
        name="cut.frag.mp4",
        make=cut("frag.mp4", 0.5),
        max_error_frames=None,
        match="broken off between its fragments",
    ),
    Broken(
        name="zeros.frag.mp4",
        make=zeroed("frag.mp4", 0.4, 0.1),
        max_error_frames=None,
        match="broken off between its fragments",
    ),
    *(
        Broken(name=f"flipped_{seed}.{ending}", make=flipped(ending, seed), has_numbers=False)
        for ending in ("front.mp4", "mkv", "avi", "ts")
        for seed in (1, 2)
    ),
    Broken(name="headless.mkv", make=headless("mkv", 64), error="NotAVideoError"),
    Broken(
        name="headless.avi",
        make=headless("avi", 64),
        error="VideoDecodeError",
        match="a bare mjpeg stream without times",
    ),
    Broken(name="headless.mp4", make=headless("front.mp4", 64), error="NotAVideoError"),
    Broken(name="headless.ts", make=headless("ts", 500)),
    Broken(
        name="negative_times.mkv",
        make=timed([40 * index - 200 for index in range(20)]),
        num_frames=20,
    ),
    Broken(
        name="jump_ahead.mkv",
        make=timed([40 * index + (5000 if index >= 10 else 0) for index in range(20)]),
        num_frames=20,
        has_numbers=False,
    ),
    Broken(name="one_time_far_ahead.mkv", make=stamped(7, 32000), num_frames=20),
    Broken(
        name="one_time_back.mkv",
        make=stamped(7, 3),
        num_frames=20,
        # The last frame of the cluster catches up with the time before it.
        max_error_frames=1,
        has_numbers=False,
    ),
    Broken(name="equal_times.mkv", make=stamped(7, 240), num_frames=20, has_numbers=False),
    Broken(name="long_sound.mp4", make=plain(has_sound=True), num_frames=40),
    Broken(name="long_sound.mkv", make=plain(has_sound=True), num_frames=40),
    Broken(name="changing_size.mkv", make=changing_size, num_frames=20),
    Broken(name="no_frames.mp4", make=no_frames, error="NoVideoStreamError"),
    Broken(name="no_frames.mkv", make=no_frames, error="EmptyVideoError"),
    Broken(name="one_frame.mp4", make=plain(ticks=(0,)), num_frames=1),
    Broken(name="one_frame.mkv", make=plain(ticks=(0,)), num_frames=1),
    Broken(
        name="16_wide.mp4",
        make=plain(width=16, height=16, ticks=tuple(range(5))),
        num_frames=5,
        has_numbers=False,
    ),
    Broken(
        name="8192_wide.mkv",
        make=plain(width=8192, height=96, ticks=tuple(range(3)), options={"preset": "ultrafast"}),
        num_frames=3,
    ),
    Broken(
        name="an_hour_at_1_fps.mp4",
        make=plain(
            width=16,
            height=16,
            ticks=tuple(range(3600)),
            time_base=Fraction(1, 1),
            options={"preset": "ultrafast"},
        ),
        num_frames=3600,
        has_numbers=False,
    ),
    Broken(name="with spaces  two.mp4", make=plain(), num_frames=40),
    Broken(name='it\'s "quoted".mp4', make=plain(), num_frames=40),
    Broken(name="Überwachung Tür größer.mp4", make=plain(), num_frames=40),
    Broken(name="10:30 %d *?.mkv", make=plain(), num_frames=40),
    Broken(name="really_mkv.mp4", make=copy_of("mkv")),
    Broken(name="really_mp4.txt", make=copy_of("mp4")),
    Broken(
        name="text.mp4",
        make=lambda path: path.write_text("10:30 the door opens\n" * 99),
        error="NotAVideoError",
    ),
    Broken(name="pipe.mp4", make=os.mkfifo, error="VideoNotFoundError", match="a named pipe"),
    Broken(name="folder.mp4", make=Path.mkdir, error="VideoNotFoundError", match="a folder"),
    Broken(
        name="dangling.mp4",
        make=lambda path: path.symlink_to("gone.mp4"),
        error="VideoNotFoundError",
        match="a link to 'gone.mp4'",
    ),
    Broken(name="loop.mp4", make=loop, error="VideoNotFoundError"),
    Broken(
        name="no_permission.mkv",
        make=no_permission,
        error="VideoError",
        match="permission denied",
    ),
    Broken(name="noise.mp4", make=noise, error="NotAVideoError"),
    Broken(
        name="zeros.mp4",
        make=lambda path: path.write_bytes(bytes(9999)),
        error="NotAVideoError",
    ),
    Broken(name="empty.mp4", make=Path.touch, error="EmptyVideoError", match="0 bytes"),
    Broken(name="sound.mkv", make=sound, error="NoVideoStreamError", match="only audio"),
    Broken(name="huge.avi", make=huge, error="EmptyVideoError"),
]


def write_all(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for broken in BROKEN:
        broken.make(folder / broken.name)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
