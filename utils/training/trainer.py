"""`Trainer`: from clips to checkpoints, on accelerate.

It is handed the model, the data, the parameter groups and the evaluator, and knows nothing of what
the model is made of: batches in, `TriggerOutput`-like pairs of logits out. What an update does is
in `updates`, what goes into a checkpoint in `run_state`; here is the order of things.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from numpy.typing import NDArray
from torch import nn

from utils.checkpoint import load_checkpoint
from utils.checkpoint_folder import CheckpointFolder
from utils.config import Config
from utils.config.schema import TrainingConfig
from utils.data.clip_batches import EpochPlan
from utils.data.clips import ClipDataset
from utils.errors import TrainingError
from utils.training.batch_loading import BatchLoader
from utils.training.early_stopping import EarlyStopping
from utils.training.ema import ExponentialMovingAverage
from utils.training.losses import FrameLoss
from utils.training.optimization import build_optimizer, build_schedule
from utils.training.processes import Processes
from utils.training.progress import Progress, TrainingResult
from utils.training.resuming import check_resumable, check_same_inputs
from utils.training.run_board import RunBoard
from utils.training.run_state import RunState, seed_process
from utils.training.stopping import StopSignal
from utils.training.updates import UpdateStep

logger = logging.getLogger(__name__)

Evaluator = Callable[[Any, torch.device], Mapping[str, float]]
"""``(model, device) -> metrics by name``, the same in all processes; ``training.best_metric`` names
the one that chooses the best checkpoint."""


class Trainer:
    """One training run.

    An update's gradient is that of the mean over all valid frames of its clips, in whatever batches
    and processes they are computed.

    Args:
        model: On any device; called with ``(inputs, timestamps, valid)``.
        config: The resolved config; it goes into every checkpoint.
        dataset: Clips.
        parameter_groups: By component, the parameters that learn now or in a later epoch.
        loss: Of one head.
        evaluator: Called after every ``validate_every`` epochs; None without validation videos.
        device: To train on.
        metadata: Plain containers that go into every checkpoint.
        begin_epoch: Called with the bare model and the epoch, from 1, before each: decides which
            parameters learn in it. None: all of ``parameter_groups``, always.
        pictures: ``(H, W, 3)`` RGB by name, of the last validation, for TensorBoard.
        processes: That train together.
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
        begin_epoch: Callable[[Any, int], None] | None = None,
        pictures: Callable[[], Mapping[str, NDArray[np.uint8]]] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self._config = config
        training = self._training = config.training
        self._dataset = dataset
        self._evaluator = evaluator
        self._metadata = dict(metadata)
        self._begin_epoch = begin_epoch
        self._pictures = pictures
        self._processes = processes or Processes()
        self._folder = CheckpointFolder(Path(training.checkpoint_dir), keep_last=training.keep_last)
        if device.type == "cuda":
            # accelerate takes the current GPU, not one that it is told.
            torch.cuda.set_device(device)
        self._accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=mixed_precision(training, device),
            # What is frozen in an epoch has no gradient to exchange.
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=begin_epoch is not None)
            ],
        )
        self._plan = EpochPlan(
            clips_per_epoch=training.clips_per_epoch
            or max(1, dataset.num_frames // config.data.clip_window_size),
            batch_size=training.batch_size,
            accumulation=training.gradient_accumulation_steps,
            num_processes=self._processes.count,
        )
        self._check_sharding()
        groups = [(name, list(parameters)) for name, parameters in parameter_groups]
        for _, parameters in groups:
            for parameter in parameters:
                # Whoever exchanges gradients asks once which there will ever be.
                parameter.requires_grad_(True)
        optimizer = build_optimizer(groups, training)
        steps = self._plan.num_updates() * training.num_epochs
        schedule = build_schedule(optimizer, training, steps)
        self._model, self._optimizer = self._accelerator.prepare(model, optimizer)
        self._apply_epoch(1)
        self._state = RunState(
            accelerator=self._accelerator,
            model=self.model,
            optimizer=self._optimizer,
            # Not prepared: accelerate would step it once a process, and skip steps on its own
            # account.
            schedule=schedule,
            average=None
            if training.ema_decay is None
            else ExponentialMovingAverage(self.model, training.ema_decay),
            early_stopping=EarlyStopping(
                training.early_stopping_patience, training.early_stopping_min_delta
            ),
            plan=self._plan,
            processes=self._processes,
        )
        self._update = UpdateStep(
            accelerator=self._accelerator,
            model=self._model,
            optimizer=self._optimizer,
            schedule=schedule,
            loss=loss,
            dataset=dataset,
            config=training,
            processes=self._processes,
        )
        self._resumed_from: Path | None = None
        self._saved_step = 0
        self._run_name = time.strftime("%Y%m%d-%H%M%S")

    @property
    def model(self) -> Any:
        """The bare model."""
        return self._accelerator.unwrap_model(self._model)

    @property
    def progress(self) -> Progress:
        return self._state.progress

    @property
    def clips_per_epoch(self) -> int:
        return self._plan.clips_per_epoch

    def resume(
        self,
        path: Path,
        *,
        allow_changes: bool = False,
        strict: bool = True,
        checked: Mapping[str, Any] | None = None,
    ) -> None:
        """Go on from a checkpoint as if the run had never stopped.

        Args:
            path: Of the checkpoint.
            allow_changes: See `check_resumable` and `check_same_inputs`.
            strict: See `load_model_weights`.
            checked: Its content, where it was read and passed `check_resumable` already.

        Raises:
            CheckpointError: It cannot be read, or is of another model or run.
        """
        if checked is None:
            checked = load_checkpoint(path)
            check_resumable(
                checked,
                self._config,
                source=str(path),
                allow_changes=allow_changes,
                data=self._metadata.get("data"),
            )
        content = checked
        data = self._metadata.get("data", {})
        check_same_inputs(content, data, source=str(path), allow_changes=allow_changes)
        self._state.restore(content, self._config, source=str(path), strict=strict)
        self._run_name = content["metadata"]["run_name"]
        self._resumed_from = path
        self._saved_step = self.progress.global_step
        logger.info(
            "resumed from %s: epoch %d, update %d of %d",
            path,
            self.progress.epoch + 1,
            self.progress.global_step,
            self._total_steps(),
        )

    def fit(self) -> TrainingResult:
        """Train to the last epoch, or until Ctrl-C or SIGTERM, which save and leave cleanly.

        Raises:
            TrainingError: The loss or the weights are not finite, inputs cannot be read any more,
                ``log_dir`` cannot be written, or another process is gone.
            CheckpointError: A checkpoint cannot be written.
        """
        with self._processes.losing_none():
            result = self._fit()
            self._processes.leave()
        return result

    def _fit(self) -> TrainingResult:
        self._run_name = self._processes.from_main(self._run_name)
        plain = self._config.to_plain()
        self._processes.check_agreement(
            {
                **{f"config ({name})": section for name, section in plain.items()},
                "data": self._metadata.get("data"),
                "number of frames to train on": self._dataset.num_frames,
                "position to go on from": vars(self.progress) | {"loss": None, "metrics": None},
            }
        )
        if self._processes.is_main:
            place = (self.progress.epoch, self.progress.batch)
            self._folder.begin(resumed_from=self._resumed_from, place=place)
        if self._resumed_from is None:
            # What was drawn so far (weights, samples for the loss) must not shift the run.
            seed_process(self._training.seed, self._processes)
        self._say_where_nothing_is_left()
        with (
            StopSignal() as stop,
            RunBoard(
                Path(self._training.log_dir) / self._run_name,
                config=self._config,
                device=self._accelerator.device,
                data=self._metadata.get("data", {}),
                progress=self.progress,
                total_steps=self._total_steps(),
                processes=self._processes,
            ) as board,
            BatchLoader(
                self._dataset,
                self._plan,
                processes=self._processes,
                num_workers=self._config.data.num_workers,
                device=self._accelerator.device,
            ) as loader,
        ):
            while not self._is_done():
                is_stop_asked = self._train_epoch(loader, board, stop)
                if not is_stop_asked:
                    self._finish_epoch(board)
                    # Asked again: a signal may have come during validation.
                    is_stop_asked = any(self._processes.gather(stop.received is not None))
                if is_stop_asked:
                    return self._stopped(board, stop)
            self._save(self._folder.save_final)
            return self._result(self._folder.final_path, exit_code=0)

    def _is_done(self) -> bool:
        return (
            self.progress.epoch >= self._training.num_epochs
            # Asked between epochs alone.
            or (not self.progress.clip and self._state.early_stopping.should_stop)
        )

    def _say_where_nothing_is_left(self) -> None:
        if self._resumed_from is None or not self._is_done():
            return
        epoch, epochs = self.progress.epoch, self._training.num_epochs
        if epoch >= epochs:
            logger.info(
                "nothing left to train: %d of %d epochs are done; to go on, raise "
                "training.num_epochs and give --allow-config-change",
                epoch,
                epochs,
            )
        else:
            logger.info(
                "nothing left to train: stopped early after epoch %d; to go on, raise "
                "training.early_stopping_patience and give --allow-config-change",
                epoch,
            )

    def _train_epoch(self, loader: BatchLoader, board: RunBoard, stop: StopSignal) -> bool:
        """The rest of the epoch under way; whether to stop before its end or behind it."""
        progress = self.progress
        self._apply_epoch(progress.epoch + 1)
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        board.begin_epoch(progress)
        for places, num_frames, batches in loader.updates(progress.epoch, progress.clip):
            report = self._update.run(
                batches,
                step=progress.global_step + 1,
                num_frames=num_frames,
                is_stop_asked=lambda: stop.received is not None,
            )
            if self._state.average is not None:
                self._state.average.update()
            progress.clip = places[-1] + 1
            progress.batch += len(list(self._plan.batches(places)))
            progress.global_step += 1
            progress.epoch_loss_sum += report.loss * num_frames
            progress.epoch_frames += num_frames
            board.add_update(report, progress, num_clips=len(places), num_frames=num_frames)
            if report.is_stop_asked:
                return True
            if progress.clip < self.clips_per_epoch and self._is_save_due():
                board.flush()
                self._save_numbered()
        return False

    def _is_save_due(self) -> bool:
        every = self._training.save_every_steps
        return every is not None and self.progress.global_step - self._saved_step >= every

    def _finish_epoch(self, board: RunBoard) -> None:
        progress, training = self.progress, self._training
        seconds = board.seconds_since_begin()
        self._share_buffers()
        progress.end_epoch()
        self._state.check_weights()
        is_last = progress.epoch == training.num_epochs
        is_best, validation_seconds = False, None
        if self._evaluator is not None and (
            is_last or progress.epoch % training.validate_every == 0
        ):
            started = time.perf_counter()
            is_best = self._validate(self._evaluator)
            validation_seconds = time.perf_counter() - started
        pictures: Mapping[str, NDArray[np.uint8]] = {}
        if validation_seconds is not None and self._pictures and self._processes.is_main:
            pictures = self._pictures()
        # Before the checkpoint: a run that is killed in between writes the line again.
        board.end_epoch(
            progress, seconds=seconds, validation_seconds=validation_seconds, pictures=pictures
        )
        is_early = not is_last and self._state.early_stopping.should_stop
        if is_early:
            best = progress.best_metric
            logger.info(
                "stopped early after epoch %d: %s has not risen in %d validations; best: %s",
                progress.epoch,
                training.best_metric,
                self._state.early_stopping.num_bad,
                "none" if best is None else f"{best:.4f}",
            )
        # The best is written first: a run that dies in between has lost a numbered file, not its
        # best.
        if is_best:
            self._save(self._folder.save_best)
        if is_last or is_early or progress.epoch % training.save_every == 0 or self._is_save_due():
            self._save_numbered()

    def _validate(self, evaluator: Evaluator) -> bool:
        """Validate the averaged weights where there are any; whether they are the best so far."""
        average, progress = self._state.average, self.progress
        if average is None:
            metrics = evaluator(self.model, self._accelerator.device)
        else:
            with average.swapped_in():
                metrics = evaluator(self.model, self._accelerator.device)
        # NumPy's floats would need pickle in the checkpoint.
        progress.metrics = {name: float(value) for name, value in metrics.items()}
        name = self._training.best_metric
        if name not in progress.metrics:
            raise TrainingError(
                f"training.best_metric is '{name}', and validation gives "
                f"{', '.join(progress.metrics)}"
            )
        is_best = self._state.early_stopping.update(progress.metrics[name])
        progress.best_metric = self._state.early_stopping.best
        return is_best

    def _apply_epoch(self, epoch: int) -> None:
        if self._begin_epoch is not None:
            self._begin_epoch(self.model, epoch)

    def _share_buffers(self) -> None:
        """Batch-norm statistics of process 0 for all, as DistributedDataParallel shares them.

        It does so before a step; here it is before validation, whose shares are to be of one model.
        """
        if self._processes.count > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def _total_steps(self) -> int:
        """Updates of the whole run: those done, and those left as epochs are cut now."""
        progress = self.progress
        epochs_left = self._training.num_epochs - progress.epoch
        if epochs_left <= 0:
            return progress.global_step
        left = self._plan.num_updates(progress.clip)
        return progress.global_step + left + (epochs_left - 1) * self._plan.num_updates()

    def _check_sharding(self) -> None:
        if self._accelerator.distributed_type not in (
            DistributedType.NO,
            DistributedType.MULTI_CPU,
            DistributedType.MULTI_GPU,
        ):
            raise TrainingError(
                f"training on {self._accelerator.distributed_type.value} is not supported; "
                "start it with torchrun, which gives each process a whole model"
            )

    def _stopped(self, board: RunBoard, stop: StopSignal) -> TrainingResult:
        # One process may have got the signal alone; all leave as it does.
        codes = [code for code in self._processes.gather(stop.exit_code) if code]
        board.flush()
        path = self._save_numbered()
        board.exit_code = codes[0]
        return self._result(path, exit_code=codes[0])

    def _save_numbered(self) -> Path:
        progress = self.progress

        def save(content: Mapping[str, Any]) -> Path:
            return self._folder.save_numbered(content, epoch=progress.epoch, batch=progress.batch)

        self._saved_step = progress.global_step
        return self._save(save)

    def _save(self, save: Callable[[Mapping[str, Any]], Path]) -> Path:
        """Let process 0 save; the others know the path when the file is there."""
        self._state.check_weights()
        metadata = {**self._metadata, "run_name": self._run_name}
        content = self._state.content(self._config, metadata)
        path = self._processes.from_main(None if content is None else save(content))
        assert path is not None, "process 0 has the content"
        return path

    def _result(self, path: Path, *, exit_code: int) -> TrainingResult:
        return TrainingResult(
            checkpoint_path=path,
            best_path=self._folder.best_path if self.progress.best_metric is not None else None,
            progress=self.progress,
            exit_code=exit_code,
            is_main_process=self._processes.is_main,
        )


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
