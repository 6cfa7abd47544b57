"""`RunRecord`: what a run leaves behind, in a folder of its own under ``training.log_dir``.

``config.yaml`` is the resolved config, ``run.json`` says what ran where and when, and
``metrics.jsonl`` has one line for each epoch. `scripts/compare_runs.py` reads them.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from utils.atomic_file import replacing
from utils.config import Config
from utils.errors import TrainingError
from utils.evaluation.metrics import none_if_nan
from utils.training.environment import code_revision, device_name, package_versions

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
RUN_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"
_ROW_KEYS = ("epoch", "global_step", "loss", "metrics", "seconds", "validation_seconds")


class RunRecord:
    """The folder of one run, which may be stopped and resumed: every start is a *session* of it.

    ``run.json`` holds ``name``, ``data`` and ``sessions``: a list of objects with ``started_at``
    (UTC), ``global_step`` (0, or that of the checkpoint it goes on from), ``command``, ``git``,
    ``packages``, ``platform``, ``device``, ``num_processes``, ``config_changes`` (by key, the value
    before and the one since), and, once it has ended, ``ended_at`` and ``exit_code``. A session
    without them was killed.

    With several processes only the first keeps a record.

    Args:
        folder: ``log_dir/RUN_NAME``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._content: dict[str, Any] = {}

    def start(
        self,
        config: Config,
        *,
        device: torch.device,
        data: Mapping[str, Any],
        global_step: int,
        num_processes: int = 1,
        command: Sequence[str] | None = None,
    ) -> None:
        """Begin a session, at the start of a run or where it goes on from a checkpoint.

        Lines of ``metrics.jsonl`` beyond ``global_step`` are cut off: those updates come again.

        Args:
            config: Resolved.
            device: That the run trains on.
            data: Plain data by split, such as the hash and the size of the annotations.
            global_step: Updates done so far.
            num_processes: That train together.
            command: By default that of this process.

        Raises:
            TrainingError: The folder cannot be written, or what is there cannot be read.
        """
        earlier = read_json_object(self.folder / RUN_NAME) if self._has(RUN_NAME) else {}
        plain = config.to_plain()
        changes: dict[str, list[Any]] = {}
        if self._has(CONFIG_NAME):
            changes = differing_keys([read_config(self.folder / CONFIG_NAME), plain])
        self._content = {
            "name": self.folder.name,
            "data": dict(data),
            "sessions": [
                *earlier.get("sessions", ()),
                {
                    "started_at": _now(),
                    "global_step": global_step,
                    "command": list(sys.argv if command is None else command),
                    "git": code_revision(),
                    "packages": package_versions(),
                    "platform": platform.platform(),
                    "device": device_name(device),
                    "num_processes": num_processes,
                    "config_changes": changes,
                },
            ],
        }
        self._cut_off(global_step)
        with as_training_error(self.folder / CONFIG_NAME) as path, replacing(path) as file:
            file.write(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())
        self._write()

    def add_epoch(
        self,
        *,
        epoch: int,
        global_step: int,
        loss: float,
        metrics: Mapping[str, float],
        learning_rates: Mapping[str, float],
        seconds: float,
        num_clips: int,
        num_frames: int,
        validation_seconds: float | None = None,
        peak_memory_bytes: int | None = None,
    ) -> dict[str, Any]:
        """Append one line to ``metrics.jsonl``.

        Call it before the checkpoint of the same step is saved: then a run that is killed in
        between writes the line again, and none is ever missing.

        Args:
            epoch: Finished ones, from 1.
            global_step: Updates so far.
            loss: Mean training loss of the epoch.
            metrics: Of the validation after it; empty where there was none.
            learning_rates: By component, of the last update.
            seconds: That training took in this session, without validation.
            num_clips: That were trained on in these seconds.
            num_frames: Of these clips, without padding.
            validation_seconds: None where there was no validation.
            peak_memory_bytes: See `utils.training.environment.peak_memory_bytes`.

        Returns:
            The line, with ``clips_per_second`` and ``frames_per_second``; what is NaN is None.

        Raises:
            TrainingError: It cannot be written.
        """
        row = {
            "epoch": epoch,
            "global_step": global_step,
            "loss": none_if_nan(loss),
            "metrics": {name: none_if_nan(value) for name, value in metrics.items()},
            "learning_rates": dict(learning_rates),
            "seconds": seconds,
            "validation_seconds": validation_seconds,
            "clips_per_second": num_clips / seconds if seconds > 0 else None,
            "frames_per_second": num_frames / seconds if seconds > 0 else None,
            "peak_memory_bytes": peak_memory_bytes,
        }
        with as_training_error(self.folder / METRICS_NAME) as path, open(path, "ab") as file:
            file.write(_json_bytes(row))
            file.flush()
            os.fsync(file.fileno())
        return row

    def end(self, *, exit_code: int) -> None:
        """Note that the session has ended: with 0, or as a command that a signal ended.

        Raises:
            TrainingError: It cannot be written.
        """
        self._content["sessions"][-1].update(ended_at=_now(), exit_code=exit_code)
        self._write()

    def _has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def _cut_off(self, global_step: int) -> None:
        path = self.folder / METRICS_NAME
        if not path.exists():
            return
        before = path.read_bytes()
        kept = [row for row in read_metrics(path) if row["global_step"] <= global_step]
        after = b"".join(_json_bytes(row) for row in kept)
        if after == before:
            return
        with as_training_error(path), replacing(path) as file:
            file.write(after)
        logger.info("%s: lines beyond update %d are cut off: %d stay", path, global_step, len(kept))

    def _write(self) -> None:
        with as_training_error(self.folder / RUN_NAME) as path, replacing(path) as file:
            file.write(_json_bytes(self._content, indent=2))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last one that a killed run left unfinished is left out.

    Raises:
        TrainingError: It cannot be read, or another line is damaged.
    """
    rows: list[dict[str, Any]] = []
    # As bytes: a line that was cut off may end inside of a letter.
    *lines, rest = _read(path).split(b"\n")
    if rest:
        logger.warning("%s: the last line is cut off and is left out", path)
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode())
        except ValueError as error:
            raise TrainingError(
                f"{path}: line {number} is damaged: {error}; remove that line"
            ) from error
        if not isinstance(row, dict) or not row.keys() >= set(_ROW_KEYS):
            raise TrainingError(
                f"{path}: line {number} is damaged: it lacks one of {', '.join(_ROW_KEYS)}; remove "
                "that line"
            )
        rows.append(row)
    return rows


def read_json_object(path: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        TrainingError: It cannot be read, or holds no object.
    """
    try:
        content = json.loads(_read(path).decode())
    except ValueError as error:
        raise TrainingError(f"{path}: damaged: {error}; remove the file") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{path}: damaged: no object; remove the file")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run as plain data, without the defaults of keys that are newer than it.

    Raises:
        TrainingError: It cannot be read, or holds no sections.
    """
    try:
        content = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise TrainingError(f"{path}: damaged: {error}; remove the file") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{path}: damaged: no sections; remove the file")
    return content


def differing_keys(
    plains: Sequence[Mapping[str, Any]], *, ignore_absent: bool = False
) -> dict[str, list[Any]]:
    """Dotted keys whose values are not the same in all of ``plains``, with one value for each.

    Args:
        plains: Nested plain containers.
        ignore_absent: Whether a key that one of them lacks says nothing about it; otherwise that is
            a difference.

    Returns:
        In the order of the keys; a value that is not there is None.
    """
    flat = [dict(_flat(plain)) for plain in plains]
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for one in flat for key in one):
        there = [one[key] for one in flat if key in one]
        is_absent = len(there) < len(flat) and not ignore_absent
        if is_absent or any(value != there[0] for value in there):
            found[key] = [one.get(key) for one in flat]
    return found


def _flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _json_bytes(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    # Of the odd bytes of a command line this makes what JSON reads back.
    return text.encode(errors="backslashreplace")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextmanager
def as_training_error(path: Path) -> Iterator[Path]:
    """The folder of ``path`` is there, and what the system says is said in our words.

    Args:
        path: Of a file below ``training.log_dir`` that is written inside.

    Raises:
        TrainingError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written: {error.strerror or error}; the checkpoints so far are "
            "sound: free disk space, or set training.log_dir to another folder"
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
