"""Losses for K independent trigger classes, most of whose frames are negative.

Each entry makes a function ``(logits (B, T, K), targets (B, T, K)) -> losses (B, T, K)``; the
trainer takes the mean over valid frames and classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from utils.config.schema import LossConfig
from utils.registry import Registry

LOSSES = Registry(
    "loss",
    {
        "bce": "utils.training.losses:weighted_bce",
        "focal": "utils.training.losses:focal",
    },
)

_SMALLEST_WRONG = 1e-12
"""Below it a frame counts as fully right; sigmoids reach 0 in float32 from about -104 on."""

FrameLoss = Callable[[Tensor, Tensor], Tensor]


def build_loss(config: LossConfig, positive_weight: Tensor | None) -> FrameLoss:
    """The loss that ``config.type`` names, of targets that ``config.label_smoothing`` has moved.

    Args:
        config: ``training.loss``.
        positive_weight: ``(K,)`` factors on the loss of positive frames, or None.

    Raises:
        UnknownNameError: No such loss.
    """
    loss: FrameLoss = LOSSES.resolve(config.type)(config, positive_weight)
    if not config.label_smoothing:
        return loss

    def smoothed(logits: Tensor, targets: Tensor) -> Tensor:
        return loss(logits, smooth_targets(targets, config.label_smoothing))

    return smoothed


def smooth_targets(targets: Tensor, smoothing: float) -> Tensor:
    """``targets`` moved towards 1/2, so that no frame asks for an endless logit.

    ``t (1 - s) + s / 2``: label smoothing (Szegedy et al., 2016, arXiv:1512.00567, section 7). Its
    uniform distribution is 1/2 here, a class being either on or off.

    Args:
        targets: ``(B, T, K)`` in [0, 1].
        smoothing: ``s``, at least 0 and below 1.
    """
    return targets * (1 - smoothing) + smoothing / 2


def weighted_bce(config: LossConfig, positive_weight: Tensor | None) -> FrameLoss:
    """Binary cross-entropy; positives count ``positive_weight`` times."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=positive_weight, reduction="none"
        )

    return loss


def focal(config: LossConfig, positive_weight: Tensor | None) -> FrameLoss:
    """Focal loss (Lin et al., 2017, arXiv:1708.02002): ``-alpha_t (1 - p_t)^gamma log(p_t)``.

    ``positive_weight``, where given, multiplies the loss of positives on top of ``alpha``.
    """
    gamma, alpha = config.focal_gamma, config.focal_alpha

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        cross_entropy = functional.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=positive_weight, reduction="none"
        )
        # 1 - p_t from the logits: as a difference it is exactly 0 for a sure frame, and the
        # gradient of 0 ** gamma is infinite for a gamma below 1.
        wrong = logits.sigmoid() * (1 - targets) + (-logits).sigmoid() * targets
        balance = alpha * targets + (1 - alpha) * (1 - targets)
        return balance * wrong.clamp(min=_SMALLEST_WRONG) ** gamma * cross_entropy

    return loss


def mean_over_valid(losses: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``(B, T, K)`` over classes and over the frames where ``valid`` ``(B, T)`` is True."""
    masked = torch.where(valid[..., None], losses, losses.new_zeros(()))
    return masked.sum() / (valid.sum() * losses.shape[-1]).clamp(min=1)


def balancing_weight(targets: Tensor) -> Tensor:
    """``(K,)`` ratio of negative to positive frames, which makes both weigh the same.

    Args:
        targets: ``(N, K)``, of the frames that training draws (not of the raw videos: the sampler
            has balanced those already).

    Returns:
        1 for a class without positives, at least 0.1 and at most 100.
    """
    positives = targets.sum(0)
    ratio = (len(targets) - positives) / positives.clamp(min=1e-6)
    return torch.where(positives > 0, ratio.clamp(0.1, 100.0), torch.ones_like(ratio))
