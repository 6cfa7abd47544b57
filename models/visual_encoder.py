"""`VisualEncoder`: frames in [0, 1] to features; owns normalisation and motion images.

Second room of the cascade, and the dear part of its first stage. A sample comes with its neighbours
in the source stacked along the channels: ``C = 3`` for the frame alone, ``C = 9`` where motion is
wanted (frame, frame before, frame after).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.backbones import build_backbone
from models.depthwise_precision import keep_depthwise_in_float32
from models.feature_norm import StandardNorm
from models.gradient_checkpointing import checkpointed
from models.optical_flow import NUM_FLOW_STATISTICS, flow_statistics
from models.temporal_shift import (
    EncoderState,
    FrameOrder,
    ShiftPass,
    add_temporal_shift,
    shifting,
)
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
    ``pool_grid`` x ``pool_grid``; with motion, those of the motion images through the same
    backbone, or its first stages; then five plain statistics of the differences, `motion_energy` on
    a grid, and `flow_statistics`. Each but the motion image can be left out. A norm and a linear
    layer (``feature_dim``) follow; these two learn even where the backbone is frozen.

    With a temporal shift, features depend on the clip: on all of it, or where the shift is causal
    on the frames so far.

    Args:
        config: ``model.visual_encoder``; ``weights`` is not looked at: building is not loading.

    Raises:
        UnknownNameError: No such backbone.
        UsageError: ``pool_grid`` above 1 for a backbone without a feature map, a temporal shift for
            one without residual blocks, or ``motion.num_stages`` for one that cannot be cut.
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
        self.is_shifted = add_temporal_shift(
            self.backbone, config.temporal_shift, encoder=config.type
        )
        keep_depthwise_in_float32(self.backbone)
        # A training step on the CPU takes a fifth to a third less time in this layout.
        self.backbone.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(self.backbone.mean).view(3, 1, 1), False)
        self.register_buffer("std", torch.tensor(self.backbone.std).view(3, 1, 1), False)
        self.backbone_dim = self._count_features()
        self.feature_dim = config.feature_dim or self.backbone_dim
        self.norm: nn.Module = (
            nn.LayerNorm(self.backbone_dim)
            if config.feature_norm == "layer"
            else StandardNorm(self.backbone_dim)
        )
        self.projection: nn.Module = (
            nn.Linear(self.backbone_dim, config.feature_dim)
            if config.feature_dim is not None
            else nn.Identity()
        )
        self.use_gradient_checkpointing = False

    def _count_features(self) -> int:
        """R, the width of `backbone_features`."""
        motion, cells = self.config.motion, self.config.pool_grid**2
        size = self.backbone.num_channels * cells if self.config.appearance else 0
        if not motion.enabled:
            return size
        channels = (
            self.backbone.num_channels
            if motion.num_stages is None
            else self.backbone.early_channels(motion.num_stages)
        )
        size += channels * cells * (2 if motion.signed else 1)
        size += NUM_MOTION_STATISTICS if motion.statistics else 0
        size += 2 * motion.energy_grid**2
        return size + (NUM_FLOW_STATISTICS if motion.flow else 0)

    def fit_norm(self, videos: Iterable[NDArray[Any]]) -> None:
        """Let a standard norm take mean and spread of cached `backbone_features`.

        Args:
            videos: Of the training videos, ``(T, backbone_dim)`` each. With a layer norm, which has
                nothing to fit, they are not read.
        """
        if isinstance(self.norm, StandardNorm):
            self.norm.fit(videos)

    @property
    def num_input_channels(self) -> int:
        """C of the frames: 3, or 9 with motion."""
        return 9 if self.config.motion.enabled else 3

    def load_pretrained(self) -> LoadReport | None:
        """Load ``config.weights`` into the backbone; None where the config asks for none."""
        if self.config.weights is None:
            return None
        return self.backbone.load_weights(self.config.weights)

    @property
    def looks_ahead(self) -> bool:
        """Whether a frame's features depend on later frames, so that a stream has to wait."""
        return self.is_shifted and not self.config.temporal_shift.causal

    def forward(self, frames: Tensor) -> Tensor:
        """Clips ``(B, T, C, H, W)`` in [0, 1] to features ``(B, T, D)``."""
        return self.encode(frames)[0]

    def encode(
        self, frames: Tensor, state: EncoderState | None = None
    ) -> tuple[Tensor, EncoderState]:
        """Clips, or the next chunk of streams, to features.

        Args:
            frames: ``(B, T, C, H, W)`` in [0, 1].
            state: Of the chunk before; None, or empty, where clips and streams begin.

        Returns:
            Features ``(B, T, D)``, and the state for the next chunk: empty unless the shift is
            causal.

        Raises:
            ValueError: Another shape, or a state of another encoder or number of streams.
        """
        features, carried = self._clip_features(frames, state)
        return self.project(features), carried

    def encode_valid(self, frames: Tensor, valid: Tensor) -> Tensor:
        """Features of the valid frames of clips, zeros on padding.

        Padding stays out of the backbone: black frames would count in its batch-norm statistics,
        and a shift would take them for neighbours.

        Args:
            frames: ``(B, T, C, H, W)`` in [0, 1].
            valid: ``(B, T)`` bool, False on padding.

        Returns:
            ``(B, T, D)``.
        """
        self._check(frames)
        order = FrameOrder.of_valid(valid) if self.is_shifted else None
        encoded = self.project(self._features(frames[valid], order)[0])
        features = encoded.new_zeros(*valid.shape, encoded.shape[-1])
        features[valid] = encoded
        return features

    def backbone_features(self, frames: Tensor) -> Tensor:
        """What the backbone sees of each frame; fixed, and so worth caching, where it is frozen.

        Args:
            frames: ``(B, T, C, H, W)`` in [0, 1].

        Returns:
            ``(B, T, backbone_dim)``.

        Raises:
            ValueError: Another shape, or another number of channels than ``num_input_channels``.
        """
        return self._clip_features(frames, None)[0]

    def _clip_features(
        self, frames: Tensor, state: EncoderState | None
    ) -> tuple[Tensor, EncoderState]:
        """`backbone_features` behind ``state``, and the next state."""
        self._check(frames)
        batch, length = frames.shape[:2]
        order = FrameOrder.of_clips(batch, length, frames.device) if self.is_shifted else None
        features, carried = self._features(frames.flatten(0, 1), order, state)
        return features.reshape(batch, length, self.backbone_dim), carried

    def _features(
        self, frames: Tensor, order: FrameOrder | None, state: EncoderState | None = None
    ) -> tuple[Tensor, EncoderState]:
        """Frames ``(N, C, H, W)`` to backbone features ``(N, backbone_dim)``, and the next state.

        ``order`` is None where nothing is shifted.
        """
        config = self.config.motion
        films: list[ShiftPass | None] = []
        parts: list[Tensor] = []

        def see(kind: str, images: Tensor, num_stages: int | None = None) -> None:
            # Frames and motion images are films of their own: each has its own neighbours.
            films.append(self._film(kind, order, state))
            parts.append(self._pooled_maps(images, films[-1], num_stages))

        if self.config.appearance:
            see("frames", frames[:, :3])
        if config.enabled:
            motion = motion_image(frames)
            # Amplified, since most of a difference picture is close to black.
            see("motion", (motion * config.gain).clamp(0, 1), config.num_stages)
            if config.signed:
                see("signed", signed_motion_image(frames, config.gain), config.num_stages)
            if config.statistics:
                parts.append(motion_statistics(motion))
            if config.energy_grid:
                parts.append(motion_energy(motion, config.energy_grid))
            if config.flow:
                parts.append(flow_statistics(*_grey_pictures(frames)))
        carried = {
            name: value
            for film in films
            if film is not None
            for name, value in film.carried.items()
        }
        return torch.cat(parts, dim=1), carried

    def _film(
        self, kind: str, order: FrameOrder | None, state: EncoderState | None
    ) -> ShiftPass | None:
        if order is None:
            return None
        carries = order.num_clips is not None and not self.looks_ahead
        return ShiftPass(order, state, prefix=f"{kind}.", carries=carries)

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

    def _pooled_maps(
        self, images: Tensor, film: ShiftPass | None, num_stages: int | None
    ) -> Tensor:
        """Pictures ``(N, 3, H, W)`` in [0, 1] to ``(N, grid² · channels)``."""
        images = (images - self.mean) / self.std
        images = images.contiguous(memory_format=torch.channels_last)
        is_checkpointed = (
            self.use_gradient_checkpointing and self.training and torch.is_grad_enabled()
        )
        layers = self.backbone.composite_layers() if is_checkpointed else []
        with shifting(film), checkpointed(layers):
            maps: Tensor = (
                self.backbone(images)
                if num_stages is None
                else self.backbone.early_map(images, num_stages)
            )
        return functional.adaptive_avg_pool2d(maps, self.config.pool_grid).flatten(1)


def motion_image(frames: Tensor) -> Tensor:
    """Grey differences to the neighbours in the source.

    Args:
        frames: ``(N, 9, H, W)`` in [0, 1]: frame, frame before, frame after, RGB each.

    Returns:
        ``(N, 3, H, W)`` in [0, 1]: absolute difference to the frame before, to the frame after, and
        the mean of the two.
    """
    grey, before, after = _grey_pictures(frames)
    to_before, to_after = (grey - before).abs(), (grey - after).abs()
    return torch.stack((to_before, to_after, (to_before + to_after) / 2), dim=1)


def signed_motion_image(frames: Tensor, gain: float) -> Tensor:
    """Grey differences with their sign, around middle grey: what comes is told from what goes.

    Args:
        frames: As of `motion_image`.
        gain: Amplification; 1 would just fit every difference into the range.

    Returns:
        ``(N, 3, H, W)`` in [0, 1]: frame less the one before, the one after less the frame, and the
        mean of the two.
    """
    grey, before, after = _grey_pictures(frames)
    differences = torch.stack((grey - before, after - grey, (after - before) / 2), dim=1)
    return (0.5 + 0.5 * gain * differences).clamp(0, 1)


def _grey_pictures(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(N, 9, H, W)`` to frame, frame before and frame after, ``(N, H, W)`` each."""
    luma = frames.new_tensor(_LUMA).view(1, 3, 1, 1)
    grey, before, after = ((part * luma).sum(1) for part in frames.chunk(3, dim=1))
    return grey, before, after


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
