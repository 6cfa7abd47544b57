"""`PyAvSource` on files that are odd, broken or no videos."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest

from broken_files import changing_size
from utils.errors import (
    EmptyVideoError,
    NotAVideoError,
    NoVideoStreamError,
    VideoDecodeError,
    VideoError,
    VideoNotFoundError,
)
from utils.video.decoders.pyav import PyAvSource
from utils.video.decoders.pyav_reading import Reading

Write = Callable[[Any], Path]

FRAME_SECONDS = 0.04


@pytest.fixture
def long_recipe(video_files: ModuleType) -> Callable[..., Any]:
    """A recipe of 100 frames at 25 fps whose pictures take enough bytes to damage some."""

    def make(name: str, **changes: Any) -> Any:
        recipe = next(recipe for recipe in video_files.RECIPES if recipe.name == name)
        return replace(
            recipe,
            name=f"long_{name}",
            ticks=tuple(range(100)),
            width=128,
            height=96,
            noise=30,
            **changes,
        )

    return make


def damaged(path: Path, *, at: float, size: float) -> Path:
    """A copy with a stretch of zeros; both arguments are parts of the file."""
    data = bytearray(path.read_bytes())
    start, length = int(at * len(data)), int(size * len(data))
    data[start : start + length] = bytes(length)
    copy = path.with_name(f"zeros_{path.name}")
    copy.write_bytes(data)
    return copy


def cut(path: Path, part: float) -> Path:
    copy = path.with_name(f"cut_{part}_{path.name}")
    copy.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    return copy


# What cannot be opened


def test_missing(tmp_path: Path) -> None:
    path = tmp_path / "none.mp4"
    with pytest.raises(VideoNotFoundError, match="no such file") as caught:
        PyAvSource(path)
    assert str(caught.value) == f"{path}: no such file"


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(VideoNotFoundError, match="a folder in the path is a file"):
        PyAvSource(tmp_path / "file" / "video.mp4")


def test_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(VideoNotFoundError, match="no usable file name"):
        PyAvSource(tmp_path / "a\0b.mp4")


def test_dangling_link(tmp_path: Path) -> None:
    link = tmp_path / "link.mp4"
    link.symlink_to("gone.mp4")
    with pytest.raises(VideoNotFoundError, match=r"a link to 'gone\.mp4', which does not exist"):
        PyAvSource(link)


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(VideoNotFoundError, match="a folder, not a file"):
        PyAvSource(tmp_path)


def test_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoNotFoundError, match="a named pipe, not a regular file"):
        PyAvSource(tmp_path / "pipe.mp4")


def test_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A socket's path may have 107 bytes at most, fewer than a test's folder can take.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("video.mp4")
        with pytest.raises(VideoNotFoundError, match="a socket, not a regular file"):
            PyAvSource("video.mp4")


def test_device() -> None:
    with pytest.raises(VideoNotFoundError, match="a device, not a regular file"):
        PyAvSource("/dev/null")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"x")

    # The superuser may read everything, so the refusal is played.
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(VideoError, match=r"permission denied; make it readable \(chmod u\+r\)"):
        PyAvSource(path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(EmptyVideoError, match=r"the file is empty \(0 bytes\)"):
        PyAvSource(tmp_path / "empty.mp4")


def test_noise(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    with pytest.raises(NotAVideoError, match="in no container that FFmpeg knows"):
        PyAvSource(tmp_path / "noise.mp4")


def test_text(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("10:30 the door opens\n" * 100)
    with pytest.raises(NotAVideoError, match="a text file, not a video"):
        PyAvSource(tmp_path / "notes.txt")


def test_sound_only(tmp_path: Path, video_files: ModuleType) -> None:
    path = video_files.write_sound(tmp_path / "sound.mkv")
    with pytest.raises(NoVideoStreamError, match="holds no video, only audio"):
        PyAvSource(path)


def test_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        assert isinstance(cover, av.VideoStream)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        picture = av.VideoFrame(32, 32, "yuvj420p")
        picture.pts = 0
        container.mux([*sound.encode(frame), *cover.encode(picture)])
        container.mux([*sound.encode(None), *cover.encode(None)])
    with pytest.raises(NoVideoStreamError, match="holds no video, only audio"):
        PyAvSource(path)


def test_bare_stream_has_no_times(tmp_path: Path, video_files: ModuleType) -> None:
    path = video_files.Recipe(name="camera.h264", options=video_files.BFRAMES).write(tmp_path)
    with pytest.raises(VideoDecodeError, match=r"a bare h264 stream without times; convert it"):
        PyAvSource(path)


def test_nothing_decodes(written: Write, long_recipe: Callable[..., Any]) -> None:
    whole = written(long_recipe("h264_front_index.mp4"))
    data = bytearray(whole.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    path = whole.with_name("nothing.mp4")
    path.write_bytes(data)
    with pytest.raises(EmptyVideoError, match=r"no frame can be decoded \(\d+ damaged packets"):
        PyAvSource(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_mp4_cut_before_its_index(written: Write, video_files: ModuleType, part: float) -> None:
    path = cut(written(video_files.RECIPES[0]), part)
    with pytest.raises(
        NotAVideoError, match=r"without a readable index \(moov\): .* still being written"
    ):
        PyAvSource(path)


def test_mp4_cut_behind_its_index(written: Write, long_recipe: Callable[..., Any]) -> None:
    whole = written(long_recipe("h264_front_index.mp4"))
    data = whole.read_bytes()
    path = whole.with_name("head.mp4")
    path.write_bytes(data[: data.index(b"mdat") + 4])
    with pytest.raises(EmptyVideoError, match="ends before its first frame: it is cut off"):
        PyAvSource(path)


def test_url_that_nobody_serves() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(VideoError, match=r"cannot be opened: .*refused"):
            PyAvSource(f"tcp://127.0.0.1:{port}")


# What is damaged further on


@pytest.mark.parametrize(
    "name", ["h264_front_index.mp4", "h264_bframes.mkv", "vp9.webm", "ffv1.mkv", "mjpeg.avi"]
)
@pytest.mark.parametrize("part", [0.4, 0.8])
def test_cut_end_is_accounted_for(
    written: Write,
    long_recipe: Callable[..., Any],
    video_files: ModuleType,
    name: str,
    part: float,
) -> None:
    if name == "h264_bframes.mkv":
        recipe = replace(long_recipe("h264_bframes.mp4"), name="long_h264.mkv")
    else:
        recipe = long_recipe(name)
    with PyAvSource(cut(written(recipe), part)) as source:
        frames = list(source.frames())
        loss = source.loss
    assert 0 < len(frames) < 100
    for frame in frames:
        # Identified by its picture: what comes out has the time it was written with.
        number = video_files.read_number(frame.rgb())
        assert frame.timestamp == pytest.approx(number * FRAME_SECONDS, abs=6e-4)
    # Exact even where a cut takes B-frames and leaves the one after them.
    true_loss = (100 - len(frames)) * FRAME_SECONDS
    assert loss.lost_seconds == pytest.approx(true_loss, abs=1e-3)
    assert any("the file is cut off" in note for note in loss.notes)


@pytest.mark.parametrize("name", ["h264_bframes.mp4", "hevc.mp4", "mjpeg.avi", "mpeg4_bframes.avi"])
def test_damaged_stretch_is_skipped_and_later_times_stay_right(
    written: Write, long_recipe: Callable[..., Any], video_files: ModuleType, name: str
) -> None:
    recipe = long_recipe(name)
    if name == "mpeg4_bframes.avi":
        # At its usual rate the noise is gone, and the damage would hit the header.
        recipe = replace(recipe, options={**recipe.options, "b": "4000000"})
    with PyAvSource(damaged(written(recipe), at=0.4, size=0.1)) as source:
        frames = list(source.frames())
        loss = source.loss
    true_loss = (100 - len(frames)) * FRAME_SECONDS
    assert true_loss > 0
    # AVI does not store in which order B-frames are shown: next to the damage it is a guess.
    tolerance = FRAME_SECONDS if name == "mpeg4_bframes.avi" else 0
    assert loss.lost_seconds == pytest.approx(true_loss, abs=tolerance + 1e-3)
    assert any("in between could not be decoded" in note for note in loss.notes)
    # A key frame comes every 12; behind it the damage is over.
    late = [frame for frame in frames if frame.timestamp > 0.75 * 100 * FRAME_SECONDS]
    assert len(late) > 15
    for frame in late:
        number = video_files.read_number(frame.rgb())
        assert frame.timestamp == pytest.approx(number * FRAME_SECONDS, abs=6e-4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["h264_bframes.mp4", "vp9.webm", "mpeg4_bframes.avi"])
def test_flipped_bits_never_break_the_order(
    written: Write, long_recipe: Callable[..., Any], name: str, seed: int
) -> None:
    path = written(long_recipe(name))
    random = np.random.default_rng(seed)
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    places = random.integers(len(data) // 10, len(data), 20)
    data[places] ^= random.integers(1, 256, 20).astype(np.uint8)
    copy = path.with_name(f"flipped_{seed}_{path.name}")
    copy.write_bytes(data.tobytes())
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(PyAvSource(copy))
            frames = list(source.frames())
        except VideoError:
            # The damage may hit the header; any other error is a bug.
            return
    times = [frame.timestamp for frame in frames]
    assert times and times[0] == 0.0
    assert all(before < after for before, after in itertools.pairwise(times))
    shape = (source.info.height, source.info.width, 3)
    assert all(frame.rgb().shape == shape for frame in frames)


def test_loss_is_that_of_the_latest_reading(
    written: Write, long_recipe: Callable[..., Any]
) -> None:
    with PyAvSource(cut(written(long_recipe("ffv1.mkv")), 0.5)) as source:
        assert not source.loss
        list(source.frames())
        once = source.loss.lost_seconds
        list(source.frames())
        assert source.loss.lost_seconds == once > 0
        next(source.frames())
        assert not source.loss


def test_reading_on_where_nothing_can_be_read(
    written: Write, long_recipe: Callable[..., Any]
) -> None:
    recipe = long_recipe("h264_front_index.mp4", options={"g": "12"})
    path = damaged(written(recipe), at=0.6, size=0.4)
    message = r"nothing can be decoded from 3\.900 s on: \d+ damaged packets skipped"
    with PyAvSource(path) as source, pytest.raises(VideoDecodeError, match=message):
        list(source.frames(3.9))


# What is odd


def test_longer_sound_is_no_loss(written: Write, video_files: ModuleType) -> None:
    for recipe in video_files.RECIPES:
        if recipe.has_sound and not recipe.name.endswith(".flv"):
            with PyAvSource(written(recipe)) as source:
                assert source.info.duration_seconds is not None
                # The sound is two seconds longer; the last frame stays for one step at most.
                assert 0 < source.info.duration_seconds - recipe.times[-1] < FRAME_SECONDS + 1e-3


@pytest.mark.parametrize(
    ("matrix", "rotation", "upright"),
    [
        # As cameras write them into the track header: (x', y') = (a x + c y, b x + d y).
        ((1, 0, 0, 1), 0, lambda stored: stored),
        ((0, 1, -1, 0), 90, lambda stored: np.rot90(stored, -1)),
        ((-1, 0, 0, -1), 180, lambda stored: np.rot90(stored, 2)),
        ((0, -1, 1, 0), 270, lambda stored: np.rot90(stored, 1)),
        ((-1, 0, 0, 1), 0, lambda stored: stored[:, ::-1]),
        ((1, 0, 0, -1), 180, lambda stored: stored[::-1]),
        ((0, 1, 1, 0), 270, lambda stored: stored.transpose(1, 0, 2)),
        ((0, -1, -1, 0), 90, lambda stored: stored[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_display_matrix(
    tmp_path: Path,
    video_files: ModuleType,
    matrix: tuple[int, int, int, int],
    rotation: int,
    upright: Callable[[Any], Any],
) -> None:
    path = tmp_path / "phone.mp4"
    image = video_files.draw(5)
    one = 1 << 16
    a, b, c, d = (one * value for value in matrix)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with PyAvSource(path) as source:
        got = next(source.frames()).rgb()
        np.testing.assert_array_equal(got, upright(image))
        assert (source.info.height, source.info.width) == got.shape[:2]
        assert source.info.rotation == rotation


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuvj444p", "yuv444p10le", "bgr0"])
def test_colors(tmp_path: Path, pixel_format: str) -> None:
    colors = np.array(
        [[0, 0, 0], [255, 255, 255], [200, 30, 30], [30, 200, 30], [30, 30, 200], [128, 128, 128]],
        np.uint8,
    )
    image = np.repeat(np.repeat(colors[None], 16, 0), 16, 1)
    path = tmp_path / "colors.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = image.shape[1], image.shape[0]
        stream.pix_fmt = pixel_format
        if pixel_format == "yuvj444p":
            stream.codec_context.pix_fmt, stream.color_range = "yuv444p", 2
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv444p", dst_color_range=2
            )
        else:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixel_format)
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with PyAvSource(path) as source:
        got = next(source.frames()).rgb().astype(int)
    assert np.abs(got - image).max() <= 3


def test_changing_size_is_scaled_to_the_first(tmp_path: Path, video_files: ModuleType) -> None:
    path = tmp_path / "changing.mkv"
    changing_size(path)
    with PyAvSource(path) as source:
        images = [frame.rgb() for frame in source.frames()]
    assert [image.shape for image in images] == [(48, 64, 3)] * 20
    assert [video_files.read_number(image) for image in images] == list(range(20))


@pytest.mark.parametrize(
    "name", ["10:30:00 door.mp4", "Tür 'Süd' \"2\".mp4", "50%03d.mp4", "-i.mp4"]
)
def test_names_that_ffmpeg_could_misread(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: Write,
    video_files: ModuleType,
    name: str,
) -> None:
    (tmp_path / name).write_bytes(written(video_files.RECIPES[0]).read_bytes())
    monkeypatch.chdir(tmp_path)
    with PyAvSource(name) as source:
        assert source.info.path == name
        assert len(list(source.frames())) == 40


def test_ending_that_lies(tmp_path: Path, written: Write, video_files: ModuleType) -> None:
    path = tmp_path / "really_mp4.avi"
    path.write_bytes(written(video_files.RECIPES[0]).read_bytes())
    with PyAvSource(path) as source:
        assert len(list(source.frames())) == 40


def test_times_that_do_not_rise_are_left_out(tmp_path: Path, video_files: ModuleType) -> None:
    ticks = (0, 40, 80, 80, 80, 120, 160, 150, 200, 240)
    path = tmp_path / "jumping.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number, tick in enumerate(ticks):
            encoder = av.CodecContext.create("mjpeg", "w")
            assert isinstance(encoder, av.VideoCodecContext)
            encoder.width, encoder.height = 64, 48
            encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 1000)
            image = video_files.draw(number)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = tick, Fraction(1, 1000)
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.stream = stream
                # Muxers insist on rising decoding times; Matroska stores the others alone.
                packet.dts = number
                container.mux(packet)
    with PyAvSource(path) as source:
        frames = list(source.frames())
        assert [video_files.read_number(frame.rgb()) for frame in frames] == [0, 1, 2, 5, 6, 8, 9]
        assert source.loss.notes == ["3 frames left out for want of a time that rises"]
        late = list(source.frames(0.12))
    assert [frame.frame_index for frame in late] == [3, 4, 5, 6]


def test_seeks_are_used(written: Write, video_files: ModuleType) -> None:
    # Equality with a sequential read would also hold if every seek were mistrusted.
    path = written(video_files.RECIPES[0])
    with PyAvSource(path) as source:
        sought = source._sought(1.0)
        assert sought is not None
        reading, frames, index = sought
        pts, _ = next(frames)
        reading.close()
    assert index == 24 and reading.seconds(pts) == pytest.approx(24 * FRAME_SECONDS)


def test_seek_that_lands_late_is_noticed(
    written: Write, video_files: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(video_files.RECIPES[0])
    with PyAvSource(path) as source:
        honest = PyAvSource._open_container

        class Late:
            """A container whose seeks overshoot by half a second."""

            def __init__(self, container: Any) -> None:
                self._container = container

            def __getattr__(self, name: str) -> Any:
                return getattr(self._container, name)

            def seek(self, offset: int, *, stream: Any) -> None:
                self._container.seek(offset + int(0.5 / stream.time_base), stream=stream)

        monkeypatch.setattr(PyAvSource, "_open_container", lambda self: Late(honest(self)))
        assert source._sought(1.0) is None
        late = list(source.frames(1.0))
    assert [frame.frame_index for frame in late] == list(range(25, 40))


def test_seek_that_does_not_land_on_a_key_frame_is_noticed(
    written: Write, video_files: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Reading.frames

    def without_the_first(self: Reading) -> Any:
        frames = honest(self)
        next(frames)
        yield from frames

    with PyAvSource(written(video_files.RECIPES[0])) as source:
        monkeypatch.setattr(Reading, "frames", without_the_first)
        assert source._sought(1.2) is None


@pytest.fixture(scope="module")
def calm_then_sparse(
    tmp_path_factory: pytest.TempPathFactory, video_files: ModuleType
) -> Callable[[str], Path]:
    """Writes 260 frames: one B-frame between two others, and from number 200 on three."""

    def write(key_frames: str) -> Path:
        path = tmp_path_factory.mktemp("sparse") / "calm_then_sparse.mp4"
        options = {"bf": "3", "g": "300", "x264-params": "b-adapt=0:b-pyramid=none:scenecut=0"}
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options=options)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(260):
                frame = av.VideoFrame.from_ndarray(video_files.draw(number), format="rgb24")
                frame = frame.reformat(format="yuv420p")
                frame.pts = number
                kind = av.video.frame.PictureType
                if key_frames == "often" and number % 50 == 0:
                    frame.pict_type = kind.I
                elif number < 200:
                    frame.pict_type = kind.P if number % 2 == 0 else kind.B
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.mark.parametrize("start", [0.0, 3.0])
@pytest.mark.parametrize("key_frames", ["often", "once"])
def test_skipping_goes_back_where_it_would_leave_out_too_much(
    calm_then_sparse: Callable[[str], Path],
    video_files: ModuleType,
    key_frames: str,
    start: float,
) -> None:
    path = calm_then_sparse(key_frames)
    with PyAvSource(path) as source:
        frames = list(source.sparse_frames(start, max_time_error_seconds=0.05))
        skipping = source.skipping
        assert not source.loss, source.loss
    indices = [frame.frame_index for frame in frames]
    with av.open(str(path)) as container:
        kinds = [frame.pict_type for frame in container.decode(video=0)]
    kept = [number for number in range(199) if kinds[number] != av.video.frame.PictureType.B]
    first = round(start / FRAME_SECONDS)
    # Of the run of three none is left out, and nothing behind it.
    assert indices == [*(number for number in kept if number >= first), *range(199, 260)]
    assert [video_files.read_number(frame.rgb()) for frame in frames] == indices
    assert [round(frame.timestamp / FRAME_SECONDS) for frame in frames] == indices
    assert skipping.max_time_error_seconds == pytest.approx(FRAME_SECONDS)


def test_skipping_that_goes_back_does_not_seek_where_a_seek_would_miss(
    calm_then_sparse: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with PyAvSource(calm_then_sparse("once")) as source:
        monkeypatch.setattr(PyAvSource, "_landed", lambda *_: None)
        frames = source.sparse_frames(max_time_error_seconds=0.05)
        assert [frame.frame_index for frame in frames] == [*range(0, 200, 2), *range(199, 260)]


@pytest.mark.parametrize("num_frames", [40, 41])
def test_frames_that_are_skipped_at_the_end_are_no_loss(
    tmp_path: Path, video_files: ModuleType, num_frames: int
) -> None:
    """As video calls are recorded: every other frame is in a layer that nobody refers to."""
    layers = (
        "ts_number_layers=2:ts_target_bitrate=200,400:ts_rate_decimator=2,1:ts_periodicity=2:"
        "ts_layer_id=0,1:ts_layering_mode=2"
    )
    path = video_files.Recipe(
        name="call.webm",
        codec="libvpx",
        ticks=range(num_frames),
        # Without these the encoder may refer to a frame of that layer once in a while.
        options={
            "deadline": "realtime",
            "lag-in-frames": "0",
            "auto-alt-ref": "0",
            "error-resilient": "1",
            "ts-parameters": layers,
        },
    ).write(tmp_path)
    with PyAvSource(path) as source:
        given = [frame.frame_index for frame in source.sparse_frames(max_time_error_seconds=0.05)]
        assert given == list(range(0, num_frames, 2))
        assert source.skipping.num_frames == num_frames - len(given)
        assert not source.loss, source.loss


def test_real_videos(real_videos: list[Path]) -> None:
    for path in real_videos:
        with PyAvSource(path) as source:
            count, last = 0, -1.0
            for frame in source.frames():
                assert frame.frame_index == count and frame.timestamp > last
                count, last = count + 1, frame.timestamp
            assert not source.loss
            assert source.info.duration_seconds == pytest.approx(last + FRAME_SECONDS, abs=0.01)
            assert (source.info.width, source.info.height) == (320, 180)
