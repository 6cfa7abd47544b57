"""The same data under another folder are the same data; everything that is learned from counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.annotations import (
    AnnotatedEvent,
    AnnotationSet,
    VideoAnnotation,
    load_annotations,
    save_annotations,
)
from utils.data.data_hash import annotations_hash, data_identity, usable_identity

EVENTS = (
    AnnotatedEvent(label="a", start=1.0, end=2.5),
    AnnotatedEvent(label="b", start=3.0, end=3.0),
)


def annotations(folder: Path = Path("data"), **of_the_first: Any) -> AnnotationSet:
    first = VideoAnnotation(
        video="x/1.mp4", path=folder / "x/1.mp4", duration=9.5, fps=25.0, events=EVENTS
    )
    second = VideoAnnotation(video="y/2.mp4", path=folder / "y/2.mp4")
    return AnnotationSet(labels=("a", "b"), videos=(replace(first, **of_the_first), second))


def moved_event(**changes: Any) -> tuple[AnnotatedEvent, ...]:
    return (replace(EVENTS[0], **changes), EVENTS[1])


@pytest.mark.parametrize(
    "change",
    [
        {"path": Path("data/x/3.mp4")},
        {"path": Path("data/1.mp4")},
        {"duration": 9.6},
        {"duration": None},
        {"fps": 30.0},
        {"events": EVENTS[:1]},
        {"events": moved_event(start=1.1)},
        {"events": moved_event(end=2.6)},
        {"events": moved_event(label="b")},
    ],
)
def test_what_is_learned_from_counts(change: dict[str, Any]) -> None:
    assert annotations_hash(annotations(**change)) != annotations_hash(annotations())


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, labels=("b", "a")),
        lambda one: replace(one, labels=("a", "b", "c")),
        # Which clip stands at which place of an epoch goes by the order of the videos.
        lambda one: replace(one, videos=one.videos[::-1]),
        lambda one: replace(one, videos=one.videos[:1]),
    ],
)
def test_labels_and_order_count(change: Callable[[AnnotationSet], AnnotationSet]) -> None:
    assert annotations_hash(change(annotations())) != annotations_hash(annotations())


@pytest.mark.parametrize(
    "change",
    [
        {"description": "text"},
        {"group": "camera_1"},
        {"extra": {"weather": "rain"}},
        {"events": moved_event(description="text", extra={"by": "me"})},
        {"fps": 25},
    ],
)
def test_what_is_not_learned_from_does_not(change: dict[str, Any]) -> None:
    assert annotations_hash(annotations(**change)) == annotations_hash(annotations())


@pytest.mark.parametrize(
    "folder", ["elsewhere", "/srv/elsewhere/data", "deep/er/data", ".", "../data", "data/../data"]
)
def test_where_they_lie_does_not_count(folder: str) -> None:
    assert annotations_hash(annotations(Path(folder))) == annotations_hash(annotations())


def test_paths_of_a_file_and_a_folder_of_videos_are_one_name(tmp_path: Path) -> None:
    """Relative, absolute, or below ``data.train_video_dir``."""
    hashes = set()
    for names in (["v/1.mp4", "v/2.mp4"], [str(tmp_path / "v/1.mp4"), str(tmp_path / "v/2.mp4")]):
        content = {"labels": ["a"], "videos": [{"video": name} for name in names]}
        (tmp_path / "a.json").write_text(json.dumps(content))
        hashes.add(annotations_hash(load_annotations(tmp_path / "a.json")))
    content["videos"] = [{"video": "1.mp4"}, {"video": "2.mp4"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    hashes.add(annotations_hash(load_annotations(tmp_path / "a.json", video_dir="/videos")))
    assert len(hashes) == 1


@settings(deadline=None, max_examples=30)
@given(
    names=st.lists(
        st.text(st.characters(codec=None, exclude_characters="/\0"), min_size=1).filter(
            lambda name: name.strip() and name not in (".", "..")
        ),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    label=st.text(min_size=1).filter(str.strip),
    start=st.floats(0, 1e6),
)
def test_a_file_that_was_written_and_read_is_the_same_data(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], label: str, start: float
) -> None:
    folder = tmp_path_factory.mktemp("data")
    event = AnnotatedEvent(label=label, start=start, end=start)
    one = AnnotationSet(
        labels=(label,),
        videos=tuple(
            VideoAnnotation(video=name, path=folder / name, events=(event,)) for name in names
        ),
    )
    save_annotations(one, folder / "a.json")
    assert annotations_hash(load_annotations(folder / "a.json")) == annotations_hash(one)


def test_identity() -> None:
    identity = data_identity(annotations())
    assert identity == {"hash": annotations_hash(annotations()), "num_videos": 2, "num_events": 2}
    assert len(identity["hash"]) == 64
    nothing = AnnotationSet(labels=("a",), videos=())
    assert data_identity(nothing)["num_videos"] == 0


def test_what_could_be_read() -> None:
    for folder in (Path("data"), Path("/elsewhere")):
        found = annotations(folder)
        assert usable_identity(found, {"x/1.mp4": 9, "y/2.mp4": 4}) == {
            "num_frames": 13,
            "left_out": [],
        }
        assert usable_identity(found, {"x/1.mp4": 9}) == {"num_frames": 9, "left_out": ["y/2.mp4"]}
