"""`scripts/calibrate_threshold.py` as people type it, and what the other commands make of it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inference
import pipeline_files
from pipeline.score_file import SavedScores
from scripts import calibrate_threshold, evaluate
from utils import cli
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import parse_config
from utils.data.annotations import load_annotations
from utils.data.data_hash import data_identity
from utils.evaluation.calibration import apply_temperature
from utils.training.resuming import check_resumable

ROOT = Path(__file__).resolve().parents[2]
LABELS = pipeline_files.LABELS
Run = Callable[..., int]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [
        pipeline_files.write_video(folder / f"clip_{seed}.mp4", num_frames=300, seed=seed)
        for seed in range(3)
    ]


@pytest.fixture(scope="module")
def original(videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    return pipeline_files.write_checkpoint(folder / "c.pt", videos[0])


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """A copy that may be calibrated in place."""
    path = tmp_path / "final_checkpoint.pt"
    path.write_bytes(original.read_bytes())
    return path


def infer(checkpoint: Path, video: Path | str, output: Path, *more: object) -> Any:
    """The report, or of several videos the one of all."""
    arguments = ["--checkpoint", checkpoint, "--video", video, "--output", output]
    code = inference.main([str(part) for part in (*arguments, "--device", "cpu", *more)])
    assert code == 0
    return json.loads(output.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scores(original: Path, videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the scores of all frames."""
    output = tmp_path_factory.mktemp("scores") / "all.json"
    infer(original, videos[0].parent, output, "--save-scores", "--candidate-threshold", 0)
    return output.parent / "all_files"


@pytest.fixture(scope="module")
def annotations(scores: Path, videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model finds at 0.6, and one event that it does not: so that wishes can be kept."""
    report = json.loads((scores.parent / "all.json").read_text(encoding="utf-8"))
    entries = [
        {
            "video": entry["video_path"],
            "group": f"camera_{number}",
            "events": [
                {key: trigger[key] for key in ("start", "end", "label")}
                for trigger in entry["triggers"]
            ],
        }
        for number, entry in enumerate(report["videos"])
    ]
    assert sum(len(entry["events"]) for entry in entries) > 10
    path = tmp_path_factory.mktemp("truth") / "truth.json"
    path.write_text(json.dumps({"labels": LABELS, "videos": entries}))
    return path


@pytest.fixture
def run(checkpoint: Path, annotations: Path) -> Run:
    """The command in this process."""

    def command(*arguments: object) -> int:
        given = ("--checkpoint", checkpoint, "--annotations", annotations, "--device", "cpu")
        return cli.run(
            calibrate_threshold.main,
            calibrate_threshold.build_parser(),
            [str(part) for part in (*given, *arguments)],
        )

    return command


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_command_itself(
    checkpoint: Path, annotations: Path, scores: Path, tmp_path: Path
) -> None:
    before = sha256(checkpoint)
    output = tmp_path / "calibrated.pt"
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "calibrate_threshold.py")]
        + ["--checkpoint", str(checkpoint), "--annotations", str(annotations)]
        + ["--scores", str(scores), "--target-recall", "0.5", "--output", str(output)]
        + ["--device", "cpu", "--confidence", "0.8"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wish, heading, *rows, overall, stage3, gate, error, promise, written = done.stdout.splitlines()
    assert wish == (
        "wish: at least 50 % of the events of each class found, with 80 % confidence; on 3 videos, "
        "0.03 hours"
    )
    assert heading.split()[:3] == ["threshold", "temperature", "found"]
    content = load_checkpoint(output)
    found = content["metadata"]["calibration"]
    detector = content["config"]["model"]["trigger_detector"]
    assert list(detector["threshold"]) == list(detector["temperature"]) == list(LABELS)
    assert detector["threshold"] == found["thresholds"]
    assert detector["candidate_threshold"] == found["candidate_gate"]["threshold"]
    for row, label in zip(rows, LABELS, strict=True):
        name, threshold, temperature, share, recall, *_ = row.split()
        assert name == label
        assert float(threshold) == pytest.approx(detector["threshold"][label], abs=1e-4)
        assert float(temperature) == pytest.approx(detector["temperature"][label], abs=1e-3)
        figures = found["per_class"][label]
        assert share == f"{figures['num_found']}/{figures['num_events']}"
        assert recall == f"{figures['recall']:.3f}"
    assert overall.startswith("overall ")
    assert stage3.startswith(f"stage 3 looks at {found['stage3_fraction']:.2%} of the video (")
    assert gate.startswith("the temporal encoder looks at ")
    assert error.startswith("confidences are off by ")
    assert promise.startswith("promised on new video like this, with 0.8 confidence: a recall of ")
    assert written == f"written: {output}"
    # The other is left alone, and all but the operating point is the same.
    assert sha256(checkpoint) == before
    original = load_checkpoint(checkpoint)
    assert found["earlier"] == {before: dict.fromkeys(LABELS, 1.0)}
    assert found["data"]["annotations"] == str(annotations)
    assert {key for key in content if content[key] is not original[key]} >= {"config"}
    for name, tensor in original["model_state_dict"].items():
        assert (content["model_state_dict"][name] == tensor).all()
    assert (content["epoch"], content["global_step"]) == (3, 12)
    # A run that goes on from it does not mind.
    check_resumable(content, parse_config(original["config"]), source="c.pt")


def test_in_place_and_from_the_videos(
    run: Run, checkpoint: Path, scores: Path, tmp_path: Path
) -> None:
    """With and without --scores: the same operating point, and the file is the same one."""
    output = tmp_path / "from_scores.pt"
    assert run("--target-recall", 0.4, "--scores", scores, "--output", output) == 0
    assert run("--target-recall", 0.4) == 0
    one, other = (load_checkpoint(path)["metadata"]["calibration"] for path in (output, checkpoint))
    assert one["thresholds"] == pytest.approx(other["thresholds"], rel=1e-4)
    assert one["temperatures"] == pytest.approx(other["temperatures"], rel=1e-4)
    assert one["per_class"] == other["per_class"]


def test_inference_runs_at_the_operating_point(
    run: Run, checkpoint: Path, videos: list[Path], scores: Path, tmp_path: Path
) -> None:
    wish = ("--max-false-alarms-per-hour", 700, "--confidence", 0.8)
    assert run(*wish, "--scores", scores) == 0
    detector = load_checkpoint(checkpoint)["config"]["model"]["trigger_detector"]
    report = infer(checkpoint, videos[0], tmp_path / "one.json", "--save-scores")
    assert report["config"]["threshold"] == detector["threshold"]
    assert report["config"]["candidate_threshold"] == detector["candidate_threshold"]
    for trigger in report["triggers"]:
        assert trigger["trigger_confidence"] >= detector["threshold"][trigger["label"]]
    assert report["triggers"]
    # Confidences are those of the temperatures, which the uncalibrated scores lack.
    cold = SavedScores.read(scores / f"{videos[0].name}.scores.npz")
    warm = SavedScores.read(tmp_path / "one.scores.npz")
    assert warm.threshold == tuple(detector["threshold"][label] for label in LABELS)
    is_seen = ~np.isnan(warm.temporal[:, 0])
    assert is_seen.any()
    for position, label in enumerate(LABELS):
        np.testing.assert_allclose(
            warm.temporal[is_seen, position],
            apply_temperature(cold.temporal[is_seen, position], detector["temperature"][label]),
            atol=1e-5,
        )
    # The flag overrides all classes; saved scores keep thresholds of each.
    assert infer(checkpoint, videos[0], tmp_path / "two.json", "--threshold", 0.99)["config"][
        "threshold"
    ] == pytest.approx(0.99)
    replayed = tmp_path / "again.json"
    code = inference.main(
        ["--from-scores", str(tmp_path / "one.scores.npz"), "--output", str(replayed)]
    )
    assert code == 0
    again = json.loads(replayed.read_text(encoding="utf-8"))
    assert again["config"]["threshold"] == detector["threshold"]
    assert [t["start"] for t in again["triggers"]] == [t["start"] for t in report["triggers"]]
    override = "model.trigger_detector.threshold={person_walking: 0.9, vehicle_stopping: 0.8}"
    changed = infer(checkpoint, videos[0], tmp_path / "three.json", "--set", override)
    assert changed["config"]["threshold"] == dict(zip(LABELS, (0.9, 0.8), strict=True))


def test_evaluation_finds_what_calibration_said(
    run: Run, checkpoint: Path, annotations: Path, scores: Path, tmp_path: Path
) -> None:
    assert run("--target-recall", 0.4, "--scores", scores) == 0
    said = load_checkpoint(checkpoint)["metadata"]["calibration"]
    output = tmp_path / "metrics.json"
    arguments = ["--checkpoint", checkpoint, "--annotations", annotations, "--output", output]
    code = cli.run(
        evaluate.main,
        evaluate.build_parser(),
        [str(part) for part in (*arguments, "--device", "cpu")],
    )
    assert code == 0
    metrics = json.loads(output.read_text(encoding="utf-8"))
    assert metrics["threshold"] == said["thresholds"]
    for label in LABELS:
        rate = metrics["false_alarms_per_hour"]["per_class"][label]
        assert rate == pytest.approx(said["per_class"][label]["false_alarms_per_hour"], rel=1e-6)


def test_the_cascade_s_rules_are_part_of_it(run: Run, checkpoint: Path, scores: Path) -> None:
    override = ("--set", "events.merge_gap_seconds=1.5")
    assert run("--target-recall", 0.4, "--scores", scores, *override) == 0
    assert load_checkpoint(checkpoint)["config"]["events"]["merge_gap_seconds"] == 1.5


def test_scores_from_before_the_calibration_are_scores_of_it(
    run: Run, checkpoint: Path, videos: list[Path], scores: Path, tmp_path: Path
) -> None:
    assert run("--target-recall", 0.4, "--scores", scores) == 0
    first = load_checkpoint(checkpoint)["metadata"]["calibration"]
    output = tmp_path / "new" / "all.json"
    infer(checkpoint, videos[0].parent, output, "--save-scores", "--candidate-threshold", 0)
    # Of the calibrated checkpoint, or of the one before: both lead to the same.
    assert run("--target-recall", 0.4, "--scores", output.parent / "all_files") == 0
    second = load_checkpoint(checkpoint)["metadata"]["calibration"]
    assert run("--target-recall", 0.4, "--scores", scores) == 0
    third = load_checkpoint(checkpoint)["metadata"]["calibration"]
    for found in (second, third):
        assert found["temperatures"] == pytest.approx(first["temperatures"], rel=1e-3)
        assert found["per_class"] == first["per_class"]
    assert len(third["earlier"]) == 3


def test_scores_of_two_times_cannot_be_mixed(
    run: Run,
    checkpoint: Path,
    videos: list[Path],
    scores: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--target-recall", 0.4, "--scores", scores) == 0
    infer(checkpoint, videos[0], tmp_path / "a.json", "--save-scores", "--candidate-threshold", 0)
    some = [scores / f"{video.name}.scores.npz" for video in videos[1:]]
    assert run("--target-recall", 0.4, "--scores", tmp_path / "a.scores.npz", *some) == 2
    error = capsys.readouterr().err
    assert "scored by another model than " in error
    assert "; take each by itself" in error


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--max-false-alarms-per-hour", 1],
            "at most 1 false alarm an hour, with 95 % confidence: 0.01 hours without annotated "
            "events are too few to promise that, even if not one false alarm came in them: it "
            "takes 4.74 hours (4.7",
        ),
        (["--max-stage3-fraction", 0.01], "it takes about "),
        (["--target-recall", 1.5], "a wish for recall must be between 0 and 1, got 1.5"),
        (["--target-recall", 0.5, "--confidence", 0], "confidence must be between 0 and 1, got 0"),
        (
            ["--target-recall", 0.5, "--max-gate-loss", 1],
            "--max-gate-loss must be at least 0 and below 1, got 1",
        ),
        (
            ["--target-recall", 0.5, "--candidate-threshold", 2],
            "--candidate-threshold must be in [0, 1], got 2",
        ),
        (
            ["--target-recall", 0.5, "--tolerance-seconds", "nan"],
            "--tolerance-seconds must be 0 or more, got nan",
        ),
        (
            ["--target-recall", 0.5, "--set", "model.trigger_detector.threshold=0.5"],
            "calibration decides model.trigger_detector.threshold; leave it out",
        ),
        (
            ["--target-recall", 0.5, "--set", "model={trigger_detector: {threshold: 0.5}}"],
            "calibration decides model; leave it out",
        ),
        (
            ["--target-recall", 0.5, "--set", "data.max_frames=5"],
            "--set data.max_frames: calibration watches whole videos; leave it out",
        ),
    ],
)
def test_refusals(
    run: Run,
    checkpoint: Path,
    scores: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[object],
    text: str,
) -> None:
    """Exit code 2, one line, and a checkpoint as it was."""
    before = sha256(checkpoint)
    assert run(*arguments, "--scores", scores) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert text in line
    assert sha256(checkpoint) == before


def test_one_wish_is_needed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("--target-recall", 0.5, "--max-stage3-fraction", 0.1)):
        with pytest.raises(SystemExit) as end:
            run(*arguments)
        assert end.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_scores_that_do_not_fit(
    run: Run,
    videos: list[Path],
    scores: Path,
    annotations: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = scores / f"{videos[0].name}.scores.npz"
    assert run("--target-recall", 0.5, "--scores", one) == 2
    error = capsys.readouterr().err
    assert f"--scores: none for {videos[1]}, {videos[2]}; score them with inference.py" in error
    other = pipeline_files.write_checkpoint(tmp_path / "other.pt", videos[1], epoch=9)
    infer(other, videos[0], tmp_path / "o.json", "--save-scores", "--candidate-threshold", 0)
    assert run("--target-recall", 0.5, "--scores", tmp_path / "o.scores.npz") == 2
    assert f"scored by another model ({other})" in capsys.readouterr().err


def test_scores_with_too_little_context_are_refused(
    run: Run,
    checkpoint: Path,
    videos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "gated" / "all.json"
    infer(checkpoint, videos[0].parent, output, "--save-scores")
    folder = output.parent / "all_files"
    # What was scored behind a gate can only be calibrated with that gate, or a higher one.
    assert run("--target-recall", 0.4, "--scores", folder, "--output", tmp_path / "o.pt") == 0
    gate = load_checkpoint(tmp_path / "o.pt")["config"]["model"]["trigger_detector"]
    assert gate["candidate_threshold"] >= 0.5
    capsys.readouterr()
    wider = ("--set", "events.context_seconds=4")
    assert run("--target-recall", 0.4, "--scores", folder, *wider) == 2
    assert "saved with context_seconds 2, and calibration is to have 4" in capsys.readouterr().err


def test_a_video_that_cannot_be_read_is_left_out(
    run: Run,
    checkpoint: Path,
    annotations: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = json.loads(annotations.read_text(encoding="utf-8"))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    content["videos"].append({"video": str(broken), "events": []})
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(content))
    assert run("--annotations", truth, "--target-recall", 0.4) == 1
    told = capsys.readouterr()
    assert "left out: " in told.err
    assert "1 of 4 videos could not be used" in told.err
    assert "on 3 videos" in told.out
    assert "calibration" in load_checkpoint(checkpoint)["metadata"]


def test_training_data_are_no_calibration_data(
    run: Run, checkpoint: Path, annotations: Path, scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = load_checkpoint(checkpoint)
    data = {"train": data_identity(load_annotations(annotations))}
    save_checkpoint({**content, "metadata": {"data": data}}, checkpoint)
    # The scores are of the checkpoint before; only what is said of the data matters here.
    assert run("--target-recall", 0.4, "--scores", scores) == 2
    assert "the model was trained on these very annotations" in capsys.readouterr().err


def test_the_output_may_not_be_an_input(
    run: Run, annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--target-recall", 0.5, "--output", annotations) == 2
    assert "is one of the inputs" in capsys.readouterr().err
