"""`score_sequence`: both heads of the trigger model over one sequence that lies in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.temporal_shift import EncoderState
from models.video_trigger_model import VideoTriggerModel
from models.window_grid import WindowGrid

ReadFrames = Callable[[int, int], Tensor]
"""``(start, end)`` to those frames ``(N, C, H, W)`` in [0, 1] or backbone features ``(N, R)``."""


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
    read: ReadFrames,
    timestamps: NDArray[np.float64],
    *,
    batch_size: int,
) -> SequenceScores:
    """Score a video of any length a batch of frames at a time, as `models.score_stream` does.

    Args:
        model: In evaluation mode.
        read: Gives frames or features, on the model's device.
        timestamps: ``(T,)`` seconds.
        batch_size: Frames at once; where the encoder looks ahead, its window is.
    """
    windows = model.context_windows()
    trigger: list[Tensor] = []
    temporal: list[NDArray[np.float32] | None] = []
    start = 0
    for features in _encoded(model, read, len(timestamps), batch_size):
        end = start + features.shape[1]
        trigger.append(model.trigger(features)[0])
        temporal += windows.push(features[0].float().cpu().numpy(), timestamps[start:end])
        start = end
    temporal += windows.flush()
    logits = [row for row in temporal if row is not None]
    assert len(logits) == len(timestamps), "all frames were wanted"
    return SequenceScores(
        torch.cat(trigger).float().sigmoid().cpu().numpy(),
        torch.from_numpy(np.stack(logits)).sigmoid().numpy(),
    )


def _encoded(
    model: VideoTriggerModel, read: ReadFrames, length: int, batch_size: int
) -> Iterator[Tensor]:
    """Features ``(1, N, D)`` of all frames in order."""
    if model.encoder_window is not None:
        for start, end, first, last in WindowGrid(model.encoder_window, causal=False).windows(
            length
        ):
            yield model.encode(read(start, end)[None])[0][:, first - start : last - start]
        return
    state: EncoderState | None = None
    for start in range(0, length, batch_size):
        inputs = read(start, min(start + batch_size, length))[None]
        if inputs.dim() == 3:
            yield model.visual_encoder.project(inputs)
        else:
            features, state = model.encode(inputs, state)
            yield features
