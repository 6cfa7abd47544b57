"""``benchmarks/resume.py``: where it kills, what it counts, and what it takes for a failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import resume
from benchmarks._counted_training import counted, read_record
from benchmarks.resume import SAVE_EVERY_STEPS, UPDATES_PER_EPOCH, Outcome, Session

ROOT = Path(__file__).resolve().parents[2]


def outcome(*places: tuple[int, int], **changes: Any) -> Outcome:
    """Of sessions with these ``(first, last)``, all but the last one killed."""
    sessions = tuple(
        Session(first=first, last=last, is_killed=index < len(places) - 1)
        for index, (first, last) in enumerate(places)
    )
    return Outcome(**{"weights": "w", "metrics": "m", "sessions": sessions, **changes})


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), epochs=st.integers(1, 4), max_kills=st.integers(1, 5))
def test_kills_are_inside_of_epochs_and_in_order(seed: int, epochs: int, max_kills: int) -> None:
    places = resume.kill_places(Random(seed), epochs=epochs, max_kills=max_kills)
    assert 1 <= len(places) <= max_kills
    assert places == sorted(set(places))
    assert places[0] > 0 and places[-1] < epochs * UPDATES_PER_EPOCH
    assert all(place % UPDATES_PER_EPOCH for place in places)
    assert places == resume.kill_places(Random(seed), epochs=epochs, max_kills=max_kills)


def test_repeated_updates_are_counted_kill_by_kill() -> None:
    found = outcome((0, 12), (7, 19), (14, 60))
    assert found.num_kills == 2
    assert found.most_repeated == 5
    assert outcome((0, 60)).most_repeated == 0


def test_what_is_a_failure() -> None:
    expected = outcome((0, 60))
    assert outcome((0, 12), (12 - SAVE_EVERY_STEPS, 60)).problems(expected) == []
    assert outcome((0, 60)).problems(expected) == [
        "was over before it could be killed; give --epochs more"
    ]
    too_many = outcome((0, 12), (11 - SAVE_EVERY_STEPS, 60), weights="other", metrics="other")
    assert too_many.problems(expected) == [
        "ended with other weights",
        "has other losses or metrics in its metrics.jsonl",
        f"repeated {SAVE_EVERY_STEPS + 1} updates, more than {SAVE_EVERY_STEPS}",
    ]


def test_updates_are_counted_as_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "counter"
    assert read_record(path) is None
    calls: list[tuple[Any, ...]] = []

    def update(*arguments: Any, step: int, num_frames: int) -> str:
        if step == 9:
            raise RuntimeError("not finite")
        calls.append((*arguments, step, num_frames))
        return f"report of {step}"

    counter = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        run = counted(update, counter)
        assert read_record(path) is None, "nothing was done yet"
        assert run("self", "batches", step=8, num_frames=6) == "report of 8"
        with pytest.raises(RuntimeError, match="not finite"):
            run("self", "batches", step=9, num_frames=6)
    finally:
        os.close(counter)
    assert calls == [("self", "batches", 8, 6)]
    done = read_record(path)
    assert done is not None
    assert done[0] == 8, "the one that failed is not done"
    assert 0 < done[1] < 5


TRAINING = """
import json, os, pathlib, subprocess, sys, time
sys.path.insert(0, {root!r})
from benchmarks._counted_training import counted
print("what it says")
folder, first, updates = pathlib.Path({folder!r}), {first}, {updates}
(folder / "logs" / "run").mkdir(parents=True, exist_ok=True)
(folder / "logs" / "run" / "run.json").write_text(
    json.dumps({{"sessions": [{{}}, {{"global_step": first}}]}})
)
worker = subprocess.Popen(["sleep", "60"])
(folder / "worker").write_text(str(worker.pid))
update = counted(
    lambda step: time.sleep(0.01), os.open(folder / "counter", os.O_WRONLY | os.O_CREAT)
)
for step in range(first + 1, first + updates + 1):
    update(step=step)
worker.kill()
sys.exit({code})
"""


def in_the_place_of_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, first: int, updates: int, code: int = 0
) -> resume.Run:
    """A run whose command only counts, and has a process beside it as loader workers are."""
    text = TRAINING.format(
        root=str(ROOT), folder=str(folder), first=first, updates=updates, code=code
    )
    monkeypatch.setattr(resume.Run, "_command", lambda self: [sys.executable, "-c", text])
    return resume.Run(folder, epochs=1, num_workers=0)


def test_a_kill_ends_all_processes_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = in_the_place_of_training(tmp_path, monkeypatch, first=7, updates=2000)
    resume.finish([run.train(kill_behind=12, pause=0.5)], jobs=1)
    (session,) = run.sessions
    assert session.is_killed
    assert session.first == 7
    assert 12 <= session.last < 2007
    worker = Path("/proc") / (tmp_path / "worker").read_text() / "status"
    # Whoever has to collect it may not have done so yet.
    assert not worker.exists() or "State:\tZ" in worker.read_text()


@pytest.mark.parametrize("updates", [3, 0])
def test_a_run_that_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates: int
) -> None:
    run = in_the_place_of_training(tmp_path, monkeypatch, first=7, updates=updates)
    resume.finish([run.train()], jobs=1)
    assert run.sessions == [Session(first=7, last=7 + updates, is_killed=False)]


def test_a_run_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = in_the_place_of_training(tmp_path, monkeypatch, first=0, updates=1, code=3)
    with pytest.raises(RuntimeError) as caught:
        resume.finish([run.train()], jobs=1)
    assert str(caught.value) == "train.py ended with exit code 3:\nwhat it says\n"


def test_no_more_tasks_at_a_time_than_asked_and_results_in_order() -> None:
    at_once: list[int] = []
    running: set[int] = set()

    def task(number: int) -> resume.Waiting[int]:
        running.add(number)
        for _ in range(5 - number):
            at_once.append(len(running))
            yield
        running.remove(number)
        return number * number

    assert resume.finish(map(task, range(5)), jobs=2) == [0, 1, 4, 9, 16]
    assert max(at_once) == 2


def test_a_task_that_fails_closes_the_others() -> None:
    closed: list[str] = []

    def patient() -> resume.Waiting[None]:
        try:
            while True:
                yield
        finally:
            closed.append("patient")

    def failing() -> resume.Waiting[None]:
        yield
        raise RuntimeError("train.py ended with exit code 1")

    with pytest.raises(RuntimeError, match="exit code 1"):
        resume.finish([patient(), failing()], jobs=2)
    assert closed == ["patient"]


def run(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/resume.py", *arguments],
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
    done = run("--kills", "0", data=tmp_path)
    assert done.returncode == 2
    assert "--kills must be 1 or more, got 0" in done.stderr


@pytest.mark.slow
def test_prints_a_table_and_its_figures(shared_data: Path) -> None:
    done = run("--runs", "2", "--kills", "1", "--epochs", "1", data=shared_data)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("machine: ")
    assert sum(" same " in line and " -> " in line for line in lines) == 2
    word, _, figures = lines[-1].partition(" ")
    assert word == "RESULT"
    result = json.loads(figures)
    assert result["runs"] == result["kills"] == 2
    assert result["runs_with_the_weights_of_the_undisturbed_one"] == 2
    assert result["runs_with_its_losses_and_metrics"] == 2
    assert 0 <= result["most_repeated_steps"] <= result["save_every_steps"]
