"""``benchmarks/training.py`` on one video: that it runs, and what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.training import print_table

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/training.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "VIDEO_TRIGGER_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_says_what_is_missing(tmp_path: Path) -> None:
    done = run(data=tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path} has no data/fight_streams; set VIDEO_TRIGGER_DATA to the" in done.stderr
    done = run("--rounds", "0", data=tmp_path)
    assert done.returncode == 2
    assert "--rounds must be 1 or more, got 0" in done.stderr


def test_columns_stand_under_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "clips_a_step": 16,
        "step_ms": 106.4,
        "loop_ms": 113.41,
        "overhead_percent": 6.7,
        "step_takes_frames_per_second": 4812,
        "loader_0_workers_frames_per_second": 223758,
        "loader_2_workers_frames_per_second": 31210,
    }
    print_table({"end_to_end": row | {"overhead_percent": -1.25, "clips_a_step": 1}, "recipe": row})
    _, _, head, first, second = capsys.readouterr().out.splitlines()
    assert len(head) == len(first) == len(second)
    assert second.split() == [
        *("recipe", "16", "106", "113", "(+6.7", "%)", "4812", "223758", "31210")
    ]


@pytest.mark.slow
def test_prints_a_table_and_its_figures(shared_data: Path) -> None:
    done = run("--rounds", "1", "--videos", "1", data=shared_data)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("machine: ")
    word, _, figures = lines[-1].partition(" ")
    assert word == "RESULT"
    result = json.loads(figures)
    assert list(result["ways"]) == ["end_to_end", "frozen", "cached", "recipe"]
    for way in result["ways"].values():
        for name, figure in way.items():
            assert figure > 0 or name == "overhead_percent"
    assert result["ways"]["recipe"]["clips_a_step"] == 16
    assert result["end_to_end_of_cached"] > 1
