"""`torchrun --nproc_per_node 2 train.py` as people type it, on real videos."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import train
import training_files
from utils import cli
from utils.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CHANGES = {
    "training.cache_features": True,
    "freezing.visual_backbone": True,
    "training.num_epochs": 3,
    "training.clips_per_epoch": 14,
    # Longer than the shorter video: padding, too.
    "data.clip_window_size": 25,
    "model.trigger_detector.dropout": 0,
    "model.time_aware_encoder.dropout": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = training_files.write_data(tmp_path_factory.mktemp("data"))
    return folder


def torchrun(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["train.py", "--config", str(config), "--device", "cpu", *arguments]
    return subprocess.run(
        [sys.executable, *launcher, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def epochs(work: Path) -> list[dict[str, Any]]:
    (path,) = work.glob("logs/*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_train_as_one_with_twice_the_batch(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = training_files.write_config(
        data, tmp_path / "two", **CHANGES, **{"training.batch_size": 2}
    )
    one = training_files.write_config(
        data, tmp_path / "one", **CHANGES, **{"training.batch_size": 4}
    )
    done = torchrun(two)
    assert done.returncode == 0, done.stderr
    checkpoints = tmp_path / "two" / "checkpoints"
    assert [line.partition(" (")[0] for line in done.stdout.splitlines()] == [
        f"best: {checkpoints}/best_checkpoint.pt",
        f"checkpoint: {checkpoints}/final_checkpoint.pt",
    ]
    log = done.stderr.replace("\r", "\n").splitlines()
    assert log.count("2 processes train together; batch_size is per process") == 1
    # Two videos, one for each process; then both read both.
    assert any("train.json: 100%" in line and " 1/1 " in line for line in log)
    assert any("train.json: 100%" in line and " 2/2 " in line for line in log)
    assert len(list((tmp_path / "two/cache").glob("*/entry.json"))) == 3
    assert cli.run(train.main, train.build_parser(), ["--config", str(one), "--device", "cpu"]) == 0
    for together, alone in zip(epochs(tmp_path / "two"), epochs(tmp_path / "one"), strict=True):
        assert together["global_step"] == alone["global_step"]
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-5)
        assert together["metrics"] == pytest.approx(alone["metrics"], abs=1e-5)
    # One process goes on with what two began.
    capsys.readouterr()
    first = ["--resume", str(checkpoints / "checkpoint_epoch_2.pt")]
    arguments = ["--config", str(two), "--device", "cpu", *first]
    assert cli.run(train.main, train.build_parser(), arguments) == 0
    assert "checkpoint_epoch_2.pt: 2 processes trained it, and 1 go on" in capsys.readouterr().err
    assert load_checkpoint(checkpoints / "final_checkpoint.pt")["metadata"]["world_size"] == 1


def test_a_launch_of_one_process_that_was_to_be_several(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `accelerate launch --cpu --num_processes 2` leaves."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    config = training_files.write_config(data, tmp_path)
    arguments = ["--config", str(config), "--device", "cpu"]
    assert cli.run(train.main, train.build_parser(), arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: accelerate launch was to start several processes, and started")
    assert not (tmp_path / "checkpoints").exists()
