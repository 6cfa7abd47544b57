"""`RunBoard`: what people see of a run: progress bar, TensorBoard, and the record in its folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import image
from tqdm import tqdm

from utils.config import Config
from utils.errors import TrainingError
from utils.training.environment import peak_memory_bytes
from utils.training.event_file import EventFile
from utils.training.processes import Processes
from utils.training.progress import Progress
from utils.training.run_record import RunRecord
from utils.training.updates import UpdateReport

logger = logging.getLogger(__name__)


class RunBoard:
    """A context manager around the training loop; of several processes only the first has one.

    Attributes:
        exit_code: Of a run that a signal stops; to be set before the block ends.

    Args:
        folder: ``log_dir/RUN_NAME``. What is there of steps that come again is taken out.
        config: Resolved.
        device: That is trained on.
        data: Of the checkpoint's metadata.
        progress: Where the run begins.
        total_steps: Where it ends.
        processes: That train together.

    To make it, and what its methods and the end of the block write, raises TrainingError where
    ``folder`` cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: Config,
        device: torch.device,
        data: Mapping[str, Any],
        progress: Progress,
        total_steps: int,
        processes: Processes,
    ) -> None:
        self._is_on = processes.is_main
        self._config = config
        self._device = device
        self._learning_rates: dict[str, float] = {}
        self._clips = self._frames = 0
        self._epoch_started = time.perf_counter()
        self.exit_code = 0
        if not self._is_on:
            return
        self._record = RunRecord(folder)
        self._record.start(
            config,
            device=device,
            data=data,
            global_step=progress.global_step,
            num_processes=processes.count,
        )
        self._events = EventFile(folder, first_step=progress.global_step + 1)
        self._bar = tqdm(
            total=total_steps,
            initial=progress.global_step,
            unit="step",
            dynamic_ncols=True,
            mininterval=1.0,
        )
        logger.info("TensorBoard: tensorboard --logdir %s", config.training.log_dir)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_on:
            return
        self._bar.close()
        if exception is None:
            self._events.flush()
            self._record.end(exit_code=self.exit_code)
            return
        try:
            self._events.flush()
            self._record.end(exit_code=getattr(exception, "exit_code", 1))
        except TrainingError as error:
            # The same full disk perhaps; what came first is what is to be told.
            logger.warning("%s", error)

    def begin_epoch(self, progress: Progress) -> None:
        """Training, and the time that is told of it, begins here."""
        self._clips = self._frames = 0
        self._epoch_started = time.perf_counter()
        if self._is_on:
            epochs = self._config.training.num_epochs
            self._bar.set_description(f"epoch {progress.epoch + 1}/{epochs}")

    def add_update(
        self, report: UpdateReport, progress: Progress, *, num_clips: int, num_frames: int
    ) -> None:
        """One update; ``progress`` is behind it."""
        self._clips += num_clips
        self._frames += num_frames
        self._learning_rates = report.learning_rates
        if not self._is_on:
            return
        values = {
            "train/loss": report.loss,
            "train/gradient_norm": report.gradient_norm,
            **{f"learning_rate/{name}": rate for name, rate in report.learning_rates.items()},
        }
        self._add(values, progress.global_step)
        self._bar.set_postfix(self._postfix(progress), refresh=False)
        self._bar.update()

    def seconds_since_begin(self) -> float:
        """Of the epoch under way, in this session."""
        return time.perf_counter() - self._epoch_started

    def end_epoch(
        self,
        progress: Progress,
        *,
        seconds: float,
        validation_seconds: float | None,
        pictures: Mapping[str, NDArray[np.uint8]],
    ) -> None:
        """The epoch that ``progress`` has just counted.

        Args:
            progress: Its metrics are those of the validation, where there was one.
            seconds: That training took.
            validation_seconds: None without validation.
            pictures: ``(H, W, 3)`` RGB by name, of the validation.
        """
        if not self._is_on:
            return
        is_validated = validation_seconds is not None
        step = progress.global_step
        memory = peak_memory_bytes(self._device)
        row = self._record.add_epoch(
            epoch=progress.epoch,
            global_step=step,
            loss=progress.loss,
            metrics=progress.metrics if is_validated else {},
            learning_rates=self._learning_rates,
            seconds=seconds,
            num_clips=self._clips,
            num_frames=self._frames,
            validation_seconds=validation_seconds,
            peak_memory_bytes=memory,
        )
        values = {"train/epoch_loss": progress.loss}
        for name in ("clips_per_second", "frames_per_second"):
            if row[name] is not None:
                values[f"throughput/{name}"] = row[name]
        if memory is not None:
            values["memory/peak_gigabytes"] = memory / 1e9
        if is_validated:
            values |= {f"validation/{name}": value for name, value in progress.metrics.items()}
        self._add(values, step)
        for name, picture in pictures.items():
            summary = image(f"scores/{name}", picture, dataformats="HWC")  # type: ignore[no-untyped-call]
            self._events.add(summary, step=step)
        self.flush()
        self._bar.set_postfix(self._postfix(progress))

    def flush(self) -> None:
        """Bring to disk what was added: a run that is killed goes on behind the last checkpoint."""
        if self._is_on:
            self._events.flush()

    def _add(self, values: Mapping[str, float], step: int) -> None:
        """Scalars of one step."""
        tagged = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._events.add(Summary(value=tagged), step=step)

    def _postfix(self, progress: Progress) -> dict[str, str]:
        shown = {"loss": f"{progress.recent_loss:.4f}"}
        name = self._config.training.best_metric
        if name in progress.metrics:
            shown[_SHORT_NAMES.get(name, name)] = f"{progress.metrics[name]:.3f}"
        return shown


_SHORT_NAMES = {"frame_ap": "val AP"}
