"""The report and where its files lie: strict JSON, whole or not at all, nobody else's files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.report import OutputFiles, event_entry, event_of_entry, video_entry, write_jpeg
from pipeline.run_records import DescribedEvent, RunTotals, StageTotals
from utils.errors import UsageError
from utils.events.records import Event
from utils.video.source import DecodeLoss

PICTURE = np.zeros((4, 6, 3), np.uint8)

EVENT = Event(label="fight", start=1.5, end=2.25, timestamp=1.75, frame_index=44, confidence=0.8125)


def test_event_entry_round_trip() -> None:
    entry = event_entry(
        DescribedEvent(event=EVENT, analysis="A fight.", picture=None), thumbnail="a_files/x.jpg"
    )
    assert entry == {
        "timestamp": 1.75,
        "frame_index": 44,
        "trigger_confidence": 0.8125,
        "analysis": "A fight.",
        "start": 1.5,
        "end": 2.25,
        "label": "fight",
        "thumbnail": "a_files/x.jpg",
    }
    assert event_of_entry(json.loads(json.dumps(entry))) == EVENT


def test_video_entry() -> None:
    totals = RunTotals(
        num_frames=30,
        num_candidates=4,
        num_windows=1,
        duration_seconds=10.0,
        stages={"decode": StageTotals(num_frames=30, seconds=0.25)},
        source={"codec": "h264"},
        loss=DecodeLoss(num_corrupt_packets=1, lost_seconds=0.5, notes=["one packet"]),
    )
    late, early = ({"start": start, "label": "a"} for start in (5.0, 2.0))
    entry = video_entry(
        "v.mp4",
        [late, early],
        summary="Two.",
        totals=totals,
        timeline="a.png",
        scores=None,
        replayed_from=None,
    )
    assert entry["triggers"] == [early, late]
    assert entry["num_triggers_detected"] == 2
    assert entry["num_frames_analyzed"] == 30
    assert entry["num_candidate_frames"] == 4
    assert entry["stages"] == {"decode": {"num_frames": 30, "milliseconds": 250.0}}
    assert entry["data_loss"] == {
        "num_corrupt_packets": 1,
        "lost_seconds": 0.5,
        "notes": ["one packet"],
    }


def publish(
    output: Path, thumbnails: list[str], *, is_single: bool = True, extra: str | None = None
) -> None:
    with OutputFiles(output, is_single=is_single) as files:
        names = files.for_video(Path("v.mp4"))
        for name in thumbnails:
            write_jpeg(PICTURE, files.staged(name))
        write_jpeg(PICTURE, files.staged(names.timeline))
        entry = {
            "timeline": names.timeline,
            "triggers": [
                {"thumbnail": name} for name in [*thumbnails, *([extra] if extra else [])]
            ],
        }
        files.publish(entry if is_single else {"videos": [entry]})


def listing(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("is_single", [True, False])
def test_second_run_replaces_its_own_files_only(tmp_path: Path, is_single: bool) -> None:
    output = tmp_path / "new" / "a.json"
    names = ["a_files/trigger_0001.jpg", "a_files/trigger_0002.jpg"]
    publish(output, names, is_single=is_single)
    others = ["a_files/notes.txt", "a_files/mine.jpg", "b.json", "a.scores.npz"]
    for other in others:
        (output.parent / other).write_text("someone's")
    publish(output, names[:1], is_single=is_single)
    timeline = "a.png" if is_single else "a_files/v.mp4.png"
    assert listing(output.parent) == sorted([*others, names[0], timeline, "a.json"])


def test_folder_goes_when_it_is_empty(tmp_path: Path) -> None:
    output = tmp_path / "a.json"
    publish(output, ["a_files/trigger_0001.jpg"])
    publish(output, [])
    assert listing(tmp_path) == ["a.json", "a.png"]
    assert not (tmp_path / "a_files").exists()


@pytest.mark.parametrize(
    "name",
    ["../keep.jpg", "keep.jpg", "a_files/../keep.jpg", "a_files/x/keep.jpg", "a_files/k.txt"],
)
def test_a_report_that_was_edited_removes_nothing_else(tmp_path: Path, name: str) -> None:
    output = tmp_path / "sub" / "a.json"
    publish(output, [], extra=name)
    kept = Path(os.path.normpath(output.parent / name))
    kept.parent.mkdir(parents=True, exist_ok=True)
    (output.parent / "a_files").mkdir(exist_ok=True)
    kept.write_text("someone's")
    publish(output, [])
    assert kept.read_text() == "someone's"


@pytest.mark.parametrize("content", ["", "[1, 2]", '"x"', '{"videos": 3}', '{"triggers": [1]}'])
def test_any_file_under_the_output_name_can_be_replaced(tmp_path: Path, content: str) -> None:
    output = tmp_path / "a.json"
    output.write_text(content)
    publish(output, [])
    assert json.loads(output.read_text())["timeline"] == "a.png"


def test_unpublished_run_leaves_the_earlier_report(tmp_path: Path) -> None:
    output = tmp_path / "a.json"
    publish(output, ["a_files/trigger_0001.jpg"])
    before = {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)}
    with OutputFiles(output, is_single=True) as files:
        write_jpeg(PICTURE[:2], files.staged("a_files/trigger_0001.jpg"))
    assert {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)} == before


def test_report_is_strict_json(tmp_path: Path) -> None:
    with OutputFiles(tmp_path / "a.json", is_single=True) as files:
        with pytest.raises(ValueError, match="JSON compliant"):
            files.publish({"confidence": float("nan")})
        files.publish({"label": "Stürzt"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "label": "Stürzt"\n}\n'


def test_names_of_many_videos_never_clash(tmp_path: Path) -> None:
    with OutputFiles(tmp_path / "a.json", is_single=False) as files:
        videos = [Path("x/v.mp4"), Path("y/v.mp4"), Path("y/V.MP4"), Path("y/v.mp4-2")]
        names = [files.for_video(video) for video in videos]
    assert [name.timeline for name in names] == [
        "a_files/v.mp4.png",
        "a_files/v.mp4-2.png",
        "a_files/V.MP4-3.png",
        "a_files/v.mp4-2-2.png",
    ]


def test_bad_outputs_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder; name a file: .*analysis\.json"):
        OutputFiles(tmp_path, is_single=True)
    with pytest.raises(UsageError, match=r"a\.txt must end in \.json"):
        OutputFiles(tmp_path / "a.txt", is_single=True)
    (tmp_path / "file").touch()
    with pytest.raises(
        UsageError, match=r"a\.json: cannot be written: File exists; choose another file"
    ):
        OutputFiles(tmp_path / "file" / "a.json", is_single=True)
    (tmp_path / "v.json").touch()
    with pytest.raises(UsageError, match=r"is one of the inputs"):
        OutputFiles(tmp_path / "v.json", is_single=True, inputs=[tmp_path / "v.json"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "v.json"]
