"""Near misses on their way round: inference, a person, preprocessing, and training data again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import inference
import pipeline_files
from scripts import preprocess_data
from utils.data.annotations import load_annotations
from utils.video.source import VideoSource

LABELS = pipeline_files.LABELS


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [
        pipeline_files.write_video(folder / f"clip_{seed}.mp4", num_frames=400, seed=seed)
        for seed in range(2)
    ]


@pytest.fixture(scope="module")
def checkpoint(videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipeline_files.write_checkpoint(tmp_path_factory.mktemp("c") / "c.pt", videos[0])


def infer(checkpoint: Path, video: Path, folder: Path, *more: object) -> int:
    arguments = ["--checkpoint", checkpoint, "--video", video, "--device", "cpu"]
    output = ["--output", folder / "analysis.json", *more]
    return inference.main([str(part) for part in (*arguments, *output)])


@pytest.fixture(scope="module")
def reviewed(
    videos: list[Path], checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of a run: ``analysis.json``, and near misses in ``review``."""
    folder = tmp_path_factory.mktemp("run")
    narrow = ("--set", "inference.review_margin_seconds=0.5", "--threshold", 0.9)
    assert (
        infer(checkpoint, videos[0].parent, folder, "--review-dir", folder / "review", *narrow) == 0
    )
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_near_misses_are_no_events(reviewed: Path, videos: list[Path]) -> None:
    report = {entry["video_path"]: entry for entry in read(reviewed / "analysis.json")["videos"]}
    content = read(reviewed / "review" / "review.json")
    assert content["review"]["threshold"] == 0.9
    assert content["review"]["model"]["labels"] == list(LABELS)
    assert len(content["videos"]) > 3
    assert {entry["source"] for entry in content["videos"]} == {str(path) for path in videos}
    for entry in content["videos"]:
        with VideoSource.open(reviewed / "review" / entry["video"]) as clip:
            assert sum(1 for _ in clip.frames()) == round(entry["duration"] * entry["fps"])
        misses = [found for found in entry["suggestions"] if found["confidence"] < 0.9]
        assert misses
        for miss in misses:
            assert miss["confidence"] >= 0.6 * 0.9
            start = entry["source_start"] + miss["start"]
            end = entry["source_start"] + miss["end"]
            for trigger in report[entry["source"]]["triggers"]:
                assert (
                    trigger["label"] != miss["label"]
                    or trigger["end"] <= start + 1e-3
                    or end - 1e-3 <= trigger["start"]
                )


def test_bounds_come_from_the_config(
    videos: list[Path], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--set", "inference.review_max_clips=1", "--threshold", 0.9)
    review = tmp_path / "review"
    assert infer(checkpoint, videos[0], tmp_path, "--review-dir", review, *few) == 0
    assert f"review    {review / 'review.json'} (1 clip)" in capsys.readouterr().out
    assert len(list(review.glob("*.mp4"))) == 1


def test_refusals(
    videos: list[Path], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    review = tmp_path / "review"
    review.mkdir()
    (review / "review.json").write_text("{}")
    assert infer(checkpoint, videos[0], tmp_path, "--review-dir", review) == 2
    assert "holds an earlier review (review.json); choose another" in capsys.readouterr().err
    assert not (tmp_path / "analysis.json").exists()
    code = inference.main(["--from-scores", "a.scores.npz", "--review-dir", str(tmp_path)])
    assert code == 2
    assert "--review-dir needs --video, to cut clips from" in capsys.readouterr().err


def judge(reviewed: Path, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A copy of the review in which a person took a stand on three clips, and not on the rest."""
    copy = folder / "review"
    copy.mkdir()
    for path in (reviewed / "review").iterdir():
        os.link(path, copy / path.name)
    content = read(copy / "review.json")
    entries: list[dict[str, Any]] = content["videos"]
    source = entries[0]["source"]
    own = [entry for entry in entries if entry["source"] == source]
    other = next(entry for entry in entries if entry["source"] != source)
    for entry in (own[0], own[1], other):
        entry["reviewed"] = True
    own[0]["events"] = [{"start": 0.2, "end": 0.7, "label": LABELS[0]}]
    other["events"] = [{"time": 0.3, "label": LABELS[1]}]
    # A link would change the original.
    (copy / "review.json").unlink()
    (copy / "review.json").write_text(json.dumps(content))
    return copy, [own[0], own[1], other]


def write_set(path: Path, video: str) -> Path:
    """A data set that knows one of the two videos."""
    events = [{"start": 39.0, "end": 39.5, "label": LABELS[1]}]
    entries = [{"video": video, "group": "camera", "events": events}]
    path.write_text(json.dumps({"labels": list(LABELS), "videos": entries}))
    return path


def test_verdicts_go_back_into_the_data(
    reviewed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    review, (missed, background, other) = judge(reviewed, tmp_path)
    known = write_set(tmp_path / "set.json", missed["source"])
    output = tmp_path / "grown"
    arguments = ["--input", str(known), "--add-reviewed", str(review), "--output", str(output)]
    assert preprocess_data.command(arguments) == 0
    total = len(read(review / "review.json")["videos"])
    said = f"{total} clips: 2 missed events, 1 hard negatives, {total - 3} not reviewed"
    assert capsys.readouterr().out.startswith(f"{review / 'review.json'}: {said}\n")
    grown = load_annotations(output / "annotations.json")
    video, *clips = grown.videos
    (found,) = [event for event in video.events if event.label == LABELS[0]]
    assert found.start == pytest.approx(missed["source_start"] + 0.2, abs=1e-5)
    assert found.end == pytest.approx(missed["source_start"] + 0.7, abs=1e-5)
    by_name = {clip.path.name: clip for clip in clips}
    assert set(by_name) == {background["video"], other["video"]}
    hard, elsewhere = by_name[background["video"]], by_name[other["video"]]
    assert (hard.events, hard.group) == ((), "camera")
    assert hard.extra["reviewed_as"] == "hard_negative"
    assert elsewhere.group == f"review of {Path(other['source']).name}"
    assert [event.is_point for event in elsewhere.events] == [True]
    for clip in clips:
        assert clip.path.is_file()
    # What was taken in is known from then on.
    arguments = ["--input", str(output / "annotations.json"), "--add-reviewed", str(review)]
    assert preprocess_data.command([*arguments, "--output", str(tmp_path / "again")]) == 0
    assert f"{total} clips: 3 known already, " in capsys.readouterr().out
    again = load_annotations(tmp_path / "again" / "annotations.json")
    assert [len(video.events) for video in again.videos] == [
        len(video.events) for video in grown.videos
    ]


def test_verdicts_of_label_studio(
    reviewed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    review, _ = judge(reviewed, tmp_path)
    tasks = read(review / "label_studio.json")
    for task in tasks[:2]:
        task["annotations"] = [{"result": task["predictions"][0]["result"][:1]}]
    tasks[2]["annotations"] = [{"result": []}]
    tasks[3]["annotations"] = [{"result": [], "was_cancelled": True}]
    export = tmp_path / "export.json"
    export.write_text(json.dumps(tasks))
    known = write_set(tmp_path / "set.json", str(tmp_path / "unrelated.mp4"))
    pipeline_files.write_video(tmp_path / "unrelated.mp4", num_frames=400, seed=9)
    arguments = [
        "--input",
        str(known),
        "--add-reviewed",
        str(review),
        "--output",
        str(tmp_path / "o"),
    ]
    arguments += ["--verdicts", str(export), "--verdicts-from", "label_studio"]
    assert preprocess_data.command(arguments) == 0
    said = f"2 missed events, 1 hard negatives, {len(tasks) - 3} not reviewed"
    assert said in capsys.readouterr().out
    grown = load_annotations(tmp_path / "o" / "annotations.json")
    assert len(grown.videos) == 4
    clips = read(review / "review.json")["videos"]
    shown = clips[0]["suggestions"][0]
    found = next(video for video in grown.videos if video.path.name == clips[0]["video"])
    # By whole frames, as the tool counts.
    assert found.events[0].start == pytest.approx(shown["start"], abs=0.51 / clips[0]["fps"])


def test_wrong_verdicts_are_listed_and_nothing_is_written(
    reviewed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    review, (missed, *_) = judge(reviewed, tmp_path)
    content = read(review / "review.json")
    entry = next(entry for entry in content["videos"] if entry["video"] == missed["video"])
    entry["events"] = [
        {"start": 0.5, "end": 999, "label": LABELS[0]},
        {"start": 0.5, "end": 0.2, "label": LABELS[0]},
        {"start": 0.1, "end": 0.2, "label": "flying"},
    ]
    (review / "review.json").write_text(json.dumps(content))
    known = write_set(tmp_path / "set.json", missed["source"])
    output = tmp_path / "o"
    arguments = ["--input", str(known), "--add-reviewed", str(review), "--output", str(output)]
    assert preprocess_data.command(arguments) == 2
    told = capsys.readouterr().out
    assert f"'end' (999) lies past the end of the video ({entry['duration']:g} s)" in told
    assert "'end' (0.2) must lie after 'start' (0.5)" in told
    assert "unknown label 'flying'" in told
    assert not output.exists()
    assert preprocess_data.command(["--input", str(known), "--verdicts", "x", "--output", "o"]) == 2
    assert "--verdicts needs --add-reviewed DIR" in capsys.readouterr().err
