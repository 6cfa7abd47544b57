"""The timeline picture: no peak is lost, and its size does not depend on the video's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.timeline import (
    TimelineColumns,
    TimelineText,
    _threshold_in_words,
    draw_timeline,
)
from utils.data.annotations import AnnotatedEvent
from utils.events.records import Event, FrameScore

EVENT_COLOR = np.array([0xF2, 0x8E, 0x2B])


def frame(index: int, trigger: float, temporal: float | None) -> FrameScore:
    return FrameScore(
        sample_index=index,
        frame_index=index,
        timestamp=index / 4,
        trigger=np.array([trigger], np.float32),
        temporal=None if temporal is None else np.array([temporal], np.float32),
    )


@settings(deadline=None, max_examples=50)
@given(
    scores=st.lists(
        st.tuples(st.floats(0, 1, width=32), st.none() | st.floats(0, 1, width=32)),
        min_size=1,
        max_size=70,
    )
)
def test_columns_keep_every_peak(scores: list[tuple[float, float | None]]) -> None:
    columns = TimelineColumns(1, max_columns=8)
    for index, (trigger, temporal) in enumerate(scores):
        columns.add(frame(index, trigger, temporal))
    assert 1 <= len(columns) <= 8
    assert columns.trigger.max() == max(trigger for trigger, _ in scores)
    seen = [temporal for _, temporal in scores if temporal is not None]
    if seen:
        assert np.nanmax(columns.temporal) == max(seen)
    else:
        assert np.isnan(columns.temporal).all()
    assert np.all(np.diff(columns.times) > 0)
    assert 0 <= columns.times[0] <= columns.times[-1] <= (len(scores) - 1) / 4


def test_short_videos_are_not_joined() -> None:
    columns = TimelineColumns(1, max_columns=8)
    for index in range(8):
        columns.add(frame(index, index / 10, None))
    np.testing.assert_allclose(columns.trigger[:, 0], np.arange(8) / 10, atol=1e-6)
    np.testing.assert_array_equal(columns.times, np.arange(8) / 4)


@pytest.mark.parametrize("max_columns", [0, 1, 7])
def test_columns_must_be_even(max_columns: int) -> None:
    with pytest.raises(ValueError, match="max_columns must be even and at least 2, got"):
        TimelineColumns(1, max_columns=max_columns)


def text(duration: float, labels: tuple[str, ...] = ("fight",)) -> TimelineText:
    return TimelineText(
        title="a.mp4",
        labels=labels,
        threshold=0.5,
        candidate_threshold=0.1,
        duration_seconds=duration,
    )


def event(start: float, end: float) -> Event:
    return Event(
        label="fight", start=start, end=end, timestamp=start, frame_index=0, confidence=0.9
    )


def event_columns(path: Path) -> NDArray[np.bool_]:
    """Which columns of pixels hold an event bar in the lane (drawn at 45 % over near-white)."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    lane = pixels[40 : pixels.shape[0] * 6 // 10]
    expected = 0.45 * EVENT_COLOR + 0.55 * 255
    is_event: NDArray[np.bool_] = (np.abs(lane - expected).sum(2) < 12).sum(0) > 20
    return is_event


def test_events_stand_where_they_are(tmp_path: Path) -> None:
    columns = TimelineColumns(1)
    for index in range(400):
        columns.add(frame(index, 0.05, None))
    draw_timeline(tmp_path / "a.png", columns, [event(50, 75)], text(100.0))
    hits = np.flatnonzero(event_columns(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as picture:
        width = picture.width
    assert len(hits) > 0.2 * width
    # The right border of the axis is near that of the picture, so three quarters lie left of it.
    assert 0.5 * width < hits[0] < 0.6 * width
    assert 0.73 * width < hits[-1] < 0.82 * width


def test_an_event_of_a_second_in_ten_hours_can_be_seen(tmp_path: Path) -> None:
    columns = TimelineColumns(1, max_columns=100)
    for index in range(0, 144000, 50):
        columns.add(frame(index, 0.05, None))
    draw_timeline(tmp_path / "a.png", columns, [event(18000, 18001)], text(36000.0))
    assert event_columns(tmp_path / "a.png").any()
    assert (tmp_path / "a.png").stat().st_size < 300_000


@pytest.mark.parametrize("num_classes", [1, 30])
def test_many_classes_ground_truth_and_points(tmp_path: Path, num_classes: int) -> None:
    labels = tuple(f"class_{index}" for index in range(num_classes))
    columns = TimelineColumns(num_classes)
    truth = [
        AnnotatedEvent(label="class_0", start=0.1, end=0.1),
        AnnotatedEvent(label="unknown", start=0.1, end=0.2),
    ]
    columns.add(
        FrameScore(
            sample_index=0,
            frame_index=0,
            timestamp=0.0,
            trigger=np.full(num_classes, 0.5, np.float32),
            temporal=np.full(num_classes, 0.5, np.float32),
        )
    )
    draw_timeline(tmp_path / "a.png", columns, [], text(0.5, labels), ground_truth=truth)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 1430
        assert picture.height <= 6600


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        (0.25, "threshold 0.25"),
        ((0.25,), "threshold 0.25"),
        ((0.25, 0.5), "threshold of each class"),
    ],
)
def test_the_legend_names_the_threshold(threshold: float | tuple[float, ...], words: str) -> None:
    assert _threshold_in_words(threshold) == words


def test_each_lane_has_its_own_threshold(tmp_path: Path) -> None:
    columns = TimelineColumns(2)
    for index in range(100):
        columns.add(
            FrameScore(
                sample_index=index,
                frame_index=index,
                timestamp=float(index),
                trigger=np.zeros(2, np.float32),
                temporal=np.zeros(2, np.float32),
            )
        )
    pictures = []
    for threshold in (0.5, (0.5, 0.5), (0.9, 0.5), (0.5, 0.9)):
        path = tmp_path / f"{threshold}.png"
        lanes = replace(text(100.0, ("fight", "fall")), threshold=threshold)
        draw_timeline(path, columns, [], lanes)
        with Image.open(path) as picture:
            # The legend below differs in its words.
            pictures.append(np.asarray(picture.convert("L"))[: picture.height * 3 // 4])
    same, each, first, second = pictures
    assert (same == each).all()
    half = len(first) // 2
    assert (first[:half] != each[:half]).any()
    assert (second[half:] != each[half:]).any()


def test_no_frame_is_no_error(tmp_path: Path) -> None:
    draw_timeline(tmp_path / "a.png", TimelineColumns(1), [], text(0.0))
    assert (tmp_path / "a.png").is_file()
