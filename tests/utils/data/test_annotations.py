"""The annotation format: what is read, what is refused and how, targets, round trips."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.annotations import (
    AnnotatedEvent,
    AnnotationSet,
    VideoAnnotation,
    frame_targets,
    load_annotations,
    save_annotations,
)
from utils.errors import AnnotationError, UsageError

Write = Callable[[Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_annotations(content: Any) -> Path:
        path = tmp_path / "annotations.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text, encoding="utf-8")
        return path

    return write_annotations


def error_of(path: Path) -> str:
    with pytest.raises(AnnotationError) as caught:
        load_annotations(path)
    assert caught.value.exit_code == 2
    return str(caught.value)


def with_event(**event: Any) -> dict[str, Any]:
    return {"labels": ["fight", "fall"], "videos": [{"video": "a.mp4", "events": [event]}]}


def with_video(**video: Any) -> dict[str, Any]:
    return {"labels": ["fight"], "videos": [{"video": "a.mp4", **video}]}


# What is read


def test_everything_a_file_can_say(write: Write) -> None:
    path = write(
        {
            "labels": ["fight", "fall"],
            "licence": "MIT",
            "videos": [
                {
                    "video": "sub/a b.mp4",
                    "duration": 10,
                    "fps": 29.97,
                    "group": "camera 1",
                    "description": "a yard",
                    "camera": {"height": 3},
                    "events": [
                        {"start": 4, "end": 5.5, "label": "fight", "description": "two men"},
                        {"time": 1.5, "label": "fall", "rater": 2},
                    ],
                },
                {"video": "/elsewhere/b.mp4"},
            ],
        }
    )
    read = load_annotations(path)
    assert read.labels == ("fight", "fall")
    assert read.path == path
    assert read.extra == {"licence": "MIT"}
    first, second = read.videos
    assert first.path == path.parent / "sub" / "a b.mp4"
    assert (first.duration, first.fps, first.group) == (10.0, 29.97, "camera 1")
    assert (first.description, first.extra) == ("a yard", {"camera": {"height": 3}})
    # By start, whatever the order of the file.
    assert first.events == (
        AnnotatedEvent(label="fall", start=1.5, end=1.5, extra={"rater": 2}),
        AnnotatedEvent(label="fight", start=4.0, end=5.5, description="two men"),
    )
    assert [event.is_point for event in first.events] == [True, False]
    assert second.path == Path("/elsewhere/b.mp4")
    assert (second.duration, second.fps, second.group, second.events) == (None, None, None, ())


def test_videos_may_lie_elsewhere(write: Write) -> None:
    path = write(with_video())
    assert load_annotations(path, video_dir="/videos").videos[0].path == Path("/videos/a.mp4")


def test_a_byte_order_mark_is_read_over(write: Write) -> None:
    path = write(b"\xef\xbb\xbf" + json.dumps(with_video()).encode())
    assert load_annotations(path).videos[0].video == "a.mp4"


def test_an_event_may_pass_the_end_as_far_as_containers_round(write: Write) -> None:
    event = {"start": 9, "end": 10.4, "label": "fight"}
    assert load_annotations(write(with_video(duration=10, events=[event]))).videos[0].events


def test_real_annotations(shared_data: Path) -> None:
    files = sorted((shared_data / "data").rglob("*.json"))
    assert len(files) >= 5
    for file in files:
        annotations = load_annotations(file)
        assert annotations.videos
        for video in annotations.videos:
            assert video.path.is_file(), f"{file}: {video.video}"
            assert video.duration is not None
            assert all(event.label in annotations.labels for event in video.events)


def test_no_group_of_the_fight_streams_is_in_both_splits(shared_data: Path) -> None:
    folder = shared_data / "data" / "fight_streams"
    train, val = (load_annotations(folder / s / "annotations.json") for s in ("train", "val"))
    assert not {video.group for video in train.videos} & {video.group for video in val.videos}
    assert sum(len(video.events) for video in train.videos) == 39
    assert sum(len(video.events) for video in val.videos) == 12


# What is refused


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the file is empty; it needs 'labels' and 'videos'"),
        (" \n", "the file is empty; it needs 'labels' and 'videos'"),
        ("{", "not valid JSON: Expecting property name"),
        ("[" * 100_000, "not valid JSON: maximum recursion depth"),
        ('{"labels": NaN}', "not valid JSON: NaN is no JSON value"),
        ('{"labels": ["a"], "videos": [-Infinity]}', "not valid JSON: -Infinity is no JSON value"),
        ('{"labels": [' + "9" * 5000 + "]}", "not valid JSON: Exceeds the limit"),
        (
            '{"labels": ["a"], "videos": [{"video": "a", "events": [], "events": []}]}',
            "not valid JSON: an object has the field 'events' twice",
        ),
        (b"\xff\xfe{", "cannot be read: 'utf-8' codec"),
        ([], "the top level must be an object with 'labels' and 'videos'"),
        ({}, "'labels' must be a list of at least one name"),
        ({"labels": "fight"}, "'labels' must be a list of at least one name"),
        ({"labels": ["a", " "]}, "'labels' must be a list of at least one name"),
        ({"labels": ["a", 1]}, "'labels' must be a list of at least one name"),
        ({"labels": ["a", "a"]}, "'labels' names a class twice: ['a', 'a']"),
        ({"labels": ["a"]}, "'videos' must be a list with at least one video"),
        ({"labels": ["a"], "videos": []}, "'videos' must be a list with at least one video"),
        ({"labels": ["a"], "videos": {}}, "'videos' must be a list with at least one video"),
        ({"labels": ["a"], "videos": ["a.mp4"]}, "video 0 must be an object, got 'a.mp4'"),
        ({"labels": ["a"], "videos": [{}]}, "video 0: 'video' must be a path, got None"),
        (with_video(video=""), "video 0: 'video' must be a path, got ''"),
        (with_video(video="a\0b"), "video 0: 'video' must be a path, got 'a\\x00b'"),
        (with_video(duration=0), "video 'a.mp4': 'duration' must be above 0 seconds, got 0"),
        (
            with_video(duration="9 s"),
            "video 'a.mp4': 'duration' must be a number of seconds, got '9 s'",
        ),
        (with_video(fps=-25), "video 'a.mp4': 'fps' must be above 0, got -25"),
        (with_video(fps="25"), "video 'a.mp4': 'fps' must be a number, got '25'"),
        (with_video(group=3), "video 'a.mp4': 'group' must be text, got 3"),
        (with_video(description=[]), "video 'a.mp4': 'description' must be text, got []"),
        (with_video(events=None), "video 'a.mp4': 'events' must be a list, got None"),
        (with_video(events=["x"]), "video 'a.mp4', event 0: must be an object, got 'x'"),
        (
            {"labels": ["a"], "videos": [{"video": v} for v in ("a.mp4", "b.mp4", "./a.mp4")]},
            "video './a.mp4' is listed twice (entries 0 and 2); join their events",
        ),
    ],
    ids=range(31),
)
def test_wrong_files(write: Write, content: Any, reason: str) -> None:
    path = write(content)
    assert error_of(path).startswith(f"{path}: {reason}")


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"start": 1, "end": 2}, ": 'label' must be one of ['fight', 'fall'], got None"),
        (
            {"start": 1, "end": 2, "label": "Fight"},
            ": unknown label 'Fight'; known: fight, fall (did you mean 'fight'?)",
        ),
        ({"label": "fall"}, " ('fall'): needs either 'start' and 'end', or 'time'"),
        (
            {"start": 1, "time": 1, "label": "fall"},
            " ('fall'): needs either 'start' and 'end', or 'time'",
        ),
        ({"start": 1, "label": "fall"}, " ('fall'): 'end' must be a number of seconds, got None"),
        (
            {"start": True, "end": 2, "label": "fall"},
            " ('fall'): 'start' must be a number of seconds, got True",
        ),
        (
            {"start": "0:01", "end": 2, "label": "fall"},
            " ('fall'): 'start' must be a number of seconds, got '0:01'",
        ),
        (
            {"time": None, "label": "fall"},
            " ('fall'): 'time' must be a number of seconds, got None",
        ),
        (
            {"time": 10**400, "label": "fall"},
            " ('fall'): 'time' must be a number of seconds, got 1000",
        ),
        (
            {"start": 2, "end": 2, "label": "fall"},
            " ('fall'): 'end' (2) must lie after 'start' (2)",
        ),
        (
            {"start": 2.5, "end": 1, "label": "fall"},
            " ('fall'): 'end' (1) must lie after 'start' (2.5)",
        ),
        (
            {"start": -1, "end": 1, "label": "fall"},
            " ('fall'): 'start' must not be negative, got -1",
        ),
        ({"time": -0.1, "label": "fall"}, " ('fall'): 'time' must not be negative, got -0.1"),
        (
            {"time": 1, "label": "fall", "description": 5},
            " ('fall'): 'description' must be text, got 5",
        ),
    ],
)
def test_wrong_events(write: Write, event: dict[str, Any], reason: str) -> None:
    path = write(with_event(**event))
    assert error_of(path).startswith(f"{path}: video 'a.mp4', event 0{reason}")


def test_the_event_is_named_by_its_number_in_the_file(write: Write) -> None:
    events = [{"time": 5, "label": "fight"}, {"time": 1, "label": "fihgt"}]
    assert "event 1: unknown label 'fihgt'" in error_of(write(with_video(events=events)))


@pytest.mark.parametrize(
    ("event", "field"), [({"start": 1, "end": 10.6}, "end"), ({"time": 10.6}, "time")]
)
def test_past_the_end(write: Write, event: dict[str, Any], field: str) -> None:
    path = write(with_video(duration=10, events=[{**event, "label": "fight"}]))
    assert error_of(path).endswith(f"'{field}' (10.6) lies past the end of the video (10 s)")


def test_an_overflowing_number(write: Write) -> None:
    path = write('{"labels": ["a"], "videos": [{"video": "v", "duration": 1e999}]}')
    assert error_of(path).endswith("'duration' must be a number of seconds, got inf")


def test_missing_and_odd_paths(tmp_path: Path) -> None:
    gone = tmp_path / "gone.json"
    assert error_of(gone) == f"{gone}: no such annotation file"
    with pytest.raises(AnnotationError, match=r"no such annotation file; --truth names it$"):
        load_annotations(gone, named_by="--truth")
    assert f"{tmp_path}: cannot be read: " in error_of(tmp_path)


@pytest.mark.parametrize(
    ("start", "end"),
    [(2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (0.0, float("nan")), (0.0, float("inf"))],
)
def test_an_event_made_in_memory_is_checked_too(start: float, end: float) -> None:
    with pytest.raises(ValueError, match=r"^'fall' from .* is no interval$"):
        AnnotatedEvent(label="fall", start=start, end=end)


# Other labels


def test_with_labels() -> None:
    event = AnnotatedEvent(label="fall", start=1.0, end=2.0)
    video = VideoAnnotation(video="a.mp4", path=Path("a.mp4"), events=(event,))
    annotations = AnnotationSet(labels=("fall",), videos=(video,), extra={"x": 1})
    wider = annotations.with_labels(["fight", "fall"])
    assert wider.labels == ("fight", "fall")
    assert (wider.videos, wider.extra) == (annotations.videos, annotations.extra)
    message = r"^annotations: video 'a.mp4', event 0: unknown label 'fall'; known: fight$"
    with pytest.raises(AnnotationError, match=message):
        annotations.with_labels(["fight"])


# Targets


def test_targets_are_half_open() -> None:
    events = [
        AnnotatedEvent(label="b", start=1.0, end=2.0),
        AnnotatedEvent(label="b", start=2.0, end=2.5),
        AnnotatedEvent(label="a", start=0.0, end=0.5),
    ]
    timestamps = np.array([0.0, 0.5, 1.0, np.nextafter(2.0, 0), 2.0, 2.5, 3.0])
    targets = frame_targets(events, ["a", "b"], timestamps)
    assert targets.dtype == np.float32
    assert targets[:, 0].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert targets[:, 1].tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_points_spread_to_either_side() -> None:
    timestamps = np.arange(0, 4, 0.25)
    events = [AnnotatedEvent(label="a", start=2.0, end=2.0)]
    targets = frame_targets(events, ["a"], timestamps, point_radius_seconds=0.5)
    assert timestamps[targets[:, 0] > 0].tolist() == [1.5, 1.75, 2.0, 2.25]
    at_start = AnnotatedEvent(label="a", start=0.25, end=0.25)
    assert at_start.spread(0.5) == (0.0, 0.75)


times = st.integers(0, 40).map(lambda n: n / 4)


@settings(deadline=None, max_examples=50)
@given(
    spans=st.lists(st.tuples(st.sampled_from("ab"), times, times), max_size=5),
    timestamps=st.lists(times, unique=True, max_size=20).map(sorted),
)
def test_a_target_is_on_where_an_event_of_its_class_is(
    spans: list[tuple[str, float, float]], timestamps: list[float]
) -> None:
    events = [
        AnnotatedEvent(label=label, start=min(ends), end=max(ends) + 0.25) for label, *ends in spans
    ]
    targets = frame_targets(events, ["a", "b"], np.array(timestamps))
    assert targets.shape == (len(timestamps), 2)
    for row, time in zip(targets, timestamps, strict=True):
        on = {event.label for event in events if event.start <= time < event.end}
        assert row.tolist() == [float("a" in on), float("b" in on)]


def soft(
    *spans: tuple[str, float, float], timestamps: Any, seconds: float, radius: float = 0.5
) -> list[float]:
    """Targets of class a."""
    events = [AnnotatedEvent(label=label, start=start, end=end) for label, start, end in spans]
    targets = frame_targets(
        events,
        ["a", "b"],
        np.array(timestamps),
        point_radius_seconds=radius,
        soft_border_seconds=seconds,
    )
    assert targets.dtype == np.float32
    return list(targets[:, 0])


def test_soft_borders_by_hand() -> None:
    timestamps = [0.0, 1.5, 1.75, 2.0, 2.25, 2.5, 4.0, 5.5, 6.0, 6.25, 6.5, 9.0]
    expected = [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.25, 0, 0]
    assert soft(("a", 2, 6), ("b", 0, 9), timestamps=timestamps, seconds=1) == expected


def test_an_event_that_is_shorter_than_its_borders_is_on_in_its_middle() -> None:
    timestamps = [3.75, 3.875, 4.0, 4.125, 4.25, 4.375, 4.5, 4.625, 4.75]
    expected = [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]
    assert soft(("a", 4, 4.5), timestamps=timestamps, seconds=3) == expected


def test_where_soft_events_of_a_class_meet_the_higher_counts() -> None:
    timestamps = [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]
    assert soft(("a", 1, 3), ("a", 4, 6), timestamps=timestamps, seconds=2) == [
        1, 0.75, 0.5, 0.25, 0.5, 0.75, 1,
    ]  # fmt: skip
    assert soft(("a", 0, 9), ("a", 4, 4.5), timestamps=timestamps, seconds=1) == [1] * 7


def test_points_have_soft_borders_around_their_reach() -> None:
    timestamps = [1.0, 1.5, 2.0, 2.5, 3.0]
    assert soft(("a", 2, 2), timestamps=timestamps, seconds=1) == [0, 0.5, 1, 0.5, 0]
    # Its reach would begin before the video; that is no border.
    assert soft(("a", 0.25, 0.25), timestamps=[0.0, 0.25, 0.75], seconds=0.5) == [1, 1, 0.5]
    assert soft(("a", 2, 2), timestamps=timestamps, seconds=1, radius=0) == [0] * 5


@settings(deadline=None, max_examples=50)
@given(
    spans=st.lists(st.tuples(times, times), min_size=1, max_size=4),
    timestamps=st.lists(times, unique=True, min_size=1, max_size=30).map(sorted),
    seconds=st.sampled_from([0.01, 0.3, 1.0, 2.5, 50.0]),
)
def test_soft_targets_are_half_on_just_where_hard_ones_are_on(
    spans: list[tuple[float, float]], timestamps: list[float], seconds: float
) -> None:
    ends = [(min(span), max(span) + 0.25) for span in spans]
    found = soft(*(("a", *end) for end in ends), timestamps=timestamps, seconds=seconds)
    for time, target in zip(timestamps, found, strict=True):
        depth = max(min(time - start, end - time) for start, end in ends)
        assert 0 <= target <= 1
        assert (target > 0.5, target == 0.5) == (depth > 0, depth == 0)
        if depth >= seconds / 2:
            assert target == 1
        if depth <= -seconds / 2:
            assert target == 0


# Writing

text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=8)
extras = st.dictionaries(text.map(lambda t: f"x{t}"), st.integers() | text | st.none(), max_size=2)


@st.composite
def annotation_sets(draw: st.DrawFn) -> AnnotationSet:
    labels = draw(st.lists(text.filter(str.strip), min_size=1, max_size=3, unique=True))
    names = draw(st.lists(text.map(lambda t: f"v{t.replace('/', '')}"), min_size=1, unique=True))
    videos = []
    for name in names[:3]:
        events = [
            AnnotatedEvent(
                label=draw(st.sampled_from(labels)),
                start=start,
                end=start + length,
                description=draw(st.none() | text),
                extra=draw(extras),
            )
            for start, length in draw(st.lists(st.tuples(times, times), max_size=3))
        ]
        videos.append(
            VideoAnnotation(
                video=name,
                path=Path(name),
                duration=draw(st.none() | st.just(30.0)),
                fps=draw(st.none() | st.floats(1, 60)),
                group=draw(st.none() | text),
                description=draw(st.none() | text),
                events=tuple(sorted(events, key=lambda e: (e.start, e.end, e.label))),
                extra=draw(extras),
            )
        )
    return AnnotationSet(labels=tuple(labels), videos=tuple(videos), extra=draw(extras))


@settings(deadline=None, max_examples=40)
@given(annotations=annotation_sets())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, annotations: AnnotationSet) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    save_annotations(annotations, path)
    read = load_annotations(path, video_dir="")
    assert (read.labels, read.videos, read.extra) == (
        annotations.labels,
        annotations.videos,
        annotations.extra,
    )


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    video = VideoAnnotation(video="a.mp4", path=Path("a.mp4"))
    save_annotations(AnnotationSet(labels=("a",), videos=(video,)), path)
    old = path.read_bytes()
    unfit = VideoAnnotation(video="a.mp4", path=Path("a.mp4"), extra={"x": float("nan")})
    with pytest.raises(ValueError, match="Out of range float values"):
        save_annotations(AnnotationSet(labels=("a",), videos=(unfit,)), path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(UsageError, match=r"x.json: cannot be written: File exists; choose"):
        save_annotations(AnnotationSet(labels=("a",), videos=(video,)), path / "x.json")
