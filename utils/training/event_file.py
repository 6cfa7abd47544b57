"""`EventFile`: what TensorBoard shows of a run, written by whoever adds to it.

torch's `SummaryWriter` writes in a thread of its own. Where the disk is full, the thread dies with
a traceback on the terminal, and whether the run hears of it is a matter of timing.
"""

from __future__ import annotations

import io
import os
import platform
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import (  # type: ignore[import-untyped]
    Event,
    SessionLog,
)
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from utils.training.run_record import as_training_error

_HOLD_SECONDS = 2.0
"""What is added is on disk so much later, so that an update does not wait for the disk."""
_FORMAT = "brain.Event:2"


class EventFile:
    """A new file beside those of earlier sessions of the run; there is nothing to close.

    Args:
        folder: Of the run.
        first_step: What earlier sessions wrote of it and of later steps is not shown any more.

    Raises:
        TrainingError: It cannot be written.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        # TensorBoard reads the files of a folder in the order of their names. Nanoseconds: two
        # sessions of one second are told apart.
        name = f"events.out.tfevents.{time.time_ns()}.{platform.node()}.{os.getpid()}"
        self._path = folder / name
        self._last_write = time.time()
        self._waiting = [
            Event(wall_time=self._last_write, file_version=_FORMAT),
            Event(
                wall_time=self._last_write,
                step=first_step,
                session_log=SessionLog(status=SessionLog.START),
            ),
        ]
        self.flush()

    def add(self, summary: Summary, *, step: int) -> None:
        """What was seen at an update.

        Raises:
            TrainingError: The file cannot be written.
        """
        now = time.time()
        self._waiting.append(Event(wall_time=now, step=step, summary=summary))
        if now - self._last_write > _HOLD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added; what could not be written is given up.

        Raises:
            TrainingError: The file cannot be written.
        """
        records = io.BytesIO()
        writer = RecordWriter(records)
        for event in self._waiting:
            writer.write(event.SerializeToString())
        self._waiting.clear()
        self._last_write = time.time()
        with as_training_error(self._path) as path, open(path, "ab") as file:
            file.write(records.getbuffer())
