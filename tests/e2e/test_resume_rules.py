"""`train.py --resume`: what it goes on from, what it refuses, and what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import train
import training_files
from utils import cli
from utils.checkpoint import check_whole
from utils.checkpoint_folder import CheckpointFolder

CHANGES = {"training.clips_per_epoch": 4}


def run(config: Path, *arguments: object) -> int:
    """The command in this process, on the CPU."""
    given = ["--config", str(config), "--device", "cpu", *map(str, arguments)]
    return cli.run(train.main, train.build_parser(), given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, config, and all that a run of two epochs leaves."""
    work = tmp_path_factory.mktemp("run")
    training_files.write_data(work / "data")
    assert run(training_files.write_config(work / "data", work, **CHANGES)) == 0
    return work


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """A copy under another path, as if the run had been killed after its first epoch."""
    work = tmp_path / "elsewhere"
    shutil.copytree(finished, work)
    for name in ("checkpoint_epoch_2.pt", "final_checkpoint.pt"):
        (work / "checkpoints" / name).unlink()
    training_files.write_config(work / "data", work, **CHANGES)
    return work


def assert_ends_as(work: Path, finished: Path) -> None:
    one, other = (
        torch.load(folder / "checkpoints" / "final_checkpoint.pt") for folder in (work, finished)
    )
    assert one["global_step"] == other["global_step"]
    assert one["loss"] == other["loss"]
    for name, tensor in one["model_state_dict"].items():
        assert torch.equal(tensor, other["model_state_dict"][name]), name


Error = Callable[..., str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Error:
    def of(config: Path, *arguments: object) -> str:
        capsys.readouterr()
        assert run(config, *arguments) == 1
        last: str = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        return last.removeprefix("error: ")

    return of


def test_a_run_that_was_moved_goes_on(
    work: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data, cache, checkpoints and logs lie elsewhere; nothing need be allowed."""
    content = torch.load(work / "checkpoints" / "checkpoint_epoch_1.pt")
    assert str(finished) in content["config"]["data"]["train_annotations"]
    assert str(work) not in str(content["config"])
    assert run(work / "config.yaml", "--resume", "latest") == 0
    err = capsys.readouterr().err
    assert f"resumed from {work / 'checkpoints' / 'checkpoint_epoch_1.pt'}" in err
    assert "change" not in err
    assert_ends_as(work, finished)


def test_other_annotations_are_another_run(
    work: Path, refusal: Error, capsys: pytest.CaptureFixture[str]
) -> None:
    file = work / "data" / "train.json"
    content = json.loads(file.read_text())
    content["videos"][0]["events"].pop()
    file.write_text(json.dumps(content))
    message = refusal(work / "config.yaml", "--resume", "latest")
    assert "checkpoint_epoch_1.pt: is of another run: data.train_annotations: content" in message
    assert "2 videos with 4 events" in message
    assert "2 videos with 3 events" in message
    assert run(work / "config.yaml", "--resume", "latest", "--allow-config-change") == 0
    assert "goes on with a change: data.train_annotations: content" in capsys.readouterr().err


def test_another_optimizer_is_another_run(
    work: Path, refusal: Error, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("--set", "training.learning_rate=0.5", "--set", "training.batch_size=4")
    resumed = (work / "config.yaml", "--resume", "latest", *changes)
    message = refusal(*resumed)
    assert "training.learning_rate was 0.001, is 0.5" in message
    assert "training.batch_size was 2, is 4" in message
    assert "give --allow-config-change to go on with these changes" in message
    assert run(*resumed, "--allow-config-change") == 0
    err = capsys.readouterr().err
    assert "goes on with a change: training.learning_rate was 0.001, is 0.5" in err
    assert "goes on with a change: training.batch_size was 2, is 4" in err


def test_what_no_run_can_go_on_with(work: Path, refusal: Error) -> None:
    allowed = (work / "config.yaml", "--resume", "latest", "--allow-config-change", "--set")
    message = refusal(*allowed, "model.time_aware_encoder.type=lstm")
    assert "the checkpoint does not fit the model: not loaded are time_aware_encoder (" in message
    message = refusal(*allowed, "freezing.time_aware_encoder=true")
    assert "its optimizer trained other tensors: " in message
    assert "resume with the freezing and the model of that run" in message
    assert [path.name for _, path in CheckpointFolder(work / "checkpoints").numbered()] == [
        "checkpoint_epoch_1.pt"
    ]


def flip_a_bit(path: Path) -> None:
    """Of a weight in the middle of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint(
    work: Path, finished: Path, refusal: Error, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = work / "checkpoints"
    damaged = folder / "checkpoint_epoch_2.pt"
    shutil.copy(finished / "checkpoints" / damaged.name, damaged)
    flip_a_bit(damaged)
    message = refusal(work / "config.yaml", "--resume", damaged)
    assert message.startswith(f"{damaged}: damaged: the checksum of its record '")
    whole = folder / "checkpoint_epoch_1.pt"
    assert message.endswith(f"; the one before it is whole: --resume {whole}")
    assert run(work / "config.yaml", "--resume", "latest") == 0
    err = capsys.readouterr().err
    assert f"{damaged}: damaged: the checksum of its record '" in err
    assert "going on from checkpoint_epoch_1.pt" in err
    check_whole(damaged)
    assert_ends_as(work, finished)


def test_tensors_that_the_model_has_no_use_for(
    work: Path, finished: Path, refusal: Error, capsys: pytest.CaptureFixture[str]
) -> None:
    path = work / "checkpoints" / "checkpoint_epoch_1.pt"
    content = torch.load(path)
    content["model_state_dict"]["extra.weight"] = torch.zeros(1)
    torch.save(content, path)
    config = work / "config.yaml"
    message = refusal(config, "--resume", "latest", "--strict-loading")
    assert "1 not used (extra.weight); the checkpoint does not fit the model" in message
    assert "--no-strict-loading leaves out what the model has no use for" in message
    assert run(config, "--resume", "latest", "--no-strict-loading") == 0
    assert "1 not used (extra.weight)" in capsys.readouterr().err
    assert_ends_as(work, finished)


def as_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """What version 1 would have written at the end of the same epoch."""
    content["format_version"] = 1
    for key in ("raw_model_state_dict", "ema_state_dict", "early_stopping", "other_rng_states"):
        del content[key]
    for key in ("data", "best_metric_name", "world_size"):
        del content["metadata"][key]
    for key in ("clip", "epoch_frames"):
        del content["data_position"][key]
    # Keys that came with version 2.
    for key in ("ema_decay", "keep_last", "best_metric", "early_stopping_patience"):
        del content["config"]["training"][key]
    del content["config"]["freezing"]["unfreeze"]
    return content


def test_a_checkpoint_of_version_1_goes_on_to_the_same_weights(
    work: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = work / "checkpoints" / "checkpoint_epoch_1.pt"
    torch.save(as_version_1(torch.load(path)), path)
    assert run(work / "config.yaml", "--resume", "latest") == 0
    err = capsys.readouterr().err
    assert f"{path}: of format version 1, read as 2" in err
    assert f"{path}: does not say which data it was trained on" in err
    assert_ends_as(work, finished)


@pytest.fixture
def small_disk(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A file system for two and a half checkpoints."""
    size = (finished / "checkpoints" / "final_checkpoint.pt").stat().st_size * 5 // 2
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(finished: Path, tmp_path: Path, small_disk: Path, refusal: Error) -> None:
    config = training_files.write_config(
        finished / "data",
        tmp_path / "work",
        **CHANGES,
        **{"training.checkpoint_dir": str(small_disk), "data.val_annotations": None},
    )
    message = refusal(config, "--set", "training.num_epochs=4")
    full = small_disk / "checkpoint_epoch_3.pt"
    assert message == (
        f"{full}: could not be written ([Errno 28] No space left on device); earlier checkpoints "
        "are untouched: free disk space or set training.checkpoint_dir"
    )
    assert sorted(path.name for path in small_disk.iterdir()) == [
        "checkpoint_epoch_1.pt",
        "checkpoint_epoch_2.pt",
    ]
    for path in small_disk.iterdir():
        check_whole(path)
    more = ["mount", "-o", f"remount,size={100 * 1024**2}", str(small_disk)]
    subprocess.run(more, check=True)
    assert run(config, "--set", "training.num_epochs=4", "--resume", "latest") == 0
    assert torch.load(small_disk / "final_checkpoint.pt")["epoch"] == 4
