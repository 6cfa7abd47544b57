"""Resuming on a tiny problem: to the last bit, and what is refused."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_trainer import (
    Killed,
    assert_same,
    interrupting,
    killing,
    make_config,
    make_trainer,
    metric_lines,
    rest_of_evaluation,
    rising_then_falling,
    scalars,
)
from utils.checkpoint import load_checkpoint
from utils.checkpoint_folder import CheckpointFolder
from utils.config import Config, parse_config
from utils.errors import CheckpointError, TrainingError
from utils.training.optimization import warmup_cosine_factor
from utils.training.resuming import check_resumable
from utils.training.run_record import RunRecord
from utils.training.trainer import Trainer

EVERYTHING = {
    "ema_decay": 0.8,
    "mixup_alpha": 0.4,
    "early_stopping_patience": 2,
    "early_stopping_min_delta": 0.1,
    "loss": {"label_smoothing": 0.1},
}
"""That keeps state of its own, or draws numbers."""


class TestKilled:
    @pytest.mark.parametrize("num_workers", [0, 2])
    @settings(deadline=None, max_examples=4)
    @given(data=st.data())
    def test_loses_few_updates_and_ends_where_an_unbroken_run_ends(
        self, num_workers: int, data: st.DataObject
    ) -> None:
        """Seven batches an epoch, the last short; the best is of epoch 2, and epoch 4 is the last.

        The run would go on for six epochs, but stops early.
        """
        every = data.draw(st.integers(1, 4), label="save_every_steps")
        accumulation = data.draw(st.integers(1, 3), label="accumulation")
        killed_in = data.draw(st.integers(2, 27), label="batch in which it is killed")
        changes = {
            "batch_size": 3,
            "clips_per_epoch": 20,
            "num_epochs": 6,
            "gradient_accumulation_steps": accumulation,
            "save_every_steps": every,
            "num_workers": num_workers,
            **EVERYTHING,
        }
        with tempfile.TemporaryDirectory() as folder:
            whole_config = make_config(Path(folder) / "whole", **changes)
            whole = make_trainer(whole_config, dropout=0.3, evaluator=rising_then_falling()).fit()
            assert whole.progress.epoch == 4
            config = make_config(Path(folder) / "broken", **changes)
            trainer = make_trainer(
                config,
                dropout=0.3,
                evaluator=rising_then_falling(),
                loss=killing(config, killed_in),
            )
            with pytest.raises(Killed):
                trainer.fit()
            checkpoints = CheckpointFolder(Path(config.training.checkpoint_dir))
            done = trainer.progress.global_step
            resumed = make_trainer(config, dropout=0.3)
            if checkpoints.numbered():
                path = checkpoints.latest()
                stopped = load_checkpoint(path)
                assert 0 <= done - stopped["global_step"] < every
                evaluator = rest_of_evaluation(stopped["epoch"])
                resumed = make_trainer(config, dropout=0.3, evaluator=evaluator)
                resumed.resume(path)
            else:
                assert done < every
                return
            result = resumed.fit()
            assert result.progress == whole.progress
            one, other = (
                load_checkpoint(whole.checkpoint_path),
                load_checkpoint(result.checkpoint_path),
            )
            for content in (one, other):
                del content["config"], content["metadata"]["run_name"]
            assert_same(one, other)
            best = [
                load_checkpoint(Path(c.training.checkpoint_dir) / "best_checkpoint.pt")
                for c in (whole_config, config)
            ]
            assert_same(*(content["model_state_dict"] for content in best))
            assert scalars(config) == scalars(whole_config)
            assert metric_lines(config) == metric_lines(whole_config)
            assert [row["epoch"] for row in metric_lines(config)] == [1, 2, 3, 4]

    def test_a_checkpoint_follows_every_so_many_updates(self, tmp_path: Path) -> None:
        """Those at the ends of epochs count, too."""
        config = make_config(tmp_path, num_epochs=5, save_every=2, save_every_steps=3)
        saved: list[tuple[int, str]] = []
        trainer = make_trainer(config)
        plain = trainer._folder.save_numbered

        def save(content: Any, *, epoch: int, batch: int = 0) -> Path:
            path = plain(content, epoch=epoch, batch=batch)
            saved.append((content["global_step"], path.name))
            return path

        trainer._folder.save_numbered = save  # type: ignore[method-assign]
        trainer.fit()
        # Four updates an epoch.
        assert saved == [
            (3, "checkpoint_epoch_0_batch_3.pt"),
            (6, "checkpoint_epoch_1_batch_2.pt"),
            (8, "checkpoint_epoch_2.pt"),
            (11, "checkpoint_epoch_2_batch_3.pt"),
            (14, "checkpoint_epoch_3_batch_2.pt"),
            (16, "checkpoint_epoch_4.pt"),
            (19, "checkpoint_epoch_4_batch_3.pt"),
            (20, "checkpoint_epoch_5.pt"),
        ]


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
        assert CheckpointFolder(folder).latest() == broken.checkpoint_path
        stopped = load_checkpoint(broken.checkpoint_path)
        assert math.isfinite(stopped["loss"])
        # What the process has drawn since must not matter.
        torch.rand(7)
        resumed = make_trainer(config, dropout=0.3, evaluator=rest_of_evaluation(stopped["epoch"]))
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
        again.resume(CheckpointFolder(Path(config.training.checkpoint_dir)).latest())
        with caplog.at_level(logging.INFO):
            result = again.fit()
        assert (
            "nothing left to train: 2 of 2 epochs are done; to go on, raise training.num_epochs "
            "and give --allow-config-change" in caplog.text
        )
        assert result.exit_code == 0
        assert_same(result.progress, first.progress)
        more = make_trainer(make_config(tmp_path, num_epochs=3))
        more.resume(result.checkpoint_path, allow_changes=True)
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
            check_resumable(content, parse_config(plain), source="x.pt", allow_changes=True)
        assert "goes on with a change: training.seed was 0, is 7" in caplog.text
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
        path = Path(config.training.checkpoint_dir) / "checkpoint_epoch_1.pt"
        trainer.resume(path, allow_changes=True)
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

    def test_other_batches_go_on_at_the_same_clip_where_they_may(self, tmp_path: Path) -> None:
        config = make_config(tmp_path)
        path = (
            make_trainer(config, loss=interrupting(config, 2, signal.SIGINT)).fit().checkpoint_path
        )
        # Two updates of four clips are done, and twice as many of two are left.
        other = make_config(tmp_path, batch_size=2)
        trainer = make_trainer(other)
        trainer.resume(path, allow_changes=True)
        assert (trainer.progress.clip, trainer.progress.global_step) == (8, 2)
        result = trainer.fit()
        assert result.progress.global_step == 2 + 4 + 8
        make_trainer(make_config(tmp_path / "alone", batch_size=2)).fit()
        (rates, alone) = (
            [rate for _, rate in scalars(c)["learning_rate/trigger_detector"]]
            for c in (other, make_config(tmp_path / "alone"))
        )
        assert rates[2:] == alone[4:], "the rate goes by the share of the run that is done"

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


class TestRecord:
    """What the run's folder says of sessions that ended in one way or another."""

    def sessions(self, config: Config) -> list[dict[str, Any]]:
        (path,) = Path(config.training.log_dir).glob("*/run.json")
        sessions: list[dict[str, Any]] = json.loads(path.read_text())["sessions"]
        return sessions

    def test_a_stopped_and_a_finished_session(self, tmp_path: Path) -> None:
        config = make_config(tmp_path)
        stopped = make_trainer(config, loss=interrupting(config, 2, signal.SIGTERM)).fit()
        again = make_trainer(config)
        again.resume(stopped.checkpoint_path)
        again.fit()
        ends = [(s["global_step"], s["exit_code"]) for s in self.sessions(config)]
        assert ends == [(0, 143), (2, 0)]

    def test_an_error(self, tmp_path: Path) -> None:
        config = make_config(tmp_path)
        with pytest.raises(TrainingError, match="the loss is nan"):
            make_trainer(config, loss=lambda logits, targets: logits * math.nan).fit()
        assert [s["exit_code"] for s in self.sessions(config)] == [1]

    def test_a_full_disk_does_not_hide_what_came_first(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(self: RunRecord, *, exit_code: int) -> None:
            raise TrainingError("run.json: cannot be written: No space left on device")

        monkeypatch.setattr(RunRecord, "end", full)
        config = make_config(tmp_path)
        with pytest.raises(TrainingError, match="the loss is nan"):
            make_trainer(config, loss=lambda logits, targets: logits * math.nan).fit()
        assert "cannot be written: No space left on device" in caplog.text


def test_sharded_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(TrainingError) as caught:
        make_trainer(make_config(tmp_path))
    assert str(caught.value) == (
        "training on FSDP is not supported; start it with torchrun, which gives each process a "
        "whole model"
    )
