"""The image backbones by name, and the one function that builds them.

An entry is a callable that returns a `Backbone`; ``timm:NAME`` takes any model of timm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.registry import Registry

if TYPE_CHECKING:
    from models.backbones.base import Backbone

BACKBONES = Registry(
    "encoder",
    {
        "resnet18": "models.backbones.torchvision_models:resnet18",
        "resnet50": "models.backbones.torchvision_models:resnet50",
        "efficientnet_b0": "models.backbones.torchvision_models:efficientnet_b0",
    },
)
TIMM_PREFIX = "timm:"


def build_backbone(name: str) -> Backbone:
    """The architecture ``name`` without pretrained weights.

    Raises:
        UnknownNameError: Neither in the table nor a model of timm.
    """
    if name.startswith(TIMM_PREFIX):
        from models.backbones.timm_models import TimmBackbone

        return TimmBackbone(name.removeprefix(TIMM_PREFIX))
    backbone: Backbone = BACKBONES.resolve(name)()
    return backbone
