"""`InputsReader`: what training sees of each video, frames or features of the frozen backbone.

Joins the caches of `utils.data.video_inputs` to the model, on the training road between annotations
and dataset.
"""

from __future__ import annotations

import collections
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.video_trigger_model import VideoTriggerModel
from pipeline.executor import prefetch
from utils.config import Config
from utils.data.annotations import AnnotationSet, VideoAnnotation
from utils.data.array_cache import tensor_hash
from utils.data.augmentation import ClipAugmentation, generator_for, to_unit_range
from utils.data.video_inputs import EncodeChunk, VideoInputs, VideoInputsLoader
from utils.errors import TrainingError, VideoError
from utils.training.processes import Processes

logger = logging.getLogger(__name__)

_CHUNKS_AHEAD = 2


class InputsReader:
    """Reads what training sees of a video, through the cache: frames, or features where it says so.

    Args:
        config: Resolved (`resolve_model_config`).
        model: On ``device``; its backbone is frozen where features are cached.
        device: To encode on.
        training: Whether the videos are trained on, so that augmented copies are wanted.
    """

    def __init__(
        self, config: Config, model: VideoTriggerModel, device: torch.device, *, training: bool
    ) -> None:
        motion = config.model.visual_encoder.motion
        augmentation = config.training.augmentation
        self._loader = VideoInputsLoader(
            config.data,
            config.model.class_labels(),
            neighbor_offsets_seconds=(motion.offset_seconds,) if motion.enabled else (),
            soft_border_seconds=config.training.soft_border_seconds if training else 0.0,
            read_ahead=functools.partial(prefetch, depth=_CHUNKS_AHEAD),
        )
        self.is_cached = config.data.cache_dir is not None
        self.content: Literal["frames", "features"] = "frames"
        if config.training.cache_features:
            self.content = "features"
            self._num_copies = (
                augmentation.cached_copies if training and augmentation.enabled else 0
            )
            self._encode = _encoder_of_chunks(config, model, device)
            self._key = _encoder_key(config, model, self._num_copies)

    def read(self, video: VideoAnnotation) -> VideoInputs:
        """Of one video.

        Raises:
            VideoError: It cannot be used.
        """
        if self.content == "frames":
            return self._loader.load_frames(video)
        return self._loader.load_features(
            video, self._encode, encoder_key=self._key, num_copies=self._num_copies
        )

    def read_all(
        self, annotations: AnnotationSet, processes: Processes | None = None
    ) -> Iterator[VideoInputs | VideoError]:
        """Of each video in turn, or why it cannot be used; shows how far it is.

        Of several processes each fills its share of the cache first, so that no video is decoded or
        encoded twice; without a cache each reads all.

        Args:
            annotations: All videos, whichever process they are shared out to.
            processes: That read together; None: this one alone.
        """
        processes = processes or Processes()
        if processes.count > 1 and self.is_cached:
            share = processes.share(annotations.videos)
            # What cannot be used is told when all are read.
            collections.deque(self._read_in_turn(share, annotations, processes), maxlen=0)
            processes.wait()
        yield from self._read_in_turn(annotations.videos, annotations, processes)

    def _read_in_turn(
        self, videos: Sequence[VideoAnnotation], annotations: AnnotationSet, processes: Processes
    ) -> Iterator[VideoInputs | VideoError]:
        for video in tqdm(
            videos,
            desc=f"{self.content} of {annotations.path}",
            unit="video",
            dynamic_ncols=True,
            disable=not processes.is_main,
        ):
            try:
                found: VideoInputs | VideoError = self.read(video)
            except VideoError as error:
                found = error
            yield found


def usable_inputs(
    reader: InputsReader, annotations: AnnotationSet, processes: Processes | None = None
) -> list[VideoInputs]:
    """Inputs of all videos that can be used; those that cannot are named and left out.

    Args:
        reader: Of one split.
        annotations: Of that split.
        processes: See `InputsReader.read_all`; all get all inputs.

    Raises:
        TrainingError: None can be used.
    """
    inputs: list[VideoInputs] = []
    for found in reader.read_all(annotations, processes):
        if isinstance(found, VideoError):
            logger.warning("left out: %s", found)
        else:
            inputs.append(found)
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
    """Frames through the frozen backbone; a copy of a video has one augmentation for good."""
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
        exclude={"weights", "feature_dim", "feature_norm"}
    )
    if num_copies:
        settings["augmentation"] = config.training.augmentation.model_dump()
        settings["seed"] = config.training.seed
    return f"{weights} {settings}"
