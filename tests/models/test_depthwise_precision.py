"""Depthwise convolutions in mixed precision on the CPU: in float32, and those alone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from models.depthwise_precision import keep_depthwise_in_float32
from models.visual_encoder import VisualEncoder
from utils.config.schema import VisualEncoderConfig


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(1, 1, 1),
    )
    keep_depthwise_in_float32(layers)
    return layers


def test_only_they_stay_in_float32() -> None:
    layers = network()
    pictures = torch.rand(2, 8, 5, 5)
    found = []
    with torch.autocast("cpu", torch.bfloat16):
        for layer in list(layers)[:3]:
            found.append(layer(pictures.bfloat16()).dtype)
        found.append(layers[3](pictures[:, :1]).dtype)
    assert found == [torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16]


def test_without_autocast_nothing_changes() -> None:
    layer, plain = network()[1], nn.Conv2d(8, 8, 3, groups=8)
    plain.load_state_dict(layer.state_dict())
    pictures = torch.rand(2, 8, 5, 5)
    assert torch.equal(layer(pictures), plain(pictures))
    half = copy.deepcopy(layer).bfloat16()
    assert half(pictures.bfloat16()).dtype == torch.bfloat16


def test_in_mixed_precision_they_are_as_exact_as_without() -> None:
    layer = network()[1]
    pictures = torch.rand(2, 8, 5, 5)
    expected: Tensor = layer(pictures)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(pictures), expected)


def test_a_copy_calls_its_own() -> None:
    layers = network()
    other = copy.deepcopy(layers)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not other[1](torch.rand(1, 8, 5, 5)).any()
    assert layers[1](torch.rand(1, 8, 5, 5)).any()


def test_the_encoder_has_them_so() -> None:
    config = VisualEncoderConfig(type="timm:test_efficientnet", weights=None)
    encoder = VisualEncoder(config)
    found: set[torch.dtype] = set()
    for module in encoder.backbone.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.register_forward_hook(lambda m, i, output: found.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        encoder(torch.rand(1, 2, 3, 32, 32))
    assert found == {torch.float32}
