"""`UpdateStep`: the batches of one update in, new weights out.

The inner loop of the trainer: forward, backward, exchange of gradients, clipping, optimizer. An
update's loss is the mean over all valid frames of all its clips, whichever batch and process they
are in, so accumulation and several processes compute what one large batch would.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from utils.config.schema import TrainingConfig
from utils.data.augmentation import generator_for
from utils.data.clips import Clip, ClipDataset, RandomStream
from utils.errors import TrainingError
from utils.training.losses import FrameLoss, mean_over_valid
from utils.training.mixup import mix_clips
from utils.training.processes import Processes

NOT_FINITE_REMEDY = (
    "the checkpoints so far are sound: try a lower training.learning_rate, or "
    "training.use_mixed_precision=false"
)

_MOST_CLIPS_NAMED = 16


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one process computes at once.

    Attributes:
        clip: On the device.
        epoch: 0-based.
        place: Of the first clip in the epoch.
        is_idle: A short batch had no clip for this process, which computes along and adds nothing.
        is_last: Of its update.
    """

    clip: Clip
    epoch: int
    place: int
    is_idle: bool
    is_last: bool


@dataclass(frozen=True, kw_only=True)
class UpdateReport:
    """What one update did.

    Attributes:
        loss: Mean over the valid frames of all processes.
        gradient_norm: Before clipping.
        learning_rates: By component, that it was made with.
        is_stop_asked: Whether any of the processes was asked to stop.
    """

    loss: float
    gradient_norm: float
    learning_rates: dict[str, float]
    is_stop_asked: bool


class UpdateStep:
    """Makes updates; it keeps no state from one to the next but that of what it is handed.

    Args:
        accelerator: That prepared model and optimizer.
        model: Prepared; called with ``(inputs, timestamps, valid)``.
        optimizer: Prepared.
        schedule: Of the bare optimizer.
        loss: Of one head.
        dataset: To name clips.
        config: ``training``.
        processes: That train together.
    """

    def __init__(
        self,
        *,
        accelerator: Accelerator,
        model: Any,
        optimizer: Any,
        schedule: LRScheduler,
        loss: FrameLoss,
        dataset: ClipDataset,
        config: TrainingConfig,
        processes: Processes,
    ) -> None:
        self._accelerator = accelerator
        self._model = model
        self._optimizer = optimizer
        self._schedule = schedule
        self._loss = loss
        self._dataset = dataset
        self._config = config
        self._processes = processes

    def run(
        self,
        batches: Iterable[Batch],
        *,
        step: int,
        num_frames: int,
        is_stop_asked: Callable[[], bool],
    ) -> UpdateReport:
        """One update.

        Args:
            batches: This process's, as they come from the loader.
            step: The update's number, from 1, for messages.
            num_frames: Valid frames of the update, of all batches and processes.
            is_stop_asked: Whether this process was, asked at the end.

        Raises:
            TrainingError: The loss or the gradients are not finite; the weights are as before.
        """
        losses: list[Tensor] = []
        clips: list[Clip] = []
        for batch in batches:
            losses.append(self._backward(batch, num_frames))
            clips.append(batch.clip)
        norm = self._accelerator.clip_grad_norm_(
            self._model.parameters(), self._config.max_gradient_norm or math.inf
        )
        parts = torch.stack(losses)
        own = torch.stack((parts.sum(), parts.new_tensor(float(is_stop_asked()))))
        # Everything that is asked of the device, at once: each answer waits for all of its work.
        loss, num_asked, gradient_norm, *values = torch.cat(
            (self._processes.sum_(own), norm.detach().to(own).reshape(1), parts)
        ).tolist()
        if not math.isfinite(loss):
            bad = [
                clip for clip, value in zip(clips, values, strict=True) if not math.isfinite(value)
            ]
            raise self._not_finite(step, f"the loss is {loss}", bad)
        # A scaler skips such an update and lowers its scale; without one it would ruin the weights,
        # and the last of an epoch would be saved before any loss tells.
        if self._accelerator.scaler is None and not math.isfinite(gradient_norm):
            raise self._not_finite(step, f"the norm of the gradients is {gradient_norm}", clips)
        rates = {group["name"]: group["lr"] for group in self._optimizer.param_groups}
        self._step()
        return UpdateReport(
            loss=loss,
            gradient_norm=gradient_norm,
            learning_rates=rates,
            is_stop_asked=num_asked > 0,
        )

    def _backward(self, batch: Batch, num_frames: int) -> Tensor:
        """Forward and backward; gradients add up. Returns this batch's part of the update's loss.

        The parts of all batches and processes add up to the loss.
        """
        clip = batch.clip
        if self._config.mixup_alpha:
            place = (self._config.seed, batch.epoch, batch.place, RandomStream.MIXUP)
            clip = mix_clips(clip, alpha=self._config.mixup_alpha, generator=generator_for(*place))
        weights = self._config.loss
        # Gradients are exchanged once, with those of the last batch.
        syncing = contextlib.nullcontext() if batch.is_last else self._unsynced()
        with syncing:
            output = self._model(clip.inputs, clip.timestamps, clip.valid)
            loss = torch.zeros((), device=clip.valid.device)
            for logits, weight in zip(
                output, (weights.trigger_weight, weights.temporal_weight), strict=True
            ):
                losses = self._loss(logits.float(), clip.targets)
                loss = loss + weight * mean_over_valid(losses, clip.valid)
            share = 0.0 if batch.is_idle else clip.valid.sum() / num_frames
            loss = loss * share
            # The exchange takes the mean over processes, and the sum is wanted.
            summed = loss * self._processes.count
            if self._accelerator.scaler is None:
                # What accelerate does here, too, after a look for packages at every step.
                summed.backward()  # type: ignore[no-untyped-call]
            else:
                self._accelerator.backward(summed)
        return loss.detach()

    def _step(self) -> None:
        if self._accelerator.scaler is None:
            self._optimizer.optimizer.step()
            self._schedule.step()
        else:
            self._optimizer.step()
            if not self._accelerator.optimizer_step_was_skipped:
                self._schedule.step()
        self._optimizer.optimizer.zero_grad(set_to_none=True)

    def _unsynced(self) -> contextlib.AbstractContextManager[None]:
        return self._accelerator.no_sync(self._model)  # type: ignore[no-any-return]

    def _not_finite(self, step: int, what: str, clips: Iterable[Clip]) -> TrainingError:
        """The error of all processes, whichever of them had the clips."""
        own = [
            self._dataset.describe(clip, row) for clip in clips for row in range(len(clip.valid))
        ]
        names = [name for found in self._processes.gather(own) for name in found]
        more = len(names) - _MOST_CLIPS_NAMED
        named = ", ".join(names[:_MOST_CLIPS_NAMED]) + (f" and {more} more" if more > 0 else "")
        return TrainingError(f"at update {step}, {what} (clips: {named}); {NOT_FINITE_REMEDY}")
