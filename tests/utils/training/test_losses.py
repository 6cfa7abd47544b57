"""Losses against references and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from utils.config.schema import LossConfig
from utils.errors import UnknownNameError
from utils.training.losses import (
    LOSSES,
    balancing_weight,
    build_loss,
    mean_over_valid,
    smooth_targets,
)


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 6 * torch.randn(2, 5, 3, generator=generator)
    return logits, (torch.rand(2, 5, 3, generator=generator) < 0.3).float()


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]),
    alpha=st.floats(0, 1),
)
def test_focal_is_that_of_torchvision(seed: int, gamma: float, alpha: float) -> None:
    logits, targets = random_case(seed)
    loss = build_loss(LossConfig(type="focal", focal_gamma=gamma, focal_alpha=alpha), None)
    expected = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(loss(logits, targets), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("name", list(LOSSES))
def test_gradients_of_sure_frames_are_finite(name: str, gamma: float) -> None:
    loss = build_loss(LossConfig(type=name, focal_gamma=gamma), None)
    logits = torch.tensor([-200.0, -100.0, -20.0, 0.0, 20.0, 100.0, 200.0]).view(1, -1, 1)
    for target in (0.0, 0.7, 1.0):
        leaf = logits.clone().requires_grad_()
        losses = loss(leaf, torch.full_like(leaf, target))
        losses.sum().backward()
        assert losses.isfinite().all()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


def test_bce_by_hand() -> None:
    loss = build_loss(LossConfig(), torch.tensor([3.0, 1.0]))
    logits = torch.tensor([[[0.5, -2.0], [0.5, -2.0]]])
    targets = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])

    def log_sigmoid(x: float) -> float:
        return -math.log1p(math.exp(-x))

    expected = [
        [-3 * log_sigmoid(0.5), -log_sigmoid(-2.0)],
        [-log_sigmoid(-0.5), -log_sigmoid(2.0)],
    ]
    torch.testing.assert_close(loss(logits, targets)[0], torch.tensor(expected))


def test_positive_weight_multiplies_focal_positives() -> None:
    logits, targets = random_case(1)
    config = LossConfig(type="focal")
    plain = build_loss(config, None)(logits, targets)
    weighted = build_loss(config, torch.full((3,), 4.0))(logits, targets)
    torch.testing.assert_close(weighted, torch.where(targets > 0, 4 * plain, plain))


def test_focal_counts_easy_frames_less() -> None:
    logits, targets = torch.tensor([[[4.0], [0.0]]]), torch.ones(1, 2, 1)
    bce = build_loss(LossConfig(), None)(logits, targets).flatten()
    focal = build_loss(LossConfig(type="focal"), None)(logits, targets).flatten()
    assert focal[0] / focal[1] < 0.01 * bce[0] / bce[1]


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_padding_counts_neither_in_the_mean_nor_in_the_gradient(garbage: float) -> None:
    losses = torch.tensor([[[1.0, 3.0], [garbage, garbage]], [[5.0, 7.0], [9.0, 11.0]]])
    losses.requires_grad_()
    valid = torch.tensor([[True, False], [True, True]])
    mean = mean_over_valid(losses, valid)
    assert float(mean.detach()) == 6.0
    mean.backward()
    sixth = 1 / 6
    expected = [[[sixth] * 2, [0.0] * 2], [[sixth] * 2] * 2]
    torch.testing.assert_close(losses.grad, torch.tensor(expected))


def test_mean_over_nothing_is_zero() -> None:
    assert float(mean_over_valid(torch.ones(1, 2, 1), torch.zeros(1, 2, dtype=torch.bool))) == 0


def test_balancing_weight() -> None:
    targets = torch.zeros(1000, 5)
    targets[:100, 0] = 1  # 9 negatives to a positive
    targets[:999, 1] = 1  # almost all: cut at 0.1
    targets[:1, 2] = 1  # almost none: cut at 100
    targets[:500, 4] = 1
    assert balancing_weight(targets).tolist() == pytest.approx([9, 0.1, 100, 1, 1])


def test_balanced_classes_weigh_the_same() -> None:
    targets = (torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    loss = build_loss(LossConfig(), balancing_weight(targets))
    losses = loss(torch.zeros(1, 500, 1), targets[None])[0]
    torch.testing.assert_close(losses[targets > 0].sum(), losses[targets == 0].sum())


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [(0.1, [0.05, 0.275, 0.5, 0.95]), (0.5, [0.25, 0.375, 0.5, 0.75])],
)
def test_smoothed_targets_by_hand(smoothing: float, expected: list[float]) -> None:
    targets = torch.tensor([0.0, 0.25, 0.5, 1.0])
    torch.testing.assert_close(smooth_targets(targets, smoothing), torch.tensor(expected))


@pytest.mark.parametrize("name", list(LOSSES))
def test_label_smoothing_is_in_the_loss(name: str) -> None:
    logits, targets = random_case(2)
    weight = torch.tensor([1.0, 3.0, 0.5])
    plain = build_loss(LossConfig(type=name), weight)
    smoothed = build_loss(LossConfig(type=name, label_smoothing=0.2), weight)
    moved = torch.where(targets > 0, 0.9, 0.1)
    torch.testing.assert_close(smoothed(logits, targets), plain(logits, moved))
    off = build_loss(LossConfig(type=name, label_smoothing=0), weight)
    assert torch.equal(off(logits, targets), plain(logits, targets))


def test_with_label_smoothing_the_best_logit_is_finite() -> None:
    loss = build_loss(LossConfig(label_smoothing=0.2), None)
    # Szegedy et al. want the probability 1 - s / 2 for a class that is on.
    leaf = torch.logit(torch.tensor([[[0.9]]])).requires_grad_()
    loss(leaf, torch.ones(1, 1, 1)).sum().backward()
    assert leaf.grad is not None
    assert abs(float(leaf.grad)) < 1e-6


def test_unknown_loss() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown loss 'focl'; known: bce, focal \(did you"):
        build_loss(LossConfig(type="focl"), None)
