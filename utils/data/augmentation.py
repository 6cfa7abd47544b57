"""Clip-consistent augmentation: one draw of flip, crop and colours for all frames of a clip.

The draw is a function of the generator that is handed in, so that a clip's augmentation depends on
(seed, epoch, position) alone. Frames and their motion neighbours get the same change, pixel by
pixel: otherwise the change itself would look like motion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from utils.config.schema import AugmentationConfig

AUGMENTATION_VERSION = 3
"""Raised whenever the same draw would give other pixels; in the cache key of augmented copies."""

_MIDDLE_GRAY = 127.5


@dataclass(frozen=True, kw_only=True)
class ClipAugmentation:
    """One draw.

    Attributes:
        flip: Whether left and right change places.
        crop: ``(top, left, height, width)`` as shares of the picture.
        brightness: Factor.
        contrast: Factor on the distance to middle grey.
        saturation: Factor.
    """

    flip: bool
    crop: tuple[float, float, float, float]
    brightness: float
    contrast: float
    saturation: float

    @classmethod
    def draw(cls, config: AugmentationConfig, generator: np.random.Generator) -> Self:
        """Draw within the ranges of ``config``."""
        scale = generator.uniform(config.crop_scale_min, 1.0)
        # One scale for both sides: the picture keeps its shape. `scale` is a share of the area.
        side = float(np.sqrt(scale))
        top, left = generator.uniform(0, 1 - side, size=2)
        return cls(
            flip=bool(generator.random() < config.horizontal_flip),
            crop=(float(top), float(left), side, side),
            brightness=float(1 + generator.uniform(-config.brightness, config.brightness)),
            contrast=float(1 + generator.uniform(-config.contrast, config.contrast)),
            saturation=float(1 + generator.uniform(-config.saturation, config.saturation)),
        )

    def apply(self, frames: Tensor) -> Tensor:
        """Augment a clip.

        Args:
            frames: ``(T, 3N, H, W)`` uint8, N pictures a sample.

        Returns:
            The same shape and type.
        """
        height, width = frames.shape[-2:]
        pictures = frames.reshape(-1, 3, height, width)
        if self.flip:
            pictures = functional.horizontal_flip(pictures)
        top, left, crop_height, crop_width = self.crop
        pictures = functional.resized_crop(
            pictures,
            top=round(top * height),
            left=round(left * width),
            height=max(1, round(crop_height * height)),
            width=max(1, round(crop_width * width)),
            size=[height, width],
            antialias=True,
        )
        for adjust, factor in (
            (functional.adjust_brightness, self.brightness),
            (_adjust_contrast, self.contrast),
            (functional.adjust_saturation, self.saturation),
        ):
            if factor != 1:
                pictures = adjust(pictures, factor)
        return pictures.reshape(frames.shape)


def _adjust_contrast(pictures: Tensor, factor: float) -> Tensor:
    # torchvision turns around the mean of each picture: who walks in would then change the light on
    # the still background, and motion images would show it.
    changed: Tensor = (pictures.float() - _MIDDLE_GRAY) * factor + _MIDDLE_GRAY
    return changed.round_().clamp_(0, 255).to(torch.uint8)


def generator_for(*key: int) -> np.random.Generator:
    """A generator that depends on ``key`` alone, such as (seed, epoch, position).

    Args:
        key: Numbers in ``[0, 2**32)``. A larger one would spill into the place of the next; and a
            shorter key is the same as a longer one that ends in zeros.
    """
    assert all(0 <= part < 2**32 for part in key), f"{key} does not fit"
    return np.random.default_rng(np.random.SeedSequence(key))


def to_unit_range(frames: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return frames.to(torch.float32) / 255
