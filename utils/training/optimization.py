"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from utils.config.schema import TrainingConfig

FINAL_FACTOR = 0.01
"""Where the cosine ends, as a share of the learning rate: a last small step still polishes."""


def build_optimizer(
    groups: Iterable[tuple[str, list[nn.Parameter]]], config: TrainingConfig
) -> Optimizer:
    """AdamW with a learning rate per component and no decay on biases and norms.

    Args:
        groups: Component name and its trainable parameters.
        config: ``training``.

    Raises:
        ValueError: There is nothing to train.
    """
    rates = config.learning_rates.model_dump()
    parameter_groups = []
    for name, parameters in groups:
        rate = rates.get(name) or config.learning_rate
        # Decay shrinks weights; a norm's gain and a bias have no reason to shrink.
        for is_decayed in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == is_decayed]
            if chosen:
                parameter_groups.append(
                    {
                        "params": chosen,
                        "lr": rate,
                        "weight_decay": config.weight_decay if is_decayed else 0.0,
                        "name": name,
                    }
                )
    if not parameter_groups:
        raise ValueError("nothing to train: every component is frozen")
    return AdamW(parameter_groups)


def warmup_cosine_factor(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """Factor on the learning rate of update ``step`` (0-based).

    Rises linearly over ``warmup_steps`` updates to 1, then falls on a half cosine to `FINAL_FACTOR`
    at ``total_steps`` (Loshchilov and Hutter, 2017, arXiv:1608.03983, without restarts).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return FINAL_FACTOR + (1 - FINAL_FACTOR) * (1 + math.cos(math.pi * progress)) / 2


def build_schedule(optimizer: Optimizer, config: TrainingConfig, total_steps: int) -> LambdaLR:
    """Warm-up, then cosine, over ``total_steps`` optimizer updates."""
    warmup_steps = round(config.warmup_fraction * total_steps)
    return LambdaLR(
        optimizer,
        lambda step: warmup_cosine_factor(step, total_steps=total_steps, warmup_steps=warmup_steps),
    )
