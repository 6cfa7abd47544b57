"""TensorBoard's file of a session: what its own reader finds in it, and a disk that is full."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.summary_pb2 import Summary

from utils.errors import TrainingError
from utils.training import event_file
from utils.training.event_file import EventFile


def summary(value: float) -> Summary:
    return Summary(value=[Summary.Value(tag="train/loss", simple_value=value)])


def scalars(folder: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def test_tensorboard_reads_it(tmp_path: Path) -> None:
    before = time.time()
    file = EventFile(tmp_path / "run", first_step=1)
    for step in (1, 2, 3):
        file.add(summary(step / 4), step=step)
    file.flush()
    assert scalars(tmp_path / "run") == [(1, 0.25), (2, 0.5), (3, 0.75)]
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert before <= events.Scalars("train/loss")[0].wall_time <= time.time()


def test_steps_that_come_again_replace_those_before(tmp_path: Path) -> None:
    """Though all sessions are of one second and one process."""
    for session in range(4):
        file = EventFile(tmp_path, first_step=session + 1)
        for step in range(session + 1, session + 4):
            file.add(summary(session), step=step)
        file.flush()
    assert len(list(tmp_path.iterdir())) == 4
    assert scalars(tmp_path) == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 3), (6, 3)]


def test_it_is_written_every_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = EventFile(tmp_path, first_step=1)
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    file.add(summary(1), step=1)
    assert path.stat().st_size == size
    monkeypatch.setattr(event_file, "_HOLD_SECONDS", 0)
    file.add(summary(1), step=2)
    assert path.stat().st_size > size
    assert len(scalars(tmp_path)) == 2


def test_a_full_disk(tmp_path: Path) -> None:
    file = EventFile(tmp_path, first_step=1)
    (path,) = tmp_path.iterdir()
    file.add(summary(1), step=1)
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(TrainingError) as caught:
        file.flush()
    assert str(caught.value) == (
        f"{path}: cannot be written: No space left on device; the checkpoints so far are sound: "
        "free disk space, or set training.log_dir to another folder"
    )
    path.unlink()
    file.flush()
    assert path.read_bytes() == b"", "what could not be written is given up"
