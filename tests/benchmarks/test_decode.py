"""``benchmarks/decode.py`` on one second of video: that it runs, and what it prints."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    general = {"machine", "seconds", "rounds", "other_programs_share_of_cores"}
    assert general | {"gop_30", "cache"} == result.keys()
    assert result["gop_30"]["ffmpeg"]["of_ffmpeg"] == 1.0
    assert {"pyav", "pyav_nonref", "pyav_isolated"} <= result["gop_30"].keys()
    for figures in result["gop_30"].values():
        assert figures["lowest"] <= figures["of_ffmpeg"] <= figures["highest"]
        assert figures["cpu_seconds"] > 0
        assert figures["cpu_of_ffmpeg"] > 0
    assert result["cache"]["factor"] > 0


@pytest.fixture
def bench() -> SimpleNamespace:
    """The program's functions."""
    functions: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "decode.py"))
    return SimpleNamespace(**functions, globals=functions["main"].__globals__)


def played(bench: SimpleNamespace, others: list[float]) -> list[str]:
    """Who runs when, where other programs take such a share of the cores in each round."""
    order: list[str] = []

    def timed(run: Callable[[Path], int], path: Path, cores: list[int]) -> tuple[Any, int]:
        order.append(str(run(path)))
        share = others[(len(order) - 1) // 2]
        return bench.Run(seconds=1.0, cpu_seconds=1.0, others_share=share), 360

    bench.globals["timed"] = timed
    running = {"ffmpeg": lambda path: "f", "pyav": lambda path: "p"}
    rounds = bench.measure(running, Path("a.mp4"), num_rounds=2, cores=[0, 1])
    return [*order, str(len(rounds))]


def test_a_disturbed_round_is_measured_again(bench: SimpleNamespace) -> None:
    # In every other round the order is turned round.
    assert played(bench, [0.0, 0.5, 0.01]) == [*"fppffp", "2"]


def test_where_all_rounds_are_disturbed_all_count(bench: SimpleNamespace) -> None:
    assert played(bench, [0.5] * 6) == [*"fppffppffppf", "6"]


def test_contestants_that_disagree_are_an_error(bench: SimpleNamespace) -> None:
    running = {"pyav": lambda path: 360, "decord": lambda path: 361}
    with pytest.raises(RuntimeError, match=r"different numbers of samples: \[360, 361\]"):
        bench.measure(running, Path("a.mp4"), num_rounds=1, cores=[])


def test_a_share_is_against_the_same_round(
    bench: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(2**21))
    bench.globals["skipping"] = lambda path: "4 frames"

    def run(seconds: float, cpu: float) -> Any:
        return bench.Run(seconds=seconds, cpu_seconds=cpu, others_share=0.02)

    # The machine was half as fast in the second round; nobody's share is the worse for it.
    rounds = [
        {"ffmpeg": run(1.0, 2.0), "pyav": run(1.1, 2.0)},
        {"ffmpeg": run(2.0, 2.0), "pyav": run(2.0, 1.0)},
        {"ffmpeg": run(1.0, 2.0), "pyav": run(0.9, 1.9)},
    ]
    figures = bench.report(30, ["ffmpeg", "pyav"], rounds, tmp_path / "a.mp4")
    assert figures["pyav"] == {
        "median_seconds": 1.1,
        "of_ffmpeg": 1.0,
        "lowest": 0.9,
        "highest": 1.1,
        "cpu_seconds": 1.9,
        "cpu_of_ffmpeg": 0.95,
    }
    printed = capsys.readouterr().out
    assert "GOP 30, 2 MiB; 4 frames with NONREF" in printed
    assert "target <= 1.10" in printed
    assert "3 rounds; other programs: up to 2% of the cores" in printed


def test_time_of_what_is_started_counts(bench: SimpleNamespace) -> None:
    code = "import time\nwhile time.process_time() < 0.2: pass"

    def spin(path: Path) -> int:
        subprocess.run([sys.executable, "-c", code], check=True)
        return 7

    measured, num_samples = bench.timed(spin, Path("a.mp4"), [])
    assert num_samples == 7
    assert measured.cpu_seconds > 0.15
    assert measured.seconds > 0.15
    assert measured.others_share == 0.0


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell")
def test_what_others_take_of_the_cores_is_seen(bench: SimpleNamespace) -> None:
    code = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    cores = sorted(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        try:
            before = bench.busy_seconds(cores)
            deadline = time.monotonic() + 30
            while bench.busy_seconds(cores) - before < 0.3 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert bench.busy_seconds(cores) - before >= 0.3
        finally:
            other.kill()


def test_names_the_extra_of_a_package_that_is_missing(
    bench: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert list(bench.contestants()) == ["ffmpeg", "pyav", "pyav_nonref", "pyav_isolated"]
    said = "opencv is left out: cv2 is not installed; run: pip install '.[bench]'"
    assert said in capsys.readouterr().out


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
