"""`train.py` as people type it: a run, all that can be wrong, and Ctrl-C at every stage."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train
import training_files
from utils import cli
from utils.checkpoint_folder import CheckpointFolder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = training_files.write_data(tmp_path_factory.mktemp("data"))
    return folder


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Path:
    path: Path = training_files.write_config(data, tmp_path)
    return path


def run(config: Path | str, *arguments: object) -> int:
    """The command in this process, on the CPU."""
    given = ["--config", str(config), "--device", "cpu", *map(str, arguments)]
    return cli.run(train.main, train.build_parser(), given)


def test_a_run(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "--set", "training.num_epochs=1") == 0
    out, err = capsys.readouterr()
    best, final = out.splitlines()
    folder = tmp_path / "checkpoints"
    pattern = rf"best: {folder}/best_checkpoint\.pt \(validation frame_ap [01]\.\d{{4}}\)"
    assert re.fullmatch(pattern, best)
    assert final == f"checkpoint: {folder}/final_checkpoint.pt"
    assert "encoder timm:test_resnet: random weights" in err
    assert f"tensorboard --logdir {tmp_path / 'logs'}" in err
    assert list((tmp_path / "logs").glob("*/events.out.tfevents.*"))
    assert torch.load(folder / "final_checkpoint.pt")["global_step"] == 4


def test_without_validation_there_is_no_best(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("--set", "training.num_epochs=1", "--set", "data.val_annotations=null")
    assert run(config, *changes) == 0
    assert capsys.readouterr().out.startswith("checkpoint: ")


def test_resume_of_a_finished_run(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config) == 0
    capsys.readouterr()
    assert run(config, "--resume", "latest") == 0
    out, err = capsys.readouterr()
    assert "nothing left to train: 2 of 2 epochs are done; to go on, raise training.num_e" in err
    assert out.endswith("final_checkpoint.pt\n")
    longer = ("--resume", "latest", "--set", "training.num_epochs=3")
    assert run(config, *longer) == 1
    assert "training.num_epochs was 2, is 3 (the learning rate falls" in capsys.readouterr().err
    assert run(config, *longer, "--allow-config-change") == 0
    err = capsys.readouterr().err
    assert "the run goes on with a change: training.num_epochs was 2, is 3" in err
    assert "resumed from " in err


MODEL = "model.visual_encoder"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (
            ["--set", "data.train_annotations=gone.json"],
            2,
            "gone.json: no such annotation file; data.train_annotations names",
        ),
        (
            ["--set", "data.val_annotations=gone.json"],
            2,
            "annotation file; data.val_annotations names",
        ),
        (["--set", "training.learning_rte=1"], 2, "did you mean 'learning_rate'?"),
        (["--set", "training.learning_rate=fast"], 2, "training.learning_rate: "),
        (["--set", f"{MODEL}.weights=gone.pth"], 1, "gone.pth: no such file"),
        (["--set", f"{MODEL}.weights=${{NOT_SET_HERE}}/w.pth"], 2, "export NOT_SET_HERE="),
        (["--set", f"{MODEL}.type=resnet19"], 2, "unknown encoder 'resnet19'; known: "),
        (["--set", f"{MODEL}.type=timm:restnet18"], 2, "unknown encoder 'timm:restnet18'"),
        (["--set", "model.time_aware_encoder.type=gru"], 2, "known: lstm, transformer"),
        (["--set", "model.time_aware_encoder.num_heads=5"], 2, "multiple of 2 * num_heads (10)"),
        (["--set", "training.loss.type=hinge"], 2, "unknown loss 'hinge'; known: bce, focal"),
        (["--set", "model.trigger_detector.num_classes=7"], 2, "num_classes is 7 but labels"),
        (["--set", "training.cache_features=true"], 2, "freezing.visual_backbone: true"),
        (["--set", "data.decoder=vlc"], 2, "unknown decoder 'vlc'"),
        (
            ["--set", "training.checkpoint_dir={file}/x"],
            2,
            "set training.checkpoint_dir to another",
        ),
        (["--set", "training.log_dir={file}/x"], 2, "file/x: no files can be written there: Not a"),
        (["--resume", "latest"], 1, "to resume from; leave --resume out to start anew"),
        (["--resume", "gone.pt"], 1, "gone.pt: no such file"),
        (["--device", "tpu"], 2, "unknown device 'tpu'"),
        (["--config", "gone"], 2, "config 'gone' is neither a file nor in configs/"),
        (
            ["--set", "training.use_mixed_precision=true", "--set"]
            + ["training.mixed_precision_dtype=fp16"],
            1,
            "fp16, which the CPU cannot train in",
        ),
    ],
)
def test_errors_are_one_line(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    text: str,
) -> None:
    (tmp_path / "file").touch()
    given = [part.replace("{file}", str(tmp_path / "file")) for part in arguments]
    assert run(config, *given) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert text in lines[0]
    assert err.splitlines()[-1] == lines[0]
    assert "Traceback" not in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "--device", "cuda") == 2
    assert "error: device 'cuda' is not available" in capsys.readouterr().err


def test_no_usable_video(config: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ("--set", f"data.train_video_dir={data / 'nowhere'}")
    assert run(config, *folder) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].endswith("none of its videos can be used; see above")
    assert "left out: " in err


def test_no_network(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(config.parent / "torch"))
    changes = ("--set", f"{MODEL}.type=resnet18", "--set", f"{MODEL}.weights=imagenet")
    assert run(config, *changes) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the ImageNet weights of 'resnet18' are not cached and could not")
    assert "none to start from random weights" in last


def start(config: Path, *arguments: object, log: Path) -> subprocess.Popen[bytes]:
    """The command as a shell starts it: in a process group of its own."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "train.py", "--config", config, "--device", "cpu"]
            + [str(part) for part in arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def wait_for(process: subprocess.Popen[bytes], is_there: Callable[[], Any], log: Path) -> None:
    end = time.monotonic() + 60
    while not is_there():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "num_workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_a_stopped_run_goes_on_where_it_stopped(
    data: Path, tmp_path: Path, number: signal.Signals, num_workers: int
) -> None:
    """Ctrl-C reaches the loader's workers, too; SIGTERM the command alone."""
    changes = {
        "data.num_workers": num_workers,
        "training.num_epochs": 3,
        "training.clips_per_epoch": 601,
        "training.gradient_accumulation_steps": 2,
        "training.cache_features": True,
        "freezing.visual_backbone": True,
    }
    whole = training_files.write_config(data, tmp_path / "whole", **changes)
    broken = training_files.write_config(data, tmp_path / "broken", **changes)
    log = tmp_path / "log.txt"
    process = start(broken, log=log)
    folder = tmp_path / "broken" / "checkpoints"
    wait_for(process, lambda: "epoch 2/3" in log.read_text(), log)
    # The epoch's workers are started a moment later.
    time.sleep(0.2)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    text = log.read_text()
    assert process.returncode == 128 + number, text
    assert "Traceback" not in text
    assert text.count(f"{number.name}: finishing this step and saving") == 1
    stopped = CheckpointFolder(folder).latest()
    assert out.decode().splitlines()[-1] == f"checkpoint: {stopped}"
    assert "go on with: --resume latest" in text
    content = torch.load(stopped)
    assert content["epoch"] in (1, 2)
    assert run(broken, "--resume", "latest") == 0
    assert run(whole) == 0
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "final_checkpoint.pt")
        for name in ("whole", "broken")
    )
    assert one["loss"] == other["loss"]
    assert one["metadata"]["metrics"] == other["metadata"]["metrics"]
    for name, tensor in one["model_state_dict"].items():
        assert torch.equal(tensor, other["model_state_dict"][name]), name


def test_ctrl_c_while_features_are_made(data: Path, tmp_path: Path) -> None:
    config = training_files.write_config(
        data,
        tmp_path,
        **{
            "training.cache_features": True,
            "freezing.visual_backbone": True,
            # So that it takes a while.
            "training.augmentation.cached_copies": 300,
        },
    )
    log, cache = tmp_path / "log.txt", tmp_path / "cache"
    process = start(config, log=log)

    # Once something is in the folder: a signal at the moment that makes the folder can leave it,
    # for the next run to clear away.
    wait_for(process, lambda: any(cache.glob(".new-*/*")), log)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, log.read_text()
    assert out == b""
    assert log.read_text().splitlines()[-1] == "interrupted"
    assert "Traceback" not in log.read_text()
    assert not list(cache.glob(".new-*")), "nothing half made is left"
    assert run(config, "--set", "training.augmentation.cached_copies=0") == 0
