"""`scripts/evaluate.py` as people type it: table, file, exit codes, refusals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import inference
import pipeline_files
from scripts import evaluate
from utils import cli

ROOT = Path(__file__).resolve().parents[2]
WALKING, STOPPING = pipeline_files.LABELS
EVENTS = [
    {"start": 2.0, "end": 4.5, "label": WALKING},
    {"start": 6.0, "end": 7.0, "label": STOPPING},
]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipeline_files.write_video(tmp_path_factory.mktemp("videos") / "clip.mp4")


@pytest.fixture(scope="module")
def checkpoint(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    trained = pipeline_files.tiny_config().to_plain()
    trained["events"]["min_duration_seconds"] = 3.0
    return pipeline_files.write_checkpoint(folder / "c.pt", video, config=trained)


@pytest.fixture
def annotations(video: Path, tmp_path: Path) -> Path:
    return write_annotations(tmp_path / "truth.json", str(video))


def write_annotations(path: Path, *videos: str, label: str = WALKING, **extra: str) -> Path:
    events = [{**EVENTS[0], "label": label}, EVENTS[1]]
    entries = [{"video": video, "events": events, **extra} for video in videos]
    path.write_text(json.dumps({"labels": [label, STOPPING], "videos": entries}))
    return path


Evaluate = Callable[..., int]


@pytest.fixture
def run(checkpoint: Path) -> Evaluate:
    """The command in this process."""

    def command(*arguments: object) -> int:
        given = ["--checkpoint", checkpoint, "--device", "cpu", *arguments]
        return cli.run(evaluate.main, evaluate.build_parser(), [str(part) for part in given])

    return command


def read(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def documented_keys() -> list[str]:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`(?:, `.*?`)*) \|", text, flags=re.MULTILINE)
    return [key for row in rows for key in re.findall(r"`(\w+)`", row)]


def test_the_command_itself(checkpoint: Path, annotations: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "metrics.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "evaluate.py"), "--checkpoint", str(checkpoint)]
        + ["--annotations", annotations.name, "--output", str(output), "--device", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    metrics = read(output)
    assert sorted(metrics) == sorted(documented_keys())
    assert metrics["annotations"] == "truth.json"
    assert metrics["model"]["checkpoint"] == str(checkpoint)
    assert metrics["failed"] == {}
    assert metrics["event_tolerance"]["tolerance_seconds"] == 0.5
    heading, *rows, empty, amount, note, where = done.stdout.splitlines()
    assert heading.split() == ["overall", "95", "%", "interval", WALKING, STOPPING]
    assert {len(line) for line in (heading, *rows)} == {len(heading)}
    for line, (name, key, part) in zip(rows, evaluate._ROWS, strict=True):
        entry = metrics[key]
        values = [entry["overall"], *entry["per_class"].values()]
        numbers = values if part is None else [value[part] for value in values]
        first, *others = ["-" if number is None else f"{number:.3f}" for number in numbers]
        assert line.startswith(name)
        cells = line.removeprefix(name).split()
        assert (cells[0], cells[-2:]) == (first, others)
    (rate,) = [line for line in rows if line.startswith("false alarms per hour")]
    low, high = metrics["false_alarms_per_hour"]["interval"]["overall"]
    assert f" {low:.3f} to {high:.3f} " in rate
    assert empty == ""
    counts = metrics["alarm_counts"]["overall"]
    assert amount.startswith(
        f"1 video, 10 s; 2 annotated events, {counts['num_alarms']} alarms, "
        f"{counts['num_false_alarms']} false; the temporal encoder looked at "
    )
    assert note == "intervals of counts alone: 1 group, and two or more are needed to draw from"
    assert where == f"metrics: {output}"
    # stdout is the result; progress is not.
    assert "tensors fit" in done.stderr
    assert "clip.mp4" in done.stderr


def test_documented_keys_are_read() -> None:
    assert len(documented_keys()) == len(set(documented_keys())) > 15


def test_the_events_are_those_of_the_training_config(
    run: Evaluate, annotations: Path, tmp_path: Path
) -> None:
    """Without --config the checkpoint's own, which --set changes; --config takes another."""
    counts = []
    for more in (
        (),
        ("--set", "events.min_duration_seconds=0"),
        ("--config", ROOT / "configs" / "config.yaml"),
    ):
        output = tmp_path / "m.json"
        assert run("--annotations", annotations, "--output", output, *more) == 0
        counts.append(read(output)["event_counts"]["overall"]["num_predictions"])
    assert counts[0] < counts[1] == counts[2]


def test_thresholds_and_tolerance(run: Evaluate, annotations: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.json"
    flags = ("--threshold", 0.9, "--candidate-threshold", 0.2, "--tolerance-seconds", 3)
    assert run("--annotations", annotations, "--output", output, *flags) == 0
    metrics = read(output)
    assert (metrics["threshold"], metrics["candidate_threshold"]) == (0.9, 0.2)
    assert metrics["event_tolerance"]["tolerance_seconds"] == 3


def test_a_config_does_not_cut_videos_short(
    run: Evaluate, annotations: Path, tmp_path: Path
) -> None:
    config = tmp_path / "short.yaml"
    config.write_text("data: {max_frames: 3, decoder: pyav}")
    output = tmp_path / "m.json"
    assert run("--annotations", annotations, "--output", output, "--config", config) == 0
    assert read(output)["num_frames"] > 3


def test_something_must_be_judged(
    annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--annotations", str(annotations), "--output", str(tmp_path / "m.json")]
    parser = evaluate.build_parser()
    assert cli.run(evaluate.main, parser, given) == 2
    assert "give --checkpoint FILE, or --scores PATH of an earlier run" in capsys.readouterr().err
    assert cli.run(evaluate.main, parser, [*given, "--scores", str(tmp_path / "gone.npz")]) == 1
    assert "gone.npz: no such file or folder" in capsys.readouterr().err
    assert cli.run(evaluate.main, parser, [*given, "--scores", str(annotations)]) == 2
    assert "not a score file, or damaged" in capsys.readouterr().err


def test_help_states_when_an_event_counts_as_found() -> None:
    text = " ".join(evaluate.build_parser().format_help().split())
    assert "half the annotated event's length, whichever is more (default: 0.5)" in text
    assert "data.max_frames has no say" in text


@pytest.fixture(scope="module")
def score_file(video: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What inference.py keeps of the video."""
    folder = tmp_path_factory.mktemp("scores")
    arguments = ["--video", str(video), "--checkpoint", str(checkpoint), "--save-scores"]
    arguments += ["--device", "cpu", "--output", str(folder / "report.json"), "--no-thumbnails"]
    assert inference.main(arguments) == 0
    (path,) = folder.rglob("*.scores.npz")
    return path


def test_saved_scores_give_the_same_metrics(
    run: Evaluate, annotations: Path, score_file: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    assert run("--annotations", annotations, "--output", first) == 0
    given = ["--scores", str(score_file.parent), "--annotations", str(annotations)]
    given += ["--output", str(second)]
    assert cli.run(evaluate.main, evaluate.build_parser(), given) == 0
    assert read(first) == read(second)
    assert cli.run(evaluate.main, evaluate.build_parser(), [*given, "--threshold", "0.9"]) == 0
    assert read(second)["threshold"] == 0.9


def test_the_report(
    run: Evaluate, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "deep" / "report"
    output = tmp_path / "m.json"
    assert run("--annotations", annotations, "--output", output, "--report", report) == 0
    page = report / "index.html"
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {page}"
    text = page.read_text(encoding="utf-8")
    assert f"<title>{annotations}</title>" in text
    assert text.count('class="timeline"') >= 1


def test_slices(run: Evaluate, video: Path, tmp_path: Path) -> None:
    annotations = write_annotations(tmp_path / "truth.json", str(video), light="night")
    output = tmp_path / "m.json"
    given = ("--annotations", annotations, "--output", output, "--slice-by", "light")
    assert run(*given) == 0
    metrics = read(output)
    assert list(metrics["slices"]["light"]["videos"]) == ["night"]
    night = metrics["slices"]["light"]["videos"]["night"]
    assert night["frame_ap"]["overall"] == metrics["frame_ap"]["overall"]


def test_many_classes_stand_below_each_other() -> None:
    labels = tuple(f"class {number}" for number in range(7))
    value = {"median": 0.5, "p95": 0.5, "1": 0.5, "0.05": 0.5}

    def entry(part: str | None) -> dict[str, Any]:
        one: Any = 0.5 if part is None else value
        none: Any = None if part is None else dict.fromkeys(value)
        classes = dict.fromkeys(labels, one)
        return {"overall": one, "per_class": classes, "interval": {"overall": none}}

    metrics: dict[str, Any] = {key: entry(part) for _, key, part in evaluate._ROWS}
    metrics |= {
        "bootstrap": {"confidence": 0.95, "num_draws": 0, "num_units": 4, "unit": "video"},
        "alarm_counts": {"overall": {"num_references": 3, "num_alarms": 2, "num_false_alarms": 1}},
        "num_videos": 2,
        "duration_seconds": 4.0,
        "contextualized_share": 1.0,
    }
    lines = evaluate._table(metrics, labels)
    assert max(map(len, lines)) < 140
    headings = [line.split("class ") for line in lines if "class" in line]
    assert [[part.strip() for part in parts[1:]] for parts in headings] == [
        ["0", "1", "2", "3", "4"],
        ["5", "6"],
    ]
    assert lines[-1] == "intervals of counts alone: --bootstrap 0"


@pytest.mark.parametrize("odd", ["gone.mp4", "bad.mp4"])
def test_a_video_that_cannot_be_used(
    run: Evaluate, video: Path, tmp_path: Path, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    annotations = write_annotations(tmp_path / "truth.json", odd, str(video))
    output = tmp_path / "m.json"
    assert run("--annotations", annotations, "--output", output) == 1
    metrics = read(output)
    assert list(metrics["failed"]) == [odd]
    assert metrics["num_videos"] == 1
    captured = capsys.readouterr()
    assert "overall" in captured.out
    assert "1 of 2 videos could not be used; see above" in captured.err
    assert f"not evaluated: {tmp_path / odd}: {metrics['failed'][odd]}" in captured.err


def test_a_file_name_that_is_no_text(run: Evaluate, video: Path, tmp_path: Path) -> None:
    annotations = write_annotations(tmp_path / "truth.json", "odd_\udcff.mp4", str(video))
    output = tmp_path / "m.json"
    assert run("--annotations", annotations, "--output", output) == 1
    assert list(read(output)["failed"]) == ["odd_\udcff.mp4"]


def test_another_video_folder(run: Evaluate, video: Path, tmp_path: Path) -> None:
    annotations = write_annotations(tmp_path / "truth.json", video.name)
    output = tmp_path / "m.json"
    given = ("--annotations", annotations, "--output", output)
    assert run(*given) == 1
    assert run(*given, "--video-dir", video.parent) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--annotations", "{folder}/gone.json"],
            2,
            "gone.json: no such annotation file; --annotations",
        ),
        (["--annotations", "{folder}/other.json"], 2, "unknown label 'running'; known: "),
        (["--annotations", "{folder}/none.json"], 1, "gone.mp4: no such file"),
        (["--output", "{folder}"], 2, "cannot be written: it is a folder"),
        (["--output", "{folder}/truth.json/m.json"], 2, "m.json: cannot be written: "),
        (["--output", "{folder}/truth.json"], 2, "truth.json: is one of the inputs, which stay"),
        (["--output", "{checkpoint}"], 2, "c.pt: is one of the inputs, which stay"),
        (["--output", "{video}"], 2, "clip.mp4: is one of the inputs, which stay"),
        (["--output", "/dev/null"], 2, "/dev/null: cannot be written: it is no regular file"),
        (["--report", "{folder}/truth.json"], 2, "choose another folder for --report"),
        (["--bootstrap", "-1"], 2, "--bootstrap must be 0 or more, got -1"),
        (["--slice-by", "light"], 2, "--slice-by light: no video and no event of the annotations"),
        (["--scores", "{folder}"], 2, "--checkpoint does nothing with --scores"),
        (["--checkpoint", "{folder}/gone.pt"], 1, "gone.pt: no such file"),
        (["--checkpoint", "{folder}"], 1, ": not a file"),
        (["--checkpoint", "{folder}/truth.json"], 1, "truth.json: not a checkpoint, or damaged"),
        (["--threshold", "0"], 2, "--threshold must be above 0 and at most 1, got 0"),
        (["--threshold", "nan"], 2, "--threshold must be above 0 and at most 1, got nan"),
        (["--candidate-threshold", "2"], 2, "--candidate-threshold must be in [0, 1], got 2"),
        (["--tolerance-seconds", "-1"], 2, "--tolerance-seconds must be 0 or more, got -1"),
        (["--tolerance-seconds", "nan"], 2, "--tolerance-seconds must be 0 or more, got nan"),
        (["--set", "events.cooldown=3"], 2, "--set events.cooldown=3: unknown key 'cooldown'"),
        (["--set", "data.max_frames=9"], 2, "--set data.max_frames: evaluation watches whole"),
        (["--set", "data.image_size=3"], 2, "the checkpoint decides data.image_size"),
        (["--config", "gone"], 2, "config 'gone' is neither a file nor in configs/"),
        (["--device", "tpu"], 2, "unknown device 'tpu'"),
    ],
)
def test_refusals_are_one_line(
    run: Evaluate,
    video: Path,
    checkpoint: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_annotations(tmp_path / "other.json", str(video), label="running")
    write_annotations(tmp_path / "none.json", "gone.mp4")
    output = tmp_path / "out" / "m.json"
    given = ["--annotations", str(write_annotations(tmp_path / "truth.json", str(video)))]
    places = {"folder": tmp_path, "checkpoint": checkpoint, "video": video}
    given += ["--output", str(output), *(part.format(**places) for part in arguments)]
    before = {path: path.read_bytes() for path in (video, checkpoint, tmp_path / "truth.json")}
    assert run(*given) == code
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in err
    assert not output.exists()
    assert before == {path: path.read_bytes() for path in before}
