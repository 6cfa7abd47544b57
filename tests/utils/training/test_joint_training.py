"""Two processes over gloo, as torchrun starts them: the loss curve, the metrics and the end of one.

What each process does is in `joint_training`; one launch runs all of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import joint_training
from tiny_trainer import assert_same, make_config, scalars
from utils.checkpoint import load_checkpoint
from utils.training.processes import Processes

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes have written to."""
    folder = tmp_path_factory.mktemp("joint")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(ROOT / "tests/joint_training.py"), str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def seen(folder: Path, scenario: str) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{scenario}_{rank}.json").read_text()) for rank in (0, 1)]


def test_the_loss_curve_of_one_process_with_twice_the_batch(launched: Path, tmp_path: Path) -> None:
    """With padded clips, accumulation, averaged weights, and a process that has no clip left."""
    main, other = seen(launched, "curve")
    assert other["losses"] is None, "one writes"
    alone = joint_training.make_trainer(tmp_path, Processes(), 8)
    result = alone.fit()
    losses = scalars(make_config(tmp_path, batch_size=8, **joint_training.CURVES))["train/loss"]
    assert len(losses) == 3 * 2
    assert [step for step, _ in main["losses"]] == [step for step, _ in losses]
    for (_, together), (_, expected) in zip(main["losses"], losses, strict=True):
        assert together == pytest.approx(expected, abs=1e-5)
    assert main["metric"] == other["metric"]
    assert main["metric"] == pytest.approx(result.progress.metrics["frame_ap"], abs=1e-4)
    ours = load_checkpoint(launched / "two/checkpoints/final_checkpoint.pt")
    wanted = load_checkpoint(result.checkpoint_path)
    assert (ours["metadata"]["world_size"], len(ours["other_rng_states"])) == (2, 1)
    for key in ("model_state_dict", "raw_model_state_dict"):
        for name, tensor in wanted[key].items():
            torch.testing.assert_close(ours[key][name], tensor, atol=1e-5, rtol=1e-4)


def test_another_number_of_processes_goes_on(
    launched: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The clips are cut into more updates, and the rates go by the share that is done."""
    path = launched / "two/checkpoints/checkpoint_epoch_2.pt"
    trainer = joint_training.make_trainer(tmp_path, Processes(), 4)
    with caplog.at_level("WARNING"):
        trainer.resume(path)
    assert f"{path}: 2 processes trained it, and 1 go on: the order of the clips" in caplog.text
    assert trainer.progress.global_step == 4
    result = trainer.fit()
    # 18 clips, 8 to an update.
    assert result.progress.global_step == 4 + 3
    logged = scalars(make_config(tmp_path))["learning_rate/trigger_detector"]
    alone = joint_training.make_trainer(tmp_path / "alone", Processes(), 4)
    alone.fit()
    expected = scalars(make_config(tmp_path / "alone"))["learning_rate/trigger_detector"]
    assert len(expected) == 9
    assert [rate for _, rate in logged] == [rate for _, rate in expected[6:]]
    assert [step for step, _ in logged] == [5, 6, 7]


def test_a_signal_to_one_stops_all_and_they_resume_exactly(launched: Path) -> None:
    main, other = seen(launched, "stop")
    assert main == other
    assert main["exit_code"] == 143
    # The tenth forward pass of two heads is in the third update of two batches each.
    assert (main["step"], main["path"]) == (3, "checkpoint_epoch_1_batch_2.pt")


def test_clips_of_another_process_are_named(launched: Path) -> None:
    main, other = seen(launched, "not_finite")
    assert main["error"] == other["error"]
    assert "at update 1, the loss is nan (clips: " in main["error"]
    assert main["error"].count(".mp4 at ") == 2, "those of the process whose loss it is"


def test_metrics_are_exactly_those_of_one(launched: Path) -> None:
    """That they are is asserted there, in each process."""
    main, other = seen(launched, "validation")
    assert main == other
    assert 0 < main["frame_ap"] < 1


def test_what_processes_tell_each_other(launched: Path) -> None:
    main, other = seen(launched, "words")
    assert main["error"] == other["error"]
    assert "process 1 has another data than process 0: 'of 1', not 'of 0'; start" in main["error"]
    assert (main["level"], other["level"]) == (30, 40), "the others log errors alone"


def test_a_process_that_fails_is_not_waited_for(launched: Path) -> None:
    main, other = seen(launched, "lost")
    assert other["error"] == "this clip cannot be read"
    assert "process 0 lost another one of the 2: its own error says why (" in main["error"]
    assert main["seconds"] < 60
    assert not (launched / "lost/checkpoints").exists(), "it failed inside the first epoch"


def test_weights_of_all_processes_are_one(launched: Path) -> None:
    """What was saved by the first is what the second would have saved."""
    whole = load_checkpoint(launched / "whole/checkpoints/final_checkpoint.pt")
    broken = load_checkpoint(launched / "broken/checkpoints/final_checkpoint.pt")
    assert_same(whole["model_state_dict"], broken["model_state_dict"])
