"""`Validator`: frame metrics of a model that is being trained, on whole validation videos.

It scores with the same windows as the cascade, but every frame: what the candidates let through is
a question of the threshold, not of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.scoring import SequenceScores, score_sequence
from models.video_trigger_model import VideoTriggerModel
from utils.data.augmentation import to_unit_range
from utils.data.mapped_files import MappedFiles
from utils.data.video_inputs import VideoInputs
from utils.errors import ConfigError, TrainingError
from utils.evaluation import frame_metrics
from utils.registry import suggestion
from utils.training.processes import Processes
from utils.training.score_pictures import score_timeline_picture
from utils.training.updates import NOT_FINITE_REMEDY

_MOST_PICTURES = 4


class Validator:
    """Callable that the trainer is handed.

    Args:
        videos: With targets.
        labels: K class names.
        batch_size: Frames that are encoded at once.
        processes: That share the videos; each scores its part, and all get the same metrics.
    """

    def __init__(
        self,
        videos: Sequence[VideoInputs],
        labels: Sequence[str],
        *,
        batch_size: int,
        processes: Processes | None = None,
    ) -> None:
        self._videos = tuple(videos)
        self._files = MappedFiles(self._videos)
        self._labels = tuple(labels)
        self._batch_size = batch_size
        self._processes = processes or Processes()
        self._last_scores: list[SequenceScores] = []

    @staticmethod
    def metric_names(labels: Sequence[str]) -> tuple[str, ...]:
        """Names of what a validator with these classes measures."""
        return (
            "frame_ap",
            "frame_ap_trigger_head",
            "frame_auroc",
            *(f"frame_ap/{label}" for label in labels),
        )

    def __call__(self, model: VideoTriggerModel, device: torch.device) -> Mapping[str, float]:
        """Metrics by TensorBoard name; ``training.best_metric`` is one of them.

        Returns:
            ``frame_ap`` (mean over classes, temporal encoder), ``frame_ap_trigger_head``,
            ``frame_auroc``, and ``frame_ap/LABEL`` of each class; NaN where there is no positive.

        Raises:
            TrainingError: The cache entry of a video is no longer as it was, or a score is not
                finite.
        """
        was_training = model.training
        model.eval()
        try:
            own = [
                self._score(model, index, device)
                for index in self._processes.share(range(len(self._videos)))
            ]
        finally:
            model.train(was_training)
        self._last_scores = self._processes.gather_shares(own)
        self._check_finite()
        # All decide by the same numbers, whatever the others' NumPy makes of the scores.
        return self._processes.from_main(self._metrics())

    def pictures(self) -> Mapping[str, NDArray[np.uint8]]:
        """The last validation's scores over time, ``(H, W, 3)`` RGB by name of the video."""
        return {
            video.video: score_timeline_picture(
                video.timestamps, scores.temporal, video.targets, self._labels, video.video
            )
            for video, scores in list(zip(self._videos, self._last_scores, strict=False))[
                :_MOST_PICTURES
            ]
        }

    def _check_finite(self) -> None:
        for video, scores in zip(self._videos, self._last_scores, strict=True):
            is_sound = np.isfinite(scores.trigger).all(1) & np.isfinite(scores.temporal).all(1)
            if not is_sound.all():
                seconds = video.timestamps[int(np.argmin(is_sound))]
                raise TrainingError(
                    f"validation: the scores of {video.video} at {seconds:.2f} s are not finite; "
                    f"{NOT_FINITE_REMEDY}"
                )

    def _metrics(self) -> dict[str, float]:
        targets = np.concatenate([video.targets for video in self._videos])
        temporal = frame_metrics(
            targets, np.concatenate([score.temporal for score in self._last_scores]), self._labels
        )
        trigger = frame_metrics(
            targets, np.concatenate([score.trigger for score in self._last_scores]), self._labels
        )
        values = (
            temporal.average_precision,
            trigger.average_precision,
            temporal.auroc,
            *(temporal.per_class[label].average_precision for label in self._labels),
        )
        return dict(zip(self.metric_names(self._labels), values, strict=True))

    def _score(self, model: VideoTriggerModel, index: int, device: torch.device) -> SequenceScores:
        video = self._videos[index]

        def read(start: int, end: int) -> Tensor:
            self._files.check_unchanged(index)
            rows = torch.from_numpy(np.array(video.inputs[start:end])).to(device)
            return to_unit_range(rows) if rows.dtype == torch.uint8 else rows

        return score_sequence(model, read, video.timestamps, batch_size=self._batch_size)


def check_best_metric(name: str, labels: Sequence[str]) -> None:
    """Hold that validation measures ``training.best_metric``.

    Raises:
        ConfigError: It does not.
    """
    known = Validator.metric_names(labels)
    if name not in known:
        raise ConfigError(
            f"training.best_metric is '{name}', which validation does not measure; it measures "
            f"{', '.join(known)}{suggestion(name, known)}"
        )
