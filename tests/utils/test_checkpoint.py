"""Checkpoints: whole or not at all, read without running anything, loaded loudly."""

from __future__ import annotations

import os
import pickle
import random
import stat
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import VideoTriggerModel
from pipeline_files import tiny_config
from utils.checkpoint import (
    FORMAT_VERSION,
    load_checkpoint,
    load_model_weights,
    load_weights_file,
    match_tensors,
    save_checkpoint,
)
from utils.config import Config
from utils.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]


class Trap:
    """Its pickle runs a command when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def content(**changes: Any) -> dict[str, Any]:
    return {
        "model_state_dict": OrderedDict(w=torch.arange(6.0).reshape(2, 3), b=torch.ones(2)),
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{}]},
        "config": Config().to_plain(),
        "epoch": 2,
        "loss": 0.5,
        "metadata": {"labels": ["fall"], "size": torch.Size([1, 2]), "pair": (1, None)},
        "format_version": FORMAT_VERSION,
        **changes,
    }


def error_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        function(*arguments, **options)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoint_epoch_2.pt"


@pytest.fixture
def saved(path: Path) -> Path:
    save_checkpoint(content(), path)
    return path


# Saving


def test_round_trip(saved: Path) -> None:
    loaded = load_checkpoint(saved)
    expected = content()
    for name in ("w", "b"):
        assert torch.equal(loaded["model_state_dict"][name], expected["model_state_dict"][name])
    for key in ("config", "epoch", "loss", "metadata", "format_version"):
        assert loaded[key] == expected[key]
    assert Config.model_validate(loaded["config"]) == Config()


def test_it_can_be_read_with_torch_alone(saved: Path) -> None:
    assert torch.load(saved, weights_only=True)["epoch"] == 2


def test_nothing_is_left_beside_it_and_others_may_read_it(saved: Path) -> None:
    assert os.listdir(saved.parent) == [saved.name]
    assert stat.S_IMODE(saved.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_failure_leaves_the_old_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    old = saved.read_bytes()

    def save_half(data: Any, file: Any) -> None:
        file.write(old[:100])
        raise error

    monkeypatch.setattr(torch, "save", save_half)
    message = error_of(save_checkpoint, content(epoch=3), saved)
    assert message == (
        f"{saved}: could not be written ({error}); earlier checkpoints are untouched: free disk "
        "space or set training.checkpoint_dir"
    )
    assert saved.read_bytes() == old
    assert os.listdir(saved.parent) == [saved.name]


def test_ctrl_c_while_saving_leaves_the_old_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = saved.read_bytes()

    def interrupt(data: Any, file: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(content(), saved)
    assert saved.read_bytes() == old
    assert os.listdir(saved.parent) == [saved.name]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    message = error_of(save_checkpoint, content(), tmp_path / "run" / "x.pt")
    assert "x.pt: could not be written ([Errno 17] File exists" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": np.float64(0.5)}, r"content\['loss'\] is a float64; checkpoints hold plain data"),
        ({"config": Config()}, r"content\['config'\] is a Config"),
        ({"metadata": {"a": [1, Path("x")]}}, r"content\['metadata'\]\['a'\]\[1\] is a PosixPath"),
        ({"metadata": {(1, Path("x")): 1}}, r"a key of content\['metadata'\]\[1\] is a PosixPath"),
        ({"metadata": np.zeros(2)}, r"content\['metadata'\] is a ndarray"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        save_checkpoint(content(**changes), path)
    assert not path.parent.exists()


# Loading


def test_missing_empty_and_odd_files(tmp_path: Path) -> None:
    gone, empty = tmp_path / "gone.pt", tmp_path / "empty.pt"
    empty.touch()
    assert error_of(load_checkpoint, gone) == f"{gone}: no such file"
    assert error_of(load_checkpoint, tmp_path) == f"{tmp_path}: not a file"
    assert error_of(load_checkpoint, empty / "x.pt") == f"{empty / 'x.pt'}: no such file"
    assert error_of(load_checkpoint, empty) == f"{empty}: the file is empty; take an earlier one"


def test_a_file_cut_off_anywhere(saved: Path) -> None:
    whole = saved.read_bytes()
    for size in {1, 2, 4, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1}:
        saved.write_bytes(whole[:size])
        message = error_of(load_checkpoint, saved)
        assert message.startswith(f"{saved}: not a checkpoint, or damaged (cut off?): ")
        assert message.endswith("; take an earlier one")


@pytest.mark.parametrize("is_zip", [True, False])
def test_flipped_bytes_give_one_kind_of_error(path: Path, is_zip: bool) -> None:
    path.parent.mkdir()
    torch.save(content(), path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    # The part that names what is in the file, in the zip after its first header.
    span = min(len(whole), 3000)
    generator = random.Random(0)
    messages = []
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(generator.choice((1, 3, 10))):
            damaged[generator.randrange(span)] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all(message.startswith(f"{path}: ") for message in messages)
    # torch's own advice is to run what the file asks for.
    assert not [message for message in messages if "weights_only" in message]


def test_noise_and_other_files(path: Path) -> None:
    path.parent.mkdir()
    for data in (b"\x00" * 100, b'{"a": 1}', b"hello", b"PK\x03\x04", os.urandom(200)):
        path.write_bytes(data)
        assert "not a checkpoint, or damaged" in error_of(load_checkpoint, path)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_foreign_objects_are_refused_and_not_run(path: Path, tmp_path: Path, how: str) -> None:
    trapped = content(metadata=Trap(tmp_path / "trapped"))
    path.parent.mkdir()
    if how == "pickle":
        path.write_bytes(pickle.dumps(Trap(tmp_path / "trapped"), protocol=2))
    else:
        torch.save(trapped, path, _use_new_zipfile_serialization=how == "zip")
    expected = (
        f"{path}: holds Python objects besides tensors and plain containers, which could run code "
        "when read; save its state_dict() alone where it comes from"
    )
    assert error_of(load_checkpoint, path) == expected
    assert error_of(load_weights_file, path) == expected
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_whole_pickled_module(path: Path, is_zip: bool) -> None:
    path.parent.mkdir()
    torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=is_zip)
    assert "save its state_dict() alone" in error_of(load_weights_file, path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"format_version": FORMAT_VERSION + 1},
            f"of format version {FORMAT_VERSION + 1}, and this program reads versions up to "
            f"{FORMAT_VERSION}; update the program to the release that wrote it, or a later one",
        ),
        (
            {"format_version": None},
            "damaged: its format version is None, not a whole number from 1",
        ),
        ({"config": [1]}, "damaged: 'config' is a list, not a dict"),
        ({"model_state_dict": None}, "damaged: 'model_state_dict' is a NoneType, not a dict"),
        ({"model_state_dict": {"w": 3}}, "damaged: 'w' of its model is a int, not a tensor"),
    ],
)
def test_checkpoints_of_another_kind(path: Path, changes: dict[str, Any], reason: str) -> None:
    save_checkpoint(content(**changes), path)
    assert error_of(load_checkpoint, path).startswith(f"{path}: {reason}")


@pytest.mark.parametrize("missing", ["model_state_dict", "config", "format_version"])
def test_a_file_that_is_no_checkpoint_of_ours(path: Path, missing: str) -> None:
    partial = content()
    del partial[missing]
    save_checkpoint(partial, path)
    assert error_of(load_checkpoint, path) == (
        f"{path}: not a checkpoint of this project: it lacks {missing}"
    )


@pytest.mark.parametrize(
    ("foreign", "what"),
    [
        (torch.ones(2), "it holds a Tensor"),
        ([1, 2], "it holds a list"),
        ({}, "it lacks model_state_dict, config, format_version"),
        ({"loss": 0.5}, "it lacks model_state_dict, config, format_version"),
        (
            nn.Linear(2, 2).state_dict(),
            "it holds weights alone (2 tensors); where its weights fit the encoder, set "
            "model.visual_encoder.weights to it",
        ),
        (
            {
                "pytorch-lightning_version": "2.5.0",
                "epoch": 3,
                "state_dict": nn.Linear(2, 2).state_dict(),
                "optimizer_states": [],
            },
            "it is one of PyTorch Lightning; where its weights fit the encoder, set "
            "model.visual_encoder.weights to it",
        ),
    ],
)
def test_checkpoints_of_other_programs(path: Path, foreign: Any, what: str) -> None:
    path.parent.mkdir()
    torch.save(foreign, path)
    assert error_of(load_checkpoint, path) == f"{path}: not a checkpoint of this project: {what}"


def test_pretrained_weights_are_no_checkpoint(shared_data: Path) -> None:
    path = shared_data / "weights" / "tf_efficientnet_lite0.pth"
    assert "it holds weights alone (" in error_of(load_checkpoint, path)


# Weights files

WEIGHTS = {"w": torch.arange(3.0), "b": torch.ones(1)}


def assert_weights(loaded: dict[str, Tensor]) -> None:
    assert loaded.keys() == WEIGHTS.keys()
    assert all(torch.equal(loaded[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize(
    "file_content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 3},
        {"model_state_dict": WEIGHTS, "state_dict": {}},
        {"model": WEIGHTS, "optimizer": {"w": torch.ones(9)}},
        {"model": {"state_dict": WEIGHTS}},
        {f"module.{name}": tensor for name, tensor in WEIGHTS.items()},
        {f"_orig_mod.{name}": tensor for name, tensor in WEIGHTS.items()},
        {"state_dict": {f"module._orig_mod.{name}": t for name, t in WEIGHTS.items()}},
        {**WEIGHTS, "num_epochs": 3, 7: torch.ones(1)},
    ],
)
def test_where_weights_are_found(tmp_path: Path, file_content: dict[Any, Any]) -> None:
    torch.save(file_content, tmp_path / "w.pth")
    assert_weights(load_weights_file(tmp_path / "w.pth"))


def test_a_prefix_that_is_left_out_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"module.w": torch.ones(1), "module.b": torch.ones(1)}, tmp_path / "w.pth")
    with caplog.at_level("INFO"):
        load_weights_file(tmp_path / "w.pth")
    assert "every name begins with 'module.', which is left out" in caplog.text


def test_a_prefix_of_some_names_stays(tmp_path: Path) -> None:
    torch.save({"module.w": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pth")
    assert load_weights_file(tmp_path / "w.pth").keys() == {"module.w", "b"}


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    assert error_of(load_weights_file, path) == f"{path}: no such file"
    save_file(WEIGHTS, path)
    assert_weights(load_weights_file(path))
    whole = path.read_bytes()
    for damaged in (b"", whole[:5], whole[:-1], b"\xff" * 100):
        path.write_bytes(damaged)
        assert error_of(load_weights_file, path).startswith(
            f"{path}: damaged, or not safetensors: "
        )
    save_file({}, path)
    assert error_of(load_weights_file, path) == f"{path}: holds no tensors by name (a state dict)"


@pytest.mark.parametrize(
    "file_content", [{}, {"a": 1}, [torch.ones(1)], torch.ones(1), {1: WEIGHTS}]
)
def test_files_without_weights(tmp_path: Path, file_content: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save(file_content, path)
    assert error_of(load_weights_file, path) == f"{path}: holds no tensors by name (a state dict)"


def test_a_torchscript_program(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(nn.Linear(1, 1)).save(str(path))
    assert error_of(load_weights_file, path) == (
        f"{path}: a TorchScript program, not a checkpoint; save its state_dict() where it comes "
        "from"
    )


def test_real_weights(shared_data: Path) -> None:
    tensors = load_weights_file(shared_data / "weights" / "tf_efficientnet_lite0.pth")
    assert len(tensors) > 200
    assert tensors["classifier.weight"].shape == (1000, 1280)


# Into a model


def test_an_exact_fit() -> None:
    source, model = nn.Linear(3, 2), nn.Linear(3, 2)
    report = load_model_weights(model, source.state_dict(), source="x.pt")
    assert report.is_exact
    assert str(report) == "x.pt: 2 tensors fit"
    assert torch.equal(model.weight, source.weight)


def test_every_difference_is_counted_and_said() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    state = {
        "0.weight": torch.zeros(3, 2),
        "0.bias": torch.zeros(2),
        **{f"extra{i}": torch.zeros(1) for i in range(5)},
    }
    before = [parameter.clone() for parameter in model.parameters()]
    fitting, report = match_tensors(model, state, source="x.pt")
    assert list(fitting) == ["0.bias"]
    assert not report.is_exact
    expected = (
        "x.pt: 1 tensors fit, 2 missing (1.weight, 1.bias), 5 not used (extra0, extra1, extra2 "
        "and 2 more), 1 of another shape (0.weight (3, 2) for (2, 3))"
    )
    assert str(report) == expected
    message = error_of(load_model_weights, model, state, source="x.pt", strict=False)
    assert message == (
        f"{expected}; the checkpoint does not fit the model: not loaded are 1 (0 of 2 tensors), 0 "
        "(1 of 2 tensors)"
    )
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, new)


def test_what_strict_means() -> None:
    model = nn.Linear(3, 2)
    state = {**nn.Linear(3, 2).state_dict(), "extra": torch.zeros(1)}
    assert error_of(load_model_weights, model, state, source="x.pt") == (
        "x.pt: 2 tensors fit, 1 not used (extra); the checkpoint does not fit the model; "
        "--no-strict-loading leaves out what the model has no use for"
    )
    report = load_model_weights(model, state, source="x.pt", strict=False)
    assert report.unexpected == ("extra",)
    assert str(report) == "x.pt: 2 tensors fit, 1 not used (extra)"
    assert torch.equal(model.weight, state["weight"])


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("visual_encoder.backbone.model.layer1.0.conv1.weight", "visual_encoder"),
        ("visual_encoder.norm.bias", "visual_encoder"),
        ("trigger_detector", "trigger_detector"),
        ("time_aware_encoder", "time_aware_encoder"),
    ],
)
def test_an_encoder_or_a_head_that_did_not_load_is_refused(
    strict: bool, name: str, part: str
) -> None:
    """Whether strict or not: it would score at random."""
    model = VideoTriggerModel.from_config(tiny_config().model)
    state = dict(model.state_dict())
    gone = [key for key in state if key.startswith(name)]
    total = len([key for key in state if key.startswith(f"{part}.")])
    for key in gone:
        del state[key]
    message = error_of(load_model_weights, model, state, source="x.pt", strict=strict)
    assert message.startswith(f"x.pt: {len(state)} tensors fit, {len(gone)} missing (")
    assert message.endswith(
        f"; the checkpoint does not fit the model: not loaded are {part} "
        f"({total - len(gone)} of {total} tensors)"
    )
