"""``benchmarks/decode.py`` on one second of video: that it runs, and what it prints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="compares with ffmpeg, which is absent")
def test_prints_a_table_and_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/decode.py", "--seconds", "1", "--rounds", "1", "--gops", "30"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("machine: ")
    word, _, figures = lines[-1].partition(" ")
    assert word == "RESULT"
    result = json.loads(figures)
    assert {"machine", "seconds", "rounds", "gop_30", "cache"} == result.keys()
    assert result["gop_30"]["ffmpeg"]["of_ffmpeg"] == 1.0
    assert {"pyav", "pyav_nonref", "pyav_isolated"} <= result["gop_30"].keys()
    assert result["cache"]["factor"] > 0


def test_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/decode.py"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no ffmpeg on the path to compare with; install it" in done.stderr
