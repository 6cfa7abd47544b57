"""`Progress` and `TrainingResult`: where a run stands, and what it leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(kw_only=True)
class Progress:
    """Where a run stands; goes into every checkpoint.

    Attributes:
        epoch: Finished epochs.
        clip: Clips done in the epoch that is under way, of all processes together.
        batch: Batches done in it; only names checkpoints. It goes on counting where a run is
            resumed with batches of another size.
        global_step: Optimizer updates.
        loss: Mean training loss over the valid frames of the last finished epoch; NaN before.
        best_metric: Highest ``training.best_metric`` of the validations, or None before the first.
        metrics: Of the last validation.
        epoch_loss_sum: Sum of the losses of the valid frames of the epoch under way.
        epoch_frames: Their number.
    """

    epoch: int = 0
    clip: int = 0
    batch: int = 0
    global_step: int = 0
    loss: float = math.nan
    best_metric: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    epoch_loss_sum: float = 0.0
    epoch_frames: int = 0

    @property
    def recent_loss(self) -> float:
        """Mean loss of the epoch under way so far, or of the last one where it has not begun."""
        return self.epoch_loss_sum / self.epoch_frames if self.epoch_frames else self.loss

    def end_epoch(self) -> None:
        """The epoch under way is finished."""
        self.loss = self.recent_loss
        self.epoch += 1
        self.clip = self.batch = self.epoch_frames = 0
        self.epoch_loss_sum = 0.0

    def position(self) -> dict[str, Any]:
        """``data_position`` of a checkpoint."""
        return {
            "clip": self.clip,
            "batch": self.batch,
            "epoch_loss_sum": self.epoch_loss_sum,
            "epoch_frames": self.epoch_frames,
            "last_epoch_loss": self.loss,
        }

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Self:
        """From the content of a checkpoint.

        Raises:
            KeyError: It lacks training state.
        """
        position, metadata = content["data_position"], content["metadata"]
        return cls(
            epoch=content["epoch"],
            clip=position["clip"],
            batch=position["batch"],
            epoch_loss_sum=position["epoch_loss_sum"],
            epoch_frames=position["epoch_frames"],
            global_step=content["global_step"],
            loss=position["last_epoch_loss"],
            best_metric=metadata["best_metric"],
            metrics=dict(metadata["metrics"]),
        )


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What `Trainer.fit` leaves.

    Attributes:
        checkpoint_path: The final checkpoint, or the one to resume from where a signal stopped the
            run.
        best_path: The best one by validation, or None without validation.
        progress: At the end.
        exit_code: 0, or 128 + the signal's number.
        is_main_process: Whether this process speaks for the run; of several, one does.
    """

    checkpoint_path: Path
    best_path: Path | None
    progress: Progress
    exit_code: int
    is_main_process: bool = True
