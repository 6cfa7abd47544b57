"""The command, on runs that were trained: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.compare_runs import command
from utils.config import parse_config
from utils.training.run_record import RunRecord

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compare_runs.py"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    for name, rate in (("one", 1e-3), ("two", 1e-4)):
        config = parse_config(
            {
                "model": {"labels": ["a"], "visual_encoder": {"type": "resnet18"}},
                "training": {"learning_rate": rate},
            }
        )
        record = RunRecord(folder / name)
        record.start(config, device=torch.device("cpu"), data={}, global_step=0)
        for epoch in (1, 2):
            record.add_epoch(
                epoch=epoch,
                global_step=5 * epoch,
                loss=0.5 / epoch,
                metrics={"frame_ap": 100 * rate * epoch},
                learning_rates={"trigger_detector": rate},
                seconds=1.5,
                num_clips=6,
                num_frames=60,
            )
        record.end(exit_code=0)
    return folder


def test_as_a_person_runs_it(logs: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(logs / "one"), str(logs / "two"),
         "--output", "new/comparison.json", "--plot", "new/curves.png"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["1:", "one", "2:", "two"]
    assert ["training.learning_rate", "0.001", "0.0001"] in [line.split() for line in lines]
    assert lines[-2:] == ["comparison: new/comparison.json", "curves: new/curves.png"]
    comparison = json.loads((tmp_path / "new" / "comparison.json").read_text(encoding="utf-8"))
    assert comparison["runs"][0] == {"name": "1: one", "source": str(logs / "one")}
    assert comparison["results"]["metrics"]["frame_ap"]["best"] == [0.2, 0.02]
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_alone(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command([str(logs / "two"), str(logs / "one"), str(logs / "two")]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["1:", str(logs / "two"), "2:", str(logs / "one"),
                                           "3:", str(logs / "two")]  # fmt: skip
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one"], "error: only one run, {logs}/one; name another one to compare it with"),
        (["one", "twoo"], "error: {logs}/twoo: no such run (did you mean 'two'?)"),
        (["one", ""], "error: {logs}: no run, but a folder of 2: one, two; name them, such as "),
        (["one", "two", "--plot", "c.jpg"], "error: --plot c.jpg: the picture is a PNG; let its "),
        (
            ["one", "two", "--output", "{logs}/two/run.json"],
            "error: {logs}/two/run.json: is one of the inputs, which stay as they are; choose",
        ),
        (["one", "two", "--output", "{logs}"], "error: {logs}: cannot be written: it is a folder"),
    ],
)
def test_refusals(
    logs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = (logs / "two" / "run.json").read_bytes()
    runs = [str(logs / name) for name in arguments if not name.startswith("-")][:2]
    rest = [part.format(logs=logs) for part in arguments[2:]]
    assert command([*runs, *rest]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(message.format(logs=logs))
    assert out == ""
    assert (logs / "two" / "run.json").read_bytes() == before
