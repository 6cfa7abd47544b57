"""`VideoProcessor`: frames of any size to tensors of one size.

Third room of the cascade, between sampler and encoder. It resizes, crops and gives RGB in [0, 1];
mean, standard deviation and motion images are the encoder's, inside what is exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from utils.errors import UsageError
from utils.registry import suggestion

if TYPE_CHECKING:
    import torch

ResizeMode = Literal["crop", "stretch", "letterbox"]

LETTERBOX_GRAY = 128
"""Bars of mid-grey: after the usual normalisation they are close to 0, the colour of nothing."""


class VideoProcessor:
    """Resizes frames with antialiased bilinear interpolation.

    Args:
        image_size: Side of the square result, or ``(height, width)``.
        resize_mode: ``crop`` scales until the result is covered and cuts what juts out, the same at
            both ends; ``stretch`` scales both sides apart; ``letterbox`` scales until the picture
            fits and pads with mid-grey.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(
        self, image_size: int | Sequence[int] = 224, *, resize_mode: ResizeMode = "crop"
    ) -> None:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise UsageError(
                f"image_size must be a number of pixels or (height, width), got {image_size!r}"
            )
        modes = get_args(ResizeMode)
        if resize_mode not in modes:
            raise UsageError(
                f"unknown resize_mode '{resize_mode}'; known: {', '.join(modes)}"
                f"{suggestion(str(resize_mode), modes)}"
            )
        self.image_size = size
        self.resize_mode = resize_mode

    def process_frames(
        self, frames: NDArray[np.uint8] | Sequence[NDArray[np.uint8]] | torch.Tensor
    ) -> torch.Tensor:
        """Frames for the model.

        Args:
            frames: ``(T, H, W, 3)`` uint8 RGB, or ``(T, N, H, W, 3)`` with the N pictures of a
                sample (the frame, then its neighbours): an array, a tensor, or a list of one such
                picture or stack for each sample.

        Returns:
            ``(T, 3, h, w)``, or ``(T, 3 N, h, w)``, float32 in [0, 1], where ``(h, w)`` is
            ``image_size``. The frame's own channels come first.

        Raises:
            UsageError: Shape or dtype is another, or there is no frame.
        """
        return self.process_uint8(frames).float().div_(255)

    def process_uint8(
        self, frames: NDArray[np.uint8] | Sequence[NDArray[np.uint8]] | torch.Tensor
    ) -> torch.Tensor:
        """As `process_frames` but uint8 in [0, 255], a quarter of the size: what caches store."""
        import torch

        stack = _as_samples(frames)
        num_samples, num_pictures = len(stack), stack[0].shape[0]
        height, width = self.image_size
        result = torch.empty(
            (num_samples, 3 * num_pictures, height, width),
            dtype=torch.uint8,
            device=stack[0].device,
        )
        # One sample at a time: the pixels then cannot depend on how many come together.
        for index, pictures in enumerate(stack):
            resized = self._resize(pictures.permute(0, 3, 1, 2))
            result[index] = resized.reshape(3 * num_pictures, height, width)
        return result

    def _resize(self, pictures: torch.Tensor) -> torch.Tensor:
        """``(N, 3, H, W)`` to ``(N, 3, h, w)``."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        height, width = self.image_size
        scale_height, scale_width = height / pictures.shape[2], width / pictures.shape[3]
        if self.resize_mode == "crop":
            scale_height = scale_width = max(scale_height, scale_width)
        elif self.resize_mode == "letterbox":
            scale_height = scale_width = min(scale_height, scale_width)
        resized: torch.Tensor = functional.resize(
            pictures,
            [
                max(1, round(pictures.shape[2] * scale_height)),
                max(1, round(pictures.shape[3] * scale_width)),
            ],
            interpolation=InterpolationMode.BILINEAR,
            antialias=True,
        )
        if self.resize_mode == "crop":
            resized = functional.center_crop(resized, [height, width])
        elif self.resize_mode == "letterbox":
            missing_height, missing_width = height - resized.shape[2], width - resized.shape[3]
            top, left = missing_height // 2, missing_width // 2
            padding = [left, top, missing_width - left, missing_height - top]
            resized = functional.pad(resized, padding, fill=[LETTERBOX_GRAY])
        return resized


def _as_samples(
    frames: NDArray[np.uint8] | Sequence[NDArray[np.uint8]] | torch.Tensor,
) -> list[torch.Tensor]:
    """One ``(N, H, W, 3)`` uint8 tensor for each sample, all with the same N."""
    import torch

    if len(frames) == 0:
        raise UsageError("no frames to process: the first axis is empty")
    samples: list[torch.Tensor] = []
    for index, frame in enumerate(frames):
        is_known = isinstance(frame, np.ndarray | torch.Tensor)
        shape = tuple(frame.shape) if is_known else ()
        if len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape:
            what = f"of shape {shape}" if is_known else f"a {type(frame).__name__}"
            raise UsageError(
                "frames must be an array, a tensor or a list of them, (T, H, W, 3) or "
                f"(T, N, H, W, 3); frame {index} is {what}"
            )
        if frame.dtype not in (np.uint8, torch.uint8):
            raise UsageError(
                f"frames must be uint8 RGB in 0..255; frame {index} is {frame.dtype} of {shape}"
            )
        if isinstance(frame, np.ndarray):
            # PyTorch takes neither negative strides nor, without a warning, read-only memory.
            frame = torch.from_numpy(np.require(frame, requirements=["C", "W"]))
        tensor = frame if frame.dim() == 4 else frame[None]
        if samples and tensor.shape[0] != samples[0].shape[0]:
            raise UsageError(
                f"every sample must have the same number of pictures; sample 0 has "
                f"{samples[0].shape[0]}, sample {index} has {tensor.shape[0]}"
            )
        samples.append(tensor)
    return samples
