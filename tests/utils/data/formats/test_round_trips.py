"""Every format against what it is said to hold: what comes back, and what is said to be lost.

`HOLDS` is written down from the formats' own documents, not from what our code does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.data.formats import FORMATS, export_annotations, get_format, import_annotations

RATES = (5.0, 12.5, 25.0, 29.97, 30000 / 1001, 59.94)


@dataclass(frozen=True, kw_only=True)
class Holds:
    """What a format has a place for."""

    clock: str = "float"
    intervals: bool = True
    description: bool = False
    video_description: bool = False
    duration: str | None = None
    fps: bool = False
    group: bool = False
    labels: bool = False
    empty_videos: bool = True
    any_name: bool = True


HOLDS = {
    "native": Holds(
        description=True,
        video_description=True,
        duration="float",
        fps=True,
        group=True,
        labels=True,
    ),
    "csv": Holds(description=True),
    "activitynet": Holds(duration="float", labels=True),
    "e2e_spot": Holds(
        clock="frames", intervals=False, description=True, duration="frames", fps=True, labels=True
    ),
    "soccernet": Holds(clock="ms", intervals=False, empty_videos=False, any_name=False),
    "label_studio": Holds(
        clock="frames",
        description=True,
        video_description=True,
        duration="float",
        fps=True,
        group=True,
    ),
    "cvat": Holds(clock="frames", description=True, labels=True),
}
WITHOUT_FILES = sorted(HOLDS)


def test_every_format_but_that_of_clips_is_here() -> None:
    assert {*HOLDS, "folders"} == set(FORMATS)


# Sets

words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn", "Co")),
    min_size=1,
    max_size=8,
).filter(lambda text: text == text.strip())
descriptions = st.none() | st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn", "Co")) | st.just("\n"),
    min_size=1,
    max_size=20,
)
file_names = st.text(st.sampled_from("abßü 'é\"<&,;#._-"), min_size=1, max_size=6).map(
    lambda stem: f"{stem}x.mp4"
)


def tick(clock: str, fps: float, number: int) -> float:
    """A time that a format with this clock can write down."""
    return {"frames": number / fps, "ms": number / 1000}.get(clock, number / 7)


def to_tick(clock: str, fps: float, seconds: float) -> float:
    """What becomes of a time."""
    if clock == "frames":
        return round(seconds * fps) / fps
    return round(seconds * 1000) / 1000 if clock == "ms" else seconds


@st.composite
def events(draw: st.DrawFn, labels: Sequence[str], fps: float, holds: Holds, exact: bool) -> Any:
    first = draw(st.integers(0, 400))
    # Two frames at least: an interval of one is a point in formats that count frames.
    length = draw(st.integers(2, 300))
    start, end = (
        (tick(holds.clock, fps, first), tick(holds.clock, fps, first + length))
        if exact
        else (first / 7, (first + length) / 7)
    )
    is_point = draw(st.booleans()) if holds.intervals or not exact else True
    described = holds.description or not exact
    return AnnotatedEvent(
        label=draw(st.sampled_from(labels)),
        start=start,
        end=start if is_point else end,
        description=draw(descriptions) if described else None,
    )


@st.composite
def annotation_sets(draw: st.DrawFn, holds: Holds, *, exact: bool) -> AnnotationSet:
    """Sets of everything; of what the format holds alone where ``exact``."""
    labels = draw(st.lists(words, min_size=1, max_size=3, unique=True))
    names = draw(st.lists(file_names, min_size=1, max_size=3, unique=True))
    videos = []
    for number, name in enumerate(names):
        fps = draw(st.sampled_from(RATES))
        found = draw(
            st.lists(
                events(labels, fps, holds, exact),
                min_size=0 if holds.empty_videos or not exact else 1,
                max_size=4,
            )
        )
        # Longer than the last event, which ends at 700.
        length = draw(st.integers(1200, 5000))
        duration = length / fps if exact and holds.duration == "frames" else length / 11
        group = draw(st.none() | words) if holds.group or not exact else None
        if not holds.any_name and exact:
            name, group = f"game {number}/1_224p.mkv", f"game {number}"
        videos.append(
            VideoAnnotation(
                video=name,
                path=Path(name),
                duration=duration if holds.duration or not exact else None,
                fps=fps,
                group=group,
                events=tuple(sorted(found, key=lambda e: (e.start, e.end, e.label))),
                description=(draw(descriptions) if holds.video_description or not exact else None),
            )
        )
    if exact and not holds.labels:
        used = {event.label for video in videos for event in video.events}
        labels = sorted(used)
    return AnnotationSet(labels=tuple(labels), videos=tuple(videos))


def target(folder: Path, name: str) -> Path:
    return folder / "new" / get_format(name).default_name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A new folder at each call: the examples of one test must not see each other's files."""
    return lambda: tmp_path_factory.mktemp("set")


def comparable(annotations: AnnotationSet) -> Any:
    """All that is ours; formats add fields of their own, such as SoccerNet's ``team``."""
    return annotations.labels, [
        replace(
            video,
            path=Path(),
            extra={},
            events=tuple(replace(event, extra={}) for event in video.events),
        )
        for video in annotations.videos
    ]


# Laws


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_what_a_format_holds_comes_back_equal(name: str, folders: Any) -> None:
    @settings(deadline=None, max_examples=20)
    @given(annotations=annotation_sets(HOLDS[name], exact=True))
    def check(annotations: AnnotationSet) -> None:
        path = target(folders(), name)
        losses = export_annotations(annotations, path, name)
        rates = {video.video: video.fps for video in annotations.videos if video.fps is not None}
        back = import_annotations(path, name, fps=rates, look_at_files=False)
        assert comparable(back) == comparable(annotations)
        # The frame rate, which the import was told, is all that some do not state.
        said = {loss.kind for loss in losses}
        assert said == (set() if HOLDS[name].fps else {"fps"})

    check()


def expected_losses(annotations: AnnotationSet, holds: Holds) -> set[str]:
    """By the table above, worked out anew."""
    found: set[str] = set()
    used: set[str] = set()
    for video in annotations.videos:
        fps = video.fps or 1.0
        used |= {event.label for event in video.events}
        if not holds.any_name:
            found.add("name")
        if not video.events and not holds.empty_videos:
            found.add("video")
            continue
        if video.duration is not None and holds.duration != "float":
            is_whole = holds.duration and round(video.duration * fps) / fps == video.duration
            if not is_whole:
                found.add("rounded duration" if holds.duration else "duration")
        if not holds.fps:
            found.add("fps")
        if video.group is not None and not holds.group:
            found.add("group")
        if video.description is not None and not holds.video_description:
            found.add("video description")
        for event in video.events:
            start = to_tick(holds.clock, fps, event.start)
            end = to_tick(holds.clock, fps, event.end)
            if start != event.start:
                found.add("time")
            if not event.is_point:
                num_frames = round(event.end * fps) - round(event.start * fps)
                if not holds.intervals or (holds.clock == "frames" and num_frames <= 1):
                    found.add("end")
                elif end != event.end:
                    found.add("time")
            if event.description is not None and not holds.description:
                found.add("description")
    if not holds.labels and tuple(sorted(used)) != annotations.labels:
        found.add("labels")
    return found


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_the_losses_are_exactly_those_that_are_said(name: str, folders: Any) -> None:
    @settings(deadline=None, max_examples=20)
    @given(annotations=annotation_sets(HOLDS[name], exact=False))
    def check(annotations: AnnotationSet) -> None:
        losses = export_annotations(annotations, target(folders(), name), name)
        assert {loss.kind for loss in losses} == expected_losses(annotations, HOLDS[name])
        assert len({loss.kind for loss in losses}) == len(losses)
        assert all(str(loss).startswith(f"{get_format(name).title}: ") for loss in losses)

    check()


# Of SoccerNet's games, those without any event leave no file behind to be read.
@pytest.mark.parametrize("name", [name for name in WITHOUT_FILES if name != "soccernet"])
def test_a_second_round_loses_nothing_more(name: str, folders: Any) -> None:
    """What came back of any set is a set that the format holds."""

    @settings(deadline=None, max_examples=10)
    @given(annotations=annotation_sets(HOLDS[name], exact=False))
    def check(annotations: AnnotationSet) -> None:
        first, second = target(folders(), name), target(folders(), name)
        export_annotations(annotations, first, name)
        rates = {video.video: video.fps for video in annotations.videos if video.fps is not None}
        once = import_annotations(first, name, fps=rates, look_at_files=False)
        losses = export_annotations(once, second, name)
        assert {loss.kind for loss in losses} <= {"fps"}

    check()


@given(frame=st.integers(0, 10**9), fps=st.floats(0.1, 1000))
def test_a_frame_is_found_again_from_its_time(frame: int, fps: float) -> None:
    from utils.data.formats.base import frame_to_seconds, seconds_to_frame

    assert seconds_to_frame(frame_to_seconds(frame, fps), fps) == frame


# The sentences


def test_what_is_said() -> None:
    from utils.data.formats.draft import Draft, DraftEvent, DraftVideo
    from utils.data.formats.losses import find_losses

    annotations = AnnotationSet(
        labels=("b", "a"),
        videos=(
            VideoAnnotation(
                video="one.mp4",
                path=Path("one.mp4"),
                duration=10.0,
                fps=25.0,
                group="g",
                description="d",
                extra={"x": 1},
                events=(
                    AnnotatedEvent(label="a", start=1.0, end=2.0, extra={"team": "home"}),
                    AnnotatedEvent(label="b", start=3.01, end=3.01, description="text"),
                ),
            ),
            VideoAnnotation(video="two.mp4", path=Path("two.mp4")),
        ),
        extra={"source": "lab"},
    )
    back = Draft(
        path=Path("x"),
        videos=[
            DraftVideo(
                video="uno.mp4",
                path=Path("uno.mp4"),
                events=[
                    DraftEvent(label="a", start=1.0, end=1.0, is_point=True, place="event 0"),
                    DraftEvent(label="b", start=3.0, end=3.0, is_point=True, place="event 1"),
                ],
            )
        ],
    )
    losses = find_losses(annotations, back, renamed={"one.mp4": "uno.mp4"}, title="Format")
    assert [str(loss) for loss in losses] == [
        "Format: 1 video without events is left out",
        "Format: 1 interval became a point at its start",
        "Format: 1 time moved, by 0.01 s",
        "Format: the list of classes is not kept: it reads back as the events have them, in its "
        "own order",
        "Format: the description of 1 event is lost",
        "Format: further fields of 1 event are lost",
        "Format: 1 video has another name",
        "Format: the duration of 1 video is lost",
        "Format: the frame rate of 1 video is lost",
        "Format: the group of 1 video is lost",
        "Format: the description of 1 video is lost",
        "Format: further fields of 1 video are lost",
        "Format: further fields of the file are lost",
    ]
