"""`RunState`: all that a run goes on from, into a checkpoint and back out.

``model_state_dict`` is what inference loads. With averaged weights (``training.ema_decay``) it
holds the averages; the weights that training goes on from are in ``raw_model_state_dict`` then,
which is empty otherwise, since both are the same.
"""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from utils.checkpoint import FORMAT_VERSION, load_model_weights
from utils.config import Config
from utils.data.clip_batches import EpochPlan
from utils.errors import CheckpointError, TrainingError
from utils.training.early_stopping import EarlyStopping
from utils.training.ema import ExponentialMovingAverage
from utils.training.processes import Processes
from utils.training.progress import Progress
from utils.training.randomness import random_state, restore_random_state, seed_everything
from utils.training.resuming import check_optimizer_fits
from utils.training.updates import NOT_FINITE_REMEDY

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RunState:
    """What changes while a run trains.

    Attributes:
        accelerator: Whose scaler belongs to the run.
        model: Bare.
        optimizer: Prepared.
        schedule: Of the bare optimizer.
        average: Of the weights, or None.
        early_stopping: Watches ``training.best_metric``.
        plan: How an epoch is cut, now.
        processes: That train together, now.
        progress: How far it is.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    schedule: LambdaLR
    average: ExponentialMovingAverage | None
    early_stopping: EarlyStopping
    plan: EpochPlan
    processes: Processes
    progress: Progress = field(default_factory=Progress)

    def check_weights(self) -> None:
        """Hold that what was learned is fit to be validated and saved; it waits for the device.

        An update is ruinous where its numbers are too large for single precision, and the loss
        tells only at the next one.

        Raises:
            TrainingError: The norm of what learns, or of a layer's statistics, is not finite.
        """
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        statistics = [b for b in self.model.buffers() if b.is_floating_point()]
        norm = float(nn.utils.get_total_norm([*learning, *statistics]))
        if not math.isfinite(norm):
            raise TrainingError(
                f"after update {self.progress.global_step}, the norm of the weights is {norm}, and "
                f"they are not saved; {NOT_FINITE_REMEDY}"
            )

    def content(self, config: Config, metadata: Mapping[str, Any]) -> dict[str, Any] | None:
        """Of a checkpoint, for `utils.checkpoint`; all processes ask for it together.

        Args:
            config: Resolved.
            metadata: Plain containers, to which where the run stands is added.

        Returns:
            In process 0; None in the others.
        """
        # Each draws its own dropout.
        everyone = self.processes.gather(random_state())
        if not self.processes.is_main:
            return None
        progress = self.progress
        scaler = self.accelerator.scaler
        on_cpu = _CpuCopies()
        own = on_cpu.of_all(self.model.state_dict())
        averaged: dict[str, Tensor] | None = None
        average: dict[str, Any] = {}
        if self.average is not None:
            averaged = on_cpu.of_all(self.average.model_state_dict())
            average = self.average.state_dict()
            average["averages"] = on_cpu.of_all(average["averages"])
        return {
            "format_version": FORMAT_VERSION,
            "model_state_dict": own if averaged is None else averaged,
            "raw_model_state_dict": {} if averaged is None else own,
            "ema_state_dict": average,
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scheduler_state_dict": self.schedule.state_dict(),
            "scaler_state_dict": {} if scaler is None else scaler.state_dict(),
            "rng_state": everyone[0],
            "other_rng_states": everyone[1:],
            "early_stopping": self.early_stopping.state(),
            "data_position": {
                **progress.position(),
                "clips_per_epoch": self.plan.clips_per_epoch,
            },
            "epoch": progress.epoch,
            "global_step": progress.global_step,
            "loss": progress.recent_loss,
            "config": config.to_plain(),
            "metadata": {
                **metadata,
                "best_metric_name": config.training.best_metric,
                "best_metric": progress.best_metric,
                "metrics": progress.metrics,
                "world_size": self.processes.count,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
        }

    def restore(
        self, content: Mapping[str, Any], config: Config, *, source: str, strict: bool = True
    ) -> None:
        """Go on from what `content` gave, in every process.

        Args:
            content: Of `load_checkpoint`.
            config: Resolved.
            source: The checkpoint's path, for messages.
            strict: See `load_model_weights`.

        Raises:
            CheckpointError: It does not fit the model, the run, or this place of an epoch.
        """
        weights = content.get("raw_model_state_dict") or content["model_state_dict"]
        load_model_weights(self.model, weights, source=source, strict=strict)
        try:
            self._restore_training(content, config, source)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{source}: its training state does not fit this run ({error}); resume with the "
                "config of that run"
            ) from error

    def _restore_training(self, content: Mapping[str, Any], config: Config, source: str) -> None:
        self.progress = Progress.from_content(content)
        self._check_place(content["data_position"]["clips_per_epoch"], source)
        # What the config says now wins over the rates in the checkpoint; where both agree, all of
        # this gives the same numbers as before the stop.
        chosen = [
            {key: group[key] for key in ("initial_lr", "weight_decay")}
            for group in self.optimizer.param_groups
        ]
        check_optimizer_fits(self.optimizer, content["optimizer_state_dict"], source=source)
        self.optimizer.load_state_dict(content["optimizer_state_dict"])
        self.schedule.load_state_dict(content["scheduler_state_dict"])
        self._restore_rates(chosen, is_cut_as_before=self._is_cut_as(content))
        if self.accelerator.scaler is not None and content["scaler_state_dict"]:
            self.accelerator.scaler.load_state_dict(content["scaler_state_dict"])
        if self.average is not None and content["ema_state_dict"]:
            self.average.load_state_dict(content["ema_state_dict"])
        self._restore_best(content, config, source)
        self._restore_randomness(content, config, source)

    def _restore_rates(self, chosen: list[dict[str, Any]], *, is_cut_as_before: bool) -> None:
        schedule = self.schedule
        schedule.base_lrs = [group["initial_lr"] for group in chosen]
        if not is_cut_as_before:
            # An epoch has another number of updates now. The rate goes by the share of the run
            # that is done, which is where a run that was cut like this all along would stand.
            per_epoch = self.plan.num_updates()
            left = self.plan.num_updates(self.progress.clip) if self.progress.clip else per_epoch
            schedule.last_epoch = self.progress.epoch * per_epoch + per_epoch - left
        factor = schedule.lr_lambdas[0](schedule.last_epoch)
        rates = [group["initial_lr"] * factor for group in chosen]
        schedule._last_lr = rates
        for group, values, rate in zip(self.optimizer.param_groups, chosen, rates, strict=True):
            group.update(values, lr=rate)

    def _restore_best(self, content: Mapping[str, Any], config: Config, source: str) -> None:
        before = content["metadata"]["best_metric_name"]
        if before == config.training.best_metric:
            self.early_stopping.restore(content["early_stopping"])
            return
        logger.warning(
            "%s: its best is by %s, and training.best_metric is %s: the best is looked for anew",
            source,
            before,
            config.training.best_metric,
        )
        self.progress.best_metric = None

    def _restore_randomness(self, content: Mapping[str, Any], config: Config, source: str) -> None:
        states = [content["rng_state"], *content.get("other_rng_states", ())]
        now = self.processes
        if now.count != len(states):
            logger.warning(
                "%s: %d processes trained it, and %d go on: the order of the clips stays, the last "
                "bits of the weights will not be those of a run without the change",
                source,
                len(states),
                now.count,
            )
        if now.index < len(states):
            restore_random_state(states[now.index])
        else:
            seed_process(config.training.seed, now)

    def _check_place(self, clips_per_epoch: int, source: str) -> None:
        if self.progress.clip and clips_per_epoch != self.plan.clips_per_epoch:
            raise CheckpointError(
                f"{source}: was saved inside an epoch, {self.progress.clip} clips from its start, "
                f"and an epoch was {clips_per_epoch} clips then but is "
                f"{self.plan.clips_per_epoch} now; resume with the videos of that run, or from a "
                "checkpoint at the end of an epoch"
            )

    def _is_cut_as(self, content: Mapping[str, Any]) -> bool:
        """Whether the run of a checkpoint made its epochs of as many updates."""
        training = content["config"]["training"]
        before = EpochPlan(
            clips_per_epoch=content["data_position"]["clips_per_epoch"],
            batch_size=training["batch_size"],
            accumulation=training["gradient_accumulation_steps"],
            num_processes=content["metadata"]["world_size"],
        )
        return before.num_updates() == self.plan.num_updates()


def seed_process(seed: int, processes: Processes) -> None:
    """Seed all generators; each process draws its own dropout, and process 0 as one alone does."""
    # A prime far from the small numbers that people take for seeds of the next run.
    seed_everything((seed + 1_000_003 * processes.index) % 2**32)


class _CpuCopies:
    """Tensors on the CPU, and the same one where two names share memory: it is written once."""

    def __init__(self) -> None:
        self._copies: dict[tuple[Any, ...], Tensor] = {}

    def of_all(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._of(tensor) for name, tensor in tensors.items()}

    def _of(self, tensor: Tensor) -> Tensor:
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in self._copies:
            self._copies[place] = tensor.detach().cpu()
        return self._copies[place]
