"""`StandardNorm`: statistics of all videos together, outliers, features that never change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.feature_norm import StandardNorm


def test_the_training_frames_have_mean_0_and_spread_1() -> None:
    rng = np.random.default_rng(0)
    # Large means with a small spread lose everything in float32 sums.
    videos = [(rng.random((length, 3)) * [1, 100, 0.01] + [0, 0, 50]) for length in (5, 40, 8)]
    norm = StandardNorm(3)
    norm.fit(iter(videos))
    every = np.concatenate(videos)
    assert norm.mean.numpy() == pytest.approx(every.mean(0))
    assert norm.scale.numpy() == pytest.approx(every.std(0), rel=1e-4)
    scaled = norm(torch.from_numpy(every)).numpy()
    assert scaled.mean(0) == pytest.approx([0, 0, 0], abs=1e-3)
    assert scaled.std(0) == pytest.approx([1, 1, 1], abs=1e-3)


def test_outliers_are_cut() -> None:
    norm = StandardNorm(1)
    norm.fit([np.array([[-1.0], [1.0]])])
    assert norm(torch.tensor([[2.0], [7.0], [-1e9]])).flatten().tolist() == [2.0, 5.0, -5.0]


def test_a_feature_that_never_changes_does_not_become_noise() -> None:
    norm = StandardNorm(1)
    norm.fit([np.full((9, 1), 0.3, np.float32)])
    assert norm(torch.tensor([[0.3 + 1e-7]])).abs().item() < 0.01


def test_statistics_travel_with_the_weights() -> None:
    norm, other = StandardNorm(2), StandardNorm(2)
    norm.fit([np.random.default_rng(1).random((9, 2))])
    other.load_state_dict(norm.state_dict())
    assert torch.equal(other.mean, norm.mean)
    assert torch.equal(other.scale, norm.scale)
    assert not list(norm.parameters())


def test_no_frame_is_an_error() -> None:
    with pytest.raises(ValueError, match="no frame to take mean and spread of"):
        StandardNorm(2).fit([np.zeros((0, 2))])
