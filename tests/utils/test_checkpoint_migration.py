"""Old checkpoints, read by the program of today."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.checkpoint import FORMAT_VERSION, load_checkpoint
from utils.checkpoint_migration import MIGRATIONS, migrate, migrate_1_to_2
from utils.config import parse_config
from utils.errors import CheckpointError


def version_1(*, batch: int = 2, **changes: Any) -> dict[str, Any]:
    """What version 1 wrote inside an epoch, after one that was finished, key by key."""
    return {
        "format_version": 1,
        "model_state_dict": {"hidden.weight": torch.ones(16, 4), "hidden.bias": torch.zeros(16)},
        "optimizer_state_dict": {
            "state": {
                0: {
                    "step": torch.tensor(6.0),
                    "exp_avg": torch.zeros(16, 4),
                    "exp_avg_sq": torch.zeros(16, 4),
                }
            },
            "param_groups": [
                {
                    "name": "trigger_detector",
                    "params": [0],
                    "lr": 0.00155,
                    "initial_lr": 0.01,
                    "betas": (0.9, 0.999),
                    "weight_decay": 0.05,
                }
            ],
        },
        "scheduler_state_dict": {"last_epoch": 6, "base_lrs": [0.01], "lr_lambdas": [None]},
        "scaler_state_dict": {},
        "rng_state": {
            "python": {"version": 3, "internal": torch.zeros(625, dtype=torch.int64)},
            "torch": torch.zeros(5056, dtype=torch.uint8),
            "cuda": [],
        },
        "data_position": {
            "batch": batch,
            "clips_per_epoch": 18,
            "epoch_loss_sum": 2.5,
            "last_epoch_loss": 1.39,
        },
        "epoch": 1,
        "global_step": 6,
        "loss": 1.25,
        "config": {
            "data": {"clip_window_size": 5},
            "model": {"labels": ["a"], "visual_encoder": {"type": "resnet18"}},
            "training": {"batch_size": 4, "num_epochs": 2, "clips_per_epoch": 18},
        },
        "metadata": {
            "labels": ["a"],
            "best_metric": 0.2,
            "metrics": {"frame_ap": 0.2, "frame_ap/a": 0.1},
            "run_name": "20250101-120000",
            "torch": "2.7.0",
            "python": "3.11.7",
        },
        **changes,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint_epoch_1_batch_2.pt"


def test_there_is_a_step_from_each_older_version() -> None:
    assert sorted(MIGRATIONS) == list(range(1, FORMAT_VERSION))
    for version, function in MIGRATIONS.items():
        assert function.__name__ == f"migrate_{version}_to_{version + 1}"


def test_version_1(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = version_1()
    torch.save(old, path)
    caplog.set_level(logging.INFO)
    content = load_checkpoint(path)
    assert caplog.messages == [f"{path}: of format version 1, read as {FORMAT_VERSION}"]
    assert content["format_version"] == FORMAT_VERSION
    # What it had is as it was.
    for key in ("epoch", "global_step", "loss", "scaler_state_dict", "config"):
        assert content[key] == old[key]
    for name, tensor in old["model_state_dict"].items():
        assert torch.equal(content["model_state_dict"][name], tensor)
    assert (
        content["optimizer_state_dict"]["param_groups"]
        == (old["optimizer_state_dict"]["param_groups"])
    )
    assert content["metadata"].items() >= old["metadata"].items()
    # What version 1 did not know.
    assert content["raw_model_state_dict"] == content["ema_state_dict"] == {}
    assert content["other_rng_states"] == []
    assert content["early_stopping"] == {"best": 0.2, "reference": 0.2, "num_bad": 0}
    assert content["metadata"]["best_metric_name"] == "frame_ap"
    assert content["metadata"]["world_size"] == 1
    assert content["metadata"]["data"] == {}
    parse_config(content["config"])


@pytest.mark.parametrize(("batch", "clip"), [(2, 8), (4, 16), (5, 18)])
def test_places_inside_an_epoch_are_counted_in_clips(batch: int, clip: int) -> None:
    """Batches of 4 clips of 5 frames; the last of the 18 clips are a short batch."""
    position = migrate_1_to_2(version_1(batch=batch))["data_position"]
    assert (position["batch"], position["clip"], position["epoch_frames"]) == (
        batch,
        clip,
        clip * 5,
    )
    # The mean loss so far is what it was.
    assert position["epoch_loss_sum"] / position["epoch_frames"] == pytest.approx(2.5 / batch)
    assert position["last_epoch_loss"] == 1.39


def test_the_end_of_an_epoch() -> None:
    old = version_1(batch=0)
    old["data_position"]["epoch_loss_sum"] = 0.0
    old["metadata"]["best_metric"] = None
    content = migrate_1_to_2(old)
    assert content["data_position"] == {
        "batch": 0,
        "clip": 0,
        "clips_per_epoch": 18,
        "epoch_frames": 0,
        "epoch_loss_sum": 0.0,
        "last_epoch_loss": 1.39,
    }
    assert content["early_stopping"] == {"best": None, "reference": None, "num_bad": 0}


def test_what_is_migrated_is_not_changed_itself() -> None:
    old = version_1()
    before = copy.deepcopy({key: old[key] for key in ("data_position", "metadata", "config")})
    migrate(old, to=FORMAT_VERSION, source="x.pt")
    assert old["format_version"] == 1
    assert {key: old[key] for key in before} == before


def test_steps_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(number: int) -> Any:
        return lambda content: {**content, "steps": [*content["steps"], number]}

    monkeypatch.setattr(
        "utils.checkpoint_migration.MIGRATIONS", {number: step(number) for number in (1, 2, 3)}
    )
    for version, steps in ((1, [1, 2, 3]), (3, [3]), (4, [])):
        content = migrate({"format_version": version, "steps": []}, to=4, source="x.pt")
        assert content == {"format_version": 4, "steps": steps}


@pytest.mark.parametrize("version", [0, -1, 1.0, True, "1", None, [1]])
def test_a_version_that_is_none(version: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        migrate({"format_version": version}, to=2, source="x.pt")
    assert str(caught.value) == (
        f"x.pt: damaged: its format version is {version!r}, not a whole number from 1"
    )


def test_a_newer_version_is_refused() -> None:
    with pytest.raises(CheckpointError) as caught:
        migrate({"format_version": 3}, to=2, source="x.pt")
    assert str(caught.value) == (
        "x.pt: of format version 3, and this program reads versions up to 2; update the program "
        "to the release that wrote it, or a later one"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metadata": None}, "AttributeError 'NoneType' object has no attribute 'get'"),
        ({"config": {}}, "KeyError 'training'"),
        ({"data_position": {"batch": 2}}, "KeyError 'clips_per_epoch'"),
    ],
)
def test_what_is_not_whole_is_refused(path: Path, changes: dict[str, Any], reason: str) -> None:
    torch.save(version_1(**changes), path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == (
        f"{path}: damaged: it is no whole checkpoint of format version 1: {reason}"
    )
