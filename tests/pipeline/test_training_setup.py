"""`build_trainer`: what a config makes, cold and warm caches, cached features against frames."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.freezing import COMPONENTS
from models.visual_encoder import VisualEncoder
from pipeline.training_setup import build_caches, build_trainer
from training_files import CACHED, MakeConfig, assert_same_weights, fitted
from utils.checkpoint import load_checkpoint
from utils.config import Config, parse_config
from utils.data.annotations import load_annotations
from utils.data.clips import ClipPosition
from utils.errors import (
    ConfigError,
    TrainingError,
    UsageError,
    VideoTriggerError,
)
from utils.training.trainer import Trainer
from utils.video.source import VideoSource

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def losses(config: Config) -> list[float]:
    """Training loss of each update."""
    (folder,) = Path(config.training.log_dir).iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.value for event in events.Scalars("train/loss")]


def test_a_run_from_frames(make_config: MakeConfig) -> None:
    config = make_config()
    result = build_trainer(config, CPU).fit()
    content = load_checkpoint(result.checkpoint_path)
    resolved = parse_config(content["config"])
    assert resolved.model.labels == ["flash", "dim"]
    assert resolved.model.time_aware_encoder.window_size == 6
    assert set(result.progress.metrics) == {
        "frame_ap",
        "frame_ap_trigger_head",
        "frame_auroc",
        "frame_ap/flash",
        "frame_ap/dim",
    }
    assert all(0 <= value <= 1 for value in result.progress.metrics.values())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("temporal", ["transformer", "lstm"])
def test_mixed_precision_trains_every_temporal_encoder(
    make_config: MakeConfig, temporal: str, causal: bool
) -> None:
    config = make_config(
        training__use_mixed_precision=True,
        training__num_epochs=1,
        # Longer than the shorter video: padding, too.
        data__clip_window_size=25,
        model__time_aware_encoder__type=temporal,
        model__time_aware_encoder__causal=causal,
        model__visual_encoder__motion__enabled=True,
        training__loss__type="focal",
        training__use_gradient_checkpointing=True,
    )
    result = build_trainer(config, CPU).fit()
    assert math.isfinite(result.progress.loss)
    weights = load_checkpoint(result.checkpoint_path)["model_state_dict"]
    # In full precision, whatever the forward pass ran in.
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {f"freezing__{name}": True for name in COMPONENTS},
            r"nothing to train: freezing\.visual_backbone, freezing\.trigger_detector, "
            r"freezing\.time_aware_encoder are all true; set one to false",
        ),
        (
            {"model__llm__describer": "templat"},
            r"unknown describer 'templat'; known: template \(did you mean 'template'\?\)",
        ),
    ],
)
def test_what_cannot_work_is_said_before_any_file_is_read(
    make_config: MakeConfig, changes: dict[str, Any], message: str
) -> None:
    config = make_config(data__train_annotations="gone.json", **changes)
    with pytest.raises(UsageError, match=message):
        build_trainer(config, CPU)


def test_learns_what_is_bright(make_config: MakeConfig) -> None:
    config = make_config(
        training__num_epochs=12,
        training__learning_rate=3e-3,
        training__clips_per_epoch=16,
        **CACHED,
    )
    result = build_trainer(config, CPU).fit()
    assert result.progress.best_metric is not None
    assert result.progress.best_metric > 0.9


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="frames"),
        pytest.param({**CACHED, "training__augmentation__cached_copies": 2}, id="features"),
    ],
)
def test_a_warm_cache_changes_nothing(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    changes = {**changes, "training__loss__positive_weight": "auto"}
    cold = fitted(make_config("cold", **changes))
    cache = make_config("cold").data.cache_dir
    assert_same_weights(cold, fitted(make_config("warm", data__cache_dir=cache, **changes)))


def test_what_caching_draws_does_not_shift_the_run(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = VisualEncoder.backbone_features

    def drawing(self: VisualEncoder, frames: torch.Tensor) -> torch.Tensor:
        torch.rand(3)
        return plain(self, frames)

    monkeypatch.setattr(VisualEncoder, "backbone_features", drawing)
    cold = fitted(make_config("cold", **CACHED))
    cache = make_config("cold").data.cache_dir
    assert_same_weights(cold, fitted(make_config("warm", data__cache_dir=cache, **CACHED)))


def test_frames_in_memory_train_as_frames_on_disk_do(make_config: MakeConfig) -> None:
    in_memory = fitted(make_config("memory", data__cache_dir=None))
    assert_same_weights(in_memory, fitted(make_config("disk")))


def test_cached_features_train_as_frames_do(make_config: MakeConfig) -> None:
    """The same losses, update by update, with dropout and motion but without augmentation."""
    changes = {
        "freezing__visual_backbone": True,
        "training__augmentation__enabled": False,
        "model__visual_encoder__motion__enabled": True,
    }
    frames, features = (
        make_config("frames", **changes),
        make_config("features", **changes, training__cache_features=True),
    )
    one, other = fitted(frames), fitted(features)
    assert losses(features) == pytest.approx(losses(frames), rel=1e-4)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def _count_encodes(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    shapes: list[torch.Size] = []
    plain = VisualEncoder.backbone_features

    def counting(self: VisualEncoder, frames: torch.Tensor) -> torch.Tensor:
        shapes.append(frames.shape)
        return plain(self, frames)

    monkeypatch.setattr(VisualEncoder, "backbone_features", counting)
    return shapes


class TestFeatureCache:
    def test_each_video_is_encoded_once(
        self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes = _count_encodes(monkeypatch)
        build_trainer(make_config(**CACHED), CPU).fit()
        # 6 and 4.5 s to train on and 6 s to validate, at 5 frames a second.
        assert sum(shape[1] for shape in shapes) == 30 + 23 + 30
        shapes.clear()
        build_trainer(make_config(**CACHED), CPU)
        assert not shapes

    @pytest.mark.parametrize(
        "change",
        [
            {"training__seed": 5},  # Other random weights.
            {"model__visual_encoder__pool_grid": 2},
            {"model__visual_encoder__motion__enabled": True},
            {"data__frame_sampling_rate": 4},
        ],
    )
    def test_what_changes_features_makes_them_anew(
        self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
    ) -> None:
        build_trainer(make_config(**CACHED), CPU)
        shapes = _count_encodes(monkeypatch)
        build_trainer(make_config(**CACHED, **change), CPU)
        assert shapes

    @pytest.mark.parametrize(
        "change",
        [
            {"model__visual_encoder__feature_dim": 4},
            {"training__learning_rate": 0.5},
            {"model__time_aware_encoder__type": "lstm"},
        ],
    )
    def test_what_comes_behind_does_not(
        self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
    ) -> None:
        build_trainer(make_config(**CACHED), CPU)
        shapes = _count_encodes(monkeypatch)
        build_trainer(make_config(**CACHED, **change), CPU)
        assert not shapes

    def test_copies_are_of_the_training_videos_alone(
        self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes = _count_encodes(monkeypatch)
        trainer = build_trainer(make_config(**CACHED, training__augmentation__cached_copies=2), CPU)
        assert sum(shape[1] for shape in shapes) == 3 * (30 + 23) + 30
        video = trainer._dataset.videos[0]
        assert len(video.copies) == 2
        distance = [float(np.abs(video.inputs - copy).mean()) for copy in video.copies]
        assert min(distance) > 0

    def test_without_augmentation_there_are_no_copies(self, make_config: MakeConfig) -> None:
        config = make_config(
            **CACHED,
            training__augmentation__cached_copies=2,
            training__augmentation__enabled=False,
        )
        trainer = build_trainer(config, CPU)
        assert trainer._dataset.videos[0].copies == ()

    def test_interrupted_caching_leaves_nothing_half_made(
        self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = make_config("broken", **CACHED)
        calls: list[int] = []
        plain = VisualEncoder.backbone_features

        def interrupting(self: VisualEncoder, frames: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            # The second chunk of the second video: the first is whole.
            if len(calls) == 4:
                raise KeyboardInterrupt
            return plain(self, frames)

        with monkeypatch.context() as context:
            context.setattr(VisualEncoder, "backbone_features", interrupting)
            with pytest.raises(KeyboardInterrupt):
                build_trainer(config, CPU)
        assert config.data.cache_dir is not None
        (_entry,) = set(os.listdir(config.data.cache_dir)) - {".runs"}
        shapes = _count_encodes(monkeypatch)
        broken = fitted(config)
        assert sum(shape[1] for shape in shapes) == 23 + 30, "the first video is not encoded again"
        assert_same_weights(broken, fitted(make_config("whole", **CACHED)))


class TestWiring:
    def parameters(self, trainer: Trainer) -> dict[str, bool]:
        model = trainer.model
        return {name: p.requires_grad for name, p in model.named_parameters()}

    def test_freezing(self, make_config: MakeConfig) -> None:
        trainer = build_trainer(make_config(freezing__visual_backbone=True), CPU)
        assert trainer.model.frozen_components == {"visual_backbone"}
        for name, requires_grad in self.parameters(trainer).items():
            assert requires_grad != name.startswith("visual_encoder.backbone"), name

    def test_gradient_checkpointing_trains_the_same(self, make_config: MakeConfig) -> None:
        changes = {"training__num_epochs": 1}
        saving = make_config("saving", training__use_gradient_checkpointing=True, **changes)
        assert build_trainer(saving, CPU).model.visual_encoder.use_gradient_checkpointing
        assert_same_weights(fitted(make_config("plain", **changes)), fitted(saving))

    @pytest.mark.parametrize(("value", "expected"), [(3.5, [3.5, 3.5]), (None, None)])
    def test_positive_weight_given(
        self, make_config: MakeConfig, value: float | None, expected: list[float] | None
    ) -> None:
        trainer = build_trainer(make_config(training__loss__positive_weight=value), CPU)
        zeros, ones = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
        ratio = trainer._update._loss(zeros, ones) / trainer._update._loss(zeros, zeros)
        assert ratio[0, 0].tolist() == pytest.approx(expected or [1, 1])

    def test_positive_weight_auto_balances_what_is_drawn(self, make_config: MakeConfig) -> None:
        config = make_config(
            training__loss__positive_weight="auto",
            training__event_fraction=1.0,
            training__clips_per_epoch=64,
        )
        trainer = build_trainer(config, CPU)
        clips = [trainer._dataset[ClipPosition(0, place)] for place in range(64)]
        targets = torch.cat([clip.targets[clip.valid] for clip in clips])
        zeros = torch.zeros(1, 1, 2)
        loss = trainer._update._loss
        weight = (loss(zeros, zeros + 1) / loss(zeros, zeros))[0, 0]
        positives = (targets * weight).sum(0)
        negatives = (1 - targets).sum(0)
        assert (positives / negatives).tolist() == pytest.approx([1, 1], rel=0.3)

    def test_targets_without_frames_are_those_of_the_clip(self, make_config: MakeConfig) -> None:
        # Longer than the shorter video, which is padded.
        dataset = build_trainer(make_config(data__clip_window_size=25), CPU)._dataset
        for position in range(20):
            clip = dataset[ClipPosition(3, position)]
            targets = dataset.targets_at(ClipPosition(3, position))
            assert torch.equal(targets, clip.targets[clip.valid])

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"training__loss__type": "hinge"}, "unknown loss 'hinge'"),
            (
                {
                    "training__use_mixed_precision": True,
                    "training__mixed_precision_dtype": "fp16",
                },
                "fp16, which the CPU cannot train in",
            ),
        ],
    )
    def test_settings_are_checked_before_videos_are_read(
        self,
        make_config: MakeConfig,
        monkeypatch: pytest.MonkeyPatch,
        changes: dict[str, Any],
        text: str,
    ) -> None:
        monkeypatch.setattr("pipeline.training_setup.InputsReader", None)
        with pytest.raises(VideoTriggerError, match=text):
            build_trainer(make_config(**changes), CPU)

    def test_no_validation(self, make_config: MakeConfig) -> None:
        result = build_trainer(make_config(data__val_annotations=None), CPU).fit()
        assert result.best_path is None
        assert result.progress.metrics == {}


class TestVideosAndLabels:
    def annotate(self, path: Path, videos: list[dict[str, Any]], labels: list[str]) -> str:
        path.write_text(json.dumps({"labels": labels, "videos": videos}))
        return str(path)

    def videos(self, data: Path) -> list[dict[str, Any]]:
        videos: list[dict[str, Any]] = json.loads((data / "train.json").read_text())["videos"]
        return [{**video, "video": str(data / video["video"])} for video in videos]

    def test_bad_videos_are_named_and_left_out(
        self, make_config: MakeConfig, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "empty.mp4").touch()
        videos = [*self.videos(data), {"video": "empty.mp4", "events": []}]
        path = self.annotate(tmp_path / "some.json", videos, ["flash", "dim"])
        with caplog.at_level(logging.WARNING):
            trainer = build_trainer(make_config(data__train_annotations=path), CPU)
        assert len(trainer._dataset.videos) == 2
        assert "left out: " in caplog.text
        assert "empty.mp4" in caplog.text
        assert f"1 of 3 videos of {path} are left out" in caplog.text

    def test_no_usable_video(self, make_config: MakeConfig, tmp_path: Path) -> None:
        videos = [{"video": "absent.mp4", "events": []}]
        path = self.annotate(tmp_path / "none.json", videos, ["flash", "dim"])
        with pytest.raises(TrainingError, match=r"none\.json: none of its videos can be used"):
            build_trainer(make_config(data__train_annotations=path), CPU)

    def test_a_class_without_positives_is_said(
        self, make_config: MakeConfig, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = self.annotate(tmp_path / "more.json", self.videos(data), ["flash", "dim", "never"])
        with caplog.at_level(logging.INFO):
            result = build_trainer(
                make_config(data__train_annotations=path, training__num_epochs=1), CPU
            ).fit()
        for what in ("training", "validation"):
            assert f"class 'never' has no positive frame in the {what} videos" in caplog.text
        assert "training on 2 videos, 53 frames; positive frames: flash " in caplog.text
        assert math.isnan(result.progress.metrics["frame_ap/never"])
        assert result.progress.best_metric is not None, "the mean is over the other classes"

    def test_missing_annotations(self, make_config: MakeConfig) -> None:
        with pytest.raises(ConfigError, match=r"data\.train_annotations is null"):
            build_trainer(make_config(data__train_annotations=None), CPU)

    def test_image_size_is_checked_before_videos_are_read(
        self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pipeline.training_setup.InputsReader", None)
        config = make_config(model__visual_encoder__type="timm:test_vit3", data__image_size=48)
        with pytest.raises(UsageError, match=r"data\.image_size is 48, .* it was made for 160"):
            build_trainer(config, CPU)


class TestBuildCaches:
    @pytest.mark.parametrize(
        "changes", [{}, {**CACHED, "training__augmentation__cached_copies": 2}]
    )
    def test_training_finds_everything_there(
        self,
        make_config: MakeConfig,
        monkeypatch: pytest.MonkeyPatch,
        changes: dict[str, Any],
    ) -> None:
        config = make_config(**changes)
        splits = {
            "train": load_annotations(str(config.data.train_annotations)),
            "val": load_annotations(str(config.data.val_annotations)),
        }
        summary = build_caches(config, splits, CPU)
        assert summary.content == ("features" if changes else "frames")
        assert (summary.num_videos, summary.num_frames, summary.num_failed) == (3, 83, 0)
        assert config.data.cache_dir is not None
        assert len(list(Path(config.data.cache_dir).glob("*/entry.json"))) == 3
        # No video is opened any more, and no backbone is asked.
        monkeypatch.setattr(VideoSource, "open", None)
        if changes:
            monkeypatch.setattr(VisualEncoder, "backbone_features", None)
        build_trainer(config, CPU)

    def test_a_video_that_cannot_be_used_is_counted(
        self, make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = make_config()
        (tmp_path / "noise.mp4").write_bytes(bytes(2000))
        content = {"labels": ["flash"], "videos": [{"video": "noise.mp4", "events": []}]}
        (tmp_path / "bad.json").write_text(json.dumps(content))
        summary = build_caches(config, {"": load_annotations(tmp_path / "bad.json")}, CPU)
        assert (summary.num_videos, summary.num_frames, summary.num_failed) == (0, 0, 1)
        assert f"error: {tmp_path / 'noise.mp4'}: not a video" in caplog.text

    def test_no_cache(self, make_config: MakeConfig) -> None:
        config = make_config(data__cache_dir=None)
        splits = {"train": load_annotations(str(config.data.train_annotations))}
        with pytest.raises(ConfigError, match=r"no cache to build: data\.cache_dir is null"):
            build_caches(config, splits, CPU)
