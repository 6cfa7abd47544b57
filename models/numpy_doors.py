"""`NumpyDoors`: the doors of a `VideoTriggerModel` as any engine has them, arrays in and out.

`models.score_stream` joins doors to scores; an exported model has the same doors without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.thresholds import in_order

if TYPE_CHECKING:
    from models.temporal_shift import EncoderState
    from models.video_trigger_model import VideoTriggerModel

FloatArray = NDArray[np.float32]


class NumpyDoors:
    """Runs a model's doors without gradients, on the device where the model lies.

    The model should be in evaluation mode; this does not put it there.

    Args:
        model: Whose doors they are.
    """

    def __init__(self, model: VideoTriggerModel) -> None:
        self._model = model
        temperature = model.config.trigger_detector.temperature
        self._temperature = np.array(in_order(temperature, model.labels), np.float32)

    @property
    def window_size(self) -> int:
        """W, frames that the temporal encoder sees at once."""
        return self._model.window_size

    @property
    def causal(self) -> bool:
        """Whether the temporal encoder looks back alone."""
        return self._model.causal

    @property
    def encoder_window(self) -> int | None:
        """Frames that the encoder sees at once where it looks ahead; None where it does not."""
        return self._model.encoder_window

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def encode_and_trigger(
        self, pixels: FloatArray, state: EncoderState | None = None
    ) -> tuple[FloatArray, FloatArray, EncoderState]:
        """First and second door.

        Args:
            pixels: ``(T, C, H, W)`` in [0, 1].
            state: Of the chunk before; None at the start of a stream and after a hole.

        Returns:
            Features ``(T, D)``, trigger logits ``(T, K)``, and the state for the next chunk.
        """
        with torch.inference_mode():
            frames = torch.from_numpy(pixels).to(self._device)
            features, state = self._model.encode(frames[None], state)
            logits = self._model.trigger(features)
        return _to_numpy(features[0]), _to_numpy(logits[0]), state

    def contextualize(
        self,
        features: FloatArray,
        timestamps: NDArray[np.float64],
        valid: NDArray[np.bool_],
    ) -> FloatArray:
        """Third door: ``(B, T, D)``, ``(B, T)`` seconds, ``(B, T)`` to logits ``(B, T, K)``.

        They are calibrated: divided by the ``temperature`` of the model's config.
        """
        device = self._device
        # Only differences count. As float32, hours since the start would lose the frame.
        seconds = (timestamps - timestamps[:, :1]).astype(np.float32)
        with torch.inference_mode():
            logits = self._model.contextualize(
                torch.from_numpy(np.ascontiguousarray(features)).to(device),
                torch.from_numpy(seconds).to(device),
                torch.from_numpy(valid).to(device),
            )
        calibrated: FloatArray = _to_numpy(logits) / self._temperature
        return calibrated


def _to_numpy(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.float().cpu().numpy()
    return array
