"""The command: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.make_synthetic_dataset import command

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_synthetic_dataset.py"


def small(output: Path, *extra: str) -> list[str]:
    return [
        "--output", str(output), "--num-train", "1", "--num-val", "1", "--num-test", "0",
        "--duration", "8", "--size", "64x36", *extra,
    ]  # fmt: skip


def test_as_a_person_runs_it(tmp_path: Path) -> None:
    """From a folder that is not the project's."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *small(tmp_path / "set", "--classes", "vehicle stopping")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/set/train/annotations.json: 1 videos, 8 s" in done.stdout
    content = json.loads((tmp_path / "set/val/annotations.json").read_text())
    assert content["labels"] == ["vehicle stopping"]
    assert f"events: {len(content['videos'][0]['events'])} vehicle stopping" in done.stdout
    assert content["videos"][0]["duration"] == 8.0
    assert not (tmp_path / "set/test").exists()


def test_rare_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(small(tmp_path, "--events-per-hour", "225", "--seed", "2")) == 0
    counts = [
        len(video["events"])
        for split in ("train", "val")
        for video in json.loads((tmp_path / split / "annotations.json").read_text())["videos"]
    ]
    # 225 an hour are half an event in 8 seconds, which rounds up for the first video of a split.
    assert counts == [1, 1]
    assert "vehicles:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--size", "64:36"), "error: --size must look like 256x144, got '64:36'"),
        (("--size", "63x36"), "error: size must be even numbers"),
        (("--classes", "fight"), "error: unknown synthetic class 'fight'; known: person walking"),
        (("--events-per-minute", "600"), "error: 80 events of person walking"),
        (("--num-train", "0", "--num-val", "0"), "error: no videos were asked for"),
    ],
)
def test_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: tuple[str, ...], message: str
) -> None:
    assert command(small(tmp_path / "set", *extra)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "set").exists()


def test_existing_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = small(tmp_path, "--events-per-minute", "0")
    assert command(arguments) == 0
    assert command(arguments) == 2
    assert "exists already; choose another --output, or add --overwrite" in capsys.readouterr().err
    assert command([*arguments, "--overwrite"]) == 0


def test_two_rates_are_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(small(tmp_path, "--events-per-hour", "1", "--events-per-minute", "1"))
    assert stopped.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err
