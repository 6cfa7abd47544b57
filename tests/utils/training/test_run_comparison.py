"""Comparison of runs: what differs, what came out, and folders that are no run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.checkpoint import save_checkpoint
from utils.config import Config, parse_config
from utils.errors import CheckpointError, TrainingError, UsageError
from utils.training import run_record
from utils.training.run_comparison import Run, compare, curve, read_run, run_names, table_lines
from utils.training.run_record import RunRecord

DATA = {"train": {"hash": "ab12", "num_videos": 3}}


@pytest.fixture(autouse=True)
def clean_code(monkeypatch: pytest.MonkeyPatch) -> None:
    use_revision(monkeypatch, "0" * 40)


def use_revision(monkeypatch: pytest.MonkeyPatch, revision: str) -> None:
    code = {"revision": revision, "is_dirty": False, "diff_hash": None}
    monkeypatch.setattr(run_record, "code_revision", lambda: code)


def make_config(**training: Any) -> Config:
    return parse_config(
        {
            "model": {"labels": ["a", "b"], "visual_encoder": {"type": "resnet18"}},
            "training": training,
        }
    )


def write_run(
    folder: Path,
    *,
    ap: tuple[float | None, ...] = (0.2, 0.6, 0.5),
    data: dict[str, Any] = DATA,
    exit_code: int | None = 0,
    **training: Any,
) -> Path:
    """A run of an epoch of ten updates for each of ``ap``, not validated where that is None."""
    record = RunRecord(folder)
    config = make_config(**training)
    record.start(config, device=torch.device("cpu"), data=data, global_step=0)
    for epoch, value in enumerate(ap, start=1):
        record.add_epoch(
            epoch=epoch,
            global_step=10 * epoch,
            loss=1 / epoch,
            metrics={} if value is None else {"frame_ap": value, "frame_ap/b": math.nan},
            learning_rates={"trigger_detector": 1e-3},
            seconds=2.0 * epoch,
            num_clips=60,
            num_frames=600,
            validation_seconds=None if value is None else 1.0,
            peak_memory_bytes=epoch << 20,
        )
    if exit_code is not None:
        record.end(exit_code=exit_code)
    return folder


def write_checkpoint(path: Path, version: int = 1, **metadata: Any) -> Path:
    content = {
        "format_version": version,
        "model_state_dict": {"weight": torch.zeros(2)},
        "config": make_config().to_plain(),
        "epoch": 2,
        "global_step": 20,
        "loss": 0.4,
        "metadata": {
            "python": "3.11.7",
            "torch": "2.7.0",
            "best_metric": 0.7,
            "metrics": {"frame_ap": 0.6, "frame_ap/b": math.nan},
            **metadata,
        },
    }
    save_checkpoint(content, path)
    return path


class TestCompare:
    def test_what_differs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = write_run(tmp_path / "one", learning_rate=1e-3, early_stopping_patience=None)
        use_revision(monkeypatch, "1" * 40)
        monkeypatch.setattr(
            run_record, "package_versions", lambda: {"python": "3.11.7", "torch": "9.9"}
        )
        second = write_run(
            tmp_path / "two",
            learning_rate=1e-4,
            early_stopping_patience=3,
            data={"train": {"hash": "cd34", "num_videos": 3}, "val": {"hash": "ef"}},
        )
        runs = [read_run(first), read_run(second)]
        differences = compare(runs)["differences"]
        assert differences["config"] == {
            "training.learning_rate": [1e-3, 1e-4],
            "training.early_stopping_patience": [None, 3],
        }
        assert differences["code"] == {"revision": ["0" * 40, "1" * 40]}
        # A package of which one run does not say the version differs from nothing.
        assert set(differences["versions"]) <= {"torch", "python"}
        assert differences["versions"]["torch"][1] == "9.9"
        assert differences["data"] == {"train.hash": ["ab12", "cd34"]}
        assert differences["machine"] == {}

    def test_a_run_with_itself(self, tmp_path: Path) -> None:
        run = read_run(write_run(tmp_path / "one"))
        differences = compare([run, run])["differences"]
        assert differences == {
            subject: {} for subject in ("config", "code", "versions", "data", "machine")
        }

    def test_what_came_out(self, tmp_path: Path) -> None:
        runs = [
            read_run(write_run(tmp_path / "one")),
            read_run(write_run(tmp_path / "two", ap=(None, 0.9, None, 0.9), exit_code=None)),
            read_run(write_run(tmp_path / "three", ap=(), exit_code=130)),
        ]
        results = compare(runs)["results"]
        assert results == {
            "state": ["done", "killed or running", "stopped (130)"],
            "epochs": [3, 4, 0],
            "global_step": [30, 40, 0],
            "seconds": [2 + 4 + 6 + 3, 2 + 4 + 6 + 8 + 2, None],
            "clips_per_second": [180 / 12, 240 / 20, None],
            "peak_memory_bytes": [3 << 20, 4 << 20, None],
            "metrics": {
                "loss": {
                    "best": [pytest.approx(1 / 3), 0.25, None],
                    "best_epoch": [3, 4, None],
                    "last": [pytest.approx(1 / 3), 0.25, None],
                },
                "frame_ap": {
                    # Of equal ones the first: its weights are those of the best checkpoint.
                    "best": [0.6, 0.9, None],
                    "best_epoch": [2, 2, None],
                    "last": [0.5, 0.9, None],
                },
                "frame_ap/b": {
                    "best": [None, None, None],
                    "best_epoch": [None, None, None],
                    "last": [None, None, None],
                },
            },
        }

    def test_it_is_plain_data(self, tmp_path: Path) -> None:
        runs = [
            read_run(write_run(tmp_path / "one")),
            read_run(write_checkpoint(tmp_path / "best.pt")),
        ]
        comparison = compare(runs)
        assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison

    def test_a_checkpoint_beside_a_folder(self, tmp_path: Path) -> None:
        runs = [
            read_run(write_run(tmp_path / "one")),
            read_run(write_checkpoint(tmp_path / "best.pt")),
        ]
        comparison = compare(runs)
        results = comparison["results"]
        assert comparison["differences"]["config"] == {}
        assert comparison["differences"]["data"] == {}
        assert set(comparison["differences"]["versions"]) >= {"torch"}
        assert results["state"] == ["done", "a checkpoint"]
        assert results["epochs"] == [3, 2]
        assert results["seconds"] == [15, None]
        metrics = results["metrics"]
        assert metrics["frame_ap"] == {
            "best": [0.6, 0.7],
            "best_epoch": [2, None],
            "last": [0.5, 0.6],
        }
        assert metrics["loss"]["last"] == [pytest.approx(1 / 3), 0.4]
        assert metrics["frame_ap/b"]["last"] == [None, None]

    def test_a_run_in_several_sessions(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "one", exit_code=143)
        record = RunRecord(folder)
        for _ in range(2):
            record.start(make_config(), device=torch.device("cpu"), data=DATA, global_step=30)
        assert read_run(folder).state == "killed or running, 3 sessions"
        changed = make_config(learning_rate=0.5)
        record.start(changed, device=torch.device("cpu"), data=DATA, global_step=30)
        record.end(exit_code=0)
        assert read_run(folder).state == "done, 4 sessions, config changed"


class TestTable:
    def lines(self, *runs: Run) -> list[str]:
        return list(table_lines(compare(runs)))

    def test_columns_stand_under_each_other(self, tmp_path: Path) -> None:
        lines = self.lines(
            read_run(write_run(tmp_path / "one", learning_rate=1e-3)),
            read_run(write_run(tmp_path / "a_longer_name", learning_rate=1e-4, ap=(0.5,))),
        )
        assert lines[0].split() == ["1:", "one", "2:", "a_longer_name"]
        first, second = lines[0].index("1: one"), lines[0].index("2: a_longer_name")
        cells = {
            line[:first].strip(): (line[first:second].strip(), line[second:]) for line in lines
        }
        assert cells["training.learning_rate"] == ("0.001", "0.0001")
        assert cells["state"] == ("done", "done")
        assert cells["updates"] == ("30", "10")
        assert cells["seconds"] == ("15.0", "3.0")
        assert cells["clips a second"] == ("15.0", "30.0")
        assert cells["peak memory, MiB"] == ("3", "1")
        assert cells["loss, lowest"] == ("0.3333 (epoch 3)", "1.0000 (epoch 1)")
        assert cells["frame_ap, best"] == ("0.6000 (epoch 2)", "0.5000 (epoch 1)")
        assert cells["frame_ap, last"] == ("0.5000", "0.5000")
        assert cells["frame_ap/b, best"] == ("-", "-")
        assert "code: no difference" in lines
        assert "config:" in lines

    def test_long_values_are_cut(self, tmp_path: Path) -> None:
        lines = self.lines(
            read_run(write_run(tmp_path / "one", checkpoint_dir="x" * 200)),
            read_run(write_run(tmp_path / "two", checkpoint_dir="y")),
        )
        (line,) = (line for line in lines if "checkpoint_dir" in line)
        assert f"{'x' * 41}..." in line
        assert "x" * 42 not in line


class TestNames:
    def test_short_where_that_is_enough(self, tmp_path: Path) -> None:
        one, two = (read_run(write_run(tmp_path / name)) for name in ("a", "b"))
        assert run_names([one, two]) == ["1: a", "2: b"]

    def test_whole_where_they_would_be_the_same(self, tmp_path: Path) -> None:
        runs = [read_run(write_run(tmp_path / host / "run")) for host in ("here", "there")]
        assert run_names(runs) == [
            f"{number}: {tmp_path / host / 'run'}"
            for number, host in enumerate(("here", "there"), start=1)
        ]


def test_a_curve_leaves_out_what_is_not_defined(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "one", ap=(None, 0.4, None, 0.5)))
    assert curve(run, "frame_ap") == [(20, 2, 0.4), (40, 4, 0.5)]
    assert [step for step, _, _ in curve(run, "loss")] == [10, 20, 30, 40]
    assert curve(run, "frame_ap/b") == []
    assert curve(run, "no such") == []


class TestNoRun:
    def test_no_such_folder(self, tmp_path: Path) -> None:
        write_run(tmp_path / "20250101-120000")
        with pytest.raises(UsageError) as caught:
            read_run(tmp_path / "20250101-12000")
        assert str(caught.value) == (
            f"{tmp_path / '20250101-12000'}: no such run (did you mean '20250101-120000'?)"
        )

    def test_a_folder_of_runs(self, tmp_path: Path) -> None:
        for name in ("b", "a"):
            write_run(tmp_path / name)
        with pytest.raises(UsageError) as caught:
            read_run(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path}: no run, but a folder of 2: a, b; name them, such as {tmp_path / 'a'}"
        )

    def test_any_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError) as caught:
            read_run(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path}: no run: it has no run.json; runs are the folders in training.log_dir"
        )

    def test_a_run_json_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text('{"sessions": []}')
        with pytest.raises(UsageError, match=r"its run\.json is not one of this program"):
            read_run(tmp_path)

    def test_a_file_that_is_no_checkpoint(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_text("{}")
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            read_run(path)

    def test_a_damaged_run(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "one")
        (folder / "metrics.jsonl").write_text("x\n")
        with pytest.raises(TrainingError, match="line 1 is damaged"):
            read_run(folder)
