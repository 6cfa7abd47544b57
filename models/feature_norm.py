"""`StandardNorm`: features on one scale, feature by feature, as the training frames have them.

Inside `models.visual_encoder`, in the place of a layer norm. A layer norm scales a frame by all its
features together: where some of these are numbers of another kind (energies, flow), the many decide
and the few are drowned.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_LIMIT = 5.0
"""Standard deviations. What lies further out was never seen, and must not outshout the rest."""
_SMALLEST_SCALE = 1e-4
"""Of a feature that hardly changes: divided by its spread, rounding errors would be signals."""


class StandardNorm(nn.Module):
    """``(x - mean) / scale`` of each feature, cut at five; changes nothing but that until `fit`.

    Args:
        num_features: R.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))

    def fit(self, videos: Iterable[NDArray[Any]]) -> None:
        """Take mean and standard deviation of the frames of ``videos``.

        Args:
            videos: Features ``(T, R)``, one array a video; read one after the other.

        Raises:
            ValueError: They hold no frame.
        """
        size = len(self.mean)
        total, squares, count = np.zeros(size), np.zeros(size), 0
        for features in videos:
            # float64: in float32 the difference of squares below loses the digits that matter.
            values = np.asarray(features, np.float64)
            total += values.sum(0)
            squares += (values * values).sum(0)
            count += len(values)
        if not count:
            raise ValueError("no frame to take mean and spread of")
        mean = total / count
        spread = np.sqrt(np.maximum(squares / count - mean * mean, 0))
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(np.maximum(spread, _SMALLEST_SCALE)))

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(..., R)`` to the same shape."""
        return ((features - self.mean) / self.scale).clamp(-_LIMIT, _LIMIT)

    def extra_repr(self) -> str:
        """For `print`."""
        return f"{len(self.mean)}"
