"""`build_trainer`: everything that a training run needs, made from a config; `build_caches`: ahead.

The one place where data, model, freezing, loss and validation meet on the training road.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from models.freezing import COMPONENTS, FreezePlan, parameter_groups
from models.video_trigger_model import VideoTriggerModel, resolve_model_config
from pipeline.describers import DESCRIBERS
from pipeline.training_inputs import InputsReader, usable_inputs
from pipeline.validator import Validator, check_best_metric
from utils.atomic_file import check_folder
from utils.checkpoint import load_checkpoint, load_model_weights
from utils.checkpoint_folder import CheckpointFolder, resolve_resume
from utils.config import Config
from utils.data.annotations import AnnotationSet, load_annotations
from utils.data.clips import ClipDataset, ClipPosition
from utils.data.data_hash import data_identity, usable_identity
from utils.data.video_inputs import VideoInputs
from utils.errors import ConfigError, VideoError
from utils.training.losses import LOSSES, balancing_weight, build_loss
from utils.training.processes import Processes, connect
from utils.training.randomness import seed_everything
from utils.training.resuming import check_resumable
from utils.training.trainer import Trainer, mixed_precision

logger = logging.getLogger(__name__)

_IS_ON = 0.5
"""The target of a frame of an event; soft borders reach it where the event begins."""

_NUM_CLIPS_FOR_WEIGHT = 256
"""Clips drawn to estimate how many frames are positive; the estimate is within a few percent."""


def build_trainer(
    config: Config,
    device: torch.device,
    *,
    resume_from: Path | None = None,
    allow_config_change: bool = False,
    strict_loading: bool = True,
) -> Trainer:
    """Load annotations, model, pretrained weights and inputs, and wire the trainer.

    Where a launcher started several processes, each builds its own; they meet in here.

    Args:
        config: As the user wrote it; what the data decide is filled in.
        device: To train on, and to encode on where features are cached. Of several processes on
            GPUs each takes its own instead.
        resume_from: A checkpoint to go on from. The model gets its weights, not the pretrained
            ones.
        allow_config_change: Go on from a checkpoint of another config or other data.
        strict_loading: Refuse a checkpoint with tensors that the model has no use for.

    Raises:
        VideoTriggerError: Config, annotations, weights or every video cannot be used.
    """
    processes, device = connect(device)
    with processes.losing_none():
        return _build_trainer(
            config,
            device,
            processes,
            resume_from=resume_from,
            allow_config_change=allow_config_change,
            strict_loading=strict_loading,
        )


def _build_trainer(
    config: Config,
    device: torch.device,
    processes: Processes,
    *,
    resume_from: Path | None,
    allow_config_change: bool,
    strict_loading: bool,
) -> Trainer:
    # Before any file is read: what does not fit is said at once.
    _check_something_learns(config)
    plan = FreezePlan(config.freezing)
    DESCRIBERS.check(config.model.llm.describer)
    seed_everything(config.training.seed)
    train = _annotations(config, "train")
    config = resolve_model_config(config, train.labels)
    labels = tuple(config.model.class_labels())
    train = train.with_labels(labels)
    validation = (
        None
        if config.data.val_annotations is None
        else _annotations(config, "val").with_labels(labels)
    )
    data: dict[str, dict[str, Any] | None] = {
        "train": data_identity(train),
        "val": None if validation is None else data_identity(validation),
    }
    model = VideoTriggerModel.from_config(config.model)
    # Before any video is read: what does not fit is said at once.
    LOSSES.check(config.training.loss.type)
    _check_metric(config, labels)
    plan.check(model)
    mixed_precision(config.training, device)
    model.visual_encoder.backbone.check_image_size(config.data.image_size)
    content: dict[str, Any] = {}
    if resume_from is None:
        _load_pretrained(model, config)
    else:
        source = str(resume_from)
        content = load_checkpoint(resume_from)
        check_resumable(
            content, config, source=source, allow_changes=allow_config_change, data=data
        )
        weights = content["model_state_dict"]
        report = load_model_weights(model, weights, source=source, strict=strict_loading)
        logger.info("%s", report)
    for key in ("checkpoint_dir", "log_dir"):
        folder = Path(getattr(config.training, key))
        check_folder(folder, remedy=f"set training.{key} to another folder")
    model.visual_encoder.use_gradient_checkpointing = config.training.use_gradient_checkpointing
    plan.apply(model, epoch=1)
    model.to(device)
    reader = InputsReader(config, model, device, training=True)
    train_inputs = usable_inputs(reader, train, processes)
    if resume_from is None and reader.content == "features":
        model.visual_encoder.fit_norm(video.inputs for video in train_inputs)
    dataset = ClipDataset(
        train_inputs,
        window_size=config.data.clip_window_size,
        event_fraction=config.training.event_fraction,
        augmentation=config.training.augmentation,
        seed=config.training.seed,
        source=str(train.path),
    )
    data["train"] = _read_identity(train, train_inputs)
    evaluator = None
    if validation is not None:
        reader = InputsReader(config, model, device, training=False)
        validation_inputs = usable_inputs(reader, validation, processes)
        data["val"] = _read_identity(validation, validation_inputs)
        _warn_where_nothing_is_positive(validation_inputs, labels, "validation")
        evaluator = Validator(
            validation_inputs,
            labels,
            batch_size=config.inference.batch_size,
            processes=processes,
        )
    _log_data(dataset, labels)
    trainer = Trainer(
        model=model,
        config=config,
        dataset=dataset,
        parameter_groups=parameter_groups(model, plan),
        loss=build_loss(config.training.loss, _positive_weight(config, dataset, device)),
        evaluator=evaluator,
        device=device,
        metadata={"labels": list(labels), "data": data},
        begin_epoch=plan.apply if config.freezing.unfreeze else None,
        pictures=None if evaluator is None else evaluator.pictures,
        processes=processes,
    )
    if resume_from is not None:
        trainer.resume(
            resume_from,
            allow_changes=allow_config_change,
            strict=strict_loading,
            checked=content,
        )
    return trainer


def build_caches(
    config: Config, splits: Mapping[str, AnnotationSet], device: torch.device
) -> CacheSummary:
    """Fill ``data.cache_dir`` with what `build_trainer` would put there: frames, or features.

    Args:
        config: As the user wrote it.
        splits: By name. Those named "val" and "test" are not trained on, and so get no augmented
            copies; any other does. The classes of all are those of the first.
        device: To encode on where features are cached.

    Raises:
        ConfigError: There is no cache to fill.
        VideoTriggerError: The model or its pretrained weights cannot be used.
    """
    if config.data.cache_dir is None:
        raise ConfigError("there is no cache to build: data.cache_dir is null")
    # As `build_trainer`: an encoder that starts from random weights then has the same ones.
    seed_everything(config.training.seed)
    config = resolve_model_config(config, next(iter(splits.values())).labels)
    model = VideoTriggerModel.from_config(config.model)
    model.visual_encoder.backbone.check_image_size(config.data.image_size)
    if config.training.cache_features:
        _load_pretrained(model, config)
        FreezePlan(config.freezing).apply(model, epoch=1)
        model.to(device)
    num_videos = num_frames = num_failed = 0
    for name, split in splits.items():
        reader = InputsReader(config, model, device, training=name not in ("val", "test"))
        for found in reader.read_all(split):
            if isinstance(found, VideoError):
                logger.error("error: %s", found)
                num_failed += 1
            else:
                num_videos += 1
                num_frames += len(found)
    return CacheSummary(
        content=reader.content, num_videos=num_videos, num_frames=num_frames, num_failed=num_failed
    )


@dataclass(frozen=True, kw_only=True)
class CacheSummary:
    """What `build_caches` left in the cache.

    Attributes:
        content: "frames" or "features".
        num_videos: Videos whose entries are there, whether made now or before.
        num_frames: Sampled frames of these, without augmented copies.
        num_failed: Videos that cannot be used; each was logged as an error.
    """

    content: Literal["frames", "features"]
    num_videos: int
    num_frames: int
    num_failed: int


def _annotations(config: Config, split: str) -> AnnotationSet:
    key = f"{split}_annotations"
    path = getattr(config.data, key)
    if path is None:
        raise ConfigError(f"data.{key} is null; set it to an annotation file")
    return load_annotations(
        path, video_dir=getattr(config.data, f"{split}_video_dir"), named_by=f"data.{key}"
    )


def _read_identity(annotations: AnnotationSet, inputs: Sequence[VideoInputs]) -> dict[str, Any]:
    num_frames = {video.video: len(video) for video in inputs}
    return {**data_identity(annotations), **usable_identity(annotations, num_frames)}


def _check_something_learns(config: Config) -> None:
    if all(getattr(config.freezing, name) for name in COMPONENTS):
        # The encoder's norm and projection would still learn, through heads that do not.
        raise ConfigError(
            f"nothing to train: {', '.join(f'freezing.{name}' for name in COMPONENTS)} are all "
            "true; set one to false"
        )


def _check_metric(config: Config, labels: Sequence[str]) -> None:
    check_best_metric(config.training.best_metric, labels)
    if config.training.early_stopping_patience is not None and config.data.val_annotations is None:
        raise ConfigError(
            "training.early_stopping_patience needs validation, and data.val_annotations is null; "
            "set it to an annotation file"
        )


def _load_pretrained(model: VideoTriggerModel, config: Config) -> None:
    report = model.visual_encoder.load_pretrained()
    logger.info("encoder %s: %s", config.model.visual_encoder.type, report or "random weights")


def _positive_weight(config: Config, dataset: ClipDataset, device: torch.device) -> Tensor | None:
    weight = config.training.loss.positive_weight
    if weight is None:
        return None
    num_classes = len(config.model.class_labels())
    if weight != "auto":
        return torch.full((num_classes,), float(weight), device=device)
    # An epoch that no run reaches.
    drawn = [
        dataset.targets_at(ClipPosition(2**31 - 1, position))
        for position in range(_NUM_CLIPS_FOR_WEIGHT)
    ]
    return balancing_weight(torch.cat(drawn)).to(device)


def _log_data(dataset: ClipDataset, labels: Sequence[str]) -> None:
    targets = np.concatenate([video.targets >= _IS_ON for video in dataset.videos])
    shares = ", ".join(
        f"{label} {share:.1%}" for label, share in zip(labels, targets.mean(axis=0), strict=True)
    )
    logger.info(
        "training on %d videos, %d frames; positive frames: %s",
        len(dataset.videos),
        dataset.num_frames,
        shares,
    )
    _warn_where_nothing_is_positive(dataset.videos, labels, "training")


def _warn_where_nothing_is_positive(
    videos: Sequence[VideoInputs], labels: Sequence[str], what: str
) -> None:
    found = np.any([(video.targets >= _IS_ON).any(axis=0) for video in videos], axis=0)
    for label, is_found in zip(labels, found, strict=True):
        if not is_found:
            logger.warning("class '%s' has no positive frame in the %s videos", label, what)


def resume_path(value: str, config: Config) -> Path:
    """The checkpoint behind ``--resume PATH|latest``."""
    return resolve_resume(value, CheckpointFolder(Path(config.training.checkpoint_dir)))
