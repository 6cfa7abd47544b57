"""Optimizer groups and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from utils.config.schema import TrainingConfig
from utils.training.optimization import (
    FINAL_FACTOR,
    build_optimizer,
    build_schedule,
    warmup_cosine_factor,
)


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(changes)


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    optimizer = build_optimizer(
        [("trigger_detector", list(model.parameters()))], config(weight_decay=0.2)
    )
    decayed, plain = optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.2, 0.0)
    assert [p.shape for p in decayed["params"]] == [torch.Size([2, 3])]
    assert len(plain["params"]) == 3


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="nothing to train: every component is frozen"):
        build_optimizer([], config())


def test_factors_by_hand() -> None:
    factors = [warmup_cosine_factor(step, total_steps=10, warmup_steps=2) for step in range(11)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert factors[6] == pytest.approx(FINAL_FACTOR + (1 - FINAL_FACTOR) / 2)
    assert factors[10] == pytest.approx(FINAL_FACTOR)


@settings(deadline=None, max_examples=50)
@given(total=st.integers(1, 500), fraction=st.floats(0, 0.99))
def test_rises_then_falls(total: int, fraction: float) -> None:
    warmup = round(fraction * total)
    factors = [
        warmup_cosine_factor(step, total_steps=total, warmup_steps=warmup)
        for step in range(total + 5)
    ]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: warmup + 1] == sorted(factors[: warmup + 1])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert max(factors) == factors[min(warmup, total)]


def test_schedule_drives_every_group() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [
        ("visual_backbone", list(first.parameters())),
        ("trigger_detector", list(second.parameters())),
    ]
    settings_ = config(
        learning_rate=1.0, learning_rates={"visual_backbone": 0.1}, warmup_fraction=0.2
    )
    optimizer = build_optimizer(groups, settings_)
    schedule = build_schedule(optimizer, settings_, 10)
    for step in range(10):
        expected = (
            (step + 1) / 3
            if step < 2
            else FINAL_FACTOR + (1 - FINAL_FACTOR) * (1 + math.cos(math.pi * (step - 2) / 8)) / 2
        )
        for group in optimizer.param_groups:
            base = 0.1 if group["name"] == "visual_backbone" else 1.0
            assert group["lr"] == pytest.approx(base * expected), step
        optimizer.step()
        schedule.step()
