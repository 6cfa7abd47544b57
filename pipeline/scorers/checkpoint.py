"""`CheckpointScorer`: scores frames with a training checkpoint, in PyTorch."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from models.numpy_doors import NumpyDoors
from models.video_trigger_model import VideoTriggerModel
from pipeline.scorers.base import FloatArray, FrameScorer, Sampling
from utils.checkpoint import load_checkpoint, load_model_weights
from utils.config import Config, parse_config
from utils.thresholds import in_order

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)


class CheckpointScorer(FrameScorer):
    """A `VideoTriggerModel` with the settings it was trained with.

    Args:
        model: Put into evaluation mode.
        config: The whole config of its training.
        identity: See `FrameScorer`.
    """

    def __init__(
        self, model: VideoTriggerModel, config: Config, *, identity: dict[str, Any]
    ) -> None:
        self._doors = NumpyDoors(model.eval())
        self.config = config
        self.labels = model.labels
        motion = config.model.visual_encoder.motion
        self.sampling = Sampling(
            sampling_fps=config.data.frame_sampling_rate,
            image_size=config.data.image_size,
            resize_mode=config.data.resize_mode,
            neighbor_offsets_seconds=(motion.offset_seconds,) if motion.enabled else (),
            decode_short_side=config.data.decode_short_side,
            skip_nonref_frames=config.data.skip_nonref_frames,
        )
        self.threshold = in_order(config.model.trigger_detector.threshold, model.labels)
        self.candidate_threshold = config.model.trigger_detector.candidate_threshold
        self.window_size = model.window_size
        self.causal = model.causal
        self.encoder_window = model.encoder_window
        self.identity = identity

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        strict: bool = False,
    ) -> Self:
        """Build the model that the checkpoint's config describes and load its weights.

        Args:
            path: A training checkpoint.
            device: Where the model runs.
            strict: Refuse a checkpoint that differs in any way; otherwise tensors that the model
                has no use for are only reported. A tensor that the model lacks is always an error.

        Raises:
            CheckpointError: Missing, damaged, or it does not fit.
            ConfigError: Its config is of another version of this program.
        """
        path = Path(path)
        checkpoint = load_checkpoint(path)
        config = parse_config(checkpoint["config"], origin=f"{path}: config", interpolate=())
        model = VideoTriggerModel.from_config(config.model)
        report = load_model_weights(
            model, checkpoint["model_state_dict"], source=str(path), strict=strict
        )
        _log.info("%s", report)
        identity = {
            "checkpoint": str(path),
            "sha256": _sha256(path),
            "epoch": checkpoint.get("epoch"),
            "global_step": checkpoint.get("global_step"),
            "format_version": checkpoint["format_version"],
            "encoder": config.model.visual_encoder.type,
            "time_aware_encoder": config.model.time_aware_encoder.type,
            "labels": list(model.labels),
        }
        return cls(model.to(device), config, identity=identity)

    def encode_and_trigger(
        self, pixels: FloatArray, state: Any
    ) -> tuple[FloatArray, FloatArray, Any]:
        return self._doors.encode_and_trigger(pixels, state)

    def contextualize(
        self, features: FloatArray, timestamps: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> FloatArray:
        return self._doors.contextualize(features, timestamps, valid)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
