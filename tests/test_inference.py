"""`inference.py` as people run it: one video, many, saved scores, and all that can be wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import inference
import pipeline_files
from pipeline.report import event_of_entry
from utils.config.schema import EventsConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = pipeline_files.write_video(tmp_path_factory.mktemp("videos") / "clip.mp4")
    return path


@pytest.fixture(scope="module")
def checkpoint(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    path: Path = pipeline_files.write_checkpoint(folder / "final_checkpoint.pt", video)
    return path


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text("events: {context_seconds: 1.0}\n")
    return str(path)


Infer = Callable[..., int]


@pytest.fixture
def infer(checkpoint: Path, config: str) -> Infer:
    """The command in this process."""

    def run(*arguments: object, scored: bool = False) -> int:
        given = [] if scored else ["--checkpoint", checkpoint]
        return inference.main(
            [str(part) for part in ("--config", config, "--device", "cpu", *given, *arguments)]
        )

    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_command_itself(video: Path, checkpoint: Path, config: str, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "analysis.json"
    done = subprocess.run(
        [sys.executable, "inference.py", "--config", config, "--checkpoint", str(checkpoint)]
        + ["--video", str(video), "--output", str(output), "--threshold", "0.4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = read(output)
    assert list(report) == [
        *("format_version", "video_path", "duration_seconds", "num_frames_analyzed"),
        *("num_candidate_frames", "num_windows", "num_triggers_detected", "triggers"),
        *("video_summary", "timeline", "scores", "replayed_from", "source", "data_loss", "stages"),
        *("num_describer_failures", "model", "config"),
    ]
    assert report["video_path"] == str(video)
    assert report["num_frames_analyzed"] == 50
    assert report["duration_seconds"] == 10.0
    assert report["num_triggers_detected"] == len(report["triggers"]) >= 3
    assert report["data_loss"] is None
    assert report["model"]["global_step"] == 12
    assert report["config"]["threshold"] == 0.4
    assert report["config"]["candidate_threshold"] == 0.5
    assert report["config"]["events"]["context_seconds"] == 1.0
    assert report["config"]["sampling"]["sampling_fps"] == 5.0
    assert list(report["stages"]) == ["decode", "encode", "contextualize", "describe"]
    assert report["stages"]["encode"]["num_frames"] == 50
    for trigger in report["triggers"]:
        event_of_entry(trigger)
        assert trigger["analysis"].endswith(".")
        with Image.open(output.parent / trigger["thumbnail"]) as thumbnail:
            assert thumbnail.format == "JPEG"
            assert thumbnail.size == (64, 48)
        assert trigger["analysis"] in done.stdout
    with Image.open(output.parent / report["timeline"]) as picture:
        assert picture.format == "PNG"
    assert done.stdout.splitlines()[-2:] == [
        f"timeline  {output.parent / 'analysis.png'}",
        f"report    {output}",
    ]
    assert "Traceback" not in done.stderr


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, inference; inference.build_parser().format_help(); "
        "print([m for m in ('torch', 'av', 'matplotlib', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_saved_scores_give_the_same_events(infer: Infer, video: Path, tmp_path: Path) -> None:
    direct, saved, replayed = (tmp_path / name for name in ("d.json", "s.json", "r.json"))
    assert infer("--video", video, "--output", direct, "--threshold", 0.7) == 0
    assert infer("--video", video, "--output", saved, "--save-scores", "--threshold", 0.4) == 0
    scores = tmp_path / "s.scores.npz"
    video_moved = video.with_name("moved.mp4")
    video.rename(video_moved)
    try:
        code = infer("--from-scores", scores, "--output", replayed, "--threshold", 0.7, scored=True)
    finally:
        video_moved.rename(video)
    assert code == 0
    expected, found = read(direct), read(replayed)
    assert expected["num_triggers_detected"] >= 1
    for trigger in expected["triggers"]:
        trigger["thumbnail"] = None
    for key in ("video_path", "triggers", "video_summary", "num_candidate_frames", "source"):
        assert found[key] == expected[key], key
    assert read(saved)["scores"] == "s.scores.npz"
    assert found["replayed_from"] == "s.scores.npz"
    assert expected["replayed_from"] is None


def test_replay_over_its_own_report_keeps_the_scores(
    infer: Infer, video: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.json"
    assert infer("--video", video, "--output", output, "--save-scores") == 0
    assert list((tmp_path / "a_files").iterdir())
    scores = tmp_path / "a.scores.npz"
    assert infer("--from-scores", scores, "--output", output, scored=True) == 0
    assert scores.is_file()
    assert not (tmp_path / "a_files").exists()
    # Without a flag, the thresholds of the run that saved them.
    assert read(output)["config"]["threshold"] == 0.6


def test_replay_refuses_what_was_not_scored(
    infer: Infer, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.json"
    assert (
        infer("--video", video, "--output", output, "--save-scores", "--candidate-threshold", 0.95)
        == 0
    )
    code = infer(
        *("--from-scores", tmp_path / "a.scores.npz", "--output", tmp_path / "b.json"),
        *("--candidate-threshold", 0.05),
        scored=True,
    )
    assert code == 2
    assert "run with --video and --save-scores" in capsys.readouterr().err
    assert not (tmp_path / "b.json").exists()


@pytest.fixture
def folder(tmp_path: Path, video: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(video.read_bytes())
    (folder / "b.mp4").write_bytes(b"this is no video")
    (folder / "c.mp4").touch()
    pipeline_files.write_video(folder / "d.mp4", num_frames=20, seed=3)
    return folder


def test_bad_files_in_a_folder(
    infer: Infer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "all.json"
    assert infer("--video", folder, "--output", output, "--save-scores") == 1
    report = read(output)
    assert (report["num_videos"], report["num_failed"], report["is_complete"]) == (4, 2, True)
    first, second, third, fourth = report["videos"]
    assert second == {"video_path": str(folder / "b.mp4"), "error": second["error"]}
    assert "b.mp4: " in second["error"]
    assert "c.mp4: " in third["error"]
    for entry in (first, fourth):
        assert "error" not in entry
        assert (output.parent / entry["timeline"]).is_file()
        assert (output.parent / entry["scores"]).is_file()
        for trigger in entry["triggers"]:
            assert (output.parent / trigger["thumbnail"]).is_file()
    assert first["num_frames_analyzed"] == 50
    assert fourth["num_frames_analyzed"] == 10
    assert report["num_triggers_detected"] == sum(
        entry["num_triggers_detected"] for entry in (first, fourth)
    )
    out = capsys.readouterr().out
    assert "b.mp4: failed" in out
    assert "2 of 4 videos failed" in out

    # And all score files of the folder again, with one that is damaged.
    files = output.parent / "all_files"
    (files / "b.mp4.scores.npz").write_bytes(b"damaged")
    again = tmp_path / "again.json"
    assert infer("--from-scores", files, "--output", again, scored=True) == 1
    entries = read(again)["videos"]
    assert [entry.get("num_triggers_detected") for entry in entries] == [
        first["num_triggers_detected"],
        None,
        fourth["num_triggers_detected"],
    ]


def test_glob(infer: Infer, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "all.json"
    assert infer("--video", f"{folder}/[ad].mp4", "--output", output, "--no-thumbnails") == 0
    report = read(output)
    assert [Path(entry["video_path"]).name for entry in report["videos"]] == ["a.mp4", "d.mp4"]
    assert all(trigger["thumbnail"] is None for trigger in report["videos"][0]["triggers"])


def test_single_bad_file(
    infer: Infer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer("--video", folder / "b.mp4", "--output", tmp_path / "a.json") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith(f"error: {folder / 'b.mp4'}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "videos"]


def test_truncated_video_is_used_as_far_as_it_goes(
    infer: Infer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = pipeline_files.write_video(tmp_path / "whole.mkv", num_frames=200)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    output = tmp_path / "a.json"
    assert infer("--video", cut, "--output", output) == 0
    report = read(output)
    assert 10 < report["num_frames_analyzed"] < 100
    assert report["data_loss"]["lost_seconds"] > 1
    assert report["data_loss"]["notes"]


@pytest.mark.parametrize("name", ["a b'c\"d.mp4", "$x_{$ 監視 ü.mp4", "odd_\udcff.mp4"])
def test_odd_file_names(
    infer: Infer, video: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / name
    odd.write_bytes(video.read_bytes())
    output = tmp_path / "a.json"
    assert infer("--video", odd, "--output", output, "--save-scores") == 0
    report = read(output)
    assert report["video_path"] == str(odd)
    assert infer("--from-scores", tmp_path / "a.scores.npz", "--output", output, scored=True) == 0
    assert read(output)["video_path"] == str(odd)
    assert capsys.readouterr().err.count("Warning") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video", "{video}", "--threshold", "0"], "--threshold must be above 0 and at most 1"),
        (["--video", "{video}", "--set", "model.llm.describer=gpt"], "unknown describer 'gpt'"),
        (
            ["--video", "{video}", "--set", "data.image_size=64"],
            "the checkpoint decides data.image",
        ),
        (["--video", "{video}", "--set", "events.cooldown=3"], "unknown key 'cooldown'"),
        (["--video", "{video}", "--device", "tpu"], "unknown device 'tpu'"),
        (["--video", "{video}", "--output", "{folder}"], "is a folder; name a file"),
        (["--video", "{video}", "--output", "report.txt"], "must end in .json"),
        (["--video", "{folder}/empty"], "no file in this folder ends in"),
        (["--video", "{folder}/*.webm"], "no file matches this glob"),
        (["--from-scores", "{video}", "--save-scores"], "--save-scores needs --video"),
        (["--from-scores", "{video}"], "not a score file, or damaged"),
    ],
)
def test_wrong_usage(
    infer: Infer,
    video: Path,
    folder: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "empty").mkdir()
    given = [part.format(video=video, folder=folder) for part in arguments]
    if "--output" not in given:
        given += ["--output", str(folder.parent / "a.json")]
    assert infer(*given, scored="--from-scores" in given) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line
    assert not list(folder.parent.glob("*.json"))


def test_video_needs_a_checkpoint(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inference.main(["--video", str(video)]) == 2
    assert "--video needs --checkpoint FILE" in capsys.readouterr().err


def test_scores_need_no_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--from-scores", tmp_path / "a.scores.npz", "--checkpoint", checkpoint)
    assert inference.main([str(part) for part in given]) == 2
    assert "--checkpoint does nothing with --from-scores" in capsys.readouterr().err


# Without --config


RECIPE = {
    "events": {"context_seconds": 1.0, "merge_gap_seconds": 0.0, "min_duration_seconds": 0.3},
    "inference": {"batch_size": 4, "save_scores": True, "thumbnails": False},
}


@pytest.fixture(scope="module")
def trained_with_a_recipe(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    trained = {**pipeline_files.tiny_config().to_plain(), **RECIPE}
    return pipeline_files.write_checkpoint(folder / "c.pt", video, config=trained)


def run_plain(*arguments: object) -> int:
    """The command in this process, without ``--config``."""
    return inference.main([str(part) for part in ("--device", "cpu", *arguments)])


def test_without_a_config_the_checkpoint_s_is_used(
    trained_with_a_recipe: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, named, changed = (tmp_path / f"{name}.json" for name in ("plain", "named", "changed"))
    given = ("--checkpoint", trained_with_a_recipe, "--video", video)
    assert run_plain(*given, "--output", plain) == 0
    events = read(plain)["config"]["events"]
    assert events == {**EventsConfig().model_dump(), **RECIPE["events"]}
    assert read(plain)["scores"] == "plain.scores.npz"
    assert all(trigger["thumbnail"] is None for trigger in read(plain)["triggers"])
    assert "set as in the training of" in capsys.readouterr().err

    # The same as the recipe by name, and another than the main config's.
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    assert run_plain(*given, "--output", named, "--config", recipe) == 0
    assert read(named)["triggers"] == read(plain)["triggers"] != []
    assert run_plain(*given, "--output", named, "--config", "config") == 0
    assert read(named)["config"]["events"] == EventsConfig().model_dump()
    assert read(named)["triggers"] != read(plain)["triggers"]

    # --set lies on top of it, flags on top of both.
    override = ("--set", "events.merge_gap_seconds=0.2", "--no-save-scores", "--thumbnails")
    assert run_plain(*given, "--output", changed, *override) == 0
    assert read(changed)["config"]["events"] == {**events, "merge_gap_seconds": 0.2}
    assert read(changed)["scores"] is None
    assert list((tmp_path / "changed_files").glob("*.jpg"))


def test_without_a_config_scores_give_the_events_of_the_run_that_saved_them(
    trained_with_a_recipe: Path, video: Path, tmp_path: Path
) -> None:
    saved, replayed = tmp_path / "saved.json", tmp_path / "replayed.json"
    override = ("--set", "events.min_duration_seconds=0.5")
    given = ("--checkpoint", trained_with_a_recipe, "--video", video, "--output", saved)
    assert run_plain(*given, *override) == 0
    scores = ("--from-scores", tmp_path / "saved.scores.npz", "--output", replayed)
    assert run_plain(*scores) == 0
    for key in ("triggers", "config", "num_windows"):
        expected = read(saved)[key]
        if key == "config":
            expected = {**expected, "max_frames": None}
        assert read(replayed)[key] == expected, key
    assert read(replayed)["config"]["events"]["min_duration_seconds"] == 0.5
    assert run_plain(*scores, "--set", "events.min_duration_seconds=0") == 0
    assert read(replayed)["num_triggers_detected"] > read(saved)["num_triggers_detected"]


@pytest.mark.parametrize(
    ("stored", "code", "message"),
    [
        (None, 0, ""),
        ({"events": {"cooldown": 3}}, 2, "scores.npz: config: unknown key 'cooldown' in 'events'"),
        ("all", 2, "scores.npz: config: must be sections such as"),
    ],
    ids=["of an older version", "of another version", "damaged"],
)
def test_other_configs_in_a_score_file(
    trained_with_a_recipe: Path,
    video: Path,
    tmp_path: Path,
    stored: Any,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ("--checkpoint", trained_with_a_recipe, "--video", video)
    assert run_plain(*given, "--output", tmp_path / "a.json") == 0
    path = tmp_path / "a.scores.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    metadata = json.loads(str(arrays.pop("metadata")))
    assert metadata.pop("config")["events"]["min_duration_seconds"] == 0.3
    if stored is not None:
        metadata["config"] = stored
    np.savez(path, metadata=np.array(json.dumps(metadata)), **arrays)
    # With less context than the main config's default the saved scores are not enough.
    context = ("--set", "events.context_seconds=1")
    assert (
        run_plain("--from-scores", path, "--output", tmp_path / "b.json", *(context * (not stored)))
        == code
    )
    assert message in capsys.readouterr().err
    if not code:
        merged = read(tmp_path / "b.json")["config"]["events"]["merge_gap_seconds"]
        assert merged == EventsConfig().merge_gap_seconds


def test_max_frames_is_said(
    checkpoint: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--checkpoint", checkpoint, "--video", video, "--output", tmp_path / "a.json")
    assert run_plain(*given, "--set", "data.max_frames=7") == 0
    assert read(tmp_path / "a.json")["num_frames_analyzed"] == 7
    assert "only the first 7 sampled frames of a video" in capsys.readouterr().err


def test_what_training_looked_at_does_not_cut_inference_short(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = pipeline_files.tiny_config().to_plain()
    trained["data"]["max_frames"] = 7
    checkpoint = pipeline_files.write_checkpoint(tmp_path / "c.pt", video, config=trained)
    given = ("--checkpoint", checkpoint, "--video", video, "--output", tmp_path / "a.json")
    assert run_plain(*given) == 0
    report = read(tmp_path / "a.json")
    assert report["num_frames_analyzed"] > 7
    assert report["config"]["max_frames"] is None
    assert "sampled frames of a video" not in capsys.readouterr().err


def test_missing_video_and_checkpoint(
    infer: Infer, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer("--video", tmp_path / "gone.mp4") == 1
    assert "gone.mp4: no such file or folder" in capsys.readouterr().err
    output = ["--output", tmp_path / "a.json"]
    assert infer("--video", video, *output, "--checkpoint", tmp_path / "gone.pt") == 1
    assert "gone.pt: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_leaves_no_half_report(
    checkpoint: Path, config: str, tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    long = pipeline_files.write_video(tmp_path / "long.mp4", num_frames=4000)
    output = tmp_path / "out" / "a.json"
    process = subprocess.Popen(
        [sys.executable, "inference.py", "--config", config, "--checkpoint", str(checkpoint)]
        + ["--video", str(long), "--output", str(output), "--save-scores", "--verbose"]
        + ["--set", "inference.batch_size=1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # Thumbnails are staged once events come out: it is at work then.
        deadline = time.monotonic() + 60
        while not list(output.parent.glob(".a.*/a_files/*.jpg")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert out == ""
    assert err.splitlines()[-1] == word
    assert list(output.parent.iterdir()) == []
