"""`Backbone`: what every image backbone offers the visual encoder."""

from __future__ import annotations

import abc
import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.checkpoint import LoadReport, load_weights_file, match_tensors
from utils.errors import CheckpointError, UsageError

FETCH_TIMEOUT_SECONDS = 15.0
"""Longest silence of a server before its weights count as out of reach."""


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

    def check_image_size(self, size: int) -> None:
        """Run one picture of ``size`` x ``size`` pixels.

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

        Tensors of the file's classifier are left out; any other difference is an error.

        Raises:
            CheckpointError: The file is missing, unsafe, or does not fit this architecture.
        """
        if weights == "imagenet":
            source, state_dict = "ImageNet weights", dict(self.pretrained_state_dict())
        else:
            source, state_dict = weights, load_weights_file(Path(weights))
        matched, report = match_tensors(self.network(), state_dict, source=source)
        if report.missing or report.mismatched:
            raise CheckpointError(
                f"{report}; they are not weights of this encoder: set model.visual_encoder.type "
                "to the model that they belong to"
            )
        self.network().load_state_dict(matched, strict=True)
        return report


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
def probe_map(network: nn.Module, size: int = 64) -> torch.Size:
    """Shape of what ``network`` makes of one grey picture; leaves its mode as it was."""
    was_training = network.training
    network.eval()
    try:
        shape = network(torch.full((1, 3, size, size), 0.5)).shape
    finally:
        network.train(was_training)
    return torch.Size(shape)
