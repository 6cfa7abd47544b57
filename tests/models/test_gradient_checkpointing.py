"""`checkpointed`: what is run again, and what is left as it was.

That gradients stay the same is in `test_visual_encoder`.
"""

from __future__ import annotations

import contextvars

import pytest
import torch
from torch import Tensor, nn

from models.backbones import BACKBONES, build_backbone
from models.gradient_checkpointing import checkpointed


class Saved:
    """Counts the elements that autograd keeps for the backward."""

    def __init__(self) -> None:
        self.num_elements = 0

    def __enter__(self) -> Saved:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept)
        self._hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.__exit__()

    def _keep(self, tensor: Tensor) -> Tensor:
        self.num_elements += tensor.numel()
        return tensor


@pytest.mark.parametrize("name", ["resnet18", "timm:test_convnext", "timm:test_vit"])
def test_less_is_kept(name: str) -> None:
    backbone = build_backbone(name).train()
    pictures = torch.rand(2, 3, 160, 160)
    layers = backbone.composite_layers()
    kept = []
    for chosen in ([], layers):
        with Saved() as saved, checkpointed(chosen):
            backbone(pictures)
        kept.append(saved.num_elements)
    assert kept[1] < kept[0] / 2


def test_layers_are_run_twice_and_then_left_alone() -> None:
    layer = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    calls: list[int] = []
    layer[0].register_forward_pre_hook(lambda *_: calls.append(1))
    plain = layer.forward
    with checkpointed([layer]):
        output = layer(torch.rand(2, 3, requires_grad=True))
    assert layer.forward == plain
    assert "forward" not in vars(layer)
    assert len(calls) == 1
    output.sum().backward()
    assert len(calls) == 2


def test_layers_are_left_alone_after_an_error() -> None:
    layer = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), checkpointed([layer]):
        layer(torch.rand(2, 4))
    assert "forward" not in vars(layer)


def test_the_second_run_finds_the_context_of_the_first() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []
    layer = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    layer[0].register_forward_pre_hook(lambda *_: seen.append(variable.get()))
    token = variable.set("set")
    with checkpointed([layer]):
        output = layer(torch.rand(2, 3))
    variable.reset(token)
    output.sum().backward()
    assert seen == ["set", "set"]


@pytest.mark.parametrize(
    "name", [*BACKBONES, "timm:test_resnet", "timm:test_efficientnet", "timm:test_vit"]
)
def test_composite_layers(name: str) -> None:
    backbone = build_backbone(name)
    layers = backbone.composite_layers()
    modules = [id(module) for layer in layers for module in layer.modules()]
    assert len(modules) == len(set(modules)), "none is inside another"
    assert {id(found.block) for found in backbone.residual_blocks()} <= set(map(id, layers))
    held = {id(p) for layer in layers for p in layer.parameters()}
    num_held = sum(p.numel() for p in backbone.parameters() if id(p) in held)
    assert num_held > 0.6 * sum(p.numel() for p in backbone.parameters())
