"""`Validator`: frame metrics of a model that is being trained, on whole validation videos.

It scores with the same windows as the cascade, but every frame: what the candidates let through is
a question of the threshold, not of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from models.scoring import SequenceScores, score_sequence
from models.video_trigger_model import VideoTriggerModel
from utils.data.augmentation import to_unit_range
from utils.data.video_inputs import VideoInputs
from utils.evaluation import frame_metrics


class Validator:
    """Callable that the trainer is handed.

    Args:
        videos: With targets.
        labels: K class names.
        batch_size: Frames that are encoded at once.
    """

    def __init__(
        self, videos: Sequence[VideoInputs], labels: Sequence[str], *, batch_size: int
    ) -> None:
        self._videos = tuple(videos)
        self._labels = tuple(labels)
        self._batch_size = batch_size

    def __call__(self, model: VideoTriggerModel, device: torch.device) -> Mapping[str, float]:
        """Metrics by TensorBoard name; ``frame_ap`` is what the best checkpoint is chosen by.

        Returns:
            ``frame_ap`` (mean over classes, temporal encoder), ``frame_ap_trigger_head``,
            ``frame_auroc``, and ``frame_ap/LABEL`` of each class; NaN where there is no positive.
        """
        was_training = model.training
        model.eval()
        try:
            scores = [self._score(model, video, device) for video in self._videos]
        finally:
            model.train(was_training)
        targets = np.concatenate([video.targets for video in self._videos])
        temporal = frame_metrics(
            targets, np.concatenate([score.temporal for score in scores]), self._labels
        )
        trigger = frame_metrics(
            targets, np.concatenate([score.trigger for score in scores]), self._labels
        )
        per_class = {
            f"frame_ap/{label}": temporal.per_class[label].average_precision
            for label in self._labels
        }
        return {
            "frame_ap": temporal.average_precision,
            "frame_ap_trigger_head": trigger.average_precision,
            "frame_auroc": temporal.auroc,
            **per_class,
        }

    def _score(
        self, model: VideoTriggerModel, video: VideoInputs, device: torch.device
    ) -> SequenceScores:
        def read(start: int, end: int) -> Tensor:
            rows = torch.from_numpy(np.array(video.inputs[start:end])).to(device)
            return to_unit_range(rows) if rows.dtype == torch.uint8 else rows

        return score_sequence(model, read, video.timestamps, batch_size=self._batch_size)
