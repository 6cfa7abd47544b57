"""``benchmarks/rare_events.py`` on one minute with a model of random weights: what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pipeline_files

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/rare_events.py", *(str(part) for part in arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    video = pipeline_files.write_video(folder / "clip.mp4")
    config: dict[str, Any] = pipeline_files.tiny_config().to_plain()
    config["model"]["labels"] = ["person walking", "vehicle stopping"]
    return pipeline_files.write_checkpoint(folder / "c.pt", video, config=config)


@pytest.mark.slow
def test_prints_tables_and_its_figures(checkpoint: Path) -> None:
    done = run(
        *("--checkpoint", checkpoint, "--hours", 1 / 60, "--minutes", 0.25, "--num-workers", 1),
        *("--events-per-hour", 720, "--max-false-alarms-per-hour", 1, 100000),
        *("--target-recall", 0.01),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("machine: ")
    word, _, figures = lines[-1].partition(" ")
    assert word == "RESULT"
    result = json.loads(figures)
    assert result["videos"] == 4
    assert result["hours"] == 0.02
    assert result["events"] == 12
    for way in ("val_to_test", "test_to_val"):
        refused = result[f"{way}_false_alarms_per_hour_1"]["refused"]
        assert "hours without annotated events are too few" in refused
        kept = result[f"{way}_false_alarms_per_hour_100000"]
        assert kept["promised"] <= 100000
        assert kept["is_kept"].startswith("kept")
        assert kept["found"].endswith("/6")
        assert f"{way}_recall_0.01" in result
    assert set(result["at_one_false_alarm_an_hour"]) == {
        "person walking",
        "vehicle stopping",
        "one threshold for all",
    }
    assert "calibrated on 0.01 hours" in done.stdout


def test_says_what_is_missing(checkpoint: Path, tmp_path: Path) -> None:
    done = run("--checkpoint", tmp_path / "gone.pt")
    assert done.returncode == 2
    assert "gone.pt: no such file; run `make demo`, or name another" in done.stderr
    done = run("--checkpoint", checkpoint, "--hours", 0.1)
    assert done.returncode == 2
    assert "--hours must hold at least two videos of --minutes" in done.stderr
