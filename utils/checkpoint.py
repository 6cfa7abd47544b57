"""Checkpoints: written so that they survive, read without pickle, loaded loudly.

A training checkpoint is a ``.pt`` file of plain containers and tensors, readable with
``torch.load(..., weights_only=True)``. It is written to a temporary file, synced, then renamed.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.atomic_file import replacing
from utils.errors import CheckpointError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
BEST_NAME = "best_checkpoint.pt"
FINAL_NAME = "final_checkpoint.pt"
_NUMBERED_NAME = re.compile(r"checkpoint_epoch_(\d+)(?:_batch_(\d+))?\.pt")
_REQUIRED = ("model_state_dict", "config", "format_version")
_STATE_DICT_KEYS = ("model_state_dict", "state_dict", "model")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
_FOREIGN_OBJECT = re.compile("GLOBAL|Unsupported (global|class)")
"""How torch words that a pickle names code that it would have to run."""
_PLAIN_TYPES = (bool, int, float, str, bytes, type(None), torch.Size, torch.dtype, torch.device)


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of the tensors when a state dict met a module.

    Attributes:
        source: Where the state dict came from, for the message.
        loaded: Names that fit.
        missing: Names that the module has and the state dict lacks.
        unexpected: Names that only the state dict has.
        mismatched: Name to ``(shape in the state dict, shape in the module)``.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def is_exact(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} tensors fit"]
        for kind, names in (("missing", self.missing), ("not used", self.unexpected)):
            if names:
                parts.append(f"{len(names)} {kind} ({_some(names)})")
        if self.mismatched:
            shapes = [f"{name} {got} for {want}" for name, (got, want) in self.mismatched.items()]
            parts.append(f"{len(shapes)} of another shape ({_some(shapes)})")
        return ", ".join(parts)


def _some(names: tuple[str, ...] | list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def match_tensors(
    module: nn.Module, state_dict: Mapping[str, Tensor], *, source: str
) -> tuple[dict[str, Tensor], LoadReport]:
    """Sort the tensors of ``state_dict`` by whether they fit ``module``; loads nothing.

    Returns:
        The tensors that fit, and the report.
    """
    wanted = module.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state_dict.items()
        if name in wanted and tensor.shape == wanted[name].shape
    }
    report = LoadReport(
        source=source,
        loaded=tuple(fitting),
        missing=tuple(name for name in wanted if name not in state_dict),
        unexpected=tuple(name for name in state_dict if name not in wanted),
        mismatched={
            name: (tuple(tensor.shape), tuple(wanted[name].shape))
            for name, tensor in state_dict.items()
            if name in wanted and tensor.shape != wanted[name].shape
        },
    )
    return fitting, report


def _load_safely(path: Path) -> Any:
    """``torch.load`` on the CPU without pickle, with one clear error for each way to fail."""
    _check_is_file(path)
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty; take an earlier checkpoint")
    try:
        with warnings.catch_warnings():
            # Of foreign pickles, which are refused with a message of ours.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    # Damaged bytes make torch's reader fail in any way: IndexError, struct.error, AssertionError...
    except Exception as error:
        reason = str(error)
        if "TorchScript" in reason:
            what = (
                "a TorchScript program, not a checkpoint; save its state_dict() where it comes from"
            )
        elif isinstance(error, pickle.UnpicklingError) and _FOREIGN_OBJECT.search(reason):
            what = (
                "holds Python objects besides tensors and plain containers, which could run code "
                "when read; save its state_dict() alone where it comes from"
            )
        else:
            # What torch says before this mark advises to read the file with pickle.
            reason = reason.rpartition("WeightsUnpickler error:")[2].strip()
            what = (
                f"not a checkpoint, or damaged (cut off?): {type(error).__name__} "
                f"{reason.partition(chr(10))[0][:200]}; take an earlier one"
            )
        raise CheckpointError(f"{path}: {what}") from error


def _check_is_file(path: Path) -> None:
    try:
        if path.is_file():
            return
        exists = path.exists()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    raise CheckpointError(f"{path}: {'not a file' if exists else 'no such file'}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def load_weights_file(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a ``.safetensors`` file or a ``.pt``/``.pth`` without pickled objects.

    A state dict under ``model_state_dict``, ``state_dict`` or ``model`` is found, and the prefix
    that DataParallel or torch.compile puts before every name is taken off.

    Raises:
        CheckpointError: The file is missing, damaged, unsafe, or holds no tensors by name.
    """
    if path.suffix == ".safetensors":
        import safetensors.torch

        _check_is_file(path)
        try:
            tensors = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path}: damaged, or not safetensors: {_first_line(error)}"
            ) from error
    else:
        tensors = _find_tensors(_load_safely(path))
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors by name (a state dict)")
    for prefix in _WRAPPER_PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            logger.info("%s: every name begins with '%s', which is left out", path, prefix)
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _find_tensors(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, at the top or under one of the usual keys."""
    if not isinstance(content, Mapping):
        return {}
    for key in _STATE_DICT_KEYS:
        if tensors := _find_tensors(content.get(key)):
            return tensors
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write aside, sync, rename: ``path`` is the old file or the whole new one, never half of it.

    Raises:
        CheckpointError: The disk is full or not writable; what stood at ``path`` is untouched.
        TypeError: ``content`` holds what `load_checkpoint` could not read again.
    """
    _check_plain(dict(content), "content")
    try:
        with replacing(path) as file:
            torch.save(dict(content), file)
    # torch's zip writer turns a full disk into a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: could not be written ({_first_line(error)}); earlier checkpoints are "
            "untouched: free disk space or set training.checkpoint_dir"
        ) from error


def _check_plain(value: Any, where: str) -> None:
    """Hold that ``weights_only=True`` reads ``value``: better now than after hours of training."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple, set):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    # By exact type: NumPy's float64 is a float to isinstance, and is pickled as NumPy's.
    elif not isinstance(value, Tensor) and type(value) not in _PLAIN_TYPES:
        raise TypeError(f"{where} is a {type(value).__name__}; checkpoints hold plain data")


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a training checkpoint of this project.

    Raises:
        CheckpointError: Missing, damaged, unsafe, not ours, or of another format.
    """
    path = Path(path)
    content = _load_safely(path)
    if not isinstance(content, dict) or any(key not in content for key in _REQUIRED):
        raise CheckpointError(
            f"{path}: not a checkpoint of this project: it lacks one of {', '.join(_REQUIRED)}"
        )
    version = content["format_version"]
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version!r:.20}, and this program reads {FORMAT_VERSION}; "
            "use the release that wrote it"
        )
    for key in ("model_state_dict", "config"):
        if not isinstance(content[key], dict):
            raise CheckpointError(
                f"{path}: damaged: '{key}' is a {type(content[key]).__name__}, not a dict"
            )
    for name, tensor in content["model_state_dict"].items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{path}: damaged: '{name}' of its model is a {type(tensor).__name__}, not a tensor"
            )
    return content


def epoch_checkpoint_name(epoch: int) -> str:
    """``checkpoint_epoch_{N}.pt``; ``epoch`` counts finished epochs, from 1."""
    return f"checkpoint_epoch_{epoch}.pt"


def step_checkpoint_name(epoch: int, batch: int) -> str:
    """``checkpoint_epoch_{N}_batch_{M}.pt``: a run stopped M batches after N finished epochs."""
    return f"checkpoint_epoch_{epoch}_batch_{batch}.pt"


def numbered_checkpoints(folder: Path) -> list[tuple[tuple[int, int], Path]]:
    """``((finished epochs, batches after them), path)`` of the numbered checkpoints, in order."""
    found = [
        ((int(match[1]), int(match[2] or 0)), file)
        for file in (folder.iterdir() if folder.is_dir() else ())
        if (match := _NUMBERED_NAME.fullmatch(file.name)) and file.is_file()
    ]
    return sorted(found)


def latest_checkpoint(folder: Path) -> Path:
    """The checkpoint that got furthest, by number (epoch 10 after 9).

    Raises:
        CheckpointError: There is none.
    """
    numbered = numbered_checkpoints(folder)
    if not numbered:
        raise CheckpointError(
            f"{folder}: no checkpoint_epoch_N.pt to resume from; leave --resume out to start anew"
        )
    return numbered[-1][1]


def remove_step_checkpoints(folder: Path, *, up_to_epoch: int) -> None:
    """Remove the checkpoints from inside epochs that are finished and saved since."""
    for (epoch, batch), file in numbered_checkpoints(folder):
        if batch and epoch < up_to_epoch:
            file.unlink(missing_ok=True)


def load_model_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], *, source: str, strict: bool = True
) -> LoadReport:
    """Load ``state_dict`` into ``model`` and say what became of each tensor.

    Args:
        model: Whose weights are replaced.
        state_dict: Tensors by name.
        source: For messages.
        strict: Refuse any difference. Otherwise names that only the file has are reported and left,
            but a tensor that the model would keep at its initial value is still refused.

    Raises:
        CheckpointError: See ``strict``.
    """
    fitting, report = match_tensors(model, state_dict, source=source)
    if report.missing or report.mismatched or (strict and not report.is_exact):
        raise CheckpointError(f"{report}; the checkpoint does not fit the model")
    model.load_state_dict(fitting, strict=True)
    return report
