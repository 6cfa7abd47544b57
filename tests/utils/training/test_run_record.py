"""What a run leaves behind, and that a resumed one goes on in it without a line twice or lost."""

from __future__ import annotations

import json
import math
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from utils.config import Config, load_config, parse_config
from utils.errors import TrainingError
from utils.training import run_record
from utils.training.environment import package_versions
from utils.training.run_record import (
    RunRecord,
    differing_keys,
    read_config,
    read_json_object,
    read_metrics,
)

CPU = torch.device("cpu")
DATA = {"train": {"hash": "ab12", "num_videos": 3, "num_events": 7}}


@pytest.fixture(autouse=True)
def no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked in the tests of the environment; here it would take most of the time."""
    revision = {"revision": "0" * 40, "is_dirty": False, "diff_hash": None}
    monkeypatch.setattr(run_record, "code_revision", lambda: revision)


def make_config(**training: Any) -> Config:
    return parse_config(
        {
            "model": {"labels": ["a", "ü"], "visual_encoder": {"type": "resnet18"}},
            "training": training,
        }
    )


def started(folder: Path, *, global_step: int = 0, **training: Any) -> RunRecord:
    record = RunRecord(folder)
    record.start(make_config(**training), device=CPU, data=DATA, global_step=global_step)
    return record


def add(record: RunRecord, epoch: int, **changes: Any) -> dict[str, Any]:
    """An epoch of ten updates."""
    values: dict[str, Any] = {
        "epoch": epoch,
        "global_step": 10 * epoch,
        "loss": 1 / epoch,
        "metrics": {"frame_ap": epoch / 100},
        "learning_rates": {"trigger_detector": 1e-3},
        "seconds": 2.0,
        "num_clips": 80,
        "num_frames": 600,
    }
    return record.add_epoch(**{**values, **changes})


def epochs(folder: Path) -> list[int]:
    return [row["epoch"] for row in read_metrics(folder / "metrics.jsonl")]


def run_json(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


class TestStart:
    def test_what_ran(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", "--set", "training.seed=3"])
        started(tmp_path / "logs" / "run-1")
        content = run_json(tmp_path / "logs" / "run-1")
        assert content["name"] == "run-1"
        assert content["data"] == DATA
        (session,) = content["sessions"]
        age = datetime.now().astimezone() - datetime.fromisoformat(session["started_at"])
        assert timedelta(seconds=-2) < age < timedelta(minutes=1)
        assert session["global_step"] == 0
        assert session["command"] == ["train.py", "--set", "training.seed=3"]
        assert session["packages"] == package_versions()
        assert session["device"].startswith("cpu (")
        assert session["num_processes"] == 1
        assert session["config_changes"] == {}
        assert session["git"] == {"revision": "0" * 40, "is_dirty": False, "diff_hash": None}
        assert "ended_at" not in session

    def test_the_config_can_be_trained_with_again(self, tmp_path: Path) -> None:
        config = make_config(learning_rate=1e-5, seed=7)
        record = RunRecord(tmp_path)
        record.start(config, device=CPU, data={}, global_step=0)
        assert load_config(tmp_path / "config.yaml").to_plain() == config.to_plain()
        assert read_config(tmp_path / "config.yaml") == config.to_plain()

    def test_a_command_that_is_no_text(self, tmp_path: Path) -> None:
        record = RunRecord(tmp_path)
        record.start(
            make_config(), device=CPU, data={}, global_step=0, command=["a\udcff\u2028", "ü"]
        )
        # Written as text that JSON reads back.
        assert run_json(tmp_path)["sessions"][0]["command"] == ["a\udcff\u2028", "ü"]
        record.end(exit_code=0)

    def test_the_end(self, tmp_path: Path) -> None:
        record = started(tmp_path)
        record.end(exit_code=130)
        (session,) = run_json(tmp_path)["sessions"]
        assert session["exit_code"] == 130
        assert session["ended_at"] >= session["started_at"]


class TestRows:
    def test_a_row(self, tmp_path: Path) -> None:
        record = started(tmp_path)
        row = add(
            record,
            1,
            loss=0.25,
            metrics={"frame_ap": 0.5, "frame_ap/ü\u2028": math.nan},
            validation_seconds=0.5,
            peak_memory_bytes=123,
        )
        expected = {
            "epoch": 1,
            "global_step": 10,
            "loss": 0.25,
            "metrics": {"frame_ap": 0.5, "frame_ap/ü\u2028": None},
            "learning_rates": {"trigger_detector": 1e-3},
            "seconds": 2.0,
            "validation_seconds": 0.5,
            "clips_per_second": 40.0,
            "frames_per_second": 300.0,
            "peak_memory_bytes": 123,
        }
        assert row == expected
        assert read_metrics(tmp_path / "metrics.jsonl") == [expected]
        assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 1

    def test_an_epoch_that_took_no_time(self, tmp_path: Path) -> None:
        """One that was resumed at its end."""
        row = add(started(tmp_path), 1, seconds=0.0, num_clips=0, num_frames=0)
        assert row["clips_per_second"] is None
        assert row["frames_per_second"] is None

    def test_each_line_is_there_at_once(self, tmp_path: Path) -> None:
        record = started(tmp_path)
        for epoch in (1, 2, 3):
            add(record, epoch)
            assert epochs(tmp_path) == list(range(1, epoch + 1))


class TestResumed:
    @settings(
        deadline=None,
        max_examples=20,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        killed_after=st.integers(0, 5), resumed_at=st.integers(0, 59), torn=st.binary(max_size=4)
    )
    def test_no_line_twice_and_none_lost(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        killed_after: int,
        resumed_at: int,
        torn: bytes,
    ) -> None:
        folder = tmp_path_factory.mktemp("run")
        step = min(resumed_at, 10 * killed_after)
        record = started(folder)
        for epoch in range(1, killed_after + 1):
            add(record, epoch)
        with open(folder / "metrics.jsonl", "ab") as file:
            file.write(torn.replace(b"\n", b""))
        record = started(folder, global_step=step)
        assert epochs(folder) == list(range(1, step // 10 + 1))
        for epoch in range(step // 10 + 1, 7):
            add(record, epoch)
        assert epochs(folder) == [1, 2, 3, 4, 5, 6]
        assert [session["global_step"] for session in run_json(folder)["sessions"]] == [0, step]

    def test_what_is_cut_off_is_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        record = started(tmp_path)
        for epoch in (1, 2, 3):
            add(record, epoch)
        assert not caplog.messages
        started(tmp_path, global_step=20)
        path = tmp_path / "metrics.jsonl"
        assert caplog.messages == [f"{path}: lines beyond update 20 are cut off: 2 stay"]

    def test_lines_that_stay_are_not_rewritten(self, tmp_path: Path) -> None:
        add(started(tmp_path), 1)
        path = tmp_path / "metrics.jsonl"
        before = path.stat().st_ino, path.read_bytes()
        started(tmp_path, global_step=10)
        assert (path.stat().st_ino, path.read_bytes()) == before

    def test_a_changed_config_is_told(self, tmp_path: Path) -> None:
        started(tmp_path, learning_rate=1e-3).end(exit_code=143)
        started(tmp_path, learning_rate=1e-4, global_step=5)
        first, second = run_json(tmp_path)["sessions"]
        assert first["exit_code"] == 143
        assert second["config_changes"] == {"training.learning_rate": [1e-3, 1e-4]}
        assert read_config(tmp_path / "config.yaml")["training"]["learning_rate"] == 1e-4

    def test_moved_to_a_new_folder(self, tmp_path: Path) -> None:
        record = started(tmp_path / "new", global_step=25)
        add(record, 3)
        assert epochs(tmp_path / "new") == [3]
        (session,) = run_json(tmp_path / "new")["sessions"]
        assert session["global_step"] == 25


class TestDamage:
    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"{\n", "line 2 is damaged: Expecting property name"),
            (b"[1]\n", "line 2 is damaged: it lacks one of epoch, global_step, loss"),
            (b'{"epoch": 2}\n', "line 2 is damaged: it lacks one of epoch, global_step, loss"),
        ],
    )
    def test_a_line_in_the_middle(self, tmp_path: Path, line: bytes, reason: str) -> None:
        record = started(tmp_path)
        add(record, 1)
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(path.read_bytes() + line)
        add(record, 3)
        with pytest.raises(TrainingError) as caught:
            started(tmp_path, global_step=30)
        assert str(caught.value).startswith(f"{path}: {reason}")
        assert str(caught.value).endswith("; remove that line")

    def test_a_line_that_a_kill_cut_off(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        record = started(tmp_path)
        add(record, 1)
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(path.read_bytes() + b'{"epoch": 2, "glo')
        assert epochs(tmp_path) == [1]
        assert caplog.messages == [f"{path}: the last line is cut off and is left out"]

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("run.json", b"{", "damaged: Expecting"),
            ("run.json", b"[]", "damaged: no object"),
            ("run.json", b"\xff", "damaged: 'utf-8' codec"),
            ("config.yaml", b"\xff", "damaged: unacceptable character"),
            ("config.yaml", b"a: [", "damaged: while parsing"),
            ("config.yaml", b"a", "damaged: no sections"),
        ],
    )
    def test_other_files(self, tmp_path: Path, name: str, content: bytes, reason: str) -> None:
        started(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TrainingError) as caught:
            started(tmp_path, global_step=3)
        assert str(caught.value).startswith(f"{tmp_path / name}: {reason}")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match=r"run\.json: cannot be read: No such file"):
            read_json_object(tmp_path / "run.json")

    def test_a_folder_that_takes_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "logs").write_text("a file")
        with pytest.raises(TrainingError) as caught:
            started(tmp_path / "logs" / "run")
        assert str(caught.value) == (
            f"{tmp_path / 'logs' / 'run' / 'config.yaml'}: cannot be written: Not a directory; the "
            "checkpoints so far are sound: free disk space, or set training.log_dir to another "
            "folder"
        )

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
    def test_a_full_disk(self, tmp_path: Path) -> None:
        record = started(tmp_path)
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(TrainingError, match=r"metrics\.jsonl: cannot be written: No space"):
            add(record, 1)


class TestDifferingKeys:
    def test_by_dotted_key(self) -> None:
        first = {"a": {"b": 1, "c": [1, 2], "d": {}}, "e": None, "f": 1}
        second = {"a": {"b": 1, "c": [1, 3], "d": {}}, "e": 2, "g": None}
        assert differing_keys([first, second]) == {
            "a.c": [[1, 2], [1, 3]],
            "e": [None, 2],
            "f": [1, None],
            "g": [None, None],
        }
        assert differing_keys([first, second], ignore_absent=True) == {
            "a.c": [[1, 2], [1, 3]],
            "e": [None, 2],
        }

    def test_of_three(self) -> None:
        assert differing_keys([{"a": 1}, {"a": 1}, {"a": 2}]) == {"a": [1, 1, 2]}
        assert differing_keys([{}, {"a": 1}, {"a": 1}], ignore_absent=True) == {}
        assert differing_keys([{"a": 1}] * 3) == {}

    def test_a_section_in_the_place_of_a_value(self) -> None:
        assert differing_keys([{"a": None}, {"a": {"b": 1}}]) == {
            "a": [None, None],
            "a.b": [None, 1],
        }
