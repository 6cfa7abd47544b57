"""`Trainer`: from clips to checkpoints, on accelerate.

It is handed the model, the data, the parameter groups and the evaluator, and knows nothing of what
the model is made of: batches in, `TriggerOutput`-like pairs of logits out.
"""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from utils.checkpoint import (
    BEST_NAME,
    FINAL_NAME,
    FORMAT_VERSION,
    epoch_checkpoint_name,
    load_checkpoint,
    load_model_weights,
    numbered_checkpoints,
    remove_step_checkpoints,
    save_checkpoint,
    step_checkpoint_name,
)
from utils.config import Config
from utils.config.schema import TrainingConfig
from utils.data.clips import Clip, ClipDataset, ClipSampler
from utils.errors import CheckpointError, TrainingError
from utils.training.losses import FrameLoss, mean_over_valid
from utils.training.optimization import build_optimizer, build_schedule
from utils.training.randomness import random_state, restore_random_state
from utils.training.resuming import check_resumable
from utils.training.stopping import StopSignal, leave_signals_to_parent

logger = logging.getLogger(__name__)

Evaluator = Callable[[Any, torch.device], Mapping[str, float]]
"""``(model, device) -> metrics by name``, of which `BEST_METRIC` chooses the best checkpoint."""

BEST_METRIC = "frame_ap"


@dataclass(kw_only=True)
class Progress:
    """Where a run stands; goes into every checkpoint.

    Attributes:
        epoch: Finished epochs.
        batch: Micro-batches done in the epoch that is under way.
        global_step: Optimizer updates.
        loss: Mean training loss of the last finished epoch; NaN before the first.
        best_metric: Highest validation `BEST_METRIC`, or None before the first.
        metrics: Of the last validation.
        epoch_loss_sum: Sum of the losses of the epoch under way.
    """

    epoch: int = 0
    batch: int = 0
    global_step: int = 0
    loss: float = math.nan
    best_metric: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    epoch_loss_sum: float = 0.0

    @property
    def recent_loss(self) -> float:
        """Mean loss of the epoch under way so far, or of the last one where it has not begun."""
        return self.epoch_loss_sum / self.batch if self.batch else self.loss


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What `Trainer.fit` leaves.

    Attributes:
        checkpoint_path: The final checkpoint, or the one to resume from where a signal stopped the
            run.
        best_path: The best one by validation, or None without validation.
        progress: At the end.
        exit_code: 0, or 128 + the signal's number.
    """

    checkpoint_path: Path
    best_path: Path | None
    progress: Progress
    exit_code: int


class Trainer:
    """One training run.

    An update's gradient is the mean over its micro-batches, each of which is a mean over its valid
    frames: the same as of one large batch where all clips are full, and close to it where some are
    padded.

    Args:
        model: On any device; called with ``(inputs, timestamps, valid)``.
        config: The resolved config; it goes into every checkpoint.
        dataset: Clips.
        parameter_groups: Trainable parameters by component.
        loss: Of one head.
        evaluator: Called after every ``validate_every`` epochs; None without validation videos.
        device: To train on.
        metadata: Plain containers that go into every checkpoint.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        config: Config,
        dataset: ClipDataset,
        parameter_groups: Iterable[tuple[str, list[nn.Parameter]]],
        loss: FrameLoss,
        evaluator: Evaluator | None,
        device: torch.device,
        metadata: Mapping[str, Any],
    ) -> None:
        self._config = config
        self._training = config.training
        self._dataset = dataset
        self._loss = loss
        self._evaluator = evaluator
        self._metadata = dict(metadata)
        self._checkpoint_dir = Path(self._training.checkpoint_dir)
        if device.type == "cuda":
            # accelerate takes the current GPU, not one that it is told.
            torch.cuda.set_device(device)
        self._accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=mixed_precision(config.training, device),
        )
        self._sampler = ClipSampler(
            self._training.clips_per_epoch
            or max(1, dataset.num_frames // config.data.clip_window_size)
        )
        self._batches_per_epoch = math.ceil(
            self._sampler.clips_per_epoch / self._training.batch_size
        )
        self._steps_per_epoch = math.ceil(
            self._batches_per_epoch / self._training.gradient_accumulation_steps
        )
        self._total_steps = self._steps_per_epoch * self._training.num_epochs
        optimizer = build_optimizer(parameter_groups, self._training)
        schedule = build_schedule(optimizer, self._training, self._total_steps)
        self._model, self._optimizer = self._accelerator.prepare(model, optimizer)
        # Not prepared: accelerate would step it once a process, and skip steps on its own account.
        self._schedule = schedule
        self.progress = Progress()
        self._is_resumed = False
        self._run_name = time.strftime("%Y%m%d-%H%M%S")

    @property
    def model(self) -> Any:
        """The bare model."""
        return self._accelerator.unwrap_model(self._model)

    @property
    def clips_per_epoch(self) -> int:
        return self._sampler.clips_per_epoch

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint as if the run had never stopped.

        Raises:
            CheckpointError: It cannot be read, or is of another model.
        """
        content = load_checkpoint(path)
        check_resumable(content, self._config, source=str(path))
        load_model_weights(self.model, content["model_state_dict"], source=str(path))
        try:
            self._restore(content)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: its training state does not fit this run ({error}); resume with the "
                "config of that run"
            ) from error
        self._is_resumed = True
        done = self.progress.batch * self._training.batch_size
        if self.progress.batch and content["data_position"]["clips_per_epoch"] != (
            self.clips_per_epoch
        ):
            raise CheckpointError(
                f"{path}: was saved inside an epoch, {done} clips from its start, and an epoch was "
                f"{content['data_position']['clips_per_epoch']} clips then but is "
                f"{self.clips_per_epoch} now; resume with the videos of that run, or from a "
                "checkpoint at the end of an epoch"
            )
        logger.info(
            "resumed from %s: epoch %d, update %d of %d",
            path,
            self.progress.epoch + 1,
            self.progress.global_step,
            self._total_steps,
        )

    def _restore(self, content: Mapping[str, Any]) -> None:
        # What the config says now wins over the rates in the checkpoint, which `check_resumable`
        # has told; where both agree, all of this gives the same numbers as before the stop.
        chosen = [
            {key: group[key] for key in ("initial_lr", "weight_decay")}
            for group in self._optimizer.param_groups
        ]
        self._optimizer.load_state_dict(content["optimizer_state_dict"])
        self._schedule.load_state_dict(content["scheduler_state_dict"])
        self._schedule.base_lrs = [group["initial_lr"] for group in chosen]
        factor = self._schedule.lr_lambdas[0](self._schedule.last_epoch)
        for group, values in zip(self._optimizer.param_groups, chosen, strict=True):
            group.update(values, lr=values["initial_lr"] * factor)
        if self._accelerator.scaler is not None and content["scaler_state_dict"]:
            self._accelerator.scaler.load_state_dict(content["scaler_state_dict"])
        position, metadata = content["data_position"], content["metadata"]
        self.progress = Progress(
            epoch=content["epoch"],
            batch=position["batch"],
            epoch_loss_sum=position["epoch_loss_sum"],
            global_step=content["global_step"],
            loss=position["last_epoch_loss"],
            best_metric=metadata["best_metric"],
            metrics=dict(metadata["metrics"]),
        )
        self._run_name = metadata["run_name"]
        restore_random_state(content["rng_state"])

    def fit(self) -> TrainingResult:
        """Train to the last epoch, or until Ctrl-C or SIGTERM, which save and leave cleanly.

        Raises:
            TrainingError: The loss is not finite.
            CheckpointError: A checkpoint cannot be written.
        """
        if not self._is_resumed:
            self._move_earlier_run_aside()
        elif self.progress.epoch >= self._training.num_epochs:
            logger.info(
                "nothing left to train: %d of %d epochs are done; to go on, raise "
                "training.num_epochs",
                self.progress.epoch,
                self._training.num_epochs,
            )
        log_dir = Path(self._training.log_dir) / self._run_name
        with (
            StopSignal() as stop,
            SummaryWriter(log_dir, purge_step=self.progress.global_step + 1) as board,
            tqdm(
                total=self._total_steps,
                initial=self.progress.global_step,
                unit="step",
                dynamic_ncols=True,
                mininterval=1.0,
            ) as bar,
        ):
            logger.info("TensorBoard: tensorboard --logdir %s", self._training.log_dir)
            while self.progress.epoch < self._training.num_epochs:
                self._train_epoch(board, bar, stop)
                if stop.received is None:
                    self._finish_epoch(board, bar)
                # Asked again: a signal may have come during validation.
                if stop.received is not None:
                    return self._stopped(stop)
            final = self._checkpoint_dir / FINAL_NAME
            save_checkpoint(self._content(), final)
            return self._result(final, exit_code=0)

    def _train_epoch(self, board: SummaryWriter, bar: tqdm[Any], stop: StopSignal) -> None:
        accumulation = self._training.gradient_accumulation_steps
        bar.set_description(f"epoch {self.progress.epoch + 1}/{self._training.num_epochs}")
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        update_loss = 0.0
        for clip in self._batches():
            done = self.progress.batch + 1
            is_update = done % accumulation == 0 or done == self._batches_per_epoch
            group_size = _group_size(done, accumulation, self._batches_per_epoch)
            loss = self._micro_batch(clip, share=1 / group_size, sync=is_update)
            self.progress.batch = done
            self.progress.epoch_loss_sum += loss
            update_loss += loss / group_size
            if not is_update:
                continue
            rates = {group["name"]: group["lr"] for group in self._optimizer.param_groups}
            norm = self._update()
            self.progress.global_step += 1
            self._log_step(board, loss=update_loss, norm=norm, rates=rates)
            update_loss = 0.0
            bar.update()
            bar.set_postfix(self._postfix(), refresh=False)
            if stop.received is not None:
                return

    def _batches(self) -> Iterator[Clip]:
        """The rest of the epoch under way, on the device."""
        # The last batch of an epoch may be short.
        first = min(self.progress.batch * self._training.batch_size, self.clips_per_epoch)
        self._sampler.set_position(self.progress.epoch, first)
        loader = DataLoader(
            self._dataset,
            batch_size=self._training.batch_size,
            sampler=self._sampler,
            num_workers=self._config.data.num_workers,
            pin_memory=self._accelerator.device.type == "cuda",
            worker_init_fn=leave_signals_to_parent,
            # Its own: the default takes the base seed of workers from the global generator, and a
            # resumed epoch would draw once more than one that was never stopped.
            generator=torch.Generator().manual_seed(self._training.seed),
        )
        for clip in loader:
            yield Clip(*(value.to(self._accelerator.device, non_blocking=True) for value in clip))

    def _micro_batch(self, clip: Clip, *, share: float, sync: bool) -> float:
        """Forward and backward; gradients add up. Returns the loss of this batch."""
        weights = self._training.loss
        with contextlib.nullcontext() if sync else self._accelerator.no_sync(self._model):
            with self._accelerator.autocast():
                output = self._model(clip.inputs, clip.timestamps, clip.valid)
            loss = torch.zeros((), device=clip.valid.device)
            for logits, weight in zip(
                output, (weights.trigger_weight, weights.temporal_weight), strict=True
            ):
                losses = self._loss(logits.float(), clip.targets)
                loss = loss + weight * mean_over_valid(losses, clip.valid)
            value = self._checked(float(loss.detach()), clip)
            self._accelerator.backward(loss * share)
        return value

    def _checked(self, value: float, clip: Clip) -> float:
        if not math.isfinite(value):
            clips = ", ".join(self._dataset.describe(clip, row) for row in range(len(clip.valid)))
            raise self._not_finite(f"the loss is {value}", f" (clips: {clips})")
        return value

    def _not_finite(self, what: str, where: str = "") -> TrainingError:
        return TrainingError(
            f"at update {self.progress.global_step + 1}, {what}{where}; the checkpoints so far are "
            "sound: try a lower training.learning_rate, or training.use_mixed_precision=false"
        )

    def _update(self) -> float:
        """One optimizer update. Returns the norm of the gradients before clipping."""
        norm = float(
            self._accelerator.clip_grad_norm_(
                self._model.parameters(), self._training.max_gradient_norm or math.inf
            )
        )
        # A scaler skips such an update and lowers its scale; without one it would ruin the weights,
        # and the last of an epoch would be saved before any loss tells.
        if self._accelerator.scaler is None and not math.isfinite(norm):
            raise self._not_finite(f"the norm of the gradients is {norm}")
        self._optimizer.step()
        if not self._accelerator.optimizer_step_was_skipped:
            self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _finish_epoch(self, board: SummaryWriter, bar: tqdm[Any]) -> None:
        progress = self.progress
        progress.loss = progress.epoch_loss_sum / self._batches_per_epoch
        progress.epoch += 1
        progress.batch = 0
        progress.epoch_loss_sum = 0.0
        board.add_scalar("train/epoch_loss", progress.loss, progress.global_step)
        is_last = progress.epoch == self._training.num_epochs
        is_best = False
        if self._evaluator is not None and (
            is_last or progress.epoch % self._training.validate_every == 0
        ):
            metrics = self._evaluator(self.model, self._accelerator.device)
            # NumPy's floats would need pickle in the checkpoint.
            progress.metrics = {name: float(value) for name, value in metrics.items()}
            for name, value in progress.metrics.items():
                board.add_scalar(f"validation/{name}", value, progress.global_step)
            metric = progress.metrics[BEST_METRIC]
            # NaN, where no validation frame is positive, is never the best.
            is_best = metric > (-math.inf if progress.best_metric is None else progress.best_metric)
            if is_best:
                progress.best_metric = metric
            bar.set_postfix(self._postfix())
        # The best is written first: a run that dies in between has lost a numbered file, not its
        # best.
        if is_best:
            save_checkpoint(self._content(), self._checkpoint_dir / BEST_NAME)
        if is_last or progress.epoch % self._training.save_every == 0:
            name = epoch_checkpoint_name(progress.epoch)
            save_checkpoint(self._content(), self._checkpoint_dir / name)
            remove_step_checkpoints(self._checkpoint_dir, up_to_epoch=progress.epoch)

    def _move_earlier_run_aside(self) -> None:
        """Numbered checkpoints of a run before this one: ``latest`` must not mean them."""
        earlier = numbered_checkpoints(self._checkpoint_dir)
        if not earlier:
            return
        folder = self._checkpoint_dir / f"before_{self._run_name}"
        try:
            folder.mkdir(exist_ok=True)
            for _, file in earlier:
                file.rename(folder / file.name)
        except OSError as error:
            raise CheckpointError(
                f"{self._checkpoint_dir}: the checkpoints of an earlier run cannot be moved aside "
                f"({error}); set training.checkpoint_dir to another folder"
            ) from error
        logger.warning(
            "moved %d checkpoints of an earlier run to %s; to go on with a run use --resume",
            len(earlier),
            folder,
        )

    def _stopped(self, stop: StopSignal) -> TrainingResult:
        name = (
            step_checkpoint_name(self.progress.epoch, self.progress.batch)
            if self.progress.batch
            else epoch_checkpoint_name(self.progress.epoch)
        )
        path = self._checkpoint_dir / name
        save_checkpoint(self._content(), path)
        return self._result(path, exit_code=stop.exit_code)

    def _result(self, path: Path, *, exit_code: int) -> TrainingResult:
        best = self._checkpoint_dir / BEST_NAME
        return TrainingResult(
            checkpoint_path=path,
            best_path=best if self.progress.best_metric is not None else None,
            progress=self.progress,
            exit_code=exit_code,
        )

    def _content(self) -> dict[str, Any]:
        progress = self.progress
        scaler = self._accelerator.scaler
        return {
            "format_version": FORMAT_VERSION,
            "model_state_dict": {
                name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()
            },
            "optimizer_state_dict": self._optimizer.state_dict(),
            "scheduler_state_dict": self._schedule.state_dict(),
            "scaler_state_dict": {} if scaler is None else scaler.state_dict(),
            "rng_state": random_state(),
            "data_position": {
                "batch": progress.batch,
                "clips_per_epoch": self.clips_per_epoch,
                "epoch_loss_sum": progress.epoch_loss_sum,
                "last_epoch_loss": progress.loss,
            },
            "epoch": progress.epoch,
            "global_step": progress.global_step,
            "loss": progress.recent_loss,
            "config": self._config.to_plain(),
            "metadata": {
                **self._metadata,
                "best_metric": progress.best_metric,
                "metrics": progress.metrics,
                "run_name": self._run_name,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
        }

    def _log_step(
        self, board: SummaryWriter, *, loss: float, norm: float, rates: Mapping[str, float]
    ) -> None:
        step = self.progress.global_step
        board.add_scalar("train/loss", loss, step)
        board.add_scalar("train/gradient_norm", norm, step)
        for name, rate in rates.items():
            board.add_scalar(f"learning_rate/{name}", rate, step)

    def _postfix(self) -> dict[str, str]:
        progress = self.progress
        shown = {"loss": f"{progress.recent_loss:.4f}"}
        if BEST_METRIC in progress.metrics:
            shown["val AP"] = f"{progress.metrics[BEST_METRIC]:.3f}"
        return shown


def _group_size(done: int, accumulation: int, batches_per_epoch: int) -> int:
    """Micro-batches of the update that the one numbered ``done``, from 1, belongs to."""
    first = (done - 1) // accumulation * accumulation
    return min(accumulation, batches_per_epoch - first)


def mixed_precision(training: TrainingConfig, device: torch.device) -> str:
    """The precision, as accelerate names it: bf16 on the CPU, bf16 or fp16 on CUDA.

    Raises:
        TrainingError: The config asks for fp16 on the CPU.
    """
    if not training.use_mixed_precision:
        return "no"
    if training.mixed_precision_dtype != "auto":
        if device.type == "cpu" and training.mixed_precision_dtype == "fp16":
            raise TrainingError(
                "training.mixed_precision_dtype is fp16, which the CPU cannot train in; set it to "
                "bf16 or auto"
            )
        return training.mixed_precision_dtype
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "fp16"
    return "bf16"
