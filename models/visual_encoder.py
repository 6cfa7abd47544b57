"""`VisualEncoder`: frames in [0, 1] to features; owns normalisation and motion images.

Second room of the cascade, and the dear part of its first stage. A sample comes with its neighbours
in the source stacked along the channels: ``C = 3`` for the frame alone, ``C = 9`` where motion is
wanted (frame, frame before, frame after).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.backbones import build_backbone
from utils.checkpoint import LoadReport
from utils.config.schema import VisualEncoderConfig
from utils.errors import UsageError

NUM_MOTION_STATISTICS = 5
_MOVING = 0.1
"""A pixel counts as moving where its grey level changes by a tenth of the range."""
_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of R, G and B."""


class VisualEncoder(nn.Module):
    """Frames to features.

    The features of one frame are, in this order: the backbone's feature map pooled on a grid of
    ``pool_grid`` x ``pool_grid``; with motion, that of the motion image through the same backbone;
    then five plain statistics of the differences, and `motion_energy` on a grid. A layer norm and
    a linear layer (``feature_dim``) follow; these two learn even where the backbone is frozen.

    Args:
        config: ``model.visual_encoder``; ``weights`` is not looked at: building is not loading.

    Raises:
        UnknownNameError: No such backbone.
        UsageError: ``pool_grid`` above 1 for a backbone without a feature map.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: VisualEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.type)
        if config.pool_grid > 1 and not self.backbone.has_map:
            raise UsageError(
                f"model.visual_encoder.pool_grid is {config.pool_grid}, but '{config.type}' gives "
                "one vector a picture and no map; set it to 1"
            )
        # Convolutions on the CPU run about a fifth faster in this layout.
        self.backbone.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(self.backbone.mean).view(3, 1, 1), False)
        self.register_buffer("std", torch.tensor(self.backbone.std).view(3, 1, 1), False)
        map_dim = self.backbone.num_channels * config.pool_grid**2
        self.backbone_dim = map_dim
        if config.motion.enabled:
            statistics = NUM_MOTION_STATISTICS if config.motion.statistics else 0
            energy = 2 * config.motion.energy_grid**2
            self.backbone_dim = 2 * map_dim + statistics + energy
        self.feature_dim = config.feature_dim or self.backbone_dim
        self.norm = nn.LayerNorm(self.backbone_dim)
        self.projection: nn.Module = (
            nn.Linear(self.backbone_dim, config.feature_dim)
            if config.feature_dim is not None
            else nn.Identity()
        )
        self.use_gradient_checkpointing = False

    @property
    def num_input_channels(self) -> int:
        """C of the frames: 3, or 9 with motion."""
        return 9 if self.config.motion.enabled else 3

    def load_pretrained(self) -> LoadReport | None:
        """Load ``config.weights`` into the backbone; None where the config asks for none."""
        if self.config.weights is None:
            return None
        return self.backbone.load_weights(self.config.weights)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames ``(B, T, C, H, W)`` in [0, 1] to features ``(B, T, D)``."""
        return self.project(self.backbone_features(frames))

    def backbone_features(self, frames: Tensor) -> Tensor:
        """What the backbone sees of each frame; fixed, and so worth caching, where it is frozen.

        Args:
            frames: ``(B, T, C, H, W)`` in [0, 1].

        Returns:
            ``(B, T, backbone_dim)``.

        Raises:
            ValueError: Another shape, or another number of channels than ``num_input_channels``.
        """
        self._check(frames)
        batch, length = frames.shape[:2]
        flat = frames.flatten(0, 1)
        parts = [self._pooled_maps(flat[:, :3])]
        if self.config.motion.enabled:
            motion = motion_image(flat)
            # Amplified, since most of a difference picture is close to black.
            amplified = (motion * self.config.motion.gain).clamp(0, 1)
            parts.append(self._pooled_maps(amplified))
            if self.config.motion.statistics:
                parts.append(motion_statistics(motion))
            if self.config.motion.energy_grid:
                parts.append(motion_energy(motion, self.config.motion.energy_grid))
        return torch.cat(parts, dim=1).reshape(batch, length, self.backbone_dim)

    def project(self, backbone_features: Tensor) -> Tensor:
        """Backbone features ``(B, T, backbone_dim)`` to features ``(B, T, D)``."""
        features: Tensor = self.projection(self.norm(backbone_features))
        return features

    def _check(self, frames: Tensor) -> None:
        if frames.dim() != 5 or frames.shape[2] != self.num_input_channels:
            wanted = self.num_input_channels
            remedy = (
                "; it reads motion: sample with FrameSampler(..., neighbor_offsets_seconds="
                f"({self.config.motion.offset_seconds:g},)) so that each frame carries its "
                "neighbours"
                if wanted == 9
                else ""
            )
            raise ValueError(
                f"this encoder takes frames (B, T, {wanted}, H, W), got {tuple(frames.shape)}"
                f"{remedy}"
            )

    def _pooled_maps(self, images: Tensor) -> Tensor:
        """Pictures ``(N, 3, H, W)`` in [0, 1] to ``(N, grid² · channels)``."""
        images = (images - self.mean) / self.std
        images = images.contiguous(memory_format=torch.channels_last)
        if self.use_gradient_checkpointing and self.training and torch.is_grad_enabled():
            maps: Tensor = checkpoint(
                self.backbone,
                images,
                use_reentrant=False,
                context_fn=lambda: (
                    contextlib.nullcontext(),
                    _batch_norm_statistics_kept(self.backbone),
                ),
            )
        else:
            maps = self.backbone(images)
        return functional.adaptive_avg_pool2d(maps, self.config.pool_grid).flatten(1)


@contextlib.contextmanager
def _batch_norm_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Gradient checkpointing runs the forward twice; the second must not count in the averages."""
    layers = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        # A new tensor: the forward counts up in place.
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked = layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked = tracked


def motion_image(frames: Tensor) -> Tensor:
    """Grey differences to the neighbours in the source.

    Args:
        frames: ``(N, 9, H, W)`` in [0, 1]: frame, frame before, frame after, RGB each.

    Returns:
        ``(N, 3, H, W)`` in [0, 1]: absolute difference to the frame before, to the frame after, and
        the mean of the two.
    """
    luma = frames.new_tensor(_LUMA).view(1, 3, 1, 1)
    grey, before, after = ((part * luma).sum(1) for part in frames.chunk(3, dim=1))
    to_before, to_after = (grey - before).abs(), (grey - after).abs()
    return torch.stack((to_before, to_after, (to_before + to_after) / 2), dim=1)


def motion_statistics(motion: Tensor) -> Tensor:
    """Plain numbers that say how much moves, which pooled features of a motion image blur.

    Args:
        motion: `motion_image`, ``(N, 3, H, W)``.

    Returns:
        ``(N, 5)`` in [0, 1]: mean difference to the frame before, to the frame after, standard
        deviation of their mean over the picture, share of moving pixels, and the mean of the
        strongest cell of a 7x7 grid. Square roots are taken, since all five crowd near 0.
    """
    mean = motion[:, 2]
    cells = functional.adaptive_avg_pool2d(mean[:, None], 7).flatten(1)
    statistics = torch.stack(
        (
            motion[:, 0].mean((1, 2)),
            motion[:, 1].mean((1, 2)),
            mean.flatten(1).var(1, correction=0),
            (mean > _MOVING).to(mean.dtype).mean((1, 2)),
            cells.amax(1),
        ),
        dim=1,
    )
    return statistics.sqrt()


def motion_energy(motion: Tensor, grid: int) -> Tensor:
    """Where it moves, and how much: what a fixed camera's model needs no backbone for.

    Args:
        motion: `motion_image`, ``(N, 3, H, W)``.
        grid: Cells along each side.

    Returns:
        ``(N, 2 · grid²)`` in [0, 1]: square roots of the mean difference in each cell, to the frame
        before and then to the frame after.
    """
    return functional.adaptive_avg_pool2d(motion[:, :2], grid).flatten(1).sqrt()
