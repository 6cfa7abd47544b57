"""Which moments are shown, which frames they become, and the page they stand on."""

from __future__ import annotations

import base64
import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.data.event_strips import (
    STEP_SECONDS,
    Strip,
    StripFrame,
    background,
    choose_strips,
    event_strip,
    frames_at,
    read_strip,
)
from utils.data.strip_page import ShownStrip, page_parts
from utils.data.summary import summarize
from utils.video.source import VideoSource
from video_files import Recipe, read_number

LENGTH = 12.0


def event(start: float, end: float, label: str = "x", text: str | None = None) -> AnnotatedEvent:
    return AnnotatedEvent(label=label, start=start, end=end, description=text)


def video(*events: AnnotatedEvent, name: str = "a.mp4", seconds: float | None = LENGTH) -> Any:
    return VideoAnnotation(video=name, path=Path(name), duration=seconds, events=events)


# Moments


def test_an_interval_is_shown_from_both_sides() -> None:
    strip = event_strip(video(), event(4, 7))
    assert strip.moments == pytest.approx((3.5, 3.9, 4.0, 4.9667, 5.9333, 6.9, 7.0, 7.5), abs=1e-3)


def test_a_point_is_in_the_middle() -> None:
    strip = event_strip(video(), event(4, 4))
    assert strip.moments == (2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5)


def test_nothing_outside_of_the_video() -> None:
    assert event_strip(video(), event(0, LENGTH)).moments[0] == 0.0
    assert event_strip(video(), event(11.9, 12.3)).moments[-1] < LENGTH
    assert event_strip(video(seconds=None), event(11.9, 12.3)).moments[-1] == pytest.approx(12.8)


@settings(deadline=None)
@given(
    events=st.lists(
        st.tuples(st.floats(0, 200), st.floats(0, 30)).map(lambda e: event(e[0], e[0] + e[1])),
        max_size=6,
    ),
    seconds=st.none() | st.floats(1, 300),
)
def test_background_keeps_away_from_events(
    events: list[AnnotatedEvent], seconds: float | None
) -> None:
    gaps = background(video(*events, seconds=seconds))
    assert gaps == sorted(gaps)
    for start, end in gaps:
        assert 4 * STEP_SECONDS - 1e-9 <= end - start <= 60 + 1e-9
        assert start >= 0
        assert seconds is None or end <= seconds
        for found in events:
            assert end <= found.start - STEP_SECONDS or start >= found.end + STEP_SECONDS
    for (_, end), (start, _) in itertools.pairwise(gaps):
        assert end <= start
    if seconds is None:
        assert all(end <= max((e.start for e in events), default=0) for _, end in gaps)


def test_an_hour_of_background_is_more_than_one_stretch() -> None:
    assert len(background(video(seconds=3600.0))) == 60
    assert background(video(seconds=None)) == []


def test_strips_are_spread_over_the_videos() -> None:
    videos = [video(*[event(t, t + 1) for t in range(0, 10, 2)], name=f"{n}") for n in range(3)]
    videos.append(video(event(1, 2, "y"), name="3"))
    annotations = AnnotationSet(labels=("y", "x"), videos=tuple(videos))
    strips = choose_strips(annotations, 4)
    labels = [strip.event and strip.event.label for strip in strips]
    assert labels == ["y", "x", "x", "x", "x", *[None] * 4]
    names = [strip.video.video for strip in strips[1:5]]
    assert sorted(set(names)) == ["0", "1", "2"]
    # In the order of the data set, whatever was drawn.
    assert names == sorted(names)
    assert choose_strips(annotations, 4) == strips
    assert choose_strips(annotations, 4, seed=1) != strips
    assert len(choose_strips(annotations, 99)) == 1 + 15 + 4


# Frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds at 10 frames a second, each with its number in its pixels."""
    recipe = Recipe(name="a.mp4", ticks=range(0, 300, 1), options={"g": "20"}, width=96, height=48)
    return recipe.write(tmp_path_factory.mktemp("clip"))


def test_frames_at_seeks_and_reads_on(clip: Path) -> None:
    moments = (0.0, 0.03, 0.04, 1.0, 8.0, 8.02, 8.04, 11.96, 50.0)
    with VideoSource.open(clip) as source:
        found = [(f.timestamp, read_number(f.rgb())) for f in frames_at(source, moments)]
    # At or after each moment, none twice, and nothing past the end.
    assert [number for _, number in found] == [0, 1, 25, 200, 201, 299]
    assert [time for time, _ in found] == pytest.approx([0, 0.04, 1, 8, 8.04, 11.96])


@pytest.mark.parametrize(
    ("start", "end", "parts"),
    [
        (4.0, 7.0, "bbiiiiaa"),
        (0.0, 2.0, "iiiiaa"),
        (4.0, 4.0, "bbbiaaa"),
        # The frame for 4.01 is that at 4.04: beyond the end of an event between two frames.
        (4.01, 4.03, "bbaa"),
        # A point between two frames is shown by the next.
        (4.01, 4.01, "bbbiaaa"),
        (10.0, 12.5, "bbiiii"),
    ],
)
def test_sides_are_those_of_the_frames(clip: Path, start: float, end: float, parts: str) -> None:
    strip = event_strip(video(), event(start, end))
    with VideoSource.open(clip) as source:
        frames = list(read_strip(source, strip))
    assert "".join(frame.part[0] for frame in frames) == parts
    for frame in frames:
        assert read_number(frame.image) == round(frame.timestamp * 25)
        if frame.part == "inside" and end > start:
            assert start <= frame.timestamp < end


def test_background_has_no_sides(clip: Path) -> None:
    (strip,) = choose_strips(AnnotationSet(labels=("x",), videos=(video(),)), 1)
    with VideoSource.open(clip) as source:
        frames = list(read_strip(source, strip))
    assert [frame.part for frame in frames] == ["inside"] * 8
    assert frames[0].timestamp == pytest.approx(4.28)


# The page


class Reader(HTMLParser):
    """Checks that all tags are closed, and keeps what matters."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.classes: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.classes += (given.get("class") or "").split()
        assert not [name for name in given if name.startswith("on")]
        if tag == "img":
            self.sources.append(given["src"] or "")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def page_of(annotations: AnnotationSet, *shown: ShownStrip, height: int = 24) -> Reader:
    parts = page_parts(annotations, summarize(annotations), shown, title="<set>", height=height)
    reader = Reader()
    reader.feed("".join(parts))
    reader.close()
    assert reader.open == []
    return reader


def frame(time: float, part: Any = "inside", size: tuple[int, int] = (48, 64)) -> StripFrame:
    return StripFrame(timestamp=time, part=part, image=np.full((*size, 3), 99, np.uint8))


NASTY = "<script>alert('1')</script>\"&"


def test_page() -> None:
    nasty = event(4, 7, NASTY, text="“quoted” <b>text</b>")
    other = event(5, 5, "b_c")
    annotated = video(nasty, other, event(7, 8, "touching"), name="a<b>.mp4")
    annotations = AnnotationSet(labels=(NASTY, "b_c", "touching"), videos=(annotated,))
    page = page_of(
        annotations,
        ShownStrip(
            strip=event_strip(annotated, nasty),
            frames=(frame(3.9, "before"), frame(4.0), frame(7.0, "after")),
        ),
        ShownStrip(strip=event_strip(annotated, other), frames=(frame(5.0), frame(5.5, "after"))),
        ShownStrip(strip=Strip(video=annotated, event=None, moments=(1.0,)), frames=(frame(1.0),)),
    )
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert NASTY in page.text
    assert "“quoted” <b>text</b>" in page.text
    assert "a<b>.mp4" in page.text
    assert "0:04.00 to 0:07.00 (3.00 s) · at the same time: b c · " in page.text
    assert "at 0:05.00 · at the same time: <script>" in page.text
    assert re.findall(r"(?:start|end) \d:\d\d\.\d\d", page.text) == [
        "start 0:04.00",
        "end 0:07.00",
        "start 0:05.00",
    ]
    assert page.text.count("1 event") >= 2
    assert "no event is annotated here" in page.text
    assert len(page.sources) == 6
    assert page.classes.count("plain") == 1
    for source in page.sources:
        kind, _, data = source.partition(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 24)


def test_an_event_up_to_the_end_of_the_video_has_its_end() -> None:
    found = event(4, 12)
    annotations = AnnotationSet(labels=("x",), videos=(video(found),))
    shown = ShownStrip(strip=event_strip(video(found), found), frames=(frame(4.0), frame(11.9)))
    assert "end 0:12.00" in page_of(annotations, shown).text


def test_a_very_short_event_has_both_borders_between_two_frames() -> None:
    found = event(4.01, 4.03)
    annotations = AnnotationSet(labels=("x",), videos=(video(found),))
    frames = (frame(4.0, "before"), frame(4.04, "after"))
    shown = ShownStrip(strip=event_strip(video(found), found), frames=frames)
    assert "start 0:04.01" in page_of(annotations, shown).text
    assert "end 0:04.03" in page_of(annotations, shown).text


def test_a_video_that_cannot_be_read_says_so() -> None:
    found = event(4, 5)
    annotations = AnnotationSet(labels=("x",), videos=(video(found),))
    shown = ShownStrip(strip=event_strip(video(found), found), frames=(), error="no <such> file")
    page = page_of(annotations, shown)
    assert "no <such> file" in page.text
    assert page.sources == []


def test_pictures_are_made_smaller_and_never_larger() -> None:
    found = event(4, 5)
    annotations = AnnotationSet(labels=("x",), videos=(video(found),))
    frames = (frame(4.0), frame(4.1, size=(12, 6000)), frame(4.2, size=(800, 2)))
    shown = ShownStrip(strip=event_strip(video(found), found), frames=frames)
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size
        for source in page_of(annotations, shown, height=400).sources
    ]
    assert sizes == [(64, 48), (2133, 4), (1, 400)]
