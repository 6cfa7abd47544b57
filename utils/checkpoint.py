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
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.atomic_file import replacing
from utils.checkpoint_migration import migrate
from utils.errors import CheckpointError, DamagedCheckpointError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""Of what is written; `utils.checkpoint_migration` brings older ones up to it."""
_REQUIRED = ("model_state_dict", "config", "format_version")
_STATE_DICT_KEYS = ("model_state_dict", "state_dict", "model")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
_FOREIGN_OBJECT = re.compile("GLOBAL|Unsupported (global|class)")
"""How torch words that a pickle names code that it would have to run."""
_ZIP_START = b"PK\x03\x04"
_DOS_FOLDER = 0x10
"""Of a zip record's attributes."""
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

    @property
    def parts_not_loaded(self) -> list[tuple[str, tuple[int, int]]]:
        """Parts of the module, by the first name, of which a tensor did not load.

        Each with how many of its tensors did, and how many it has.
        """
        loaded = Counter(name.partition(".")[0] for name in self.loaded)
        lacking = Counter(name.partition(".")[0] for name in (*self.missing, *self.mismatched))
        return [(part, (loaded[part], loaded[part] + lacking[part])) for part in lacking]

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


def check_whole(path: Path) -> None:
    """Hold that every byte of a ``.pt`` file is as it was written; loads nothing.

    Raises:
        DamagedCheckpointError: It was cut off, bytes have changed, or it never was a zip as torch
            writes it.
        CheckpointError: It cannot be read.
    """
    _check_is_file(path)
    try:
        if path.stat().st_size == 0:
            raise DamagedCheckpointError(path, "the file is empty")
        _check_records(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _check_records(path: Path) -> None:
    """Compare the zip's checksums, which torch writes and then does not look at.

    Without this a flipped bit would be read as a weight like any other.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                # torch takes such a record for a folder, and gives out memory that nobody wrote.
                if record.external_attr & _DOS_FOLDER:
                    raise zipfile.BadZipFile(f"'{record.filename}' is marked as a folder")
            damaged = archive.testzip()
    except OSError:
        raise
    # Damaged bytes make it fail in many ways: struct.error, EOFError, UnicodeError...
    except Exception as error:
        raise DamagedCheckpointError(
            path,
            f"not a checkpoint, or damaged (cut off?): {type(error).__name__} {_first_line(error)}",
        ) from error
    if damaged is not None:
        raise DamagedCheckpointError(
            path, f"damaged: the checksum of its record '{damaged}' does not fit"
        )


def _load_safely(path: Path) -> Any:
    """``torch.load`` on the CPU without pickle, with one clear error for each way to fail."""
    _check_is_file(path)
    try:
        if path.stat().st_size == 0:
            raise DamagedCheckpointError(path, "the file is empty")
        with path.open("rb") as file:
            # Other files may be of torch before 1.6, which knew no checksums.
            is_zip = file.read(len(_ZIP_START)) == _ZIP_START
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if is_zip:
        check_whole(path)
    try:
        with warnings.catch_warnings():
            # Of foreign pickles, which are refused with a message of ours.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
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
            raise DamagedCheckpointError(
                path,
                f"not a checkpoint, or damaged (cut off?): {type(error).__name__} "
                f"{reason.partition(chr(10))[0][:200]}",
            ) from error
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
            f"{path}: could not be written ({_first_line(_system_error_behind(error))}); earlier "
            "checkpoints are untouched: free disk space or set training.checkpoint_dir"
        ) from error


def _system_error_behind(error: BaseException) -> BaseException:
    """What the system said before torch said that it had expected another position in the file."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return error if cause is None else cause


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
        raise CheckpointError(f"{path}: not a checkpoint of this project: {_what_else(content)}")
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
    version = content["format_version"]
    content = migrate(content, to=FORMAT_VERSION, source=str(path))
    if version != FORMAT_VERSION:
        logger.info("%s: of format version %d, read as %d", path, version, FORMAT_VERSION)
    return content


def _what_else(content: Any) -> str:
    """What a file holds that is no checkpoint of ours, and what to do with it."""
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}"
    missing = [key for key in _REQUIRED if key not in content]
    if "pytorch-lightning_version" in content:
        what = "it is one of PyTorch Lightning"
    elif len(missing) == len(_REQUIRED) and (tensors := _find_tensors(content)):
        what = f"it holds weights alone ({len(tensors)} tensors)"
    else:
        return f"it lacks {', '.join(missing)}"
    return f"{what}; where its weights fit the encoder, set model.visual_encoder.weights to it"


def load_model_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], *, source: str, strict: bool = True
) -> LoadReport:
    """Load ``state_dict`` into ``model`` and say what became of each tensor.

    Args:
        model: Whose weights are replaced.
        state_dict: Tensors by name.
        source: For messages.
        strict: Refuse any difference. Otherwise names that only the file has are reported and left,
            but a part of the model, encoder or head, of which a tensor would keep its initial value
            is still refused: it would score at random.

    Raises:
        CheckpointError: See ``strict``; the message counts the tensors and names the parts.
    """
    fitting, report = match_tensors(model, state_dict, source=source)
    if parts := report.parts_not_loaded:
        counts = ", ".join(f"{name} ({got} of {total} tensors)" for name, (got, total) in parts)
        raise CheckpointError(
            f"{report}; the checkpoint does not fit the model: not loaded are {counts}"
        )
    if strict and not report.is_exact:
        raise CheckpointError(
            f"{report}; the checkpoint does not fit the model; --no-strict-loading leaves out what "
            "the model has no use for"
        )
    model.load_state_dict(fitting, strict=True)
    return report
