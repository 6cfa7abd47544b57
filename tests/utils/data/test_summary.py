"""Counts of a data set against a hand-worked one, the table, and the picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.data.summary import draw_summary, summarize, summary_lines


def event(label: str, start: float, end: float) -> AnnotatedEvent:
    return AnnotatedEvent(label=label, start=start, end=end)


SET = AnnotationSet(
    labels=("fight", "a long $name$", "never"),
    videos=(
        VideoAnnotation(
            video="a.mp4",
            path=Path("a.mp4"),
            duration=50.0,
            group="g",
            # Overlapping: 1 to 6 and 8 to 9 are covered, 6 s of 8 s of events.
            events=(event("fight", 1, 4), event("fight", 2, 6), event("fight", 8, 9)),
        ),
        VideoAnnotation(
            video="b.mp4",
            path=Path("b.mp4"),
            duration=30.0,
            group="g",
            events=(event("a long $name$", 3, 3), event("fight", 4, 4)),
        ),
        VideoAnnotation(video="c.mp4", path=Path("c.mp4"), duration=20.0),
    ),
)


def test_numbers() -> None:
    summary = summarize(SET)
    fight, long, never = summary.classes
    assert (fight.num_events, fight.num_points, fight.num_videos) == (4, 1, 2)
    assert fight.lengths == (1, 3, 4)
    assert fight.covered_seconds == 6
    assert (long.num_events, long.num_points, long.lengths) == (1, 1, ())
    assert never.num_events == never.num_videos == 0
    assert (summary.num_videos, summary.num_empty, summary.num_groups) == (3, 1, 2)
    assert summary.seconds == 100


def test_table() -> None:
    assert summary_lines("train", summarize(SET)) == [
        "train: 3 videos (1 without events), 1 min 40 s, 2 groups",
        "  class          events  points  videos   time  share  shortest  median  longest",
        "  fight               4       1       2  6.0 s   6.0%    1.00 s  3.00 s   4.00 s",
        "  a long $name$       1       1       1  0.0 s   0.0%         -       -        -",
        "  never               0       0       0  0.0 s   0.0%         -       -        -",
    ]


def test_a_duration_that_is_not_known() -> None:
    video = VideoAnnotation(video="a", path=Path("a"), events=(event("x", 1, 2),))
    summary = summarize(AnnotationSet(labels=("x",), videos=(video,)))
    assert summary.seconds is None
    first, _, row = summary_lines("all", summary)
    assert first == "all: 1 videos (0 without events), of unknown length, 1 groups"
    assert row.split() == ["x", "1", "0", "1", "1.0", "s", "-", *["1.00", "s"] * 3]


def test_picture(tmp_path: Path) -> None:
    summary = summarize(SET)
    empty = summarize(AnnotationSet(labels=SET.labels, videos=()))
    sizes = []
    for number, summaries in enumerate(
        ({"all": summary}, {"train": summary, "val": empty}, {"all": empty})
    ):
        path = tmp_path / "new" / f"{number}.png"
        draw_summary(path, summaries, title="日本 $x_$ \udc80.json")
        with Image.open(path) as image:
            sizes.append(image.size)
            # Something is drawn: bars in the first splits' colour where there is anything to count.
            colors = {color for _, color in image.convert("RGB").getcolors(1 << 20) or ()}
            assert ((31, 78, 140) in colors) == (number < 2)
    assert {width for width, _ in sizes} == {1430}


def test_many_classes_make_a_high_picture_but_not_an_endless_one(tmp_path: Path) -> None:
    labels = tuple(f"class {number}" for number in range(130))
    draw_summary(
        tmp_path / "a.png", {"all": summarize(AnnotationSet(labels=labels, videos=()))}, title="x"
    )
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1430, 4400)
