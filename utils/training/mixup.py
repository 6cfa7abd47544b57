"""`mix_clips`: mixup over the clips of a batch (Zhang et al., 2018, arXiv:1710.09412)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from utils.data.clips import Clip


def mix_clips(clip: Clip, *, alpha: float, generator: np.random.Generator) -> Clip:
    """Blend each clip of a batch, inputs and targets, with another one of the batch.

    The share of a clip itself is drawn from Beta(alpha, alpha), anew for each clip, and is the
    larger of the two shares: the timestamps and the padding that the model sees are those of the
    clip. That gives the same pairs as without the rule, since each clip may be anyone's partner.

    A frame is blended only where both clips have one; beside a partner's padding it stays as it is,
    for half a frame would be a dimmer picture and not a mixture.

    Args:
        clip: A batch; inputs are floating point.
        alpha: Above 0. Small: most clips stay almost as they are; 1: all shares are as likely.
        generator: All that is drawn comes from it.

    Raises:
        ValueError: ``alpha`` is not above 0, or the inputs are whole numbers.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    if not clip.inputs.is_floating_point():
        raise ValueError(f"inputs must be floating point to be blended, got {clip.inputs.dtype}")
    size = len(clip.valid)
    device = clip.valid.device
    partners = torch.from_numpy(generator.permutation(size)).to(device)
    drawn = generator.beta(alpha, alpha, size)
    # float32 first: not every device has float64.
    shares = torch.from_numpy(np.maximum(drawn, 1 - drawn).astype(np.float32)).to(device)
    is_blended = clip.valid & clip.valid[partners]
    return clip._replace(
        inputs=_blend(clip.inputs, partners, shares, is_blended),
        targets=_blend(clip.targets, partners, shares, is_blended),
    )


def _blend(values: Tensor, partners: Tensor, shares: Tensor, is_blended: Tensor) -> Tensor:
    """``(B, T, ...)`` mixed with its rows ``partners`` where ``is_blended`` ``(B, T)``."""
    ones = (1,) * (values.dim() - 2)
    share = shares.to(values.dtype).view(-1, 1, *ones)
    mixed = share * values + (1 - share) * values[partners]
    return torch.where(is_blended.view(*is_blended.shape, *ones), mixed, values)
