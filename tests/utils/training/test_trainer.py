"""`Trainer` on a tiny problem: updates by hand, precision, what it writes and when it stops."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.data import default_collate

from tiny_trainer import assert_same, make_config, make_trainer, rising_then_falling, scalars
from utils.checkpoint_folder import CheckpointFolder
from utils.config import Config, parse_config
from utils.data.augmentation import generator_for
from utils.data.clips import Clip, ClipPosition, RandomStream
from utils.errors import TrainingError
from utils.training.losses import build_loss, mean_over_valid
from utils.training.mixup import mix_clips
from utils.training.optimization import warmup_cosine_factor
from utils.training.trainer import Trainer


@pytest.fixture
def gradients() -> Iterator[list[list[Tensor]]]:
    """The gradients that each update was made with."""
    seen: list[list[Tensor]] = []

    def remember(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        seen.append([p.grad.clone() for g in optimizer.param_groups for p in g["params"]])

    handle = register_optimizer_step_pre_hook(remember)
    yield seen
    handle.remove()


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
        """The mean over all valid frames, also where padding makes batches of other sizes."""
        config = make_config(
            tmp_path,
            batch_size=2,
            clips_per_epoch=6,
            num_epochs=1,
            gradient_accumulation_steps=3,
            max_gradient_norm=None,
        )
        untouched = make_trainer(config, lengths=lengths)
        expected = self.by_hand(untouched, config, 0, 0, 6)
        self.run(config, gradients, lengths=lengths)
        assert len(gradients) == 1
        torch.testing.assert_close(gradients[0], list(expected), atol=1e-6, rtol=1e-4)

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
        clips = [trainer._dataset[ClipPosition(0, place)] for place in range(4)]
        names = ", ".join(f"{c.video_index}.mp4 at {c.first_sample / 3:.2f} s" for c in clips)
        with pytest.raises(TrainingError) as error:
            trainer.fit()
        assert f"at update 1, the norm of the gradients is nan (clips: {names}); " in str(
            error.value
        )
        assert all(p.isfinite().all() for p in trainer.model.parameters())
        assert not Path(config.training.checkpoint_dir).exists()


KEYS = {
    "model_state_dict",
    "raw_model_state_dict",
    "ema_state_dict",
    "early_stopping",
    "other_rng_states",
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
        assert (final["epoch"], final["global_step"], final["format_version"]) == (4, 16, 2)
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
        assert CheckpointFolder(folder).numbered()[-1][1].name == "checkpoint_epoch_2.pt"
        (aside,) = folder.glob("before_*")
        assert sorted(file.name for file in aside.iterdir()) == [
            *(f"checkpoint_epoch_{epoch}.pt" for epoch in (1, 2, 3)),
            "final_checkpoint.pt",
        ]
        assert f"moved 4 checkpoints of an earlier run to {aside}" in caplog.text

    def test_progress_bar(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        make_trainer(make_config(tmp_path), evaluator=rising_then_falling()).fit()
        last = capsys.readouterr().err.replace("\n", "\r").split("\r")
        line = [part for part in last if part.startswith("epoch 2/2")][-1]
        assert "8/8" in line
        assert "loss=" in line
        assert "val AP=0.900" in line
        assert "<00:00" in line, "time left"


class TestAveragedWeights:
    def test_are_validated_and_saved_for_inference(self, tmp_path: Path) -> None:
        seen: list[dict[str, Tensor]] = []

        def evaluate(model: Any, device: torch.device) -> Mapping[str, float]:
            seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
            return {"frame_ap": float(len(seen))}

        config = make_config(tmp_path, ema_decay=0.5)
        trainer = make_trainer(config, evaluator=evaluate)
        result = trainer.fit()
        content = torch.load(result.checkpoint_path)
        own = dict(trainer.model.state_dict())
        assert_same(content["raw_model_state_dict"], own)
        assert_same(content["model_state_dict"], seen[-1])
        assert_same(content["ema_state_dict"]["averages"], seen[-1])
        assert content["ema_state_dict"]["num_updates"] == 8
        assert not torch.equal(own["trigger.weight"], seen[-1]["trigger.weight"])
        assert result.best_path is not None
        assert_same(torch.load(result.best_path)["model_state_dict"], seen[-1])

    def test_lag_behind(self, tmp_path: Path) -> None:
        """The mean of the weights after each update, weighted as the growing decay says."""
        config = make_config(tmp_path, num_epochs=1, clips_per_epoch=8, ema_decay=0.999)
        trainer = make_trainer(config)
        name = "trigger.weight"
        weights: list[Tensor] = []
        after = register_optimizer_step_post_hook(
            lambda *_: weights.append(trainer.model.state_dict()[name].clone())
        )
        result = trainer.fit()
        after.remove()
        expected = weights[0]
        for number, weight in enumerate(weights):
            decay = (1 + number) / (10 + number)
            expected = decay * expected + (1 - decay) * weight
        torch.testing.assert_close(
            torch.load(result.checkpoint_path)["model_state_dict"][name], expected
        )

    def test_none_are_kept_where_none_are_wanted(self, tmp_path: Path) -> None:
        content = torch.load(make_trainer(make_config(tmp_path)).fit().checkpoint_path)
        assert content["raw_model_state_dict"] == content["ema_state_dict"] == {}


class TestEarlyStopping:
    def test_ends_the_run(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        config = make_config(tmp_path, num_epochs=9, save_every=8, early_stopping_patience=2)
        with caplog.at_level(logging.INFO):
            result = make_trainer(config, evaluator=rising_then_falling()).fit()
        assert (result.exit_code, result.progress.epoch, result.progress.best_metric) == (0, 4, 0.9)
        assert (
            "stopped early after epoch 4: frame_ap has not risen in 2 validations; best: 0.9000"
            in caplog.text
        )
        folder = Path(config.training.checkpoint_dir)
        assert {file.name for file in folder.iterdir()} == {
            "checkpoint_epoch_4.pt",
            "best_checkpoint.pt",
            "final_checkpoint.pt",
        }
        content = torch.load(result.checkpoint_path)
        assert content["early_stopping"] == {"best": 0.9, "reference": 0.9, "num_bad": 2}

    def test_a_metric_that_is_never_defined_stops_a_run_early_too(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = make_config(tmp_path, num_epochs=9, early_stopping_patience=2)
        trainer = make_trainer(config, evaluator=lambda model, device: {"frame_ap": math.nan})
        with caplog.at_level("INFO"):
            result = trainer.fit()
        assert result.progress.epoch == 2
        assert result.best_path is None
        assert "frame_ap has not risen in 2 validations; best: none" in caplog.text

    def test_a_run_that_stopped_early_has_nothing_left(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = make_config(tmp_path, num_epochs=9, early_stopping_patience=1)
        path = make_trainer(config, evaluator=rising_then_falling()).fit().checkpoint_path
        again = make_trainer(config, evaluator=rising_then_falling())
        again.resume(path)
        with caplog.at_level(logging.INFO):
            assert again.fit().progress.epoch == 3
        assert "nothing left to train: stopped early after epoch 3; to go on, raise" in caplog.text
        patient = make_config(tmp_path, num_epochs=4, early_stopping_patience=5)
        more = make_trainer(patient, evaluator=rising_then_falling())
        more.resume(path, allow_changes=True)
        assert more.fit().progress.epoch == 4

    def test_another_metric_chooses(self, tmp_path: Path) -> None:
        values = iter([(0.9, 0.1), (0.5, 0.2), (0.4, 0.3), (0.3, 0.2)])

        def evaluate(model: Any, device: torch.device) -> Mapping[str, float]:
            return dict(zip(("frame_ap", "frame_auroc"), next(values), strict=True))

        config = make_config(tmp_path, num_epochs=4, best_metric="frame_auroc")
        result = make_trainer(config, evaluator=evaluate).fit()
        assert result.progress.best_metric == 0.3
        assert result.best_path is not None
        content = torch.load(result.best_path)
        assert (content["epoch"], content["metadata"]["best_metric_name"]) == (3, "frame_auroc")

    def test_the_best_by_another_metric_is_looked_for_anew(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = make_config(tmp_path, num_epochs=2)
        make_trainer(config, evaluator=lambda m, d: {"frame_ap": 0.9, "frame_auroc": 0.1}).fit()
        other = make_config(tmp_path, num_epochs=2, best_metric="frame_auroc")
        trainer = make_trainer(other, evaluator=lambda m, d: {"frame_ap": 0.9, "frame_auroc": 0.1})
        path = Path(config.training.checkpoint_dir) / "checkpoint_epoch_1.pt"
        with caplog.at_level(logging.WARNING):
            trainer.resume(path, allow_changes=True)
        assert f"{path}: its best is by frame_ap, and training.best_metric is frame_auroc: the" in (
            caplog.text
        )
        assert trainer.fit().progress.best_metric == 0.1

    def test_a_metric_that_is_not_measured(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, best_metric="frame_f1")
        with pytest.raises(TrainingError) as caught:
            make_trainer(config, evaluator=rising_then_falling()).fit()
        assert str(caught.value) == (
            "training.best_metric is 'frame_f1', and validation gives frame_ap, frame_ap/a"
        )


class TestMixup:
    def test_is_of_the_place_alone(self, tmp_path: Path, gradients: list[list[Tensor]]) -> None:
        """The first update of an epoch, whatever came before it."""
        changes = {"mixup_alpha": 1.0, "num_epochs": 1, "max_gradient_norm": None}
        runs = []
        for name in ("one", "other"):
            trainer = make_trainer(make_config(tmp_path / name, **changes))
            gradients.clear()
            torch.rand(3)
            trainer.fit()
            runs.append([list(update) for update in gradients])
        assert_same(*runs)
        gradients.clear()
        make_trainer(make_config(tmp_path / "plain", **{**changes, "mixup_alpha": 0})).fit()
        assert not torch.equal(runs[0][0][0], gradients[0][0])

    def test_blends_what_the_model_sees(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, mixup_alpha=0.7, num_epochs=1, seed=3)
        trainer = make_trainer(config)
        seen: list[Tensor] = []
        trainer.model.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
        trainer.fit()
        for batch in range(4):
            clips = [trainer._dataset[ClipPosition(0, 4 * batch + row)] for row in range(4)]
            plain = Clip(*default_collate(clips))
            generator = generator_for(3, 0, 4 * batch, RandomStream.MIXUP)
            assert torch.equal(seen[batch], mix_clips(plain, alpha=0.7, generator=generator).inputs)


class TestUnfreezing:
    """The hidden layer learns from epoch 3 on."""

    @staticmethod
    def begin_epoch(model: Any, epoch: int) -> None:
        model.hidden.requires_grad_(epoch >= 3)

    def run(self, folder: Path, **settings: Any) -> tuple[Config, Trainer]:
        config = make_config(folder, num_epochs=4, ema_decay=0.9)
        trainer = make_trainer(config, dropout=0.3, begin_epoch=self.begin_epoch, **settings)
        return config, trainer

    def test_weights_stay_until_their_epoch(self, tmp_path: Path) -> None:
        config, trainer = self.run(tmp_path)
        before = trainer.model.state_dict()["hidden.0.weight"].clone()
        trainer.fit()
        folder = Path(config.training.checkpoint_dir)
        names = [f"checkpoint_epoch_{epoch}.pt" for epoch in (2, 3, 4)]
        after = [torch.load(folder / name)["raw_model_state_dict"] for name in names]
        hidden = [weights["hidden.0.weight"] for weights in after]
        assert torch.equal(hidden[0], before)
        assert not torch.equal(hidden[1], before)
        assert not torch.equal(hidden[2], hidden[1])

    # The last three are kept.
    @pytest.mark.parametrize("epoch", [2, 3])
    def test_resumes_across_the_border(self, tmp_path: Path, epoch: int) -> None:
        config, trainer = self.run(tmp_path)
        whole = torch.load(trainer.fit().checkpoint_path)
        _, again = self.run(tmp_path)
        path = Path(config.training.checkpoint_dir) / f"checkpoint_epoch_{epoch}.pt"
        again.resume(path)
        resumed = torch.load(again.fit().checkpoint_path)
        assert_same(whole, resumed)
