"""`Trainer` on a tiny problem: updates by hand, checkpoints, and resuming to the last bit."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from utils.checkpoint import latest_checkpoint, load_checkpoint
from utils.config import Config, parse_config
from utils.data.clips import ClipDataset, ClipPosition
from utils.data.video_inputs import VideoInputs
from utils.errors import CheckpointError, TrainingError
from utils.training.losses import build_loss, mean_over_valid
from utils.training.optimization import warmup_cosine_factor
from utils.training.randomness import seed_everything
from utils.training.resuming import check_resumable
from utils.training.trainer import Trainer

DIM, WINDOW = 4, 5
CPU = torch.device("cpu")


class TwoHeads(nn.Module):
    """Stands for the trigger model: logits of two heads."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(DIM, 16), nn.GELU(), nn.Dropout(dropout))
        self.trigger = nn.Linear(16, 1)
        self.temporal = nn.Linear(16, 1)

    def forward(self, inputs: Tensor, timestamps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(inputs)
        return self.trigger(hidden), self.temporal(hidden)


def video(name: str, length: int, *, seed: int) -> VideoInputs:
    """Features whose first number says whether the frame is positive."""
    random = np.random.default_rng(seed)
    targets = (random.random((length, 1)) < 0.4).astype(np.float32)
    targets[0] = 1
    inputs = random.normal(size=(length, DIM)).astype(np.float32)
    inputs[:, :1] += 6 * targets
    return VideoInputs(
        video=name,
        inputs=inputs,
        copies=(),
        timestamps=np.arange(length) / 3,
        frame_indices=np.arange(length),
        targets=targets,
        events=(),
        group=None,
    )


def make_config(folder: Path, **training: Any) -> Config:
    settings: dict[str, Any] = {
        "batch_size": 4,
        "num_epochs": 2,
        "clips_per_epoch": 16,
        "learning_rate": 0.01,
        "use_mixed_precision": False,
        "checkpoint_dir": str(folder / "checkpoints"),
        "log_dir": str(folder / "logs"),
        **training,
    }
    num_workers = settings.pop("num_workers", 0)
    return parse_config(
        {
            "data": {"clip_window_size": WINDOW, "num_workers": num_workers},
            "model": {"labels": ["a"], "visual_encoder": {"type": "resnet18"}},
            "training": settings,
        }
    )


Evaluate = Callable[[Any, torch.device], Mapping[str, float]]


def make_trainer(
    config: Config,
    *,
    lengths: tuple[int, ...] = (20, 30),
    dropout: float = 0.0,
    evaluator: Evaluate | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Trainer:
    seed_everything(config.training.seed)
    model = TwoHeads(dropout)
    dataset = ClipDataset(
        [video(f"{i}.mp4", length, seed=i) for i, length in enumerate(lengths)],
        window_size=WINDOW,
        event_fraction=0.5,
        augmentation=config.training.augmentation,
        seed=config.training.seed,
    )
    return Trainer(
        model=model,
        config=config,
        dataset=dataset,
        parameter_groups=[("trigger_detector", list(model.parameters()))],
        loss=loss or build_loss(config.training.loss, None),
        evaluator=evaluator,
        device=CPU,
        metadata={"labels": ["a"]},
    )


@pytest.fixture
def gradients() -> Iterator[list[list[Tensor]]]:
    """The gradients that each update was made with."""
    seen: list[list[Tensor]] = []

    def remember(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        seen.append([p.grad.clone() for g in optimizer.param_groups for p in g["params"]])

    handle = register_optimizer_step_pre_hook(remember)
    yield seen
    handle.remove()


def scalars(config: Config) -> dict[str, list[tuple[int, float]]]:
    """``(step, value)`` by tag, over all event files of the one run."""
    (folder,) = Path(config.training.log_dir).iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Bit-identical, through all containers."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other or (one != one and other != other), (where, one, other)


def test_learns_a_tiny_problem(tmp_path: Path) -> None:
    trainer = make_trainer(make_config(tmp_path, num_epochs=30))
    result = trainer.fit()
    losses = [value for _, value in scalars(make_config(tmp_path))["train/epoch_loss"]]
    assert losses[0] > 0.8
    assert losses[-1] < 0.2
    assert result.exit_code == 0
    assert result.progress.epoch == 30
    assert result.progress.global_step == 30 * 4


class TestUpdates:
    def by_hand(self, trainer: Trainer, config: Config, epoch: int, first: int, last: int) -> Any:
        """Gradients of the mean loss over clips ``first .. last`` of an epoch."""
        clips = [trainer._dataset[ClipPosition(epoch, place)] for place in range(first, last)]
        inputs = torch.stack([clip.inputs for clip in clips])
        targets = torch.stack([clip.targets for clip in clips])
        valid = torch.stack([clip.valid for clip in clips])
        loss = build_loss(config.training.loss, None)
        total = sum(
            mean_over_valid(loss(logits, targets), valid)
            for logits in trainer.model(inputs, None, valid)
        )
        # Weights, then biases: as the optimizer groups them.
        parameters = sorted(trainer.model.parameters(), key=lambda p: p.ndim < 2)
        return torch.autograd.grad(total, parameters)

    def run(self, config: Config, gradients: list[list[Tensor]], **settings: Any) -> Trainer:
        trainer = make_trainer(config, **settings)
        gradients.clear()
        trainer.fit()
        return trainer

    def test_accumulation_is_one_large_batch(
        self, tmp_path: Path, gradients: list[list[Tensor]]
    ) -> None:
        changes = {"clips_per_epoch": 8, "num_epochs": 3, "max_gradient_norm": None}
        large = make_config(tmp_path / "large", batch_size=8, **changes)
        small = make_config(
            tmp_path / "small", batch_size=2, gradient_accumulation_steps=4, **changes
        )
        self.run(large, gradients)
        expected = [list(update) for update in gradients]
        self.run(small, gradients)
        assert len(gradients) == len(expected) == 3
        for update, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(update, wanted, atol=1e-6, rtol=1e-4)

    @pytest.mark.parametrize("lengths", [(20, 30), (2, 3, 30)])
    def test_first_update_by_hand(
        self, tmp_path: Path, gradients: list[list[Tensor]], lengths: tuple[int, ...]
    ) -> None:
        """Mean of the micro-batches' means, also where some clips are padded."""
        config = make_config(
            tmp_path,
            batch_size=2,
            clips_per_epoch=6,
            num_epochs=1,
            gradient_accumulation_steps=3,
            max_gradient_norm=None,
        )
        untouched = make_trainer(config, lengths=lengths)
        parts = [self.by_hand(untouched, config, 0, first, first + 2) for first in (0, 2, 4)]
        expected = [sum(grads) / 3 for grads in zip(*parts, strict=True)]
        self.run(config, gradients, lengths=lengths)
        assert len(gradients) == 1
        torch.testing.assert_close(gradients[0], expected, atol=1e-6, rtol=1e-4)

    def test_last_group_may_be_smaller(self, tmp_path: Path, gradients: list[list[Tensor]]) -> None:
        """Five batches in groups of two: the last update is the last batch's own."""
        # A rate too small to change anything, so that the gradients are those of the first weights.
        config = make_config(
            tmp_path,
            batch_size=2,
            clips_per_epoch=9,
            num_epochs=1,
            gradient_accumulation_steps=2,
            max_gradient_norm=None,
            learning_rate=1e-12,
        )
        untouched = make_trainer(config)
        expected = self.by_hand(untouched, config, 0, 8, 9)
        trainer = self.run(config, gradients)
        assert len(gradients) == trainer.progress.global_step == 3
        torch.testing.assert_close(gradients[-1], list(expected), atol=1e-6, rtol=1e-4)

    def test_clipping(self, tmp_path: Path, gradients: list[list[Tensor]]) -> None:
        config = make_config(tmp_path, max_gradient_norm=0.01, num_epochs=1)
        self.run(config, gradients)
        for update in gradients:
            norm = torch.cat([g.flatten() for g in update]).norm()
            assert float(norm) == pytest.approx(0.01, rel=1e-3)
        # What is logged is the norm before.
        assert all(value > 0.1 for _, value in scalars(config)["train/gradient_norm"])

    def test_learning_rates_are_those_of_each_update(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, num_epochs=5, warmup_fraction=0.2)
        make_trainer(config).fit()
        logged = scalars(config)["learning_rate/trigger_detector"]
        assert [step for step, _ in logged] == list(range(1, 21))
        expected = [
            0.01 * warmup_cosine_factor(step, total_steps=20, warmup_steps=4) for step in range(20)
        ]
        assert [value for _, value in logged] == pytest.approx(expected)


class TestPrecision:
    def test_bfloat16_on_the_cpu(self, tmp_path: Path) -> None:
        dtypes: set[torch.dtype] = set()
        trainer = make_trainer(make_config(tmp_path, use_mixed_precision=True, num_epochs=1))
        trainer.model.trigger.register_forward_hook(lambda m, i, output: dtypes.add(output.dtype))
        trainer.fit()
        assert dtypes == {torch.bfloat16}
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}

    def test_float16_needs_cuda(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, use_mixed_precision=True, mixed_precision_dtype="fp16")
        with pytest.raises(
            TrainingError, match="fp16, which the CPU cannot train in; set it to bf16"
        ):
            make_trainer(config)

    def test_full_precision(self, tmp_path: Path) -> None:
        dtypes: set[torch.dtype] = set()
        trainer = make_trainer(make_config(tmp_path, num_epochs=1))
        trainer.model.trigger.register_forward_hook(lambda m, i, output: dtypes.add(output.dtype))
        trainer.fit()
        assert dtypes == {torch.float32}


class TestNotFinite:
    def test_loss(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, batch_size=2)
        plain = build_loss(config.training.loss, None)
        calls: list[int] = []

        def loss(logits: Tensor, targets: Tensor) -> Tensor:
            calls.append(1)
            # Two heads a batch: the fourth batch of the first epoch.
            return plain(logits, targets) * (math.nan if len(calls) == 8 else 1)

        trainer = make_trainer(config, loss=loss)
        with pytest.raises(TrainingError) as error:
            trainer.fit()
        clip = trainer._dataset[ClipPosition(0, 6)]
        where = f"{clip.video_index}.mp4 at {clip.first_sample / 3:.2f} s"
        assert f"at update 4, the loss is nan (clips: {where}, " in str(error.value)
        assert "try a lower training.learning_rate" in str(error.value)

    def test_gradient(self, tmp_path: Path) -> None:
        """A finite loss may have an infinite gradient, which would go into the weights."""
        config = make_config(tmp_path, clips_per_epoch=4, num_epochs=1)
        trainer = make_trainer(
            config,
            # 1 at 0, where its slope is infinite.
            loss=lambda logits, targets: 1 + (logits * 0).abs().sqrt(),
        )
        with pytest.raises(TrainingError, match=r"at update 1, the norm of the gradients is nan;"):
            trainer.fit()
        assert all(p.isfinite().all() for p in trainer.model.parameters())
        assert not Path(config.training.checkpoint_dir).exists()


KEYS = {
    "model_state_dict",
    "optimizer_state_dict",
    "scheduler_state_dict",
    "scaler_state_dict",
    "rng_state",
    "data_position",
    "epoch",
    "global_step",
    "loss",
    "config",
    "metadata",
    "format_version",
}


def rising_then_falling() -> Evaluate:
    """Frame AP 0.2, 0.9, 0.5, ..."""
    values = iter([0.2, 0.9, 0.5, 0.4, 0.3])

    def evaluate(model: Any, device: torch.device) -> Mapping[str, float]:
        return {"frame_ap": np.float64(next(values)), "frame_ap/a": 0.1}

    return evaluate


class TestCheckpoints:
    def test_names_and_content(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, num_epochs=4, save_every=3)
        trainer = make_trainer(config, evaluator=rising_then_falling())
        result = trainer.fit()
        folder = Path(config.training.checkpoint_dir)
        assert {file.name for file in folder.iterdir()} == {
            "checkpoint_epoch_3.pt",
            "checkpoint_epoch_4.pt",
            "best_checkpoint.pt",
            "final_checkpoint.pt",
        }
        assert result.checkpoint_path == folder / "final_checkpoint.pt"
        assert result.best_path == folder / "best_checkpoint.pt"
        for file in folder.iterdir():
            content = torch.load(file)  # Its default: plain containers and tensors alone.
            assert content.keys() == KEYS
            assert content["config"] == config.to_plain()
            assert content["metadata"]["labels"] == ["a"]
            assert parse_config(content["config"]) == config
        final = torch.load(result.checkpoint_path)
        assert (final["epoch"], final["global_step"], final["format_version"]) == (4, 16, 1)
        assert final["loss"] == result.progress.loss
        assert_same(final["model_state_dict"], dict(trainer.model.state_dict()))
        best = torch.load(result.best_path)
        assert (best["epoch"], best["metadata"]["best_metric"]) == (2, 0.9)
        assert best["metadata"]["metrics"] == {"frame_ap": 0.9, "frame_ap/a": 0.1}

    def test_without_validation_none_is_best(self, tmp_path: Path) -> None:
        config = make_config(tmp_path)
        assert make_trainer(config).fit().best_path is None
        assert not (Path(config.training.checkpoint_dir) / "best_checkpoint.pt").exists()

    def test_validation_goes_to_tensorboard(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, num_epochs=5, validate_every=2)
        make_trainer(config, evaluator=rising_then_falling()).fit()
        logged = scalars(config)
        # Four updates an epoch; after the epochs 2 and 4, and at the end.
        assert [step for step, _ in logged["validation/frame_ap"]] == [8, 16, 20]
        assert [v for _, v in logged["validation/frame_ap"]] == pytest.approx([0.2, 0.9, 0.5])
        assert [step for step, _ in logged["train/loss"]] == list(range(1, 21))
        assert "validation/frame_ap/a" in logged

    def test_logged_loss_is_that_of_the_whole_update(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, num_epochs=1, gradient_accumulation_steps=4)
        result = make_trainer(config).fit()
        assert [v for _, v in scalars(config)["train/loss"]] == pytest.approx(
            [result.progress.loss]
        )

    @pytest.mark.parametrize("first", [math.nan, 0.3])
    def test_undefined_metric_is_never_best(self, tmp_path: Path, first: float) -> None:
        values = iter([first, math.nan, 0.5])
        config = make_config(tmp_path, num_epochs=3)
        result = make_trainer(config, evaluator=lambda m, d: {"frame_ap": next(values)}).fit()
        assert result.progress.best_metric == 0.5
        assert result.best_path is not None
        assert torch.load(result.best_path)["epoch"] == 3

    def test_an_earlier_run_is_moved_aside(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        long = make_config(tmp_path, num_epochs=3)
        make_trainer(long).fit()
        folder = Path(long.training.checkpoint_dir)
        with caplog.at_level(logging.WARNING):
            make_trainer(make_config(tmp_path, num_epochs=2)).fit()
        assert latest_checkpoint(folder).name == "checkpoint_epoch_2.pt"
        (aside,) = folder.glob("before_*")
        assert sorted(file.name for file in aside.iterdir()) == [
            f"checkpoint_epoch_{epoch}.pt" for epoch in (1, 2, 3)
        ]
        assert f"moved 3 checkpoints of an earlier run to {aside}" in caplog.text

    def test_progress_bar(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        make_trainer(make_config(tmp_path), evaluator=rising_then_falling()).fit()
        last = capsys.readouterr().err.replace("\n", "\r").split("\r")
        line = [part for part in last if part.startswith("epoch 2/2")][-1]
        assert "8/8" in line
        assert "loss=" in line
        assert "val AP=0.900" in line
        assert "<00:00" in line, "time left"


def interrupting(config: Config, after_batches: int, number: signal.Signals) -> Any:
    """The configured loss, and a signal in the middle of that batch."""
    plain = build_loss(config.training.loss, None)
    calls: list[int] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2 * after_batches:
            os.kill(os.getpid(), number)
        return plain(logits, targets)

    return loss


class TestResume:
    @pytest.mark.parametrize(
        ("after_batches", "num_workers"),
        [(1, 0), (3, 0), (7, 0), (8, 0), (12, 0), (17, 0), (3, 2), (12, 2)],
    )
    def test_ends_where_an_unbroken_run_ends(
        self, tmp_path: Path, after_batches: int, num_workers: int
    ) -> None:
        """Seven batches an epoch, the last short, in groups of two; with dropout and validation."""
        changes = {
            "batch_size": 3,
            "clips_per_epoch": 20,
            "num_epochs": 3,
            "gradient_accumulation_steps": 2,
            "num_workers": num_workers,
        }

        def trainer_for(config: Config, **settings: Any) -> Trainer:
            return make_trainer(config, dropout=0.3, evaluator=rising_then_falling(), **settings)

        whole_config = make_config(tmp_path / "whole", **changes)
        whole = trainer_for(whole_config).fit()
        config = make_config(tmp_path / "broken", **changes)
        broken = trainer_for(config, loss=interrupting(config, after_batches, signal.SIGTERM)).fit()
        assert broken.exit_code == 143
        assert broken.progress.global_step < whole.progress.global_step
        folder = Path(config.training.checkpoint_dir)
        assert latest_checkpoint(folder) == broken.checkpoint_path
        stopped = load_checkpoint(broken.checkpoint_path)
        assert math.isfinite(stopped["loss"])
        # What the process has drawn since must not matter.
        torch.rand(7)
        resumed = make_trainer(config, dropout=0.3, evaluator=_rest(stopped["epoch"]))
        resumed.resume(broken.checkpoint_path)
        result = resumed.fit()
        assert result.progress == whole.progress
        one, other = torch.load(whole.checkpoint_path), torch.load(result.checkpoint_path)
        for content in (one, other):
            del content["config"], content["metadata"]["run_name"]
        assert_same(one, other)
        assert not list(folder.glob("*_batch_*")), "finished epochs need no places inside them"
        # One run on the board, each update once, and the same curves.
        assert scalars(config) == scalars(whole_config)
        steps = [step for step, _ in scalars(config)["train/loss"]]
        assert steps == list(range(1, whole.progress.global_step + 1))

    def test_from_the_end_of_an_epoch(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, num_epochs=4)
        whole = make_trainer(config, dropout=0.3).fit()
        expected = torch.load(whole.checkpoint_path)
        again = make_trainer(config, dropout=0.3)
        again.resume(Path(config.training.checkpoint_dir) / "checkpoint_epoch_2.pt")
        before = scalars(config)
        assert_same(
            expected["model_state_dict"],
            torch.load(again.fit().checkpoint_path)["model_state_dict"],
        )
        # What came after the checkpoint is gone from the board, and written anew.
        assert scalars(config) == before

    def test_signal_during_validation(self, tmp_path: Path) -> None:
        def evaluate(model: Any, device: torch.device) -> Mapping[str, float]:
            os.kill(os.getpid(), signal.SIGINT)
            return {"frame_ap": 0.5}

        config = make_config(tmp_path)
        result = make_trainer(config, evaluator=evaluate).fit()
        assert result.exit_code == 130
        assert result.checkpoint_path.name == "checkpoint_epoch_1.pt"
        assert (result.progress.epoch, result.progress.batch) == (1, 0)

    def test_a_finished_run_says_so(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        config = make_config(tmp_path)
        first = make_trainer(config).fit()
        again = make_trainer(config)
        again.resume(latest_checkpoint(Path(config.training.checkpoint_dir)))
        with caplog.at_level(logging.INFO):
            result = again.fit()
        assert (
            "nothing left to train: 2 of 2 epochs are done; to go on, raise training.num_epochs"
            in caplog.text
        )
        assert result.exit_code == 0
        assert_same(result.progress, first.progress)
        more = make_trainer(make_config(tmp_path, num_epochs=3))
        more.resume(result.checkpoint_path)
        assert more.fit().progress.epoch == 3

    def test_another_model_is_refused(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, num_epochs=1)
        path = make_trainer(config).fit().checkpoint_path
        plain = config.to_plain()
        plain["model"]["visual_encoder"]["feature_dim"] = 64
        plain["freezing"]["visual_backbone"] = True
        other = make_trainer(parse_config(plain))
        with pytest.raises(CheckpointError) as error:
            other.resume(path)
        for part in (
            f"{path}: is of another run",
            "model.visual_encoder.feature_dim was 512, is 64",
            "freezing.visual_backbone was False, is True",
            "start anew without --resume",
        ):
            assert part in str(error.value)

    def test_what_is_not_of_the_model_may_differ(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = make_config(tmp_path, num_epochs=1)
        content = torch.load(make_trainer(config).fit().checkpoint_path)
        plain = config.to_plain()
        plain["model"]["visual_encoder"]["weights"] = "/elsewhere/weights.pth"
        plain["model"]["trigger_detector"]["threshold"] = 0.9
        plain["training"]["checkpoint_dir"] = "elsewhere"
        plain["training"]["seed"] = 7
        with caplog.at_level(logging.WARNING):
            check_resumable(content, parse_config(plain), source="x.pt")
        assert "goes on with changes: training.seed was 0, is 7" in caplog.text
        assert "elsewhere" not in caplog.text

    def test_a_key_that_is_newer_than_the_checkpoint_has_its_default(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, num_epochs=1)
        content = torch.load(make_trainer(config).fit().checkpoint_path)
        del content["config"]["model"]["visual_encoder"]["pool_grid"]
        check_resumable(content, config, source="x.pt")

    def test_another_learning_rate_takes_effect(self, tmp_path: Path) -> None:
        changes = {"num_epochs": 2, "warmup_fraction": 0}
        make_trainer(make_config(tmp_path, **changes)).fit()
        config = make_config(tmp_path, learning_rate=0.5, weight_decay=0.25, **changes)
        trainer = make_trainer(config)
        trainer.resume(Path(config.training.checkpoint_dir) / "checkpoint_epoch_1.pt")
        (decayed, plain) = trainer._optimizer.param_groups
        factor = warmup_cosine_factor(4, total_steps=8, warmup_steps=0)
        assert decayed["lr"] == plain["lr"] == pytest.approx(0.5 * factor)
        assert (decayed["weight_decay"], plain["weight_decay"]) == (0.25, 0)
        trainer.fit()
        logged = dict(scalars(config)["learning_rate/trigger_detector"])
        last = warmup_cosine_factor(7, total_steps=8, warmup_steps=0)
        assert logged[8] == pytest.approx(0.5 * last)

    @pytest.mark.parametrize(
        "change", [{"batch_size": 2}, {"clips_per_epoch": 12}, {"gradient_accumulation_steps": 2}]
    )
    def test_other_batches_inside_an_epoch_are_refused(
        self, tmp_path: Path, change: dict[str, int]
    ) -> None:
        config = make_config(tmp_path)
        path = (
            make_trainer(config, loss=interrupting(config, 2, signal.SIGINT)).fit().checkpoint_path
        )
        other = make_trainer(make_config(tmp_path, **change))
        (key,) = change
        with pytest.raises(CheckpointError, match=f"is of another run: training.{key} was"):
            other.resume(path)

    def test_other_videos_inside_an_epoch_are_refused(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, clips_per_epoch=None)
        path = (
            make_trainer(config, loss=interrupting(config, 1, signal.SIGINT)).fit().checkpoint_path
        )
        other = make_trainer(config, lengths=(20, 60))
        with pytest.raises(
            CheckpointError, match=r"4 clips from its start, and an epoch was 10 clips .* is 16"
        ):
            other.resume(path)

    def test_a_checkpoint_without_training_state(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, num_epochs=1)
        path = make_trainer(config).fit().checkpoint_path
        content = torch.load(path)
        del content["optimizer_state_dict"]
        torch.save(content, path)
        with pytest.raises(
            CheckpointError, match=r"training state does not fit .*optimizer_state_dict"
        ):
            make_trainer(config).resume(path)


def _rest(finished_epochs: int) -> Evaluate:
    """The evaluator of a run that goes on."""
    evaluate = rising_then_falling()
    for _ in range(finished_epochs):
        evaluate(None, CPU)
    return evaluate
