"""`Backbone`: what every image backbone offers the visual encoder."""

from __future__ import annotations

import abc
import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.backbones.stages import Stage, split_stages
from utils.checkpoint import LoadReport, load_weights_file, match_tensors
from utils.errors import CheckpointError, UsageError

FETCH_TIMEOUT_SECONDS = 15.0
"""Longest silence of a server before its weights count as out of reach."""
SHIFT_NAME = "temporal_shift"
"""Of a residual block's child that is no part of the library's model (`models.temporal_shift`)."""


class ResidualBlock(NamedTuple):
    """A block ``x + branch(x)`` of a convolutional network.

    Attributes:
        path: In the backbone's network.
        block: The block.
        branch: What the branch begins with, and nothing else reads: a layer called with ``x``.
        num_channels: Of ``x``.
    """

    path: str
    block: nn.Module
    branch: nn.Module
    num_channels: int


class Backbone(nn.Module, abc.ABC):
    """Pictures to feature maps.

    Attributes:
        num_channels: C of the feature maps.
        mean: RGB means that the pretrained weights expect.
        std: RGB standard deviations likewise.
        has_map: False where the model only gives one vector a picture (h = w = 1).
        made_for: Side in pixels of the pictures that the pretrained weights expect.
    """

    num_channels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    has_map: bool = True
    made_for: int = 224

    @abc.abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Normalised pictures ``(N, 3, H, W)`` to feature maps ``(N, C, h, w)``."""

    @abc.abstractmethod
    def pretrained_state_dict(self) -> Mapping[str, Tensor]:
        """The library's ImageNet weights, from its cache or the net.

        Raises:
            CheckpointError: They are not cached and cannot be fetched.
        """

    @abc.abstractmethod
    def network(self) -> nn.Module:
        """The module that state dicts of the library's classifier fit."""

    def residual_blocks(self) -> list[ResidualBlock]:
        """The blocks whose branches can be changed, from stem to head; none by default."""
        return []

    def stages(self) -> list[Stage]:
        """The network in pieces from stem to head; by default its direct children.

        Every parameter is in one, and what stands behind the last stage belongs to it.
        """
        network = self.network()
        ends = [
            name
            for name, child in network.named_children()
            if any(True for _ in child.parameters())
        ]
        return split_stages(network, ends)

    def early_map(self, images: Tensor, num_stages: int) -> Tensor:
        """Normalised pictures ``(N, 3, H, W)`` to the map behind the first stages.

        Ask `early_channels` first whether this backbone can be cut there.
        """
        for stage in self.stages()[:num_stages]:
            for layer in stage.modules:
                images = layer(images)
        return images

    @torch.no_grad()
    def early_channels(self, num_stages: int) -> int:
        """Channels of `early_map`.

        Raises:
            UsageError: There are no so many stages, or what stands between them is more than one
                layer behind the other.
        """
        stages = self.stages()
        if num_stages > len(stages):
            raise UsageError(
                f"model.visual_encoder.motion.num_stages is {num_stages}, but this encoder has "
                f"{len(stages)} stages: {', '.join(stage.name for stage in stages)}"
            )
        seen: list[object] = []
        hook = (
            stages[num_stages - 1]
            .modules[-1]
            .register_forward_hook(lambda module, inputs, output: seen.append(output))
        )
        was_training = self.training
        self.eval()
        try:
            generator = torch.Generator().manual_seed(0)
            images = torch.rand(1, 3, self.made_for, self.made_for, generator=generator)
            self(images)
            (expected,) = seen
            found = self.early_map(images, num_stages)
            is_map = found.dim() == 4 and found.shape[2] == found.shape[3]
            is_same = is_map and isinstance(expected, Tensor) and torch.equal(found, expected)
        # What a layer says of an input that is not meant for it depends on the layer.
        except (AttributeError, RuntimeError, TypeError, ValueError):
            is_same = False
        finally:
            hook.remove()
            self.train(was_training)
        if not is_same:
            raise UsageError(
                f"model.visual_encoder.motion.num_stages is {num_stages}, but this encoder is more "
                "than layers one behind the other and cannot be cut there; set it to null, or take "
                "another encoder, such as resnet18 or timm:tf_efficientnet_lite0"
            )
        return int(found.shape[1])

    def composite_layers(self) -> list[nn.Module]:
        """Layers made of layers, none inside another: residual blocks, and what is beside them."""
        blocks = {id(found.block) for found in self.residual_blocks()}

        def parts(module: nn.Module) -> Iterator[nn.Module]:
            inside = {id(part) for part in module.modules()}
            if id(module) not in blocks and inside & blocks:
                for child in module.children():
                    yield from parts(child)
            elif len(inside) > 1 and any(True for _ in module.parameters()):
                yield module

        return [part for stage in self.stages() for root in stage.modules for part in parts(root)]

    def check_image_size(self, size: int | Sequence[int]) -> None:
        """Run one picture of ``size`` x ``size`` pixels, or of ``(height, width)``.

        Raises:
            UsageError: This backbone takes other sizes, as many transformers do.
        """
        try:
            probe_map(self, size)
        # What a network says of a picture that does not fit depends on the layer that notices.
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"data.image_size is {size}, but this encoder takes no such pictures "
                f"({' '.join(str(error).split())[:200]}); it was made for {self.made_for}"
            ) from error

    def load_weights(self, weights: str) -> LoadReport:
        """Load ``imagenet`` or a file with a state dict of the library's model of this name.

        Tensors of the file's classifier are left out. Those of a temporal shift, which libraries do
        not know, keep their first values where the file has none of them; the report counts them as
        missing. Any other difference is an error.

        Raises:
            CheckpointError: The file is missing, unsafe, or does not fit this architecture.
        """
        if weights == "imagenet":
            source, state_dict = "ImageNet weights", dict(self.pretrained_state_dict())
        else:
            source, state_dict = weights, load_weights_file(Path(weights))
        network = self.network()
        matched, report = match_tensors(network, state_dict, source=source)
        shift = {name for name in network.state_dict() if _is_of_shift(name)}
        is_plain = shift.isdisjoint(matched)
        missing = set(report.missing) - (shift if is_plain else set())
        if missing or report.mismatched:
            raise CheckpointError(
                f"{report}; they are not weights of this encoder: set model.visual_encoder.type "
                "to the model that they belong to"
            )
        network.load_state_dict(matched, strict=not (shift and is_plain))
        return report


def _is_of_shift(name: str) -> bool:
    """Whether a tensor of this name in a backbone's state dict is of its temporal shift."""
    return SHIFT_NAME in name.split(".")


def input_channels(block: nn.Module) -> int:
    """Channels of what ``block`` is called with: those of its first convolution."""
    return next(m.in_channels for m in block.modules() if isinstance(m, nn.Conv2d))


@contextlib.contextmanager
def fetching(name: str) -> Iterator[None]:
    """Around a library's download of the ImageNet weights of ``name``: bounds how long it waits.

    Raises:
        CheckpointError: The weights are neither cached nor to be fetched, whatever the library
            raised.
    """
    before = socket.getdefaulttimeout()
    # torch.hub sets no timeout of its own: a silent server would hang the command for ever.
    socket.setdefaulttimeout(FETCH_TIMEOUT_SECONDS)
    try:
        yield
    # The libraries reach the net through several clients, each with an exception tree of its own.
    except Exception as error:
        raise CheckpointError(
            f"the ImageNet weights of '{name}' are not cached and could not be fetched "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); set "
            "model.visual_encoder.weights to a file with them, or to none to start from random "
            "weights"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


@torch.no_grad()
def probe_map(network: nn.Module, size: int | Sequence[int] = 64) -> torch.Size:
    """Shape of what ``network`` makes of one grey picture; leaves its mode as it was."""
    was_training = network.training
    network.eval()
    try:
        height, width = (size, size) if isinstance(size, int) else size
        shape = network(torch.full((1, 3, height, width), 0.5)).shape
    finally:
        network.train(was_training)
    return torch.Size(shape)
