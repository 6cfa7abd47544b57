"""What differs between runs, in what they were told and in what came out.

A run is the folder that `utils.training.run_record` left, or a checkpoint, which knows less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import UsageError
from utils.registry import suggestion
from utils.training.run_record import (
    CONFIG_NAME,
    METRICS_NAME,
    RUN_NAME,
    differing_keys,
    read_config,
    read_json_object,
    read_metrics,
)

_MAX_LISTED = 10
_MAX_CELL = 44
"""Letters of a value in a table; the JSON has all of it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is known of one run.

    Attributes:
        source: The folder or file.
        config: Resolved, as plain data.
        code: ``revision``, ``is_dirty`` and ``diff_hash``; empty where it is not known.
        versions: Of packages, by name.
        data: By split; empty where it is not known.
        machine: ``device``, ``platform`` and ``num_processes``; empty where it is not known.
        state: How it ended.
        global_step: Updates done.
        epochs: Finished ones.
        rows: Lines of ``metrics.jsonl``; a checkpoint has none.
        best: Highest value of a metric by name, of a checkpoint, which knows only one.
        last: Metrics of the last validation, and ``loss``.
    """

    source: Path
    config: Mapping[str, Any]
    code: Mapping[str, Any]
    versions: Mapping[str, Any]
    data: Mapping[str, Any]
    machine: Mapping[str, Any]
    state: str
    global_step: int
    epochs: int
    rows: Sequence[Mapping[str, Any]] = ()
    best: Mapping[str, float] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)


def read_run(path: Path) -> Run:
    """The run behind a folder in ``training.log_dir``, or behind a checkpoint.

    Raises:
        UsageError: It is no run.
        TrainingError: A file of the run is damaged.
        CheckpointError: The checkpoint cannot be read.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such run{suggestion(path.name, _runs_in(path.parent))}")
    if not path.is_dir():
        return _read_checkpoint(path)
    if not (path / RUN_NAME).is_file():
        runs = _runs_in(path)
        if not runs:
            raise UsageError(
                f"{path}: no run: it has no {RUN_NAME}; runs are the folders in training.log_dir"
            )
        more = ", ..." if len(runs) > _MAX_LISTED else ""
        raise UsageError(
            f"{path}: no run, but a folder of {len(runs)}: {', '.join(runs[:_MAX_LISTED])}{more}; "
            f"name them, such as {path / runs[0]}"
        )
    return _read_folder(path)


def _runs_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(file.parent.name for file in folder.glob(f"*/{RUN_NAME}"))


def _read_folder(path: Path) -> Run:
    content = read_json_object(path / RUN_NAME)
    rows = read_metrics(path / METRICS_NAME) if (path / METRICS_NAME).exists() else []
    try:
        session = content["sessions"][-1]
        return Run(
            source=path,
            config=read_config(path / CONFIG_NAME),
            code=session["git"] or {},
            versions=session["packages"],
            data=content["data"],
            machine={key: session[key] for key in ("device", "platform", "num_processes")},
            state=_state(content["sessions"]),
            global_step=rows[-1]["global_step"] if rows else session["global_step"],
            epochs=rows[-1]["epoch"] if rows else 0,
            rows=rows,
        )
    except (KeyError, IndexError, TypeError) as error:
        raise UsageError(
            f"{path}: no run: its {RUN_NAME} is not one of this program ({error!r})"
        ) from error


def _state(sessions: Sequence[Mapping[str, Any]]) -> str:
    exit_code = sessions[-1].get("exit_code")
    ended = {None: "killed or running", 0: "done"}.get(exit_code, f"stopped ({exit_code})")
    if len(sessions) == 1:
        return ended
    has_changed = any(session["config_changes"] for session in sessions)
    return f"{ended}, {len(sessions)} sessions" + (", config changed" if has_changed else "")


def _read_checkpoint(path: Path) -> Run:
    # Here, since torch is not needed for folders.
    from utils.checkpoint import load_checkpoint

    content = load_checkpoint(path)
    metadata = content.get("metadata", {})
    best = metadata.get("best_metric")
    versions = {name: metadata[name] for name in ("python", "torch") if name in metadata}
    processes = {"num_processes": metadata["world_size"]} if "world_size" in metadata else {}
    return Run(
        source=path,
        config=content["config"],
        code={},
        versions=versions,
        data=metadata.get("data", {}),
        machine=processes,
        state="a checkpoint",
        global_step=content.get("global_step", 0),
        epochs=content.get("epoch", 0),
        best={} if best is None else {metadata.get("best_metric_name", "frame_ap"): best},
        last={"loss": content.get("loss", math.nan), **metadata.get("metrics", {})},
    )


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """What differs and what came out, as plain data; lists have one item for each run.

    Returns:
        ``runs`` (``name`` and ``source``), ``differences`` (by subject and dotted key the values)
        and ``results``: ``state``, ``epochs``, ``global_step``, ``seconds`` (training and
        validation), ``clips_per_second``, ``peak_memory_bytes``, and ``metrics``: by name ``best``,
        ``best_epoch`` and ``last``, of which the loss is best where it is lowest. What is not known
        is None, and differs from nothing.
    """
    differences = {
        "config": differing_keys([run.config for run in runs]),
        **{
            subject: differing_keys([getattr(run, subject) for run in runs], ignore_absent=True)
            for subject in ("code", "versions", "data", "machine")
        },
    }
    names = list(dict.fromkeys(name for run in runs for name in _metric_names(run)))
    return {
        "runs": [
            {"name": name, "source": str(run.source)}
            for name, run in zip(run_names(runs), runs, strict=True)
        ],
        "differences": differences,
        "results": {
            "state": [run.state for run in runs],
            "epochs": [run.epochs for run in runs],
            "global_step": [run.global_step for run in runs],
            "seconds": [_seconds(run) for run in runs],
            "clips_per_second": [_clips_per_second(run) for run in runs],
            "peak_memory_bytes": [_peak_memory(run) for run in runs],
            "metrics": {name: _metric(runs, name) for name in names},
        },
    }


def run_names(runs: Sequence[Run]) -> list[str]:
    """What to call the runs, numbered from 1: by the last part of the path where that is enough."""
    short = [run.source.name for run in runs]
    names = short if len(set(short)) == len(runs) else [str(run.source) for run in runs]
    return [f"{number}: {name}" for number, name in enumerate(names, start=1)]


def curve(run: Run, metric: str) -> list[tuple[int, int, float]]:
    """``(global_step, epoch, value)`` of ``metric``, or of ``loss``, wherever it is defined."""
    found = (
        (row, row["loss"] if metric == "loss" else row["metrics"].get(metric)) for row in run.rows
    )
    return [(row["global_step"], row["epoch"], value) for row, value in found if value is not None]


def _metric_names(run: Run) -> Iterator[str]:
    yield "loss"
    for row in run.rows:
        yield from row["metrics"]
    yield from run.best
    yield from run.last


def _metric(runs: Sequence[Run], name: str) -> dict[str, list[float | int | None]]:
    best = [_best(run, name) for run in runs]
    return {
        "best": [value for value, _ in best],
        "best_epoch": [epoch for _, epoch in best],
        "last": [_last(run, name) for run in runs],
    }


def _best(run: Run, name: str) -> tuple[float | None, int | None]:
    """Value and epoch; the earliest of equal ones, which is the one whose weights were kept."""
    points = curve(run, name)
    if not points:
        return run.best.get(name), None
    choose = min if name == "loss" else max
    _, epoch, value = choose(points, key=lambda point: point[2])
    return value, epoch


def _last(run: Run, name: str) -> float | None:
    points = curve(run, name)
    value: float | None = points[-1][2] if points else run.last.get(name)
    return None if value is None or math.isnan(value) else value


def _seconds(run: Run) -> float | None:
    if not run.rows:
        return None
    total: float = sum(row["seconds"] + (row["validation_seconds"] or 0) for row in run.rows)
    return total


def _clips_per_second(run: Run) -> float | None:
    """Over all epochs, each by the time that it took."""
    timed = [row for row in run.rows if row.get("clips_per_second") is not None]
    if not timed:
        return None
    clips = sum(row["clips_per_second"] * row["seconds"] for row in timed)
    rate: float = clips / sum(row["seconds"] for row in timed)
    return rate


def _peak_memory(run: Run) -> int | None:
    known = [row.get("peak_memory_bytes") for row in run.rows]
    most: int | None = max((value for value in known if value is not None), default=None)
    return most


def table_lines(comparison: Mapping[str, Any]) -> Iterator[str]:
    """What `compare` found, for a terminal.

    Args:
        comparison: Of `compare`.
    """
    rows: list[tuple[str, list[str]]] = [
        ("", [run["name"] for run in comparison["runs"]]),
        ("source", [run["source"] for run in comparison["runs"]]),
    ]
    for subject, keys in comparison["differences"].items():
        rows.append((f"{subject}: {'' if keys else 'no difference'}".rstrip(), []))
        rows += [(f"  {key}", [_cell(value) for value in values]) for key, values in keys.items()]
    rows.append(("results:", []))
    rows += list(_result_rows(comparison["results"]))
    first = max(len(label) for label, cells in rows if cells)
    count = len(comparison["runs"])
    widths = [max(len(cells[i]) for _, cells in rows if cells) for i in range(count)]
    for label, cells in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
        yield "  ".join([label.ljust(first) if cells else label, *padded]).rstrip()


def _result_rows(results: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    yield "  state", list(results["state"])
    yield "  epochs", [str(value) for value in results["epochs"]]
    yield "  updates", [str(value) for value in results["global_step"]]
    yield "  seconds", [_number(value, ".1f") for value in results["seconds"]]
    yield "  clips a second", [_number(value, ".1f") for value in results["clips_per_second"]]
    yield (
        "  peak memory, MiB",
        [_number(value and value / 2**20, ".0f") for value in results["peak_memory_bytes"]],
    )
    for name, found in results["metrics"].items():
        yield (
            f"  {name}, {'lowest' if name == 'loss' else 'best'}",
            [
                _number(value, ".4f") + ("" if epoch is None else f" (epoch {epoch})")
                for value, epoch in zip(found["best"], found["best_epoch"], strict=True)
            ],
        )
        yield f"  {name}, last", [_number(value, ".4f") for value in found["last"]]


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _cell(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 3]}..."
