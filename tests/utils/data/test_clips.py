"""Training clips: a function of (seed, epoch, position), balanced, padded, the same in workers."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.config.schema import AugmentationConfig
from utils.data.annotations import AnnotatedEvent, frame_targets
from utils.data.array_cache import ArrayCache
from utils.data.augmentation import ClipAugmentation
from utils.data.clip_batches import EpochPlan
from utils.data.clips import Clip, ClipDataset, ClipPosition
from utils.data.video_inputs import VideoInputs
from utils.errors import AnnotationError, TrainingError
from utils.training.batch_loading import BatchLoader
from utils.training.processes import Processes

FPS = 4.0
PLAIN = AugmentationConfig(enabled=False)


def make_video(
    length: int = 40,
    *spans: tuple[str, float, float],
    labels: Sequence[str] = ("a",),
    number: int = 0,
    is_frames: bool = False,
    num_copies: int = 0,
) -> VideoInputs:
    """A video whose features say which video, frame and copy they are of."""
    timestamps = np.arange(length) / FPS
    events = tuple(AnnotatedEvent(label=label, start=s, end=e) for label, s, e in spans)
    if is_frames:
        generator = np.random.default_rng(number)
        inputs: Any = generator.integers(0, 256, (length, 3, 16, 16), dtype=np.uint8)
        copies: list[Any] = []
    else:
        inputs, *copies = [
            np.stack(
                [np.full(length, number), np.arange(length), np.full(length, copy)], axis=1
            ).astype(np.float32)
            for copy in range(num_copies + 1)
        ]
    return VideoInputs(
        video=f"video_{number}.mp4",
        inputs=inputs,
        copies=tuple(copies),
        timestamps=timestamps,
        frame_indices=np.arange(length) * 6,
        targets=frame_targets(events, labels, timestamps),
        events=events,
        group=None,
    )


def make_dataset(
    *videos: VideoInputs,
    window_size: int = 8,
    event_fraction: float = 0.5,
    augmentation: AugmentationConfig = PLAIN,
    seed: int = 0,
    source: str | None = None,
) -> ClipDataset:
    return ClipDataset(
        videos or [make_video(40, ("a", 4, 5))],
        window_size=window_size,
        event_fraction=event_fraction,
        augmentation=augmentation,
        seed=seed,
        source=source,
    )


def same(first: Clip, second: Clip) -> bool:
    return all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for a, b in zip(first, second, strict=True)
    )


# What a clip holds


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    window_size=st.integers(1, 12),
    position=st.integers(0, 1000),
)
def test_a_clip_is_a_part_of_one_video(lengths: list[int], window_size: int, position: int) -> None:
    videos = [
        make_video(length, ("a", 0, 1), number=number) for number, length in enumerate(lengths)
    ]
    clip = make_dataset(*videos, window_size=window_size)[ClipPosition(0, position)]
    video = videos[clip.video_index]
    num_valid = min(window_size, len(video))
    part = slice(clip.first_sample, clip.first_sample + num_valid)
    assert clip.inputs.shape == (window_size, 3)
    assert clip.valid.tolist() == [index < num_valid for index in range(window_size)]
    np.testing.assert_array_equal(clip.inputs[:num_valid], video.inputs[part])
    np.testing.assert_array_equal(clip.targets[:num_valid], video.targets[part])
    np.testing.assert_allclose(
        clip.timestamps[:num_valid], video.timestamps[part] - video.timestamps[clip.first_sample]
    )
    for padded in (clip.inputs, clip.targets, clip.timestamps):
        assert not padded[num_valid:].any()
    assert clip.inputs.dtype == clip.targets.dtype == clip.timestamps.dtype == torch.float32


def test_times_are_exact_late_in_a_long_recording() -> None:
    video = make_video(40, ("a", 4, 5))
    # float32 seconds are 0.06 s apart after six days.
    late = VideoInputs(**{**vars(video), "timestamps": video.timestamps / 100 + 6 * 86_400.0})
    clip = make_dataset(late)[ClipPosition(0, 0)]
    np.testing.assert_allclose(clip.timestamps, np.arange(8) / 400, atol=1e-6)


def test_frames_come_in_unit_range() -> None:
    video = make_video(20, ("a", 1, 2), is_frames=True)
    clip = make_dataset(video)[ClipPosition(0, 3)]
    part = video.inputs[clip.first_sample : clip.first_sample + 8]
    np.testing.assert_allclose(clip.inputs, part / 255, atol=1e-6)


def test_a_clip_is_a_copy() -> None:
    video = make_video(20, ("a", 1, 2), is_frames=True)
    before = video.inputs.copy(), video.targets.copy()
    dataset = make_dataset(video)
    clip = dataset[ClipPosition(0, 0)]
    clip.inputs.zero_()
    clip.targets.fill_(9)
    np.testing.assert_array_equal(video.inputs, before[0])
    np.testing.assert_array_equal(video.targets, before[1])


def test_targets_can_be_asked_for_alone() -> None:
    dataset = make_dataset(make_video(40, ("a", 4, 5)), make_video(3, ("a", 0, 1), number=1))
    for position in range(40):
        place = ClipPosition(1, position)
        clip = dataset[place]
        assert torch.equal(dataset.targets_at(place), clip.targets[clip.valid])


# Determinism


@pytest.mark.parametrize("is_frames", [True, False])
def test_an_item_depends_on_its_place_alone(is_frames: bool) -> None:
    videos = [
        make_video(30, ("a", 1, 2), number=number, is_frames=is_frames, num_copies=2)
        for number in range(3)
    ]
    first = make_dataset(*videos, augmentation=AugmentationConfig())
    again = make_dataset(*videos, augmentation=AugmentationConfig())
    places = [ClipPosition(epoch, position) for epoch in (0, 1) for position in range(10)]
    expected = [first[place] for place in places]
    torch.manual_seed(1)
    np.random.default_rng(1).random()
    for place, clip in reversed(list(zip(places, expected, strict=True))):
        assert same(again[place], clip)
    assert len({pickle.dumps(clip) for clip in expected}) > 15


def test_seed_epoch_and_position_each_matter() -> None:
    dataset, other = make_dataset(seed=0), make_dataset(seed=1)
    places = [ClipPosition(0, position) for position in range(20)]
    firsts = [dataset[place].first_sample for place in places]
    assert len(set(firsts)) > 3
    assert firsts != [other[place].first_sample for place in places]
    assert firsts != [dataset[ClipPosition(1, position)].first_sample for position in range(20)]


def test_augmentation_does_not_change_which_clips_are_drawn() -> None:
    video = make_video(40, ("a", 4, 5), is_frames=True)
    plain = make_dataset(video)
    augmented = make_dataset(video, augmentation=AugmentationConfig())
    for position in range(10):
        first, second = (d[ClipPosition(3, position)] for d in (plain, augmented))
        assert first.first_sample == second.first_sample
        assert not torch.equal(first.inputs, second.inputs)


def test_augmentation_does_not_follow_from_where_the_clip_was_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first_draws = []
    draw = ClipAugmentation.draw

    def recorded(config: AugmentationConfig, generator: np.random.Generator) -> ClipAugmentation:
        first_draws.append(generator.random())
        return draw(config, generator)

    monkeypatch.setattr(ClipAugmentation, "draw", recorded)
    video = make_video(400, ("a", 0, 50), is_frames=True)
    dataset = make_dataset(video, window_size=1, augmentation=AugmentationConfig())
    clips = [dataset[ClipPosition(0, position)] for position in range(300)]
    on_event = np.array([bool(clip.targets.any()) for clip in clips])
    draws = np.array(first_draws)
    # Of the same random stream, low numbers would be the clips on events.
    assert abs(draws[on_event].mean() - draws[~on_event].mean()) < 0.15


# Balance


@pytest.mark.parametrize("event_fraction", [0.0, 0.25, 1.0])
def test_the_share_of_clips_on_events(event_fraction: float) -> None:
    # Clips of one frame: a clip is on the event or it is not.
    dataset = make_dataset(
        make_video(400, ("a", 50, 52)), window_size=1, event_fraction=event_fraction
    )
    on = np.mean([bool(dataset[ClipPosition(0, p)].targets.any()) for p in range(600)])
    assert on == event_fraction if event_fraction in (0, 1) else abs(on - event_fraction) < 0.06


def test_a_rare_class_is_drawn_as_often_as_a_common_one() -> None:
    video = make_video(400, ("common", 0, 50), ("rare", 60, 61), labels=("common", "rare"))
    dataset = make_dataset(video, window_size=1, event_fraction=1)
    rare = np.mean([float(dataset[ClipPosition(0, p)].targets[0, 1]) for p in range(600)])
    assert abs(rare - 0.5) < 0.06


@pytest.mark.parametrize("frame", [0, 19])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_events_at_the_ends_of_videos_are_found(number: int, frame: int) -> None:
    start = frame / FPS
    videos = [
        make_video(20, *([("a", start, start + 0.25)] if n == number else []), number=n)
        for n in range(3)
    ]
    dataset = make_dataset(*videos, window_size=1, event_fraction=1)
    clips = [dataset[ClipPosition(0, position)] for position in range(5)]
    assert {(clip.video_index, clip.first_sample) for clip in clips} == {(number, frame)}


def test_a_class_without_events_takes_no_share() -> None:
    video = make_video(100, ("a", 0, 5), labels=("a", "never"))
    dataset = make_dataset(video, window_size=1, event_fraction=1)
    assert all(dataset[ClipPosition(0, p)].targets[0, 0] == 1 for p in range(50))


def test_videos_without_background() -> None:
    dataset = make_dataset(make_video(20, ("a", 0, 100)), window_size=4, event_fraction=0)
    assert dataset[ClipPosition(0, 0)].targets.all()


def test_the_drawn_frame_stands_anywhere_in_the_clip() -> None:
    # One positive frame far from the ends: it is the one that was drawn.
    dataset = make_dataset(make_video(200, ("a", 25, 25.25)), event_fraction=1)
    places = [int(dataset[ClipPosition(0, p)].targets[:, 0].argmax()) for p in range(400)]
    counts = np.bincount(places, minlength=8)
    assert counts.min() > 25
    assert counts.max() < 80


def test_every_frame_can_be_reached() -> None:
    dataset = make_dataset(
        make_video(20, ("a", 1, 1.5)), make_video(3, number=1), make_video(9, number=2)
    )
    seen = {
        (int(video), int(frame))
        for p in range(300)
        for video, frame, _ in dataset[ClipPosition(0, p)].inputs.tolist()
    }
    assert {(0, 0), (0, 19), (1, 0), (1, 2), (2, 0), (2, 8)} <= seen
    assert len(seen) == dataset.num_frames == 32


def test_no_event_at_all() -> None:
    for source, where in ((None, ""), ("data/train.json", "data/train.json: ")):
        with pytest.raises(AnnotationError) as caught:
            make_dataset(make_video(20), make_video(20, ("a", 100, 101)), source=source)
        assert str(caught.value) == (
            f"{where}no training video has an event that a sampled frame falls into; there is "
            "nothing to learn: check the annotations, or raise data.frame_sampling_rate"
        )


# Copies of cached features


def test_copies_are_drawn_alike_and_one_for_the_whole_clip() -> None:
    dataset = make_dataset(
        make_video(40, ("a", 4, 5), num_copies=3), augmentation=AugmentationConfig()
    )
    drawn = [dataset[ClipPosition(0, p)].inputs[:, 2].unique().tolist() for p in range(400)]
    assert all(len(copies) == 1 for copies in drawn)
    counts = np.bincount([int(copies[0]) for copies in drawn])
    assert len(counts) == 4
    assert counts.min() > 70


def test_without_augmentation_the_plain_copy_is_taken() -> None:
    dataset = make_dataset(make_video(40, ("a", 4, 5), num_copies=3))
    assert all(not dataset[ClipPosition(0, p)].inputs[:, 2].any() for p in range(50))


# The rest


def test_describe() -> None:
    dataset = make_dataset(make_video(40, ("a", 4, 5)), make_video(3, number=1))
    clip = Clip(
        *(torch.zeros(0),) * 4,
        video_index=torch.tensor([1, 0]),  # type: ignore[arg-type]
        first_sample=torch.tensor([2, 13]),  # type: ignore[arg-type]
    )
    assert dataset.describe(clip, 0) == "video_1.mp4 at 0.50 s"
    assert dataset.describe(clip, 1) == "video_0.mp4 at 3.25 s"


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    window_size=st.integers(1, 12),
    first=st.integers(0, 50),
    count=st.integers(0, 8),
)
def test_valid_frames_are_counted_without_reading(
    lengths: list[int], window_size: int, first: int, count: int
) -> None:
    videos = [make_video(length, ("a", 0, 1), number=n) for n, length in enumerate(lengths)]
    dataset = make_dataset(*videos, window_size=window_size)
    places = range(first, first + count)
    expected = sum(int(dataset[ClipPosition(3, place)].valid.sum()) for place in places)
    assert dataset.num_valid_frames(3, places) == expected


# Cache entries that do not stay as they were


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[ClipDataset, Path]:
    """A data set that reads its one video from a file."""
    cache = ArrayCache(tmp_path / "cache")
    video = make_video(40, ("a", 4, 5))
    with cache.create({"video": "v"}) as writer:
        writer.append(video.inputs)
    entry = cache.get({"video": "v"})
    assert entry is not None
    dataset = make_dataset(VideoInputs(**{**vars(video), "inputs": entry.data}))
    (path,) = tmp_path.glob("cache/*/data.raw")
    assert dataset[ClipPosition(0, 0)].inputs.shape == (8, 3)
    return dataset, path


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("what", ["cut off", "changed", "removed"])
def test_an_entry_that_changes_is_named(
    mapped: tuple[ClipDataset, Path], what: str, num_workers: int
) -> None:
    """Cut off, it would end the process by a signal."""
    dataset, path = mapped
    if what == "removed":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.truncate(8) if what == "cut off" else file.write(b"other")
    loader = BatchLoader(
        dataset,
        EpochPlan(clips_per_epoch=4, batch_size=2),
        processes=Processes(),
        num_workers=num_workers,
        device=torch.device("cpu"),
    )
    with loader, pytest.raises(TrainingError) as caught:
        [list(batches) for _, _, batches in loader.updates(0, 0)]
    trouble = "cannot be read (No such file or directory)" if what == "removed" else "was changed"
    assert str(caught.value) == (
        f"video_0.mp4: its cache entry {path} {trouble} while training reads it; the checkpoints "
        "so far are sound: go on with --resume latest, which reads the video anew"
    )


def test_arrays_of_a_video_must_agree() -> None:
    video = make_video(4, ("a", 0, 1))
    with pytest.raises(ValueError, match=r"^video_0.mp4: arrays of \[3, 4\] frames$"):
        VideoInputs(**{**vars(video), "timestamps": np.zeros(3)})
    with pytest.raises(ValueError, match=r"arrays of \[0\] frames"):
        make_video(0)


def test_what_a_soft_border_reaches_outside_of_the_event_is_background() -> None:
    # Off the grid of the frames: none lies exactly on a border.
    hard = make_video(40, ("a", 4.1, 5.1))
    targets = frame_targets(hard.events, ["a"], hard.timestamps, soft_border_seconds=2)
    assert (targets > 0).sum() > hard.targets.sum(), "there is such a frame"
    soft = dataclasses.replace(hard, targets=targets)
    for position in range(60):
        place = ClipPosition(0, position)
        assert same(
            make_dataset(hard)[place]._replace(targets=torch.zeros(())),
            make_dataset(soft)[place]._replace(targets=torch.zeros(())),
        )
