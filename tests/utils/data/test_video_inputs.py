"""Inputs of a video: decoded once, cached by all that made them, with or without cache the same."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from utils.config.schema import DataConfig
from utils.data.annotations import AnnotatedEvent, VideoAnnotation, load_annotations
from utils.data.array_cache import ArrayCache, CacheError, file_hash
from utils.data.video_inputs import (
    VideoInputs,
    VideoInputsLoader,
    draw_number,
    stack_samples,
)
from utils.errors import NotAVideoError, VideoError, VideoNotFoundError
from utils.video.decoders.isolated import IsolatedPyAvSource
from utils.video.sampler import SampledFrame
from utils.video.source import VideoSource

LABELS = ("fall", "fight")
SIZE = 16
EVENTS = (
    AnnotatedEvent(label="fight", start=1.0, end=2.0),
    AnnotatedEvent(label="fall", start=3.0, end=3.0),
)


def write_video(path: Path, num_frames: int = 50, fps: int = 10) -> Path:
    """Five seconds that grow brighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for index in range(num_frames):
            image = np.full((32, 48, 3), min(255, 5 * index), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_b_frames(path: Path) -> Path:
    """Five seconds of 30 frames, of which two thirds are referred to by no other."""
    options = {"bf": "2", "x264-params": "b-adapt=0:b-pyramid=none:scenecut=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for index in range(150):
            image = np.full((32, 48, 3), index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> VideoAnnotation:
    path = write_video(tmp_path_factory.mktemp("videos") / "a.mp4")
    return VideoAnnotation(video="a.mp4", path=path, events=EVENTS, group="room")


@pytest.fixture
def make_loader(tmp_path: Path) -> Callable[..., VideoInputsLoader]:
    def make(*, offsets: tuple[float, ...] = (), **changes: Any) -> VideoInputsLoader:
        plain = {"image_size": SIZE, "frame_sampling_rate": 5, "cache_dir": str(tmp_path / "cache")}
        plain["decoder"] = "pyav"
        config = DataConfig.model_validate({**plain, **changes})
        return VideoInputsLoader(config, LABELS, neighbor_offsets_seconds=offsets)

    return make


@pytest.fixture
def num_decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one for each time that a video's frames are read."""
    opened: list[str] = []
    chunks = VideoInputsLoader._chunks

    def counted(self: VideoInputsLoader, annotation: VideoAnnotation, lost: list[str]) -> Any:
        # When the first is asked for: a generator that is not run decodes nothing.
        opened.append(annotation.video)
        yield from chunks(self, annotation, lost)

    monkeypatch.setattr(VideoInputsLoader, "_chunks", counted)
    return opened


def mean_colour(frames: torch.Tensor, draw: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Stands in for a backbone: two numbers a frame."""
    mean = frames.float().mean((1, 2, 3))
    return torch.stack((mean, torch.full_like(mean, draw % 1000)), dim=1).numpy()


def entries(cache: Path) -> list[Path]:
    """Everything in the folder but the notes of who uses what."""
    return [folder for folder in cache.iterdir() if folder.name != ".runs"]


def same(first: VideoInputs, second: VideoInputs) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("inputs", "timestamps", "frame_indices", "targets")
    )


Make = Callable[..., VideoInputsLoader]


def test_frames(make_loader: Make, video: VideoAnnotation) -> None:
    inputs = make_loader().load_frames(video)
    assert len(inputs) == 25
    assert inputs.inputs.shape == (25, 3, SIZE, SIZE)
    assert inputs.inputs.dtype == np.uint8
    np.testing.assert_allclose(inputs.timestamps, np.arange(25) / 5, atol=1e-6)
    assert inputs.frame_indices.tolist() == list(range(0, 50, 2))
    brightness = inputs.inputs.mean((1, 2, 3))
    np.testing.assert_allclose(brightness, 10 * np.arange(25), atol=4)
    # The point reaches half a second to either side.
    on = {label: inputs.timestamps[inputs.targets[:, k] > 0] for k, label in enumerate(LABELS)}
    np.testing.assert_allclose(on["fight"], [1.0, 1.2, 1.4, 1.6, 1.8], atol=1e-6)
    np.testing.assert_allclose(on["fall"], [2.6, 2.8, 3.0, 3.2, 3.4], atol=1e-6)
    assert (inputs.video, inputs.events, inputs.group) == ("a.mp4", EVENTS, "room")
    assert inputs.copies == ()


def test_cached_or_not_they_are_the_same(
    make_loader: Make, video: VideoAnnotation, num_decoded: list[str]
) -> None:
    first = make_loader().load_frames(video)
    second = make_loader().load_frames(video)
    assert len(num_decoded) == 1
    assert isinstance(second.inputs, np.memmap)
    in_memory = make_loader(cache_dir=None).load_frames(video)
    assert len(num_decoded) == 2
    assert not isinstance(in_memory.inputs, np.memmap)
    assert same(first, second)
    assert same(first, in_memory)


@pytest.mark.parametrize(
    "change",
    [
        {"frame_sampling_rate": 2},
        {"image_size": 18},
        {"resize_mode": "stretch"},
        {"max_frames": 7},
        {"offsets": (0.1,)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_pixels_makes_another_entry(
    make_loader: Make, video: VideoAnnotation, num_decoded: list[str], change: dict[str, Any]
) -> None:
    make_loader().load_frames(video)
    changed = make_loader(**change).load_frames(video)
    assert len(num_decoded) == 2
    assert same(changed, make_loader(**change, cache_dir=None).load_frames(video))


def test_what_does_not_change_them_makes_none(
    make_loader: Make, video: VideoAnnotation, num_decoded: list[str], tmp_path: Path
) -> None:
    make_loader().load_frames(video)
    wide = make_loader(point_radius_seconds=1.0).load_frames(video)
    # Targets are not cached: they follow the annotations of the day.
    assert wide.targets[:, 0].sum() == 10
    renamed = shutil.copy(video.path, tmp_path / "b.avi")
    other = VideoAnnotation(video="b.avi", path=Path(renamed))
    assert not make_loader().load_frames(other).targets.any()
    assert len(num_decoded) == 1


def test_a_video_that_was_replaced_is_decoded_anew(
    make_loader: Make, tmp_path: Path, num_decoded: list[str]
) -> None:
    path = write_video(tmp_path / "a.mp4")
    annotation = VideoAnnotation(video="a.mp4", path=path)
    assert len(make_loader().load_frames(annotation)) == 25
    write_video(path, num_frames=20)
    assert len(make_loader().load_frames(annotation)) == 10
    assert len(num_decoded) == 2


def test_a_damaged_entry_is_decoded_anew(
    make_loader: Make, video: VideoAnnotation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_loader().load_frames(video)
    expected = np.array(first.inputs)
    (entry,) = entries(tmp_path / "cache")
    shutil.copy(entry / "data.raw", tmp_path / "data.raw")
    (entry / "data.raw").unlink()
    with caplog.at_level(logging.WARNING):
        again = make_loader().load_frames(video)
    assert "is damaged" in caplog.text
    np.testing.assert_array_equal(again.inputs, expected)


def test_the_bound_of_the_cache_is_in_gigabytes(
    make_loader: Make, video: VideoAnnotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[int] = []
    monkeypatch.setattr(ArrayCache, "_evict", lambda self, max_bytes: bounds.append(max_bytes))
    make_loader(cache_max_gb=1.5).load_frames(video)
    make_loader(image_size=18).load_frames(video)
    assert bounds == [1_500_000_000]


def test_soft_borders_are_of_the_targets_alone(
    make_loader: Make, video: VideoAnnotation, num_decoded: list[str], tmp_path: Path
) -> None:
    hard = make_loader().load_frames(video)
    config = DataConfig(
        image_size=SIZE, frame_sampling_rate=5, cache_dir=str(tmp_path / "cache"), decoder="pyav"
    )
    soft = VideoInputsLoader(config, LABELS, soft_border_seconds=0.8).load_frames(video)
    assert len(num_decoded) == 1, "both read one entry of the cache"
    assert set(hard.targets.flat) == {0, 1}
    assert soft.targets[:, 1] == pytest.approx(
        np.interp(soft.timestamps, [0.6, 1.4, 1.6, 2.4], [0, 1, 1, 0]), abs=1e-6
    )
    assert soft.targets[15].tolist() == [1, 0], "a point reaches 1 at its time"


def test_neighbours_stand_behind_the_frame(make_loader: Make, video: VideoAnnotation) -> None:
    inputs = make_loader(offsets=(0.1,)).load_frames(video)
    assert inputs.inputs.shape == (25, 9, SIZE, SIZE)
    brightness = inputs.inputs.reshape(25, 3, -1).mean(2)
    np.testing.assert_allclose(brightness[5], [50, 45, 55], atol=4)


def test_features(make_loader: Make, video: VideoAnnotation, num_decoded: list[str]) -> None:
    frames = make_loader(cache_dir=None).load_frames(video)
    load = {"encoder_key": "mean", "num_copies": 2}
    features = make_loader().load_features(video, mean_colour, **load)
    assert features.inputs.shape == (25, 2)
    np.testing.assert_allclose(
        features.inputs[:, 0], frames.inputs.mean((1, 2, 3)), rtol=1e-5, atol=1e-4
    )
    assert [copy[:, 1].tolist() for copy in (features.inputs, *features.copies)] == [
        [draw % 1000] * 25
        for draw in (0, *(draw_number(file_hash(video.path), copy) for copy in (1, 2)))
    ]
    np.testing.assert_array_equal(features.targets, frames.targets)

    def never(frames: torch.Tensor, copy: int) -> Any:
        raise AssertionError("the features are cached")

    num_before = len(num_decoded)
    again = make_loader().load_features(video, never, **load)
    assert len(num_decoded) == num_before
    assert same(features, again)


@pytest.mark.parametrize("change", [{"encoder_key": "other"}, {"num_copies": 1}])
def test_another_encoder_or_number_of_copies_is_another_entry(
    make_loader: Make, video: VideoAnnotation, num_decoded: list[str], change: dict[str, Any]
) -> None:
    load: dict[str, Any] = {"encoder_key": "mean", "num_copies": 0}
    make_loader().load_features(video, mean_colour, **load)
    changed = make_loader().load_features(video, mean_colour, **{**load, **change})
    assert len(num_decoded) == 2
    assert len(changed.copies) == change.get("num_copies", 0)


def test_frames_and_features_are_two_entries(
    make_loader: Make, video: VideoAnnotation, tmp_path: Path
) -> None:
    make_loader().load_frames(video)
    make_loader().load_features(video, mean_colour, encoder_key="mean")
    assert len(entries(tmp_path / "cache")) == 2


def test_an_encoder_that_fails_leaves_no_entry(
    make_loader: Make, video: VideoAnnotation, tmp_path: Path
) -> None:
    def fail(frames: torch.Tensor, copy: int) -> Any:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        make_loader().load_features(video, fail, encoder_key="mean")
    assert entries(tmp_path / "cache") == []


def test_videos_that_cannot_be_used(make_loader: Make, tmp_path: Path) -> None:
    gone = VideoAnnotation(video="gone.mp4", path=tmp_path / "gone.mp4")
    with pytest.raises(VideoNotFoundError, match=r"gone.mp4: "):
        make_loader().load_frames(gone)
    (tmp_path / "noise.mp4").write_bytes(b"noise" * 100)
    noise = VideoAnnotation(video="noise.mp4", path=tmp_path / "noise.mp4")
    with pytest.raises(NotAVideoError):
        make_loader(cache_dir=None).load_frames(noise)


def test_a_video_that_goes_while_it_is_cached_is_an_error_of_the_video(
    make_loader: Make,
    video: VideoAnnotation,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """It is also an OSError, and must not pass for one of the cache: the others still train."""

    def open_too_late(path: Path, *, decoder: str) -> VideoSource:
        raise VideoNotFoundError(path, "no such file")

    monkeypatch.setattr(VideoSource, "open", open_too_late)
    with pytest.raises(VideoError, match="no such file") as caught:
        make_loader().load_frames(video)
    assert not isinstance(caught.value, CacheError)
    assert entries(tmp_path / "cache") == []


def test_an_entry_that_cannot_be_read_back(
    make_loader: Make, video: VideoAnnotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ArrayCache, "get", lambda self, key: None)
    with pytest.raises(CacheError, match=r"cannot be read back; is the disk sound\?"):
        make_loader().load_frames(video)


def test_what_a_file_lost_is_said(
    make_loader: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Without an index at the end, the beginning of the file can be read.
    path = write_video(tmp_path / "a.avi", num_frames=250)
    path.write_bytes(path.read_bytes()[:-12_000])
    annotation = VideoAnnotation(video="a.avi", path=path)
    said = []
    # Decoded without a cache, decoded into one, and read from it.
    for loader in (make_loader(cache_dir=None), make_loader(), make_loader()):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            inputs = loader.load_frames(annotation)
        assert 1 <= len(inputs) < 125
        said.append(caplog.messages)
    assert said[0] == said[1] == said[2]
    (message,) = said[0]
    assert message.startswith(f"{path}: ")
    assert "missing" in message


def test_what_is_cached_is_not_opened_again(
    make_loader: Make, video: VideoAnnotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_loader().load_frames(video)
    monkeypatch.setattr(VideoSource, "open", None)
    assert same(first, make_loader().load_frames(video))


def test_decoding_at_a_smaller_size_has_entries_of_its_own(
    make_loader: Make, video: VideoAnnotation, tmp_path: Path
) -> None:
    full = make_loader(image_size=16).load_frames(video)
    small = make_loader(image_size=16, decode_short_side=16).load_frames(video)
    assert len(entries(tmp_path / "cache")) == 2
    assert np.array_equal(full.timestamps, small.timestamps)
    assert small.inputs.shape == full.inputs.shape


def test_skipping_is_said_and_has_entries_of_its_own(
    make_loader: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_b_frames(tmp_path / "b.mp4")
    annotation = VideoAnnotation(video="b.mp4", path=path)
    make_loader().load_frames(annotation)
    with caplog.at_level(logging.INFO):
        skipped = make_loader(skip_nonref_frames=True).load_frames(annotation)
    assert len(entries(tmp_path / "cache")) == 2
    found = re.search(
        r"(\d+) frames were skipped; a sample is at most (0\.\d+) s late", caplog.text
    )
    assert found is not None
    assert int(found[1]) > 20
    assert 0 < float(found[2]) <= 0.1, "half a sampling step"
    assert 20 <= len(skipped) <= 25


def _read_in_another_run(make: Callable[[], VideoInputs], lengths: Any) -> None:
    lengths.put(len(make()))


@pytest.mark.parametrize("content", ["frames", "features"])
def test_what_a_dying_decoder_left_is_read_once_more_by_the_next_run(
    make_loader: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    content: str,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    path = write_video(tmp_path / "a.mp4")
    annotation = VideoAnnotation(video="a.mp4", path=path)

    def read() -> VideoInputs:
        loader = make_loader(decoder="pyav_isolated")
        if content == "frames":
            return loader.load_frames(annotation)
        return loader.load_features(annotation, mean_colour, encoder_key="mean")

    def read_in_a_run(target: str) -> int:
        monkeypatch.setattr(IsolatedPyAvSource, "target", target)
        context = multiprocessing.get_context("fork")
        lengths = context.Queue()
        process = context.Process(target=_read_in_another_run, args=(read, lengths))
        process.start()
        length: int = lengths.get(timeout=60)
        process.join(timeout=30)
        for lease in (tmp_path / "cache" / ".runs").glob("*.lease"):
            os.utime(lease, (0, 0))
        return length

    dying, sound = "misbehaving_decoders:Crashing", IsolatedPyAvSource.target
    assert read_in_a_run(dying) == 3
    assert read_in_a_run(sound) == 25
    assert read_in_a_run(dying) == 25, "what is whole is not read again"
    shutil.rmtree(tmp_path / "cache")
    assert [read_in_a_run(dying), read_in_a_run(dying)] == [3, 3]
    assert read_in_a_run(sound) == 3, "the second time it was taken for the fault of the file"
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(IsolatedPyAvSource, "target", dying)
    with caplog.at_level(logging.WARNING):
        assert len(read()) == len(read()) == 3, "one run sees the same all the time"
    said = f"{path}: the next run will read it again, in the hope that its decoder gets further"
    assert [message.startswith(said) for message in caplog.messages] == [True, False, False]
    assert "was killed by SIGSEGV after 1.000 s" in caplog.messages[1]


def test_stack_samples() -> None:
    def sample(value: int, neighbors: int) -> SampledFrame:
        images = [np.full((2, 4, 3), value + n, np.uint8) for n in range(neighbors + 1)]
        return SampledFrame(
            sample_index=0,
            frame_index=0,
            timestamp=0.0,
            image=images[0],
            neighbors=tuple(images[1:]),
        )

    assert stack_samples([sample(1, 0), sample(5, 0)]).shape == (2, 2, 4, 3)
    stacked = stack_samples([sample(1, 2), sample(5, 2)])
    assert stacked.shape == (2, 3, 2, 4, 3)
    assert stacked[:, :, 0, 0, 0].tolist() == [[1, 2, 3], [5, 6, 7]]


def test_a_real_stream(shared_data: Path, make_loader: Make) -> None:
    folder = shared_data / "data" / "fight_streams" / "val"
    (annotation, *_) = load_annotations(folder / "annotations.json").videos
    loader = make_loader(frame_sampling_rate=1, cache_dir=None)
    inputs = VideoInputsLoader.load_frames(loader, annotation)
    assert annotation.duration is not None
    assert abs(len(inputs) - annotation.duration) <= 1
    # Label 'fight' is not in the loader's place of it by chance.
    on = {event.label for event in annotation.events}
    assert on == {"fight"}
    assert not inputs.targets[:, LABELS.index("fall")].any()
    assert inputs.targets[:, LABELS.index("fight")].any()
