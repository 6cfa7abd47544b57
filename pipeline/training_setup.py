"""`build_trainer`: everything that a training run needs, made from a config.

The one place where data, model, freezing, loss and validation meet on the training road.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.freezing import COMPONENTS, parameter_groups, set_frozen
from models.video_trigger_model import VideoTriggerModel, resolve_model_config
from pipeline.validator import Validator
from utils.atomic_file import check_folder
from utils.checkpoint import latest_checkpoint, load_checkpoint, load_model_weights
from utils.config import Config
from utils.data.annotations import AnnotationSet, load_annotations
from utils.data.array_cache import tensor_hash
from utils.data.augmentation import ClipAugmentation, generator_for, to_unit_range
from utils.data.clips import ClipDataset, ClipPosition
from utils.data.video_inputs import EncodeChunk, VideoInputs, VideoInputsLoader
from utils.errors import ConfigError, TrainingError, VideoError
from utils.training.losses import LOSSES, balancing_weight, build_loss
from utils.training.randomness import seed_everything
from utils.training.trainer import Trainer, check_resumable, mixed_precision

logger = logging.getLogger(__name__)

_NUM_CLIPS_FOR_WEIGHT = 256
"""Clips drawn to estimate how many frames are positive; the estimate is within a few percent."""


def build_trainer(
    config: Config, device: torch.device, *, resume_from: Path | None = None
) -> Trainer:
    """Load annotations, model, pretrained weights and inputs, and wire the trainer.

    Args:
        config: As the user wrote it; what the data decide is filled in.
        device: To train on, and to encode on where features are cached.
        resume_from: A checkpoint to go on from. The model gets its weights, not the pretrained
            ones.

    Raises:
        VideoTriggerError: Config, annotations, weights or every video cannot be used.
    """
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
    model = VideoTriggerModel.from_config(config.model)
    # Before any video is read: what does not fit is said at once.
    LOSSES.check(config.training.loss.type)
    mixed_precision(config.training, device)
    model.visual_encoder.backbone.check_image_size(config.data.image_size)
    if resume_from is None:
        report = model.visual_encoder.load_pretrained()
        logger.info("encoder %s: %s", config.model.visual_encoder.type, report or "random weights")
    else:
        content = load_checkpoint(resume_from)
        check_resumable(content, config, source=str(resume_from))
        load_model_weights(model, content["model_state_dict"], source=str(resume_from))
    for key in ("checkpoint_dir", "log_dir"):
        folder = Path(getattr(config.training, key))
        check_folder(folder, remedy=f"set training.{key} to another folder")
    model.visual_encoder.use_gradient_checkpointing = config.training.use_gradient_checkpointing
    set_frozen(model, [name for name in COMPONENTS if getattr(config.freezing, name)])
    model.to(device)
    train_inputs = _load_inputs(config, model, train, device, training=True)
    dataset = ClipDataset(
        train_inputs,
        window_size=config.data.clip_window_size,
        event_fraction=config.training.event_fraction,
        augmentation=config.training.augmentation,
        seed=config.training.seed,
    )
    evaluator = None
    if validation is not None:
        validation_inputs = _load_inputs(config, model, validation, device, training=False)
        _warn_where_nothing_is_positive(validation_inputs, labels, "validation")
        evaluator = Validator(
            validation_inputs,
            labels,
            batch_size=config.inference.batch_size,
        )
    _log_data(dataset, labels)
    trainer = Trainer(
        model=model,
        config=config,
        dataset=dataset,
        parameter_groups=parameter_groups(model),
        loss=build_loss(config.training.loss, _positive_weight(config, dataset, device)),
        evaluator=evaluator,
        device=device,
        metadata={"labels": list(labels)},
    )
    # What was drawn so far (weights of the heads, samples for the loss) must not shift the run.
    seed_everything(config.training.seed)
    if resume_from is not None:
        trainer.resume(resume_from)
    return trainer


def neighbor_offsets(config: Config) -> tuple[float, ...]:
    """What `FrameSampler` must give for this model's motion images."""
    motion = config.model.visual_encoder.motion
    return (motion.offset_seconds,) if motion.enabled else ()


def _annotations(config: Config, split: str) -> AnnotationSet:
    path = getattr(config.data, f"{split}_annotations")
    if path is None:
        raise ConfigError(f"data.{split}_annotations is null; set it to an annotation file")
    return load_annotations(path, video_dir=getattr(config.data, f"{split}_video_dir"))


def _load_inputs(
    config: Config,
    model: VideoTriggerModel,
    annotations: AnnotationSet,
    device: torch.device,
    *,
    training: bool,
) -> list[VideoInputs]:
    """Inputs of all videos that can be used; those that cannot are named and left out."""
    loader = VideoInputsLoader(
        config.data,
        config.model.class_labels(),
        neighbor_offsets_seconds=neighbor_offsets(config),
    )
    augmentation = config.training.augmentation
    num_copies = augmentation.cached_copies if training and augmentation.enabled else 0
    encode = _encoder_of_chunks(config, model, device)
    key = _encoder_key(config, model, num_copies) if config.training.cache_features else ""
    what = "features" if config.training.cache_features else "frames"
    inputs: list[VideoInputs] = []
    for video in tqdm(
        annotations.videos, desc=f"{what} of {annotations.path}", unit="video", dynamic_ncols=True
    ):
        try:
            if config.training.cache_features:
                inputs.append(
                    loader.load_features(video, encode, encoder_key=key, num_copies=num_copies)
                )
            else:
                inputs.append(loader.load_frames(video))
        except VideoError as error:
            logger.warning("left out: %s", error)
    if not inputs:
        raise TrainingError(f"{annotations.path}: none of its videos can be used; see above")
    if len(inputs) < len(annotations.videos):
        logger.warning(
            "%d of %d videos of %s are left out",
            len(annotations.videos) - len(inputs),
            len(annotations.videos),
            annotations.path,
        )
    return inputs


def _encoder_of_chunks(
    config: Config, model: VideoTriggerModel, device: torch.device
) -> EncodeChunk:
    """Frames through the frozen backbone; a copy of a video has one augmentation for the whole run."""
    augmentation = config.training.augmentation

    @torch.inference_mode()
    def encode(frames: Tensor, draw: int) -> np.ndarray:
        if draw:
            generator = generator_for(config.training.seed, draw)
            frames = ClipAugmentation.draw(augmentation, generator).apply(frames)
        # Frozen, and so in evaluation mode whatever the rest of the model is in.
        features = model.visual_encoder.backbone_features(to_unit_range(frames.to(device))[None])
        return features[0].float().cpu().numpy()

    return encode


def _encoder_key(config: Config, model: VideoTriggerModel, num_copies: int) -> str:
    """Hash of all that decides what the frozen backbone makes of a frame."""
    encoder = model.visual_encoder
    weights = tensor_hash(
        (name, tensor.cpu().numpy()) for name, tensor in encoder.backbone.state_dict().items()
    )
    settings: dict[str, Any] = config.model.visual_encoder.model_dump(
        exclude={"weights", "feature_dim"}
    )
    if num_copies:
        settings["augmentation"] = config.training.augmentation.model_dump()
        settings["seed"] = config.training.seed
    return f"{weights} {settings}"


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
    targets = np.concatenate([video.targets for video in dataset.videos])
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
    found = np.any([video.targets.any(axis=0) for video in videos], axis=0)
    for label, is_found in zip(labels, found, strict=True):
        if not is_found:
            logger.warning("class '%s' has no positive frame in the %s videos", label, what)


def resume_path(value: str, config: Config) -> Path:
    """The checkpoint behind ``--resume PATH|latest``."""
    if value == "latest":
        return latest_checkpoint(Path(config.training.checkpoint_dir))
    return Path(value)
