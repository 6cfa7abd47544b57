"""`keep_depthwise_in_float32`: the one kind of layer that bfloat16 makes slower on the CPU.

The backward of a depthwise convolution takes several times as long there in bfloat16 as in float32:
a training step of EfficientNet-Lite0 in mixed precision took a third to a half longer than without
it, and takes a third less where these layers alone stay in float32.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Let autocast on the CPU leave the depthwise convolutions of ``network`` alone.

    Elsewhere, and without autocast, nothing changes.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels:
            # On the instance: a layer around it would rename its weights. Of a partial, and not of
            # a closure, a copy of the network has one that holds the copy's layer.
            layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]


def _forward(layer: nn.Conv2d, images: Tensor) -> Tensor:
    plain = type(layer).forward
    if images.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return plain(layer, images)
    with torch.autocast("cpu", enabled=False):
        return plain(layer, images.float())
