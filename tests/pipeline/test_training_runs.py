"""Runs from a config: what breaks in the midst of them, unfreezing, pictures, and resuming."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.training_setup import build_trainer, resume_path
from training_files import CACHED, MakeConfig, assert_same_weights, fitted
from utils.checkpoint import load_checkpoint
from utils.errors import (
    AnnotationError,
    CheckpointError,
    ConfigError,
    TrainingError,
)

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


class TestBadInputs:
    """Each with a message of its own, and nothing lost."""

    def test_an_empty_annotation_file(self, make_config: MakeConfig, tmp_path: Path) -> None:
        (tmp_path / "empty.json").touch()
        with pytest.raises(AnnotationError, match=r"empty\.json: .*empty"):
            build_trainer(make_config(data__train_annotations=str(tmp_path / "empty.json")), CPU)

    def test_annotations_of_no_video(self, make_config: MakeConfig, tmp_path: Path) -> None:
        (tmp_path / "none.json").write_text('{"labels": ["flash", "dim"], "videos": []}')
        with pytest.raises(AnnotationError, match=r"none\.json: .*videos"):
            build_trainer(make_config(data__train_annotations=str(tmp_path / "none.json")), CPU)

    @pytest.mark.parametrize("num_workers", [0, 1])
    @pytest.mark.parametrize("what", ["frames", "features"])
    def test_a_video_whose_cache_breaks_within_an_epoch(
        self, make_config: MakeConfig, what: str, num_workers: int
    ) -> None:
        config = make_config(
            data__num_workers=num_workers,
            training__save_every_steps=1,
            **(CACHED if what == "features" else {}),
        )
        trainer = build_trainer(config, CPU)
        path = Path(trainer._dataset.videos[0].inputs.filename)
        saved: list[str] = []
        plain = trainer._folder.save_numbered

        def save_and_break(content: Any, *, epoch: int, batch: int = 0) -> Path:
            saved.append(plain(content, epoch=epoch, batch=batch).name)
            os.truncate(path, 10)
            return Path(saved[-1])

        trainer._folder.save_numbered = save_and_break  # type: ignore[method-assign]
        with pytest.raises(TrainingError) as caught:
            trainer.fit()
        assert str(caught.value) == (
            f"train_0.mp4: its cache entry {path} was changed while training reads it; the "
            "checkpoints so far are sound: go on with --resume latest, which reads the video anew"
        )
        assert saved
        whole = fitted(
            make_config(
                "whole", training__save_every_steps=1, **(CACHED if what == "features" else {})
            )
        )
        latest = resume_path("latest", config)
        assert latest.name == saved[-1]
        resumed = build_trainer(config, CPU, resume_from=latest).fit()
        assert_same_weights(whole, load_checkpoint(resumed.checkpoint_path)["model_state_dict"])

    def test_a_metric_that_is_not_measured_is_said_before_videos_are_read(
        self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pipeline.training_setup.InputsReader", None)
        with pytest.raises(ConfigError) as caught:
            build_trainer(make_config(training__best_metric="frame_ap/dimm"), CPU)
        assert str(caught.value) == (
            "training.best_metric is 'frame_ap/dimm', which validation does not measure; it "
            "measures frame_ap, frame_ap_trigger_head, frame_auroc, frame_ap/flash, frame_ap/dim "
            "(did you mean 'frame_ap/dim'?)"
        )

    def test_patience_without_validation(self, make_config: MakeConfig) -> None:
        config = make_config(training__early_stopping_patience=2, data__val_annotations=None)
        with pytest.raises(ConfigError, match=r"early_stopping_patience needs validation, and dat"):
            build_trainer(config, CPU)


class TestUnfreezing:
    CHANGES: ClassVar[dict[str, Any]] = {
        "freezing__visual_backbone": True,
        "freezing__unfreeze": [
            {"from_epoch": 2, "component": "visual_backbone", "last_stages": 1},
            {"from_epoch": 3, "component": "visual_backbone"},
        ],
        "training__num_epochs": 4,
        "training__keep_last": None,
        "training__ema_decay": 0.5,
    }

    def test_stages_learn_from_their_epochs_on(self, make_config: MakeConfig) -> None:
        config = make_config(**self.CHANGES)
        trainer = build_trainer(config, CPU)
        start = {name: t.clone() for name, t in trainer.model.state_dict().items()}
        trainer.fit()
        folder = Path(config.training.checkpoint_dir)
        learning = []
        for epoch in (1, 2, 3):
            content = load_checkpoint(folder / f"checkpoint_epoch_{epoch}.pt")
            weights = content["raw_model_state_dict"]
            learning.append({name for name in start if not torch.equal(weights[name], start[name])})
        backbone = {name for name in start if name.startswith("visual_encoder.backbone.")}
        assert not learning[0] & backbone
        assert learning[1] & backbone < learning[2] & backbone

    @pytest.mark.parametrize("epoch", [1, 2, 3])
    def test_resume_is_exact_across_the_borders(self, make_config: MakeConfig, epoch: int) -> None:
        whole = make_config("whole", **self.CHANGES)
        weights = fitted(whole)
        path = Path(whole.training.checkpoint_dir) / f"checkpoint_epoch_{epoch}.pt"
        result = build_trainer(make_config("again", **self.CHANGES), CPU, resume_from=path).fit()
        assert_same_weights(weights, load_checkpoint(result.checkpoint_path)["model_state_dict"])


def test_pictures_of_the_validation_are_on_the_board(make_config: MakeConfig) -> None:
    config = make_config()
    build_trainer(config, CPU).fit()
    (folder,) = Path(config.training.log_dir).iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Tags()["images"] == ["scores/val_0.mp4"]
    assert [image.step for image in events.Images("scores/val_0.mp4")] == [4, 8]
    tags = set(events.Tags()["scalars"])
    assert {"throughput/clips_per_second", "throughput/frames_per_second"} <= tags
    assert {"memory/peak_gigabytes", "validation/frame_ap/dim"} <= tags


class TestResume:
    def test_goes_on_without_the_pretrained_weights(
        self, make_config: MakeConfig, tmp_path: Path
    ) -> None:
        encoder = build_trainer(make_config(), CPU).model.visual_encoder
        weights = tmp_path / "weights.pth"
        torch.save(encoder.backbone.network().state_dict(), weights)
        changes = {**CACHED, "model__visual_encoder__weights": str(weights)}
        whole = fitted(make_config("whole", **changes))
        config = make_config("run", **changes)
        fitted(config)
        weights.unlink()
        first = Path(config.training.checkpoint_dir) / "checkpoint_epoch_1.pt"
        result = build_trainer(config, CPU, resume_from=first).fit()
        resumed = load_checkpoint(result.checkpoint_path)["model_state_dict"]
        assert_same_weights(whole, resumed)

    def test_another_model_is_refused_before_videos_are_read(
        self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = make_config(training__num_epochs=1)
        path = build_trainer(config, CPU).fit().checkpoint_path
        monkeypatch.setattr("pipeline.training_setup.InputsReader", None)
        other = make_config(model__time_aware_encoder__type="lstm", training__num_epochs=1)
        with pytest.raises(
            CheckpointError,
            match=r"model\.time_aware_encoder\.type was 'transformer', is 'lstm'; resume with",
        ):
            build_trainer(other, CPU, resume_from=path)

    def test_path_and_latest(self, make_config: MakeConfig, tmp_path: Path) -> None:
        config = make_config()
        folder = Path(config.training.checkpoint_dir)
        with pytest.raises(
            CheckpointError, match="to resume from; leave --resume out to start anew"
        ):
            resume_path("latest", config)
        folder.mkdir(parents=True)
        for epoch in (9, 10):
            torch.save({}, folder / f"checkpoint_epoch_{epoch}.pt")
        assert resume_path("latest", config).name == "checkpoint_epoch_10.pt"
        path = folder / "checkpoint_epoch_9.pt"
        assert resume_path(str(path), config) == path
