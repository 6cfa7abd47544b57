"""`score_sequence`: both heads of the trigger model over one sequence that lies in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.video_trigger_model import VideoTriggerModel


class SequenceScores(NamedTuple):
    """Probabilities of one sequence.

    Attributes:
        trigger: ``(T, K)`` of the trigger head.
        temporal: ``(T, K)`` of the temporal encoder, over all frames.
    """

    trigger: NDArray[np.float32]
    temporal: NDArray[np.float32]


@torch.inference_mode()
def score_sequence(
    model: VideoTriggerModel,
    read: Callable[[int, int], Tensor],
    timestamps: NDArray[np.float64],
    *,
    batch_size: int,
) -> SequenceScores:
    """Score a video of any length a batch of frames at a time.

    Args:
        model: In evaluation mode.
        read: ``(start, end)`` to those frames ``(N, C, H, W)`` in [0, 1] or backbone features ``(N,
            R)``, on the model's device.
        timestamps: ``(T,)`` seconds.
        batch_size: Frames at once.
    """
    windows = model.context_windows()
    trigger: list[Tensor] = []
    temporal: list[NDArray[np.float32] | None] = []
    for start in range(0, len(timestamps), batch_size):
        end = min(start + batch_size, len(timestamps))
        inputs = read(start, end)[None]
        is_features = inputs.dim() == 3
        features = model.visual_encoder.project(inputs) if is_features else model.encode(inputs)[0]
        trigger.append(model.trigger(features)[0])
        temporal += windows.push(features[0].float().cpu().numpy(), timestamps[start:end])
    temporal += windows.flush()
    logits = [row for row in temporal if row is not None]
    assert len(logits) == len(timestamps), "all frames were wanted"
    return SequenceScores(
        torch.cat(trigger).float().sigmoid().cpu().numpy(),
        torch.from_numpy(np.stack(logits)).sigmoid().numpy(),
    )
