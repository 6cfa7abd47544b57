"""Verdicts on near misses: where their events go, what is left out, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from utils.data.formats.draft import Draft, DraftEvent, DraftVideo
from utils.data.reviewed import ReviewCounts, add_reviewed, review_list
from utils.errors import AnnotationError


def event(start: float, end: float, label: str = "x") -> DraftEvent:
    return DraftEvent(label=label, start=start, end=end, is_point=start == end, place="event 0")


def clip(
    number: int,
    *events: DraftEvent,
    source: object = "/v/hall.mp4",
    start: object = 100.0,
    reviewed: object = True,
) -> DraftVideo:
    extra: dict[str, Any] = {"source": source, "source_start": start, "reviewed": reviewed}
    return DraftVideo(
        video=f"clip_{number}.mp4",
        path=Path(f"/r/clip_{number}.mp4"),
        duration=10.0,
        fps=25.0,
        events=list(events),
        extra=extra,
    )


def added(
    videos: list[DraftVideo],
    clips: list[DraftVideo],
    *,
    verdicts: list[DraftVideo] | None = None,
    unreviewed: set[str] | None = None,
) -> tuple[Draft, ReviewCounts]:
    draft = Draft(path=Path("set.json"), labels=("x", "y"), videos=videos)
    review = Draft(path=Path("/r/review.json"), videos=clips)
    judged = review if verdicts is None else Draft(path=Path("export"), videos=verdicts)
    counts = add_reviewed(draft, Path("/r"), review, judged, unreviewed=unreviewed)
    return draft, counts


def hall(*events: DraftEvent, group: str | None = "cameras") -> DraftVideo:
    path = Path("/v/hall.mp4")
    return DraftVideo(video="hall.mp4", path=path, group=group, events=list(events))


def test_hard_negatives_are_clips_in_the_group_of_their_video() -> None:
    draft, counts = added([hall()], [clip(1), clip(2, source="/v/yard.mp4")])
    _, first, second = draft.videos
    assert (first.path, first.group, first.events) == (Path("/r/clip_1.mp4"), "cameras", [])
    assert (first.duration, first.fps) == (10.0, 25.0)
    assert first.extra == {
        "source": "/v/hall.mp4",
        "source_start": 100.0,
        "reviewed_as": "hard_negative",
    }
    assert second.group == "review of yard.mp4"
    assert counts == ReviewCounts(num_clips=2, num_hard_negatives=2)
    assert str(counts) == "2 clips: 2 hard negatives"
    assert not draft.problems


def test_a_video_without_a_group_gets_one_with_its_clips() -> None:
    draft, _ = added([hall(group=None)], [clip(1), clip(2)])
    assert {video.group for video in draft.videos} == {"review of hall.mp4"}


def test_missed_events_go_to_their_video() -> None:
    draft, counts = added([hall(event(3, 4))], [clip(1, event(2.5, 4), event(6, 6, "y"))])
    (video,) = draft.videos
    assert [(found.label, found.start, found.end) for found in video.events] == [
        ("x", 3, 4),
        ("x", 102.5, 104.0),
        ("y", 106.0, 106.0),
    ]
    assert video.events[1].place == "clip_1.mp4, event 0"
    assert video.events[2].is_point
    assert counts == ReviewCounts(num_clips=1, num_missed_events=2)


def test_missed_events_of_other_videos_stay_in_their_clip() -> None:
    draft, counts = added([hall()], [clip(1, event(2, 4), source="/v/yard.mp4")])
    _, video = draft.videos
    assert video.events == [event(2, 4)]
    assert video.extra["reviewed_as"] == "missed_event"
    assert counts == ReviewCounts(num_clips=1, num_missed_events=1)


def test_what_is_annotated_already_is_not_added() -> None:
    draft, counts = added(
        [hall(event(101, 104))], [clip(1, event(2, 5)), clip(2, event(2, 5, "y"))]
    )
    assert [found.label for found in draft.videos[0].events] == ["x", "y"]
    assert counts == ReviewCounts(num_clips=2, num_known=1, num_missed_events=1)


def test_adding_twice_changes_nothing() -> None:
    clips = [clip(1), clip(2, event(2, 4)), clip(3, event(2, 4), source="/v/yard.mp4")]
    draft, _ = added([hall()], clips)
    before = [(video.video, len(video.events)) for video in draft.videos]
    again, counts = added(draft.videos, clips)
    assert [(video.video, len(video.events)) for video in again.videos] == before
    assert counts == ReviewCounts(num_clips=3, num_known=3)


def test_a_verdict_against_the_annotations_is_left_out() -> None:
    draft, counts = added([hall(event(104, 106))], [clip(1)])
    (problem,) = draft.problems
    assert (problem.kind, problem.severity) == ("contradiction", "warning")
    assert str(problem) == (
        "set.json: video 'hall.mp4', event 0 ('x'): lies in /r/clip_1.mp4, which was judged to "
        "show no event; the clip is left out"
    )
    assert str(counts) == "1 clips: 1 contradictions"
    # What only touches the clip is none.
    draft, _ = added([hall(event(90, 102))], [clip(1)])
    assert not draft.problems


@pytest.mark.parametrize("reviewed", [False, None, "yes", 1])
def test_only_what_was_judged(reviewed: object) -> None:
    draft, counts = added([hall()], [clip(1, reviewed=reviewed)])
    assert len(draft.videos) == 1
    assert str(counts) == "1 clips: 1 not reviewed"


def test_verdicts_of_a_tool() -> None:
    clips = [clip(number, start=100.0 * number, reviewed=False) for number in range(4)]
    verdicts = [
        DraftVideo(video="files/clip_0.mp4", path=Path("clip_0.mp4"), events=[event(1, 2)]),
        DraftVideo(video="clip_1.mp4", path=Path("clip_1.mp4")),
        DraftVideo(video="clip_2.mp4", path=Path("clip_2.mp4")),
    ]
    draft, counts = added([hall()], clips, verdicts=verdicts, unreviewed={"clip_2.mp4"})
    assert [video.video for video in draft.videos] == ["hall.mp4", "/r/clip_1.mp4"]
    assert [found.start for found in draft.videos[0].events] == [1.0]
    assert str(counts) == "4 clips: 1 missed events, 1 hard negatives, 2 not reviewed"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"source": None}, "'source' is missing; it must be text"),
        ({"source": 3}, "'source' must be text, got 3"),
        ({"start": "soon"}, "'source_start' must be a number, got 'soon'"),
    ],
)
def test_a_list_that_somebody_broke(fields: dict[str, Any], text: str) -> None:
    draft, _ = added([hall()], [clip(1, **fields)])
    (problem,) = draft.problems
    assert problem.severity == "error"
    assert str(problem) == f"set.json: review.json: video 'clip_1.mp4': {text}"
    assert len(draft.videos) == 1


def test_no_review_folder(tmp_path: Path) -> None:
    with pytest.raises(
        AnnotationError,
        match=r"has no review\.json; --add-reviewed takes a folder that inference\.py --review-dir",
    ):
        review_list(tmp_path)
