"""`TriggerDetector`: features of single frames to logits; the cheap head that flags candidates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class TriggerDetector(nn.Module):
    """A multi-layer perceptron over each frame by itself.

    Args:
        feature_dim: D.
        num_classes: K.
        hidden_dims: Widths of the hidden layers; none makes a linear probe.
        dropout: Before each linear layer but the first.
    """

    def __init__(
        self, feature_dim: int, num_classes: int, *, hidden_dims: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = feature_dim
        for hidden_dim in hidden_dims:
            layers += [nn.Linear(width, hidden_dim), nn.GELU(), nn.Dropout(dropout)]
            width = hidden_dim
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_classes))

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, T, D)`` to logits ``(B, T, K)``."""
        logits: Tensor = self.layers(features)
        return logits
