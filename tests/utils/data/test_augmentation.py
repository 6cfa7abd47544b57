"""Augmentation: one change for the whole clip, drawn from its key alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.config.schema import AugmentationConfig
from utils.data.augmentation import ClipAugmentation, generator_for, to_unit_range


def none_but(**changes: Any) -> ClipAugmentation:
    plain: dict[str, Any] = {
        "flip": False,
        "crop": (0.0, 0.0, 1.0, 1.0),
        "brightness": 1.0,
        "contrast": 1.0,
        "saturation": 1.0,
    }
    return ClipAugmentation(**{**plain, **changes})


@pytest.fixture
def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 9, 20, 20), dtype=torch.uint8, generator=generator)


def test_nothing_to_do(frames: torch.Tensor) -> None:
    assert torch.equal(none_but().apply(frames), frames)


def test_flip(frames: torch.Tensor) -> None:
    assert torch.equal(none_but(flip=True).apply(frames), frames.flip(-1))


def test_crop_keeps_the_part_and_gives_the_old_size() -> None:
    frames = torch.zeros(2, 3, 20, 20, dtype=torch.uint8)
    frames[..., 5:15, 10:20] = 200
    cropped = none_but(crop=(0.25, 0.5, 0.5, 0.5)).apply(frames)
    assert cropped.shape == frames.shape
    assert (cropped == 200).all()


def test_colours_by_hand() -> None:
    frames = torch.tensor([100, 150, 200], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert none_but(brightness=1.2).apply(frames)[0, :, 0, 0].tolist() == [120, 180, 240]
    # 127.5 + 0.8 * (x - 127.5)
    assert none_but(contrast=0.8).apply(frames)[0, :, 0, 0].tolist() == [106, 146, 186]
    assert none_but(contrast=2.0).apply(frames)[0, :, 0, 0].tolist() == [72, 172, 255]
    gray = none_but(saturation=0.0).apply(frames)[0, :, 0, 0]
    # ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B = 140.75
    assert (gray.float() - 140.75).abs().max() <= 1
    assert len(set(gray.tolist())) == 1


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(16, 40))
def test_no_draw_brings_in_a_border(seed: int, size: int) -> None:
    config = AugmentationConfig(brightness=0, contrast=0, saturation=0, crop_scale_min=0.1)
    draw = ClipAugmentation.draw(config, generator_for(seed))
    white = torch.full((1, 3, size, size), 255, dtype=torch.uint8)
    assert (draw.apply(white) == 255).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_stands_still_stays_still(seed: int) -> None:
    """Motion images are differences of frames: who walks in must not change the background."""
    config = AugmentationConfig(brightness=0.5, contrast=0.5, saturation=0.5, crop_scale_min=0.5)
    draw = ClipAugmentation.draw(config, generator_for(seed))
    background = torch.randint(
        0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    # Two samples of three pictures; an object comes in on the left half of some of them.
    frames = background.repeat(2, 3, 1, 1)
    frames[1, 3:, :, :8] = 255
    changed = draw.apply(frames).reshape(6, 3, 32, 32)
    alone = draw.apply(background[None])
    # Away from the object, in whichever direction it lies after flip and crop.
    far = slice(0, 8) if draw.flip else slice(24, 32)
    for picture in changed:
        assert torch.equal(picture[..., far], alone[0, ..., far])


def test_pictures_of_a_sample_keep_their_order(frames: torch.Tensor) -> None:
    draw = ClipAugmentation.draw(AugmentationConfig(), generator_for(1))
    together = draw.apply(frames)
    for index in range(3):
        part = slice(3 * index, 3 * index + 3)
        assert torch.equal(together[:, part], draw.apply(frames[:, part]))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1))
def test_draws_stay_in_the_ranges_of_the_config(seed: int) -> None:
    config = AugmentationConfig(
        crop_scale_min=0.3, brightness=0.1, contrast=0.2, saturation=0.3, horizontal_flip=0
    )
    draw = ClipAugmentation.draw(config, generator_for(seed))
    top, left, height, width = draw.crop
    assert height == width
    assert 0.3 - 1e-9 <= height * width <= 1
    assert 0 <= top <= 1 - height
    assert 0 <= left <= 1 - width
    assert abs(draw.brightness - 1) <= 0.1
    assert abs(draw.contrast - 1) <= 0.2
    assert abs(draw.saturation - 1) <= 0.3
    assert not draw.flip


def test_a_probability_of_a_flip_is_one() -> None:
    def flips(probability: float) -> float:
        config = AugmentationConfig(horizontal_flip=probability)
        draws = [ClipAugmentation.draw(config, generator_for(0, index)) for index in range(400)]
        return float(np.mean([draw.flip for draw in draws]))

    assert flips(1) == 1
    assert 0.18 < flips(0.25) < 0.32


def test_generators_depend_on_their_key_alone() -> None:
    keys = [
        (seed, epoch, place, 0)
        for seed in (0, 1, 2**32 - 1)
        for epoch in (0, 1)
        for place in (0, 1)
    ]
    first = [generator_for(*key).random() for key in keys]
    assert len(set(first)) == len(keys)
    assert first == [generator_for(*key).random() for key in keys]


@pytest.mark.parametrize("key", [(-1,), (0, 2**32)])
def test_keys_that_would_run_into_each_other(key: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="does not fit"):
        generator_for(*key)


def test_unit_range() -> None:
    scaled = to_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert scaled.dtype == torch.float32
    assert scaled.tolist() == pytest.approx([0, 0.2, 1])
