"""`FrameSampler`: the sampling rule, neighbours, limits."""

from __future__ import annotations

import itertools
import logging
import math
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import UnknownNameError, UsageError, VideoNotFoundError
from utils.video import FrameSampler, VideoSource
from utils.video.source import DecodedFrame

TOLERANCE = 1e-3

fast = settings(deadline=None, max_examples=60)

# Frames between 2 ms and 1.5 s apart: steady, jittering and stalling cameras.
frame_times = st.lists(st.integers(2, 1500), min_size=1, max_size=60).map(
    lambda gaps: [sum(gaps[:index]) / 1000 for index in range(len(gaps))]
)
rates = st.one_of(st.none(), st.floats(0.1, 120))


def by_the_rule(times: list[float], fps: float | None) -> list[int]:
    """The sampling rule, word for word: indices of the sampled frames."""
    if fps is None:
        return list(range(len(times)))
    picked, k = [], 0
    for index, time in enumerate(times):
        if time >= k / fps - TOLERANCE:
            picked.append(index)
            while k / fps <= time + TOLERANCE:
                k += 1
    return picked


@pytest.mark.parametrize("fps", [1, 2, 3, 6.25, 10, 24, 25, 29.97, 30, 60, None])
@pytest.mark.parametrize("source_fps", [10, 25, 30000 / 1001, 60])
@pytest.mark.parametrize("digits", [3, 12])
def test_common_rates(fake_source: Any, fps: float | None, source_fps: float, digits: int) -> None:
    # With three digits: times as Matroska rounds them.
    times = [round(index / source_fps, digits) for index in range(200)]
    samples = list(FrameSampler(fps=fps).stream(fake_source(times)))
    assert [sample.frame_index for sample in samples] == by_the_rule(times, fps)
    if fps is None or fps >= source_fps + 0.01:
        assert len(samples) == 200


def test_three_a_second_from_thirty() -> None:
    # By hand: every tenth frame, 1 ms early or not.
    assert by_the_rule([index / 30 for index in range(31)], 3) == [0, 10, 20, 30]
    assert by_the_rule([round(index / 30, 3) for index in range(31)], 3) == [0, 10, 20, 30]


@fast
@given(times=frame_times, fps=rates)
def test_sampled_times_rise_stay_in_range_and_follow_the_rule(
    fake_source: Any, times: list[float], fps: float | None
) -> None:
    samples = list(FrameSampler(fps=fps).stream(fake_source(times)))
    sampled = [sample.timestamp for sample in samples]
    assert sampled[0] == times[0] and sampled[-1] <= times[-1]
    assert all(before < after for before, after in itertools.pairwise(sampled))
    assert [sample.sample_index for sample in samples] == list(range(len(samples)))
    assert [times[sample.frame_index] for sample in samples] == sampled
    if fps is not None:
        assert len(samples) <= math.floor((times[-1] + TOLERANCE) * fps) + 1


@fast
@given(
    times=frame_times,
    fps=rates,
    offsets=st.lists(st.floats(0.001, 2), min_size=1, max_size=2),
)
def test_neighbors_are_the_nearest_source_frames(
    fake_source: Any, times: list[float], fps: float | None, offsets: list[float]
) -> None:
    sampler = FrameSampler(fps=fps, neighbor_offsets_seconds=offsets)
    source = fake_source(times)
    for sample in sampler.stream(source):
        wanted = [
            time
            for offset in offsets
            for time in (sample.timestamp - offset, sample.timestamp + offset)
        ]
        nearest = [
            min(range(len(times)), key=lambda index: (abs(times[index] - time), index))
            for time in wanted
        ]
        assert [int(image[0, 0, 0]) for image in sample.neighbors] == nearest
        assert int(sample.image[0, 0, 0]) == sample.frame_index
    assert max(frame.num_conversions for frame in source.given) <= 1


@fast
@given(
    times=frame_times,
    fps=rates,
    offsets=st.lists(st.floats(0.001, 2), max_size=2),
    cuts=st.lists(st.floats(0.01, 1.1), min_size=1, max_size=4, unique=True).map(sorted),
)
def test_parts_give_the_samples_of_the_whole(
    fake_source: Any,
    times: list[float],
    fps: float | None,
    offsets: list[float],
    cuts: list[float],
) -> None:
    borders = [cut * (times[-1] + 0.1) for cut in cuts]
    sampler = FrameSampler(fps=fps, neighbor_offsets_seconds=offsets)

    def content(sample: Any) -> tuple[Any, ...]:
        return (
            sample.frame_index,
            sample.timestamp,
            *(int(image[0, 0, 0]) for image in sample.neighbors),
        )

    whole = [content(sample) for sample in sampler.stream(fake_source(times))]
    parts = [
        content(sample)
        for start, end in itertools.pairwise([0.0, *borders, None])
        for sample in sampler.stream(fake_source(times), start_seconds=start, end_seconds=end)
    ]
    assert parts == whole


def test_of_two_neighbors_equally_near_the_earlier_is_taken(fake_source: Any) -> None:
    # Eighths of a second are exact in binary.
    sampler = FrameSampler(fps=1, neighbor_offsets_seconds=(0.125, 0.375))
    samples = list(sampler.stream(fake_source([index / 4 for index in range(9)])))
    assert [int(image[0, 0, 0]) for image in samples[1].neighbors] == [3, 4, 2, 5]


def test_neighbors_by_hand(fake_source: Any) -> None:
    times = [0.0, 0.04, 0.08, 0.12, 0.5, 0.9, 0.95, 1.0, 1.09, 1.5]
    sampler = FrameSampler(fps=1, neighbor_offsets_seconds=(0.08, 0.5))
    first, second = sampler.stream(fake_source(times))
    assert first.frame_index == 0 and second.frame_index == 7
    assert [int(image[0, 0, 0]) for image in first.neighbors] == [0, 2, 0, 4]
    assert [int(image[0, 0, 0]) for image in second.neighbors] == [5, 8, 4, 9]


def test_shared_neighbors_are_converted_once_and_others_not_at_all(fake_source: Any) -> None:
    times = [index / 10 for index in range(41)]
    source = fake_source(times)
    samples = list(FrameSampler(fps=1, neighbor_offsets_seconds=(0.5,)).stream(source))
    assert [sample.frame_index for sample in samples] == [0, 10, 20, 30, 40]
    assert samples[0].neighbors[1] is samples[1].neighbors[0]
    converted = [frame.frame_index for frame in source.given if frame.num_conversions]
    assert converted == list(range(0, 41, 5))


def test_sample_comes_out_with_its_last_neighbor(fake_source: Any) -> None:
    source = fake_source([index / 10 for index in range(1000)])
    next(FrameSampler(fps=1, neighbor_offsets_seconds=(0.2,)).stream(source))
    assert source.num_decoded == 3
    source = fake_source([index / 10 for index in range(1000)])
    next(FrameSampler(fps=1).stream(source))
    assert source.num_decoded == 1


def test_held_frames_do_not_grow_with_the_video(fake_source: Any) -> None:
    class Endless(fake_source):  # type: ignore[misc]
        """An hour at 25 fps whose frames nobody else holds."""

        def frames(self, start_seconds: float = 0.0) -> Iterator[DecodedFrame]:
            for index in range(3600 * 25):
                frame = kind(index, index / 25)
                alive.add(frame)
                yield frame

    kind = type(fake_source([0.0]).given[0])
    alive: weakref.WeakSet[DecodedFrame] = weakref.WeakSet()
    sampler = FrameSampler(fps=3, neighbor_offsets_seconds=(0.08, 0.4))
    # The largest offset of frames, 10, is kept behind the newest one.
    most = max(len(alive) for _ in sampler.stream(Endless([0.0])))
    assert 10 <= most <= 13


def test_max_frames_stops_decoding(fake_source: Any) -> None:
    source = fake_source([index / 10 for index in range(1000)])
    samples = list(FrameSampler(fps=1, max_frames=3).stream(source))
    assert [sample.frame_index for sample in samples] == [0, 10, 20]
    assert source.num_decoded == 21
    source = fake_source([index / 10 for index in range(1000)])
    offsets = (0.2,)
    samples = list(
        FrameSampler(fps=1, max_frames=3, neighbor_offsets_seconds=offsets).stream(source)
    )
    assert int(samples[-1].neighbors[1][0, 0, 0]) == 22
    assert source.num_decoded == 23


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fps": 0}, "fps must be above 0, or None for every frame; got 0"),
        ({"fps": -3.0}, "fps must be above 0.*got -3.0"),
        ({"fps": math.nan}, "fps must be above 0.*got nan"),
        ({"fps": math.inf}, "fps must be above 0.*got inf"),
        ({"max_frames": 0}, "max_frames must be at least 1, or None for all; got 0"),
        ({"neighbor_offsets_seconds": (0.1, -0.1)}, "offsets_seconds must be above 0; got -0.1"),
        ({"short_side": 0}, "short_side must be at least 1, or None for all; got 0"),
        ({"fps": None, "is_sparse": True}, "is_sparse skips frames: it needs an fps"),
        (
            {"is_sparse": True, "neighbor_offsets_seconds": (0.1,)},
            "goes with no neighbor_offsets_seconds",
        ),
        ({"neighbor_offsets_seconds": (math.nan,)}, "offsets_seconds must be above 0; got nan"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FrameSampler(**arguments)


def test_unknown_decoder() -> None:
    with pytest.raises(UnknownNameError, match="unknown decoder 'pyaw'"):
        FrameSampler(decoder="pyaw")


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (-1.0, None, "start_seconds must be 0 or more, got -1.0"),
        (math.nan, None, "start_seconds must be 0 or more, got nan"),
        (2.0, 2.0, r"end_seconds must be after start_seconds, got \[2.0, 2.0\)"),
        (2.0, math.nan, "end_seconds must be after start_seconds"),
    ],
)
def test_interval_out_of_range(
    fake_source: Any, start: float, end: float | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        FrameSampler().stream(fake_source([0.0]), start_seconds=start, end_seconds=end)


def test_sample_frames_of_a_file(written: Callable[[Any], Path], video_files: ModuleType) -> None:
    path = written(video_files.RECIPES[0])
    frames, timestamps = FrameSampler(fps=5).sample_frames(path)
    assert frames.shape == (8, 48, 64, 3) and frames.dtype == np.uint8
    assert timestamps.dtype == np.float64
    assert timestamps == pytest.approx([index / 5 for index in range(8)])
    assert [video_files.read_number(frame) for frame in frames] == list(range(0, 40, 5))


def test_sample_frames_with_neighbors(
    written: Callable[[Any], Path], video_files: ModuleType
) -> None:
    path = written(video_files.RECIPES[0])
    sampler = FrameSampler(fps=5, neighbor_offsets_seconds=(0.08, 0.04))
    frames, timestamps = sampler.sample_frames(path)
    assert frames.shape == (8, 5, 48, 64, 3)
    assert len(timestamps) == 8
    numbers = [[video_files.read_number(image) for image in sample] for sample in frames]
    assert numbers[0] == [0, 0, 2, 0, 1]
    assert numbers[1:] == [[n, n - 2, n + 2, n - 1, n + 1] for n in range(5, 40, 5)]


def test_part_of_a_file(written: Callable[[Any], Path], video_files: ModuleType) -> None:
    path = written(video_files.RECIPES[0])
    sampler = FrameSampler(fps=5, neighbor_offsets_seconds=(0.08,))
    samples = list(sampler.stream(str(path), start_seconds=0.7, end_seconds=1.2))
    assert [sample.frame_index for sample in samples] == [20, 25]
    assert [video_files.read_number(image) for image in samples[0].neighbors] == [18, 22]


def test_sample_frames_refuses_what_is_too_large(fake_source: Any) -> None:
    source = fake_source([index / 10 for index in range(100)])
    with pytest.raises(
        UsageError, match=r"fake\.mp4: its samples pass .* GiB at 3\.0 s; .*stream\(\).*max_frames"
    ):
        FrameSampler(fps=1).sample_frames(source, max_array_bytes=36)
    assert source.num_decoded == 31


def test_missing_file() -> None:
    with pytest.raises(VideoNotFoundError, match="no such file"):
        FrameSampler().sample_frames("nowhere.mp4")


def test_losses_are_logged_for_a_path_and_kept_for_a_source(
    written: Callable[[Any], Path], video_files: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = next(recipe for recipe in video_files.RECIPES if recipe.name == "ffv1.mkv")
    whole = written(recipe)
    path = whole.with_name("cut.mkv")
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        FrameSampler().sample_frames(path)
    assert "cut.mkv: the file is cut off: " in caplog.text
    caplog.clear()
    with VideoSource.open(path) as source:
        list(FrameSampler().stream(source))
        assert source.loss.lost_seconds > 0.3
        assert source.info.codec == "ffv1"
    assert not caplog.records


def test_short_side_reaches_every_picture(
    written: Callable[[Any], Path], video_files: ModuleType
) -> None:
    path = written(video_files.RECIPES[0])
    sampler = FrameSampler(fps=5, short_side=24, neighbor_offsets_seconds=(0.08,))
    frames, _ = sampler.sample_frames(path)
    assert frames.shape == (8, 3, 24, 32, 3)
    numbers = [video_files.read_number(frame) for frame in frames[:, 0]]
    assert numbers == list(range(0, 40, 5))


@pytest.mark.parametrize("fps", [1, 3, 5, 12])
def test_sparse_samples_come_late_by_less_than_half_a_step(
    written: Callable[[Any], Path], video_files: ModuleType, fps: float
) -> None:
    path = written(video_files.RECIPES[0])
    exact = list(FrameSampler(fps=fps).stream(path))
    with VideoSource.open(path) as source:
        sparse = list(FrameSampler(fps=fps, is_sparse=True).stream(source))
        skipping = source.skipping
        assert not source.loss
    assert len(sparse) == len(exact)
    late = [ours.timestamp - theirs.timestamp for ours, theirs in zip(sparse, exact, strict=True)]
    # By hand: every third frame is skipped, 0.04 s before one that is not.
    assert skipping.num_frames > 0 and skipping.max_time_error_seconds == pytest.approx(0.04)
    assert min(late) >= 0 and max(late) <= skipping.max_time_error_seconds + 1e-9
    assert skipping.max_time_error_seconds < 0.5 / fps
    for sample in sparse:
        assert video_files.read_number(sample.image) == sample.frame_index
        assert sample.timestamp == pytest.approx(sample.frame_index * 0.04)


def test_sparse_sampling_skips_nothing_where_it_would_be_late(
    written: Callable[[Any], Path], video_files: ModuleType
) -> None:
    with VideoSource.open(written(video_files.RECIPES[0])) as source:
        samples = list(FrameSampler(fps=25, is_sparse=True).stream(source))
        assert len(samples) == 40 and source.skipping.num_frames == 0
