"""`TimeAwareEncoder`: features to logits that know what came before and, unless causal, after.

Third room of the cascade. Positions come from timestamps in seconds, not from indices, so that a
model trained at one sampling rate still reads time right where frames are missing or the rate
differs.
"""

from __future__ import annotations

import abc
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.exportable_lstm import ExportableLstm
from utils.config.schema import TimeAwareEncoderConfig
from utils.errors import UsageError
from utils.registry import Registry

TIME_AWARE_ENCODERS = Registry(
    "time-aware encoder",
    {
        "transformer": "models.time_aware_encoder:TransformerEncoder",
        "lstm": "models.time_aware_encoder:LstmEncoder",
    },
)

_SHORTEST_PERIOD_SECONDS = 0.5
_LONGEST_PERIOD_SECONDS = 128.0
"""Between a gesture and the longest context that a window is likely to hold."""


class TimeAwareEncoder(nn.Module, abc.ABC):
    """What every entry of `TIME_AWARE_ENCODERS` is.

    Attributes:
        causal: Whether it looks back alone.
    """

    causal: bool

    @abc.abstractmethod
    def forward(self, features: Tensor, timestamps: Tensor, valid: Tensor) -> Tensor:
        """Logits for every frame in its context.

        Args:
            features: ``(B, T, D)``.
            timestamps: ``(B, T)`` seconds, rising over the valid frames.
            valid: ``(B, T)`` bool; False on padding, which stands at the end of a row and changes
                nothing of what valid frames get.

        Returns:
            ``(B, T, K)``; what stands on padding means nothing.
        """


def build_time_aware_encoder(
    config: TimeAwareEncoderConfig, *, feature_dim: int, num_classes: int
) -> TimeAwareEncoder:
    """The encoder that ``config.type`` names.

    Raises:
        UnknownNameError: No such type.
        UsageError: The widths do not fit each other.
    """
    encoder: TimeAwareEncoder = TIME_AWARE_ENCODERS.resolve(config.type)(
        config, feature_dim=feature_dim, num_classes=num_classes
    )
    return encoder


class TransformerEncoder(TimeAwareEncoder):
    """Pre-norm transformer whose attention sees differences of timestamps (rotary positions).

    Rotary position embedding (Su et al., 2021, arXiv:2104.09864) with angles from seconds: the
    score of a pair of frames depends on ``t_i - t_j`` alone, so a window scores the same wherever
    it lies.

    Args:
        config: ``model.time_aware_encoder``.
        feature_dim: D.
        num_classes: K.

    Raises:
        UsageError: ``hidden_dim`` is no multiple of twice ``num_heads``.
    """

    def __init__(
        self, config: TimeAwareEncoderConfig, *, feature_dim: int, num_classes: int
    ) -> None:
        super().__init__()
        if config.hidden_dim % (2 * config.num_heads):
            raise UsageError(
                f"model.time_aware_encoder.hidden_dim ({config.hidden_dim}) must be a multiple of "
                f"2 * num_heads ({2 * config.num_heads})"
            )
        self.causal = config.causal
        self.input = nn.Linear(feature_dim, config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            _Block(config.hidden_dim, config.num_heads, config.dropout)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.classifier = nn.Linear(config.hidden_dim, num_classes)

    def forward(self, features: Tensor, timestamps: Tensor, valid: Tensor) -> Tensor:
        """As the base class says; no frame attends to padding, wherever it stands."""
        length = features.shape[1]
        index = torch.arange(length, device=features.device)
        allowed = valid[:, None, None, :]
        if self.causal:
            allowed = allowed & (index[None, :] <= index[:, None])
        # Each frame may see itself: a row that may see nothing would be NaN.
        allowed = allowed | (index[None, :] == index[:, None])
        hidden = self.dropout(self.input(features))
        for block in self.blocks:
            hidden = block(hidden, timestamps, allowed)
        logits: Tensor = self.classifier(self.norm(hidden))
        return logits


class _Block(nn.Module):
    """Attention, then a feed-forward layer; each on a layer norm, each added to its input."""

    inverse_periods: Tensor

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(hidden_dim)
        self.query_key_value = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.output = nn.Linear(hidden_dim, hidden_dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(hidden_dim),
            nn.Linear(hidden_dim, 4 * hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * hidden_dim, hidden_dim),
            nn.Dropout(dropout),
        )
        num_periods = hidden_dim // num_heads // 2
        periods = torch.logspace(
            math.log10(_SHORTEST_PERIOD_SECONDS), math.log10(_LONGEST_PERIOD_SECONDS), num_periods
        )
        self.register_buffer("inverse_periods", 2 * math.pi / periods, False)

    def forward(self, hidden: Tensor, timestamps: Tensor, allowed: Tensor) -> Tensor:
        heads = self.query_key_value(self.attention_norm(hidden)).unflatten(
            -1, (3, self.num_heads, -1)
        )
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        # From the first frame on, in float32: hours as float32 seconds times 12 rad/s lose the
        # frame, and bfloat16 loses it within a minute.
        seconds = (timestamps - timestamps[:, :1]).float()
        with torch.autocast(hidden.device.type, enabled=False):
            angles = seconds[:, None, :, None] * self.inverse_periods.float()
            cosine, sine = angles.cos(), angles.sin()
            query, key = _rotate(query, cosine, sine), _rotate(key, cosine, sine)
        attended = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
        )
        hidden = hidden + self.output(attended.transpose(1, 2).flatten(2))
        fed: Tensor = hidden + self.feed_forward(hidden)
        return fed


def _rotate(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn the two halves of ``(B, heads, T, d)`` as pairs by angles ``(B, 1, T, d/2)``."""
    first, second = vectors.float().chunk(2, dim=-1)
    turned = torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1)
    return turned.to(vectors.dtype)


class LstmEncoder(TimeAwareEncoder):
    """LSTM that reads, beside each frame's features, how long ago the frame before was.

    Args:
        config: ``model.time_aware_encoder``; ``num_heads`` is not used.
        feature_dim: D.
        num_classes: K.
    """

    def __init__(
        self, config: TimeAwareEncoderConfig, *, feature_dim: int, num_classes: int
    ) -> None:
        super().__init__()
        self.causal = config.causal
        self.input = nn.Linear(feature_dim + 1, config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        settings: dict[str, Any] = {"num_layers": config.num_layers, "dropout": config.dropout}
        self.forward_lstm = ExportableLstm(config.hidden_dim, **settings)
        self.backward_lstm = (
            None if config.causal else ExportableLstm(config.hidden_dim, **settings)
        )
        width = config.hidden_dim * (1 if config.causal else 2)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, features: Tensor, timestamps: Tensor, valid: Tensor) -> Tensor:
        """As the base class says."""
        # Nothing stands before the first frame. Cut at 0: padding may fall back to time 0.
        steps = torch.diff(timestamps, dim=1, prepend=timestamps[:, :1])
        # Logarithm: half a second more matters after one second, not after a minute.
        elapsed = steps.clamp(min=0).log1p().to(features.dtype) * valid
        hidden = self.dropout(self.input(torch.cat((features, elapsed[..., None]), dim=-1)))
        states = self.forward_lstm.outputs(hidden)
        if self.backward_lstm is not None:
            order = _reversed_rows(valid)[..., None].expand_as(hidden)
            backward = self.backward_lstm.outputs(hidden.gather(1, order))
            # The reversal of a row is its own inverse.
            states = torch.cat((states, backward.gather(1, order)), dim=-1)
        logits: Tensor = self.classifier(self.norm(states))
        return logits


def _reversed_rows(valid: Tensor) -> Tensor:
    """Indices ``(B, T)`` that turn the valid part of each row round and leave its padding in place.

    A reversed padded row would make the backward LSTM start in the padding.
    """
    index = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    return torch.where(valid, valid.sum(1, keepdim=True) - 1 - index, index)
