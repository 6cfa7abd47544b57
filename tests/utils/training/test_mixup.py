"""Mixup: who is blended with whom can be read off clips whose frames say whose they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.clips import Clip
from utils.training.mixup import mix_clips

WINDOW = 6


def make_batch(lengths: list[int], *, is_frames: bool = False) -> Clip:
    """Of each clip, inputs and targets have a 1 at its own place and 0 at those of the others."""
    size = len(lengths)
    valid = torch.arange(WINDOW)[None] < torch.tensor(lengths)[:, None]
    own = torch.eye(size)[:, None].repeat(1, WINDOW, 1) * valid[..., None]
    inputs = own[..., None, None].repeat(1, 1, 1, 4, 4) if is_frames else own.clone()
    return Clip(
        inputs=inputs,
        timestamps=torch.arange(WINDOW)[None].repeat(size, 1) / 3.0,
        targets=own.clone(),
        valid=valid,
        video_index=torch.arange(size),  # type: ignore[arg-type]
        first_sample=torch.arange(size) * 7,  # type: ignore[arg-type]
    )


def mixed(clip: Clip, *, alpha: float = 1.0, seed: int = 0) -> Clip:
    return mix_clips(clip, alpha=alpha, generator=np.random.default_rng(seed))


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, WINDOW), min_size=1, max_size=7),
    alpha=st.sampled_from([1e-3, 0.2, 1.0, 8.0]),
    seed=st.integers(0, 10_000),
)
def test_each_frame_is_of_its_clip_and_at_most_one_other(
    lengths: list[int], alpha: float, seed: int
) -> None:
    clip = make_batch(lengths)
    result = mixed(clip, alpha=alpha, seed=seed)
    for row, length in enumerate(lengths):
        shares = result.inputs[row]
        # The larger share is the clip's own, and the shares of a frame make one.
        assert (shares[:length, row] >= 0.5).all()
        torch.testing.assert_close(shares[:length].sum(-1), torch.ones(length))
        others = {int(k) for k in shares.sum(0).nonzero()} - {row}
        assert len(others) <= 1
        # Blended exactly where both have frames, by one share.
        shared = min([length, *(lengths[k] for k in others)]) if others else 0
        assert len(set(shares[:shared, row].tolist())) <= 1
        assert (shares[shared:length, row] == 1).all()
        assert not shares[length:].any()
    assert torch.equal(result.inputs, result.targets), "by the same share"
    for name in ("timestamps", "valid", "video_index", "first_sample"):
        assert torch.equal(getattr(result, name), getattr(clip, name))


def test_each_clip_is_a_partner_once() -> None:
    result = mixed(make_batch([WINDOW] * 8), alpha=8).inputs[:, 0]
    given = 1 - result.diagonal()
    # What a clip gave up, its partner filled; one that is its own partner gave up nothing.
    torch.testing.assert_close(result.sum(1) - result.diagonal(), given)
    assert (result > 0).sum(0).max() == 2, "itself, and one that it is blended into"
    assert (given > 0).sum() > 4


def test_shares_are_drawn_for_each_clip() -> None:
    result = mixed(make_batch([WINDOW] * 8), alpha=8)
    assert len({float(result.inputs[row, 0, row]) for row in range(8)}) > 5


def test_frames_are_blended_pixel_by_pixel() -> None:
    lengths = [6, 3, 6, 5]
    features, frames = mixed(make_batch(lengths)), mixed(make_batch(lengths, is_frames=True))
    for y in range(4):
        assert torch.equal(frames.inputs[..., y, 3 - y], features.inputs)


def test_it_is_a_function_of_the_generator_alone() -> None:
    clip = make_batch([6, 4, 6, 6])
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = mixed(clip, seed=3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(1)
    assert torch.equal(mixed(clip, seed=3).inputs, one.inputs)
    assert not torch.equal(mixed(clip, seed=4).inputs, one.inputs)


def test_the_batch_itself_stays_as_it_is() -> None:
    clip = make_batch([6, 4, 6, 6])
    before = clip.inputs.clone(), clip.targets.clone()
    mixed(clip)
    assert torch.equal(clip.inputs, before[0]) and torch.equal(clip.targets, before[1])


def test_one_clip_alone_is_not_changed() -> None:
    clip = make_batch([5])
    assert torch.equal(mixed(clip).inputs, clip.inputs)


def test_garbage_in_the_padding_goes_nowhere() -> None:
    clip = make_batch([2, 6, 3])
    clip.inputs[~clip.valid] = torch.nan
    result = mixed(clip)
    assert result.inputs[result.valid].isfinite().all()


def own_shares(alpha: float) -> np.ndarray:
    """Of many clips that have another one as partner."""
    found = []
    for seed in range(300):
        result = mixed(make_batch([1] * 4), alpha=alpha, seed=seed).inputs[:, 0]
        found += [float(row[k]) for k, row in enumerate(result) if row[k] < 1]
    return np.array(found)


def test_shares_are_those_of_the_beta_distribution() -> None:
    # max(x, 1 - x) of a uniform x is uniform from 0.5 to 1.
    uniform = own_shares(1.0)
    assert uniform.mean() == pytest.approx(0.75, abs=0.01)
    assert np.quantile(uniform, 0.1) == pytest.approx(0.55, abs=0.02)
    assert own_shares(50.0).max() < 0.75
    assert np.median(own_shares(0.1)) > 0.99


@pytest.mark.parametrize(("alpha", "shares"), [(1e-300, {1.0}), (1e-9, {1.0}), (1e300, {0.5, 1.0})])
def test_extreme_alphas(alpha: float, shares: set[float]) -> None:
    result = mixed(make_batch([6] * 5), alpha=alpha).inputs[:, 0]
    # 1.0 also for a clip that is its own partner.
    assert set(result.diagonal().tolist()) <= shares


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_an_alpha_that_is_none(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be above 0, got"):
        mixed(make_batch([6, 6]), alpha=alpha)


def test_whole_numbers_cannot_be_blended() -> None:
    clip = make_batch([6, 6])
    with pytest.raises(ValueError, match=r"floating point to be blended, got torch\.uint8"):
        mixed(clip._replace(inputs=clip.inputs.byte()))
