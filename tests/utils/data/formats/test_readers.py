"""Files as the tools write them, by the formats' own documents, and files that are wrong."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import broken_files
from utils.data.annotations import load_annotations
from utils.data.formats import (
    FORMATS,
    export_annotations,
    get_format,
    import_annotations,
    relocate,
)
from utils.data.formats.base import ImportOptions
from utils.errors import AnnotationError, UnknownNameError, UsageError
from utils.video.decoders.isolated import IsolatedPyAvSource
from video_files import Recipe

Times = list[tuple[str, float, float]]


def times(annotations: Any, video: int = 0) -> Times:
    return [(event.label, event.start, event.end) for event in annotations.videos[video].events]


def read_text(tmp_path: Path, name: str, file: str, text: str, **options: Any) -> Any:
    (tmp_path / file).write_text(text, encoding="utf-8")
    return import_annotations(tmp_path / file, name, look_at_files=False, **options)


def read_json(tmp_path: Path, name: str, content: Any, **options: Any) -> Any:
    return read_text(tmp_path, name, "file.json", json.dumps(content), **options)


def small_video(path: Path, num_frames: int = 40) -> Path:
    """25 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return Recipe(name=path.name, ticks=range(num_frames)).write(path.parent)


# E2E-Spot

SPOT_EVENT = {"frame": 525, "label": "jump", "comment": ""}
SPOT = {
    "video": "men_2018", "num_frames": 4325, "num_events": 2, "fps": 25,
    "events": [SPOT_EVENT, {"frame": 600, "label": "spin", "comment": "half a turn"}],
    "width": 1920, "height": 1080,
}  # fmt: skip


def test_e2e_spot(tmp_path: Path) -> None:
    (tmp_path / "class.txt").write_text("spin\njump\nfly\n")
    found = read_json(tmp_path, "e2e_spot", [SPOT])
    assert times(found) == [("jump", 21.0, 21.0), ("spin", 24.0, 24.0)]
    assert found.labels == ("spin", "jump", "fly")
    (video,) = found.videos
    assert (video.duration, video.fps) == (173.0, 25.0)
    assert [event.description for event in video.events] == [None, "half a turn"]
    assert video.extra == {"width": 1920, "height": 1080}
    assert video.path == tmp_path / "men_2018"


def test_a_video_is_found_by_its_name_without_ending(tmp_path: Path) -> None:
    small_video(tmp_path / "men_2018.mkv")
    found = read_json(tmp_path, "e2e_spot", [SPOT])
    assert found.videos[0].video == "men_2018.mkv"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, "video 'men_2018': 'fps' must be above 0, got 0"),
        ({"fps": "25"}, "video 'men_2018': 'fps' must be a number, got '25'"),
        ({"fps": None}, "nothing says how many make a second; give --fps"),
        ({"video": None}, "video 0: 'video' is missing; it must be text"),
        ({"video": 7}, "video 0: 'video' must be text, got 7"),
        ({"events": {}}, "video 'men_2018': 'events' must be a list, got {}"),
        ({"events": ["jump"]}, "video 'men_2018': events 0: must be an object, got 'jump'"),
        (
            {"events": [{"frame": 5.5, "label": "jump"}]},
            "video 'men_2018', event 0: 'frame' must be a whole frame number, got 5.5",
        ),
        ({"events": [{"label": "jump"}]}, "event 0: 'frame' is missing; it must be a frame number"),
        ({"events": [{"frame": 3}]}, "video 'men_2018', event 0: 'label' is missing"),
        (
            {"events": [{"frame": 9999, "label": "jump"}]},
            "event 0 ('jump'): 'time' (399.96) lies past the end of the video (173 s)",
        ),
        (
            {"events": [{"frame": -1, "label": "jump"}]},
            "event 0 ('jump'): 'time' must not be negative, got -0.04",
        ),
    ],
)
def test_e2e_spot_that_is_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_json(tmp_path, "e2e_spot", [{**SPOT, **change}])
    assert str(caught.value).startswith(f"{tmp_path / 'file.json'}: ")
    assert message in str(caught.value)


def test_a_number_of_events_that_is_wrong_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(json.dumps([{**SPOT, "num_events": 10}]))
    draft = get_format("e2e_spot").read(tmp_path / "file.json", ImportOptions())
    assert [str(problem) for problem in draft.problems if problem.kind == "count"] == [
        f"{tmp_path / 'file.json'}: video 'men_2018': 'num_events' is 10, but there are 2"
    ]


def test_frame_rates_come_from_the_file_then_the_caller_then_the_video(tmp_path: Path) -> None:
    small_video(tmp_path / "men_2018.mp4")
    bare = {**SPOT, "fps": None}
    (tmp_path / "file.json").write_text(json.dumps([bare]))
    assert times(import_annotations(tmp_path / "file.json", "e2e_spot"))[0] == ("jump", 21.0, 21.0)
    found = import_annotations(tmp_path / "file.json", "e2e_spot", fps=50.0)
    assert times(found)[0] == ("jump", 10.5, 10.5)
    found = read_json(tmp_path, "e2e_spot", [SPOT], fps=50.0)
    assert times(found)[0] == ("jump", 21.0, 21.0)


def test_e2e_spot_needs_a_duration(tmp_path: Path) -> None:
    found = read_json(tmp_path, "e2e_spot", [{**SPOT, "num_frames": None}])
    with pytest.raises(AnnotationError, match=r"video 'men_2018': has no 'duration'"):
        export_annotations(found, tmp_path / "new.json", "e2e_spot")


def test_counting_frames_needs_a_rate(tmp_path: Path) -> None:
    found = read_text(tmp_path, "csv", "a.csv", "video,start,end,label\na.mp4,1,2,x\n")
    for name in ("label_studio", "cvat"):
        with pytest.raises(AnnotationError, match=r"'a.mp4': has no 'fps', and .* counts frames"):
            export_annotations(found, tmp_path / "new" / name, name)


# ActivityNet

ACTIVITYNET = {
    "version": "VERSION 1.3",
    "taxonomy": [
        {"parentName": None, "nodeName": "Root", "nodeId": 0, "parentId": None},
        {"parentName": "Root", "nodeName": "Sports", "nodeId": 3, "parentId": 0},
        {"parentName": "Sports", "nodeName": "Rafting", "nodeId": 7, "parentId": 3},
        {"parentName": "Sports", "nodeName": "Archery", "nodeId": 8, "parentId": 3},
    ],
    "database": {
        "sJFgo9H6zNo": {
            "duration": 124.23, "subset": "training", "resolution": "1280x720",
            "url": "https://example.org/watch?v=sJFgo9H6zNo",
            "annotations": [{"segment": [0, 124.23], "label": "Rafting"}],
        },
        "V1zhqaGFY2A": {"duration": 99.0, "subset": "testing", "annotations": []},
    },
}  # fmt: skip


def test_activitynet(tmp_path: Path) -> None:
    small_video(tmp_path / "v_sJFgo9H6zNo.mp4")
    found = read_json(tmp_path, "activitynet", ACTIVITYNET)
    assert found.labels == ("Rafting", "Archery")
    assert times(found) == [("Rafting", 0.0, 124.23)]
    assert [video.video for video in found.videos] == ["v_sJFgo9H6zNo.mp4", "V1zhqaGFY2A"]
    assert found.videos[0].extra["subset"] == "training"
    export_annotations(found, tmp_path / "new.json", "activitynet")
    written = json.loads((tmp_path / "new.json").read_text())["database"]["v_sJFgo9H6zNo.mp4"]
    assert written == ACTIVITYNET["database"]["sJFgo9H6zNo"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ([5], "event 0: 'segment' must be [start, end], got [5]"),
        (["a", 3], "event 0: 'segment' must be two numbers of seconds, got 'a'"),
        ([7, 3], "event 0 ('x'): 'end' (3) must lie after 'start' (7)"),
        ([0, True], "event 0: 'segment' must be two numbers of seconds, got True"),
    ],
)
def test_activitynet_that_is_wrong(tmp_path: Path, segment: Any, message: str) -> None:
    entry = {"duration": 10, "annotations": [{"segment": segment, "label": "x"}]}
    with pytest.raises(AnnotationError) as caught:
        read_json(tmp_path, "activitynet", {"database": {"id": entry}})
    assert f"video 'id', {message}" in str(caught.value)


# SoccerNet

GAME = "england_epl/2014-2015/2015-02-21 - 18-00 Chelsea 1 - 1 Burnley"
SOCCER = {
    "UrlLocal": f"{GAME}/",
    "UrlYoutube": "",
    "annotations": [
        {"gameTime": "1 - 00:28", "label": "Ball out of play", "position": "28500",
         "team": "not applicable", "visibility": "visible"},
        {"gameTime": "2 - 45:10", "label": "Goal", "position": "2710000", "team": "home",
         "visibility": "not shown"},
    ],
}  # fmt: skip


def soccer_file(tmp_path: Path, content: Any = SOCCER) -> Path:
    path = tmp_path / GAME / "Labels-v2.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return path


def test_soccernet(tmp_path: Path) -> None:
    soccer_file(tmp_path)
    found = import_annotations(tmp_path, "soccernet")
    assert [video.video for video in found.videos] == [
        f"{GAME}/1_224p.mkv",
        f"{GAME}/2_224p.mkv",
    ]
    assert times(found, 0) == [("Ball out of play", 28.5, 28.5)]
    assert times(found, 1) == [("Goal", 2710.0, 2710.0)]
    assert {video.group for video in found.videos} == {GAME}
    assert found.videos[1].events[0].extra == {"team": "home", "visibility": "not shown"}
    assert {str(loss) for loss in export_annotations(found, tmp_path / "new", "soccernet")} == set()
    assert json.loads((tmp_path / "new" / GAME / "Labels-v2.json").read_text()) == SOCCER


def test_soccernet_of_one_game_with_its_videos(tmp_path: Path) -> None:
    path = soccer_file(tmp_path)
    small_video(path.parent / "1_720p.mkv")
    small_video(path.parent / "2.mp4")
    found = import_annotations(path, "soccernet")
    assert [video.video for video in found.videos] == ["1_720p.mkv", "2.mp4"]
    assert all(video.path.is_file() for video in found.videos)
    assert {video.group for video in found.videos} == {Path(GAME).name}


def test_names_that_are_no_halves_of_games(tmp_path: Path) -> None:
    text = "video,start,end,label\n../a.mp4,1,,x\nb/a.mp4,2,,x\n"
    found = read_text(tmp_path, "csv", "a.csv", text)
    losses = export_annotations(found, tmp_path / "new", "soccernet")
    assert [str(loss) for loss in losses] == ["SoccerNet: 2 videos have other names"]
    back = import_annotations(tmp_path / "new", "soccernet")
    assert [video.video for video in back.videos] == ["a/1_224p.mkv", "a_/1_224p.mkv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gameTime": "first half"}, "'gameTime' must look like '1 - 00:12', got 'first half'"),
        ({"gameTime": None}, "event 0: 'gameTime' is missing"),
        ({"position": "12a"}, "event 0 ('Goal'): 'position' must be milliseconds, got '12a'"),
    ],
)
def test_soccernet_that_is_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    event = {"gameTime": "1 - 00:28", "label": "Goal", "position": "28000", **change}
    soccer_file(tmp_path, {"annotations": [event]})
    with pytest.raises(AnnotationError) as caught:
        import_annotations(tmp_path, "soccernet")
    assert f"game '{GAME}', {message}" in str(caught.value) or message in str(caught.value)


def test_two_clocks_that_disagree_are_a_warning(tmp_path: Path) -> None:
    event = {"gameTime": "1 - 00:28", "label": "Goal", "position": "95000"}
    soccer_file(tmp_path, {"annotations": [event]})
    draft = get_format("soccernet").read(tmp_path, ImportOptions())
    (problem,) = draft.problems
    assert problem.severity == "warning"
    assert problem.text == "'position' says 95 s, 'gameTime' 28 s; the position is used"


# CSV


def test_csv(tmp_path: Path) -> None:
    text = (
        "video,start,end,label,description\n"
        'a.mp4,1.5,2.5,fight,"two people, one door"\n'
        "b.mp4,,,,\n"
        "a.mp4,7.25,,fall,\n"
    )
    found = read_text(tmp_path, "csv", "a.csv", text)
    assert times(found) == [("fight", 1.5, 2.5), ("fall", 7.25, 7.25)]
    assert found.videos[0].events[0].description == "two people, one door"
    assert (found.videos[1].video, found.videos[1].events) == ("b.mp4", ())


@pytest.mark.parametrize(
    "text",
    [
        "video;start;end;label\na.mp4;1;2;x\n",
        "\ufeffVideo, Start ,END,label\r\na.mp4,1,2,x\r\n",
        "label,end,start,video\nx,2,1,a.mp4",
    ],
    ids=["semicolons", "windows", "another order"],
)
def test_csv_of_spreadsheets(tmp_path: Path, text: str) -> None:
    assert times(read_text(tmp_path, "csv", "a.csv", text)) == [("x", 1.0, 2.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,1,2,x\n", "the first line must name the columns video,start,end,label"),
        (
            "video,start,label\na.mp4,1,x\n",
            "description'; end missing in: video,start,label",
        ),
        (
            "video,start,end,label\na.mp4,1,2,x\na.mp4,one,2,x\n",
            "video 'a.mp4', line 3: 'start' must be a number of seconds, got 'one'",
        ),
        ("video,start,end,label\na.mp4,1,nan,x\n", "'end' must be a number of seconds, got 'nan'"),
        ("video,start,end,label\na.mp4,,2,x\n", "'start' must be a number of seconds, got ''"),
        ("video,start,end,label\na.mp4,3,2,x\n", "line 2 ('x'): 'end' (2) must lie after"),
        ("video,start,end,label\na.mp4,1,2,\n", "line 2: 'label' is missing; it must be text"),
        ("video,start,end,label\n,1,2,x\n", "line 2: 'video' is missing; it must be text"),
        ("video,start,end,label\na.mp4,1,2,x,y\n", "line 2: has more cells than columns"),
        ('video,start,end,label\na.mp4,1,2,"x\n', "no valid CSV: unexpected end of data"),
    ],
)
def test_csv_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_text(tmp_path, "csv", "a.csv", text)
    assert str(caught.value).startswith(f"{tmp_path / 'a.csv'}: ")
    assert message in str(caught.value)


def test_a_column_that_is_not_known_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("video,start,end,label,who\na.mp4,1,2,x,me\n")
    draft = get_format("csv").read(tmp_path / "a.csv", ImportOptions())
    assert [problem.text for problem in draft.problems] == [
        "the column 'who' is not known and not read"
    ]


# Label Studio


def task(*results: Any, video: str = "a.mp4", **data: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "data": {"video": video, **data},
        "annotations": [{"id": 5, "was_cancelled": False, "result": list(results)}],
    }


def region(first: int, last: int, *labels: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "x", "from_name": "tl", "to_name": "video", "type": "timelinelabels",
        "value": {"ranges": [{"start": first, "end": last}], "timelinelabels": list(labels)},
        "origin": "manual", **more,
    }  # fmt: skip


def test_label_studio(tmp_path: Path) -> None:
    choice = {"type": "choices", "value": {"choices": ["indoors"]}}
    content = [
        task(
            region(1, 25, "fight"),
            region(51, 51, "fall", meta={"text": ["on the stairs"]}),
            choice,
        )
    ]
    found = read_json(tmp_path, "label_studio", content, fps=25.0)
    # From 1, and both ends belong to it: the first second, and the frame at two seconds.
    assert times(found) == [("fight", 0.0, 1.0), ("fall", 2.0, 2.0)]
    assert found.videos[0].events[1].description == "on the stairs"


@pytest.mark.parametrize("name", ["label_studio", "cvat"])
def test_an_interval_shorter_than_a_frame_is_a_frame(tmp_path: Path, name: str) -> None:
    text = "video,start,end,label\na.mp4,1,1.01,x\na.mp4,2,2.04,x\n"
    found = read_text(tmp_path, "csv", "a.csv", text, fps=25.0)
    losses = export_annotations(found, tmp_path / "new", name)
    title = get_format(name).title
    assert f"{title}: 2 intervals became points at their start" in [str(loss) for loss in losses]
    back = import_annotations(tmp_path / "new", name, fps=25.0)
    assert times(back) == [("x", 1.0, 1.0), ("x", 2.0, 2.0)]


def test_label_studio_json_min(tmp_path: Path) -> None:
    content = [
        {
            "video": "a.mp4",
            "id": 1,
            "tl": [{"ranges": [{"start": 26, "end": 50}], "timelinelabels": ["fight", "loud"]}],
            "annotator": 1,
        }
    ]
    found = read_json(tmp_path, "label_studio", content, fps=25.0)
    assert times(found) == [("fight", 1.0, 2.0), ("loud", 1.0, 2.0)]


def test_several_annotators_are_not_added_up(tmp_path: Path) -> None:
    content = task(region(1, 25, "x"), fps=25)
    content["annotations"] += [
        {"result": [region(26, 50, "x")], "ground_truth": True},
        {"result": [region(1, 99, "x")], "was_cancelled": True},
    ]
    assert times(read_json(tmp_path, "label_studio", [content])) == [("x", 1.0, 2.0)]
    draft = get_format("label_studio").read(tmp_path / "file.json", ImportOptions())
    assert [problem.text for problem in draft.problems] == [
        "has 2 annotations; the one marked as ground truth is used"
    ]


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("/data/upload/3/0a1b2c3d-street.mp4", "street.mp4"),
        ("/data/upload/3/0a1b2c3d-street.mp4", "0a1b2c3d-street.mp4"),
        ("/data/local-files/?d=videos/street%20two.mp4", "videos/street two.mp4"),
        ("/data/local-files/?d=videos/street.mp4", "street.mp4"),
        ("https://example.org/v/street%20two.mp4?token=1", "street two.mp4"),
        ("s3://bucket/v/street.mp4", "street.mp4"),
        ("videos/street.mp4", "videos/street.mp4"),
    ],
)
def test_where_label_studio_keeps_the_video(tmp_path: Path, url: str, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    found = read_json(tmp_path, "label_studio", [task(video=url)])
    assert found.videos[0].video == file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (task(region(1, 5, "x")), "nothing says how many make a second; give --fps"),
        (task(region(0, 5, "x"), fps=5), "'start' must be 1 or more (frames count from 1): 0"),
        (task(region(9, 5, "x"), fps=5), "event 0 ('x'): 'end' (1) must lie after 'start' (1.6)"),
        ({"data": {"image": "a"}}, "task 0: 'video' is missing; it must be text"),
        ({"data": 3}, "task 0: 'data' must be an object, got 3"),
        (
            task({"type": "timelinelabels", "value": {"ranges": [], "timelinelabels": 3}}, fps=5),
            "video 'a.mp4', event 0: 'timelinelabels' must be a list of names, got 3",
        ),
        (
            task({"type": "timelinelabels", "value": {"timelinelabels": ["x"]}}, fps=5),
            "video 'a.mp4', event 0: 'ranges' must be a list, got None",
        ),
    ],
)
def test_label_studio_that_is_wrong(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_json(tmp_path, "label_studio", [content])
    assert message in str(caught.value)


# CVAT

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>4</id><name>street</name><size>100</size><mode>interpolation</mode>
      <start_frame>0</start_frame><stop_frame>99</stop_frame><frame_filter></frame_filter>
      <labels>
        <label><name>van</name><attributes></attributes></label>
        <label><name>car &amp; driver</name><attributes></attributes></label>
      </labels>
      <original_size><width>640</width><height>360</height></original_size>
      <source>street.mp4</source>
    </task>
    <dumped>2024-01-01 00:00:00+00:00</dumped>
  </meta>
  {tracks}
</annotations>
"""
BOX = '<box frame="{}" outside="{}" occluded="0" keyframe="1" xtl="1" ytl="1">{}</box>'


def track(label: str, *shapes: tuple[int, int], attribute: str = "") -> str:
    boxes = "".join(BOX.format(*shape, attribute) for shape in shapes)
    return f'<track id="0" label="{label}" source="manual">{boxes}</track>'


def read_cvat(tmp_path: Path, *tracks: str, **options: Any) -> Any:
    text = CVAT.replace("{tracks}", "".join(tracks))
    return read_text(tmp_path, "cvat", "a.xml", text, **{"fps": 10.0, **options})


def test_cvat(tmp_path: Path) -> None:
    description = '<attribute name="description">red</attribute><attribute name="n">2</attribute>'
    found = read_cvat(
        tmp_path,
        # Seen twice: a track is what CVAT makes of one thing, and we of two events.
        track("van", (10, 0), (11, 0), (20, 1), (30, 0), (40, 1), attribute=description),
        # As CVAT writes a shape of one frame.
        track("car &amp; driver", (50, 0), (51, 1)),
        # Up to the end of the task, which closes it.
        track("van", (90, 0), (91, 0)),
        '<tag label="van" frame="3" source="manual"></tag>',
    )
    assert found.labels == ("van", "car & driver")
    assert times(found) == [
        ("van", 0.3, 0.3),
        ("van", 1.0, 2.0),
        ("van", 3.0, 4.0),
        ("car & driver", 5.0, 5.0),
        ("van", 9.0, 10.0),
    ]
    event = found.videos[0].events[1]
    assert (event.description, event.extra) == ("red", {"n": "2"})
    assert found.videos[0].video == "street.mp4"
    assert found.videos[0].extra == {"width": 640, "height": 360}


def test_cvat_of_a_project(tmp_path: Path) -> None:
    tasks = "".join(
        f"<task><id>{number}</id><name>t</name><size>50</size><source>{number}.mp4</source></task>"
        for number in (7, 8)
    )
    tracks = "".join(
        track("van", (number, 0), (number + 5, 1)).replace(
            "<track ", f'<track task_id="{number}" ', 1
        )
        for number in (7, 8)
    )
    labels = "<labels><label><name>van</name></label></labels>"
    text = (
        f"<annotations><meta><project>{labels}<tasks>{tasks}</tasks></project></meta>{tracks}"
        "</annotations>"
    )
    found = read_text(tmp_path, "cvat", "a.xml", text, fps=10.0)
    assert [video.video for video in found.videos] == ["7.mp4", "8.mp4"]
    assert [times(found, index) for index in (0, 1)] == [
        [("van", 0.7, 1.2)],
        [("van", 0.8, 1.3)],
    ]


def test_a_folder_of_tasks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        text = CVAT.replace("{tracks}", track("van", (1, 0), (5, 1))).replace("street.", f"{name}.")
        (tmp_path / f"{name}.xml").write_text(text)
    found = import_annotations(tmp_path, "cvat", fps=10.0)
    assert [video.path for video in found.videos] == [tmp_path / "a.mp4", tmp_path / "b.mp4"]


def test_what_is_written_covers_the_picture(tmp_path: Path) -> None:
    found = read_cvat(tmp_path, track("van", (10, 0), (20, 1)))
    export_annotations(found, tmp_path / "new", "cvat")
    (file,) = (tmp_path / "new").iterdir()
    assert file.name == "0_street.mp4.xml"
    text = file.read_text()
    assert 'frame="10" outside="0" occluded="0" keyframe="1" xtl="0.00"' in text
    assert 'xbr="640.00" ybr="360.00"' in text
    assert "<name>car &amp; driver</name>" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{tracks}", track("cow", (1, 0)), "track 0 ('cow'): unknown label 'cow'; known: van, car"),
        ("{tracks}", track("van", (1, 0)).replace('frame="1"', 'frame="x"'), "'frame' must be a"),
        ("{tracks}", '<track id="3"><box/></track>', "track 3: 'label' is missing"),
        ("<source>street.mp4</source>", "", None),
        ("</annotations>", "", "not valid XML: no element found"),
        ("<annotations>", "<annotations><image/>", "is 'CVAT for images', which has no events"),
        ("annotations>", "other>", "the root element must be 'annotations', got 'other'"),
    ],
)
def test_cvat_that_is_wrong(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    text = CVAT.replace(old, new).replace("{tracks}", "")
    if message is None:
        # Without a source the task's name is the best that there is.
        assert read_text(tmp_path, "cvat", "a.xml", text).videos[0].video == "street"
        return
    with pytest.raises(AnnotationError) as caught:
        read_text(tmp_path, "cvat", "a.xml", text, fps=10.0)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE a [<!ENTITY x "y">]>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;"><!ENTITY d "&c;&c;">]>',
        '<!DOCTYPE a SYSTEM "http://example.org/a.dtd">',
        "<!DOCTYPE a>",
    ],
)
def test_xml_that_could_do_harm_is_refused(tmp_path: Path, doctype: str) -> None:
    text = CVAT.replace("<annotations>", f"{doctype}<annotations>").replace("{tracks}", "")
    with pytest.raises(AnnotationError, match=r"document type declaration \(<!DOCTYPE a>\)"):
        read_text(tmp_path, "cvat", "a.xml", text)


def test_what_no_xml_can_hold(tmp_path: Path) -> None:
    found = read_text(
        tmp_path, "csv", "a.csv", "video,start,end,label\na.mp4,1,2,a\x01b\n", fps=5.0
    )
    with pytest.raises(AnnotationError, match=r"holds the character '\\x01', which no XML"):
        export_annotations(found, tmp_path / "new", "cvat")


# Folders named by class


def test_class_folders(tmp_path: Path) -> None:
    small_video(tmp_path / "in" / "fight" / "a.mp4", 50)
    small_video(tmp_path / "in" / "fight" / "deeper" / "b.mkv", 25)
    small_video(tmp_path / "in" / "calm" / "a.mp4", 25)
    (tmp_path / "in" / "fight" / "notes.txt").touch()
    (tmp_path / "in" / ".hidden").mkdir()
    found = import_annotations(tmp_path / "in", "folders")
    assert found.labels == ("calm", "fight")
    assert [video.video for video in found.videos] == [
        "calm/a.mp4",
        "fight/a.mp4",
        "fight/deeper/b.mkv",
    ]
    assert times(found, 1) == [("fight", 0.0, pytest.approx(2.0))]
    assert found.videos[1].fps == 25.0
    losses = export_annotations(found, tmp_path / "out", "folders")
    assert [str(loss) for loss in losses] == ["class folders: 1 video has another name"]
    assert os.path.samefile(tmp_path / "in/calm/a.mp4", tmp_path / "out/calm/a.mp4")
    again = import_annotations(tmp_path / "out", "folders")
    assert [video.events for video in again.videos] == [video.events for video in found.videos]


def test_class_folders_hold_whole_videos_alone(tmp_path: Path) -> None:
    small_video(tmp_path / "a.mp4", 50)
    rows = "video,start,end,label\na.mp4,0,1,x\n"
    found = read_text(tmp_path, "csv", "a.csv", rows)
    losses = export_annotations(found, tmp_path / "out", "folders")
    assert "class folders: 1 time moved, by 1 s" in [str(loss) for loss in losses]
    found = read_text(tmp_path, "csv", "a.csv", rows + "a.mp4,1,2,x\n")
    with pytest.raises(AnnotationError, match=r"'a.mp4': has 2 events; in class folders each"):
        export_annotations(found, tmp_path / "out2", "folders")
    found = read_text(tmp_path, "csv", "a.csv", rows.replace(",x", ",../x"))
    with pytest.raises(AnnotationError, match=r"'../x' cannot be the name of a folder"):
        export_annotations(found, tmp_path / "out3", "folders")
    found = read_text(tmp_path, "csv", "a.csv", rows.replace("a.mp4", "gone.mp4"))
    with pytest.raises(AnnotationError, match=r"gone.mp4: no such video file"):
        export_annotations(found, tmp_path / "out4", "folders")
    found = read_text(tmp_path, "csv", "a.csv", rows + "b/a.mp4,0,1,x\n")
    with pytest.raises(AnnotationError, match=r"there are two of the name 'a.mp4' in class 'x'"):
        export_annotations(found, tmp_path / "out5", "folders")


def test_class_folders_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"no such folder; it must hold a folder for each"):
        import_annotations(tmp_path / "gone", "folders")
    with pytest.raises(AnnotationError, match=r"holds no folders, which would name the classes"):
        import_annotations(tmp_path, "folders")
    (tmp_path / "fight").mkdir()
    (tmp_path / "fight" / "a.mp4").write_bytes(b"noise" * 50)
    with pytest.raises(AnnotationError, match=r"video 'fight/a.mp4': not a video"):
        import_annotations(tmp_path, "folders")


def write_live(path: Path) -> Path:
    """Four seconds, as a live recording is written: it does not say how long it is."""
    path.parent.mkdir(parents=True)
    recipe = replace(broken_files.BASE, name=path.name, container_options={"live": "1"})
    written: Path = recipe.write(path.parent)
    return written


def test_class_folders_read_what_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    path = write_live(tmp_path / "fight" / "live.mkv")
    draft = get_format("folders").read(tmp_path, ImportOptions())
    assert [video.duration for video in draft.videos] == [pytest.approx(4.0, abs=1e-3)]
    assert draft.problems == []
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    draft = get_format("folders").read(tmp_path, ImportOptions())
    assert [video.duration for video in draft.videos] == [pytest.approx(4.0, abs=1e-3)]
    (problem,) = draft.problems
    assert (problem.kind, problem.severity) == ("damaged", "warning")
    assert problem.where == f"{tmp_path}: video 'fight/live.mkv'"
    assert "s of video in between could not be decoded; its event is taken to end" in problem.text


def test_class_folders_do_not_take_the_end_of_a_decoder_for_that_of_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(broken_files.__file__).parent))
    monkeypatch.setattr(IsolatedPyAvSource, "target", "misbehaving_decoders:CrashingWithoutLength")
    (tmp_path / "fight").mkdir()
    (tmp_path / "fight" / "a.mkv").touch()
    draft = get_format("folders").read(tmp_path, ImportOptions())
    assert draft.videos == []
    (problem,) = draft.problems
    assert (problem.kind, problem.severity) == ("unreadable", "error")
    assert problem.text == (
        "does not say how long it is, and the decoder was killed by SIGSEGV after 1.000 s"
    )


# The project's own


@pytest.mark.parametrize(
    "change",
    [
        lambda video: video.update(duration=-1),
        lambda video: video.update(fps=0),
        lambda video: video.update(fps="25"),
        lambda video: video.update(group=3),
        lambda video: video.update(events={}),
        lambda video: video.update(events=[3]),
        lambda video: video.update(video=" "),
        lambda video: video.update(video="a\0.mp4"),
        lambda video: video["events"][0].update(label="cow"),
        lambda video: video["events"][0].update(label=None),
        lambda video: video["events"][0].update(time=3),
        lambda video: video["events"][0].pop("end"),
        lambda video: video["events"][0].update(end=1.0),
        lambda video: video["events"][0].update(start=-1),
        lambda video: video["events"][0].update(end=99),
        lambda video: video["events"][0].update(description=3),
        lambda video: video["events"][1].update(time="7"),
        lambda video: video["events"][1].update(time=-0.5),
    ],
)
def test_the_strict_reader_and_the_patient_one_agree(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    video = {
        "video": "a.mp4",
        "duration": 20,
        "fps": 25,
        "group": "g",
        "events": [{"start": 1, "end": 2, "label": "x"}, {"time": 7, "label": "x", "k": 1}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"labels": ["x", "y"], "videos": [video], "more": 1}))
    assert import_annotations(path, "native") == load_annotations(path)
    change(video)
    path.write_text(json.dumps({"labels": ["x"], "videos": [video]}))
    with pytest.raises(AnnotationError):
        load_annotations(path)
    with pytest.raises(AnnotationError, match=r"a.json: "):
        import_annotations(path, "native")


@pytest.mark.parametrize(
    "content", [[], {}, {"labels": [], "videos": [{"video": "a"}]}, {"labels": ["x"], "videos": []},
                {"labels": ["x", "x"], "videos": [{"video": "a"}]},
                {"labels": ["x"], "videos": [{"video": "a"}, {"video": "./a"}]}]
)  # fmt: skip
def test_they_agree_on_whole_files_too(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError):
        load_annotations(path)
    with pytest.raises(AnnotationError, match=r"a.json: "):
        import_annotations(path, "native")


def test_all_errors_are_counted(tmp_path: Path) -> None:
    text = "video,start,end,label\na.mp4,3,2,x\na.mp4,5,4,x\na.mp4,-1,4,x\n"
    with pytest.raises(AnnotationError, match=r"line 2 .*\(and 2 more errors\)$"):
        read_text(tmp_path, "csv", "a.csv", text)


# Every format


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_path_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(AnnotationError, match=r"gone: no such"):
        import_annotations(tmp_path / "gone", name)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "folders"])
@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"\xff\xfe\x00", b"3", b"[3]", b'"x"', b"{}", b"null", b"<a/>", b"[[]]"],
)
def test_files_that_are_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(AnnotationError) as caught:
        import_annotations(path, name, look_at_files=False)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_has_a_name_and_a_place(name: str) -> None:
    found = get_format(name)
    assert found.title
    assert Path(found.default_name).name == found.default_name
    assert found.is_folder == (not Path(found.default_name).suffix)


def test_formats_that_are_not_known() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown annotation format 'cvta'; .*mean 'cvat'"):
        get_format("cvta")


@pytest.mark.parametrize("name", ["cvat", "soccernet", "folders"])
def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path, name: str) -> None:
    (tmp_path / "old.xml").touch()
    found = read_text(tmp_path, "csv", "a.csv", "video,start,end,label\na.mp4,1,2,x\n", fps=5.0)
    with pytest.raises(UsageError, match=r"is not empty, and would be read as part of the set"):
        export_annotations(found, tmp_path, name)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("folders", "e2e_spot")])
def test_a_place_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    found = read_text(tmp_path, "csv", "a.csv", "video,start,end,label\na.mp4,1,,x\n", fps=5.0)
    with pytest.raises((UsageError, AnnotationError), match=r"cannot be written"):
        export_annotations(found, tmp_path / "file" / "new", name)


def test_relocate(tmp_path: Path) -> None:
    found = read_text(tmp_path, "csv", "a.csv", "video,start,end,label\nv/a.mp4,1,,x\n")
    moved = relocate(found, tmp_path / "new" / "train")
    assert moved.videos[0].video == "../../v/a.mp4"
    export_annotations(moved, tmp_path / "new" / "train" / "a.json", "native")
    back = load_annotations(tmp_path / "new" / "train" / "a.json")
    assert back.videos[0].path.resolve() == tmp_path / "v" / "a.mp4"


def test_the_documents_name_every_format(root: Path) -> None:
    text = (root / "docs" / "formats.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \|", text.partition("## What is checked")[0], re.MULTILINE)
    assert sorted(table) == sorted(FORMATS)
    assert all(f"\n**{name}**" in text for name in FORMATS)
