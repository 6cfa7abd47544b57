"""Everything that is wrong is found, each with its kind, severity and words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from utils.data.formats import get_format
from utils.data.formats.base import ImportOptions
from utils.data.formats.draft import Draft, Problem
from utils.data.validation import check_events, check_files
from video_files import Recipe


def draft_of(tmp_path: Path, *videos: dict[str, Any], labels: Any = ("x", "y")) -> Draft:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"labels": list(labels), "videos": list(videos)}))
    return get_format("native").read(path, ImportOptions())


def kinds(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.kind, problem.severity) for problem in problems]


def event(start: float, end: float, label: str = "x") -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


def test_a_good_set_has_no_problem(tmp_path: Path) -> None:
    draft = draft_of(
        tmp_path,
        {"video": "a.mp4", "duration": 9, "events": [event(0, 2), event(2, 4), event(1, 3, "y")]},
        {"video": "b.mp4", "events": [{"time": 4, "label": "x"}, {"time": 5, "label": "x"}]},
    )
    assert draft.problems == []
    assert check_events(draft) == []


def test_all_problems_are_listed(tmp_path: Path) -> None:
    draft = draft_of(
        tmp_path,
        {
            "video": "a.mp4",
            "duration": 10,
            "fps": 0,
            "events": [
                event(5, 4),
                event(-1, 2),
                event(9, 12),
                event(1, 2, "z"),
                {"time": 11, "label": "y"},
                {"label": "x"},
            ],
        },
        {"video": "./a.mp4", "events": []},
        {"video": "b.mp4", "duration": 0},
    )
    problems = [*draft.problems, *check_events(draft)]
    assert kinds(problems) == [
        ("field", "error"),
        ("duplicate-video", "error"),
        ("fps", "error"),
        ("end-before-start", "error"),
        ("negative-time", "error"),
        ("past-end", "error"),
        ("unknown-label", "error"),
        ("past-end", "error"),
        ("duration", "error"),
    ]
    where = f"{tmp_path / 'a.json'}: video"
    assert [str(problem) for problem in problems] == [
        f"{where} 'a.mp4', event 5 ('x'): needs either 'start' and 'end', or 'time'",
        f"{where} './a.mp4': is listed before as 'a.mp4'; join their events",
        f"{where} 'a.mp4': 'fps' must be above 0, got 0",
        f"{where} 'a.mp4', event 0 ('x'): 'end' (4) must lie after 'start' (5)",
        f"{where} 'a.mp4', event 1 ('x'): 'start' must not be negative, got -1",
        f"{where} 'a.mp4', event 2 ('x'): 'end' (12) lies past the end of the video (10 s)",
        f"{where} 'a.mp4', event 3 ('z'): unknown label 'z'; known: x, y",
        f"{where} 'a.mp4', event 4 ('y'): 'time' (11) lies past the end of the video (10 s)",
        f"{where} 'b.mp4': 'duration' must be above 0, got 0",
    ]


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([event(1, 3), event(2, 4)], "2-4 s overlaps event 0 of the same label (1-3 s)"),
        ([event(1, 9), event(2, 3), event(4, 5)], "4-5 s overlaps event 0 of the same label"),
        ([event(1, 3), event(1, 3)], "1-3 s has the times of event 0 of the same label"),
        (
            [{"time": 2, "label": "x"}, {"time": 2, "label": "x"}],
            "2 s has the time of event 0 of the same label (2 s)",
        ),
        ([event(1, 3), {"time": 2, "label": "x"}], "2 s overlaps event 0 of the same label"),
    ],
)
def test_overlaps(tmp_path: Path, events: Any, text: str) -> None:
    draft = draft_of(tmp_path, {"video": "a.mp4", "events": events}, labels=["x"])
    problems = check_events(draft)
    assert {problem.kind for problem in problems} == {"overlap"}
    assert {problem.severity for problem in problems} == {"warning"}
    assert text in problems[-1].text
    assert problems[-1].text.endswith("; is it the same event?")
    # In another order they are the same events.
    draft.videos[0].events.reverse()
    assert len(check_events(draft)) == len(problems)


def test_classes_that_are_given(tmp_path: Path) -> None:
    draft = draft_of(tmp_path, {"video": "a.mp4", "events": [event(1, 2), event(1, 2, "y")]})
    problems = check_events(draft, labels=["x", "yy"])
    assert [(problem.kind, problem.text) for problem in problems] == [
        ("unknown-label", "unknown label 'y'; known: x, yy (did you mean 'yy'?)"),
        ("unused-label", "class 'yy' has no event"),
    ]


def test_no_videos(tmp_path: Path) -> None:
    assert kinds(check_events(Draft(path=tmp_path / "x"))) == [("empty", "error")]


# Files


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 25 frames a second, twice under two names; another; and no video."""
    folder = tmp_path_factory.mktemp("clips")
    Recipe(name="a.mp4", ticks=range(50)).write(folder)
    shutil.copy(folder / "a.mp4", folder / "copy.mp4")
    Recipe(name="b.mp4", ticks=range(25)).write(folder)
    (folder / "noise.mp4").write_bytes(b"noise" * 99)
    return folder


def with_files(clips: Path, *videos: dict[str, Any]) -> Draft:
    return draft_of(clips, *[{"events": [], **video} for video in videos])


def test_what_is_not_stated_is_asked_for(clips: Path) -> None:
    draft = with_files(clips, {"video": "a.mp4"}, {"video": "b.mp4", "fps": 25.1, "duration": 1.2})
    seen: list[str] = []
    assert check_files(draft, on_video=seen.append) == []
    assert seen == ["a.mp4", "b.mp4"]
    first, second = draft.videos
    assert (first.duration, first.fps) == (pytest.approx(2.0), 25.0)
    assert (second.duration, second.fps) == (1.2, 25.1)


def test_events_are_held_against_the_file(clips: Path) -> None:
    draft = with_files(clips, {"video": "a.mp4", "events": [event(1, 3)]})
    assert check_files(draft) == []
    (problem,) = (found for found in check_events(draft) if found.severity == "error")
    assert problem.text == "'end' (3) lies past the end of the video (2 s)"


def test_files_that_cannot_be_used(clips: Path) -> None:
    draft = with_files(clips, {"video": "gone.mp4"}, {"video": "noise.mp4"})
    problems = check_files(draft)
    assert kinds(problems) == [("missing-file", "error"), ("unreadable-video", "error")]
    assert str(problems[0]) == (
        f"{clips / 'a.json'}: video 'gone.mp4': {clips / 'gone.mp4'}: no such file"
    )
    assert "not a video" in problems[1].text


def test_what_the_file_says_otherwise(clips: Path) -> None:
    draft = with_files(clips, {"video": "a.mp4", "duration": 8, "fps": 30})
    problems = check_files(draft)
    assert kinds(problems) == [("duration-differs", "warning"), ("fps-differs", "warning")]
    assert [problem.text for problem in problems] == [
        "'duration' is 8 s, but the file says 2 s",
        "'fps' is 30, but the file says 25",
    ]


@pytest.mark.parametrize(
    ("groups", "severity", "remedy"),
    [
        ((None, None), "error", "; remove one, or give both the same 'group'"),
        (("g", None), "error", "; remove one, or give both the same 'group'"),
        (("g", "h"), "error", "; remove one, or give both the same 'group'"),
        (("g", "g"), "warning", "; remove one"),
    ],
)
def test_one_video_under_two_names(
    clips: Path, groups: tuple[Any, Any], severity: str, remedy: str
) -> None:
    draft = with_files(
        clips,
        {"video": "a.mp4", "group": groups[0]},
        {"video": "b.mp4"},
        {"video": "copy.mp4", "group": groups[1]},
    )
    (problem,) = check_files(draft)
    assert (problem.kind, problem.severity) == ("same-content", severity)
    assert problem.text == f"has the same content as video 'a.mp4'{remedy}"
    assert "video 'copy.mp4'" in problem.where


def test_one_video_listed_twice_is_not_also_a_copy(clips: Path) -> None:
    draft = with_files(clips, {"video": "a.mp4"}, {"video": "./a.mp4"})
    assert check_files(draft) == []
    assert ("duplicate-video", "error") in kinds(check_events(draft))


def test_only_files_of_equal_size_are_read(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(path: Path) -> str:
        raise AssertionError(f"{path} was read whole")

    monkeypatch.setattr("utils.data.validation.file_hash", never)
    assert check_files(with_files(clips, {"video": "a.mp4"}, {"video": "b.mp4"})) == []


def test_real_data_are_sound(shared_data: Path) -> None:
    for name in ("falls/activities.json", "fight_streams/val/annotations.json"):
        draft = get_format("native").read(shared_data / "data" / name, ImportOptions())
        assert draft.problems == []
        assert check_events(draft) == []
        assert check_files(draft) == []
