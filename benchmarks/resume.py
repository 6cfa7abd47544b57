"""Runs of ``train.py`` that are killed again and again, beside one that nobody disturbs.

Each run trains the recipe for fights on ``fight_streams`` for a few short epochs, on cached
features, with accumulation, averaged weights, mixup, augmented copies, dropout and early stopping,
every other one with two loader workers. ``kill -9`` ends its whole process group at random places
inside epochs: while clips are read, while the network computes, while a checkpoint is written. Then
it goes on with ``--resume latest``, until it is done. All must end with the weights of the run that
was never disturbed, bit for bit, and none may repeat more than ``training.save_every_steps``
updates after a kill; otherwise the exit code is 1.

Pictures are smaller than the recipe's, so that the features are made within a minute. Needs the
data that VIDEO_TRIGGER_DATA names.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._counted_training import read_record
from benchmarks._fights import CONFIG, ROOT, find_data, machine, overrides
from utils.training.run_record import METRICS_NAME, RUN_NAME, read_json_object, read_metrics

UPDATES_PER_EPOCH = 20
BATCH_SIZE, ACCUMULATION = 4, 2
SAVE_EVERY_STEPS = 7
"""Does not divide an epoch: some epochs end between two checkpoints."""

SETTINGS = {
    "data.image_size": 96,
    "training.batch_size": BATCH_SIZE,
    "training.gradient_accumulation_steps": ACCUMULATION,
    # The last update of an epoch is smaller, and so is its last batch.
    "training.clips_per_epoch": UPDATES_PER_EPOCH * BATCH_SIZE * ACCUMULATION - 3,
    "training.save_every": 1,
    "training.save_every_steps": SAVE_EVERY_STEPS,
    "training.ema_decay": 0.99,
    "training.mixup_alpha": 0.4,
    "training.augmentation.cached_copies": 1,
    "training.early_stopping_patience": 10,
}
WORKERS = (0, 2)
POLL_SECONDS = 0.005

T = TypeVar("T")
Waiting = Generator[None, None, T]
"""Yields while there is nothing to do but to wait."""


def main() -> int:
    """Train undisturbed, then disturbed; print the table and the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="that are disturbed")
    parser.add_argument("--kills", type=int, default=3, help="at most so many in each run")
    parser.add_argument("--epochs", type=int, default=3, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the places of the kills")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: the cores)"
    )
    arguments = parser.parse_args()
    for name in ("runs", "kills", "epochs", "jobs"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be 1 or more, got {getattr(arguments, name)}")
    find_data(parser)
    began = time.perf_counter()
    print(f"machine: {machine()}")
    print("features, and the run that nobody disturbs ...", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        undisturbed = Run(folder / "undisturbed", epochs=arguments.epochs, num_workers=0)
        (expected,) = finish([undisturbed.without_kills()], jobs=1)
        print("\nrun  workers  repeated  weights  killed behind update -> went on behind")
        tasks = (
            disturbed_run(
                number,
                Run(
                    folder / str(number),
                    epochs=arguments.epochs,
                    num_workers=WORKERS[number % len(WORKERS)],
                ),
                expected,
                random=Random(f"{arguments.seed} {number}"),
                max_kills=arguments.kills,
            )
            for number in range(arguments.runs)
        )
        found = finish(tasks, jobs=arguments.jobs)
    figures = {
        "machine": machine(),
        "runs": len(found),
        "kills": sum(outcome.num_kills for outcome in found),
        "runs_with_the_weights_of_the_undisturbed_one": sum(
            outcome.weights == expected.weights for outcome in found
        ),
        "runs_with_its_losses_and_metrics": sum(
            outcome.metrics == expected.metrics for outcome in found
        ),
        "updates_per_run": UPDATES_PER_EPOCH * arguments.epochs,
        "save_every_steps": SAVE_EVERY_STEPS,
        "most_repeated_steps": max(outcome.most_repeated for outcome in found),
        "seconds": round(time.perf_counter() - began),
    }
    problems = [
        f"run {number} {what}"
        for number, outcome in enumerate(found)
        for what in outcome.problems(expected)
    ]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print("RESULT " + json.dumps(figures))
    return 1 if problems else 0


@dataclass(frozen=True, kw_only=True)
class Session:
    """One start of ``train.py``.

    Attributes:
        first: Updates done where it began: 0, or those of the checkpoint that it went on from.
        last: Updates done where it ended.
        is_killed: Whether it was.
    """

    first: int
    last: int
    is_killed: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run ended with.

    Attributes:
        weights: SHA-256 of all tensors of the model: of its averages and of its own.
        metrics: Epoch, updates, loss and metrics from the lines of ``metrics.jsonl``.
        sessions: In their order.
    """

    weights: str
    metrics: str
    sessions: tuple[Session, ...]

    @property
    def num_kills(self) -> int:
        return sum(session.is_killed for session in self.sessions)

    @property
    def most_repeated(self) -> int:
        """Updates that were done again after one kill."""
        pairs = itertools.pairwise(self.sessions)
        return max((before.last - after.first for before, after in pairs), default=0)

    def problems(self, expected: Outcome) -> list[str]:
        """In which way it is not as it should be."""
        found = []
        if not self.num_kills:
            found.append("was over before it could be killed; give --epochs more")
        if self.weights != expected.weights:
            found.append("ended with other weights")
        if self.metrics != expected.metrics:
            found.append("has other losses or metrics in its metrics.jsonl")
        if self.most_repeated > SAVE_EVERY_STEPS:
            found.append(f"repeated {self.most_repeated} updates, more than {SAVE_EVERY_STEPS}")
        return found


class Run:
    """A training run with a folder of its own; the cache beside that is for all.

    Args:
        folder: For checkpoints and logs.
        epochs: To train for.
        num_workers: Of the loader.
    """

    def __init__(self, folder: Path, *, epochs: int, num_workers: int) -> None:
        self.folder = folder
        self.epochs = epochs
        self.num_workers = num_workers
        self.sessions: list[Session] = []
        self._logs = folder / "logs"
        self._checkpoints = folder / "checkpoints"
        self._output = folder / "output.txt"
        self._counter = folder / "counter"

    def without_kills(self) -> Waiting[Outcome]:
        """To its end."""
        yield from self.train()
        return self.outcome()

    def train(self, *, kill_behind: int | None = None, pause: float = 0.0) -> Waiting[None]:
        """Start ``train.py``, anew or where it got to; wait for its end, or bring it about.

        Args:
            kill_behind: The update; None: it is left to end.
            pause: How long behind it, in updates.

        Raises:
            RuntimeError: It ended with an error.
        """
        self._counter.unlink(missing_ok=True)
        kill_at = math.inf
        with self._started() as process:
            while process.poll() is None and time.perf_counter() < kill_at:
                yield
                done = read_record(self._counter)
                if kill_at == math.inf and done and kill_behind and done[0] >= kill_behind:
                    kill_at = time.perf_counter() + pause * done[1]
        done = read_record(self._counter)
        is_killed = process.returncode == -signal.SIGKILL
        if process.returncode and not is_killed:
            tail = self._output.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"train.py ended with exit code {process.returncode}:\n{tail}")
        record = read_json_object(self._newest_logs() / RUN_NAME)
        first = record["sessions"][-1]["global_step"]
        # Killed between its last update and its last checkpoint, it has none left to make.
        last = done[0] if done else first
        self.sessions.append(Session(first=first, last=last, is_killed=is_killed))

    @contextlib.contextmanager
    def _started(self) -> Iterator[subprocess.Popen[bytes]]:
        """``train.py``; where it is still there when the block ends, it is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (
            self._output.open("ab") as output,
            subprocess.Popen(  # noqa: S603 (a program of our own)
                self._command(),
                cwd=ROOT,
                stdout=output,
                stderr=output,
                # The last bits of a sum depend on how many threads share it.
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                if process.poll() is None:
                    # With its loader workers.
                    os.killpg(process.pid, signal.SIGKILL)

    def outcome(self) -> Outcome:
        """Of the run that is over."""
        # Heavy, and of no use to who asks for --help.
        from utils.checkpoint import load_checkpoint
        from utils.data.array_cache import tensor_hash

        content = load_checkpoint(self._checkpoints / "final_checkpoint.pt")
        parts = {
            "model": content["model_state_dict"],
            "raw": content["raw_model_state_dict"],
            "averages": content["ema_state_dict"]["averages"],
        }
        rows = read_metrics(self._newest_logs() / METRICS_NAME)
        kept = ("epoch", "global_step", "loss", "metrics")
        return Outcome(
            weights=tensor_hash(
                (f"{part}.{name}", tensor.numpy())
                for part, tensors in parts.items()
                for name, tensor in sorted(tensors.items())
            ),
            metrics=json.dumps([[row[key] for key in kept] for row in rows], sort_keys=True),
            sessions=tuple(self.sessions),
        )

    def _newest_logs(self) -> Path:
        # A run that was killed before its first checkpoint has left a folder, too.
        return max(self._logs.iterdir())

    def _command(self) -> list[str]:
        settings = {
            **SETTINGS,
            "data.cache_dir": self.folder.parent / "cache",
            "data.num_workers": self.num_workers,
            "training.num_epochs": self.epochs,
            "training.checkpoint_dir": self._checkpoints,
            "training.log_dir": self._logs,
        }
        command = [sys.executable, "benchmarks/_counted_training.py", str(self._counter)]
        command += ["--config", CONFIG, "--device", "cpu"]
        for override in overrides(settings):
            command += ["--set", override]
        # Killed before the first one, it has nothing to go on from.
        is_begun = any(self._checkpoints.glob("checkpoint_epoch_*.pt"))
        return [*command, "--resume", "latest"] if is_begun else command


def kill_places(random: Random, *, epochs: int, max_kills: int) -> list[int]:
    """Updates inside epochs, in their order, behind each of which the run is to be killed."""
    inside = [update for update in range(epochs * UPDATES_PER_EPOCH) if update % UPDATES_PER_EPOCH]
    return sorted(random.sample(inside, random.randint(1, max_kills)))


def disturbed_run(
    number: int, run: Run, expected: Outcome, *, random: Random, max_kills: int
) -> Waiting[Outcome]:
    """Train, be killed, go on, to the end; prints the run's line and removes its folder."""
    for update in kill_places(random, epochs=run.epochs, max_kills=max_kills):
        yield from run.train(kill_behind=update, pause=random.random())
        if not run.sessions[-1].is_killed:
            break
    else:
        yield from run.train()
    outcome = run.outcome()
    places = ", ".join(
        f"{before.last} -> {after.first}" for before, after in itertools.pairwise(outcome.sessions)
    )
    is_same = "same" if outcome.weights == expected.weights else "OTHER"
    print(
        f"{number:3}  {run.num_workers:7}  {outcome.most_repeated:8}  {is_same:7}  {places}",
        flush=True,
    )
    shutil.rmtree(run.folder)
    return outcome


def finish(tasks: Iterable[Waiting[T]], *, jobs: int) -> list[T]:
    """The results of all tasks, in their order; at most ``jobs`` of them are begun at a time."""
    waiting = enumerate(tasks)
    running: dict[int, Waiting[T]] = {}
    results: dict[int, T] = {}
    try:
        while True:
            running.update(itertools.islice(waiting, jobs - len(running)))
            if not running:
                return [results[number] for number in sorted(results)]
            for number, task in list(running.items()):
                try:
                    next(task)
                except StopIteration as end:
                    results[number] = end.value
                    del running[number]
            time.sleep(POLL_SECONDS)
    finally:
        for task in running.values():
            task.close()


if __name__ == "__main__":
    sys.exit(main())
