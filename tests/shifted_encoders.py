"""Helpers of the tests of temporal shift: small encoders in which a shift shows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.temporal_shift import GatedShift
from models.visual_encoder import VisualEncoder
from utils.config.schema import VisualEncoderConfig


def build(
    type_: str = "tsm", *, encoder: str = "timm:test_resnet", **changes: Any
) -> VisualEncoder:
    """Random weights, with open gates."""
    torch.manual_seed(0)
    causal = changes.pop("causal", False)
    config = VisualEncoderConfig.model_validate(
        {
            "type": encoder,
            "weights": None,
            "feature_dim": None,
            "temporal_shift": {"type": type_, "causal": causal},
            **changes,
        }
    )
    made = VisualEncoder(config)
    make_shift_visible(made)
    return made


def make_shift_visible(module: nn.Module) -> None:
    """Untrained, a shift may change nothing, however wrong it is."""
    open_branches(module)
    open_gates(module)


def open_branches(module: nn.Module) -> None:
    """Some libraries begin with residual branches that add next to nothing."""
    for name, parameter in module.named_parameters():
        # Of norms, and ConvNeXt's layer scale.
        if parameter.ndim == 1 and not name.endswith("bias"):
            nn.init.uniform_(parameter, 0.5, 1.5)


def open_gates(module: nn.Module) -> None:
    """They begin closed."""
    for shift in module.modules():
        if isinstance(shift, GatedShift):
            nn.init.normal_(shift.gate.weight, std=0.3)
            nn.init.normal_(shift.gate_bias)


def random_frames(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
