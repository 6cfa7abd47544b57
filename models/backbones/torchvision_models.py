"""ResNet and EfficientNet of torchvision as backbones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models.efficientnet import MBConv
from torchvision.models.resnet import BasicBlock, Bottleneck

from models.backbones.base import Backbone, ResidualBlock, fetching, input_channels
from models.backbones.stages import Stage, split_stages


class TorchvisionBackbone(Backbone):
    """A torchvision classifier without its pooling and classifier.

    Args:
        name: Of torchvision's builder.
        feature_layers: Its children that make the feature map, in order.
        num_channels: C of that map.
        stage_ends: Paths of the layers behind which a stage ends.
    """

    # What all of torchvision's ImageNet weights were trained with.
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(
        self,
        name: str,
        feature_layers: tuple[str, ...],
        num_channels: int,
        *,
        stage_ends: tuple[str, ...],
    ) -> None:
        super().__init__()
        self._stage_ends = stage_ends
        self.name = name
        self.num_channels = num_channels
        network = torchvision_models.get_model(name, weights=None)
        self.layers = nn.ModuleDict({layer: getattr(network, layer) for layer in feature_layers})

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers.values():
            images = layer(images)
        return images

    def network(self) -> nn.Module:
        return self.layers

    def residual_blocks(self) -> list[ResidualBlock]:
        found: list[ResidualBlock] = []
        for path, block in self.network().named_modules():
            if isinstance(block, BasicBlock | Bottleneck):
                branch = block.conv1
            elif isinstance(block, MBConv) and block.use_res_connect:
                branch = block.block
            else:
                continue
            found.append(ResidualBlock(path, block, branch, input_channels(block)))
        return found

    def stages(self) -> list[Stage]:
        return split_stages(self.network(), self._stage_ends)

    def pretrained_state_dict(self) -> Mapping[str, Tensor]:
        weights: Any = torchvision_models.get_model_weights(self.name)["IMAGENET1K_V1"]
        with fetching(self.name):
            state_dict: Mapping[str, Tensor] = weights.get_state_dict(
                progress=True, check_hash=True, weights_only=True
            )
        return state_dict


_RESNET_LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
_RESNET_STAGES = ("maxpool", "layer1", "layer2", "layer3", "layer4")
_EFFICIENTNET_STAGES = tuple(f"features.{index}" for index in range(8))
"""The stem and seven stages; the head's convolution, ``features.8``, goes with the last."""


def resnet18() -> Backbone:
    """ResNet-18 (He et al., 2016): 512 channels at stride 32."""
    return TorchvisionBackbone("resnet18", _RESNET_LAYERS, 512, stage_ends=_RESNET_STAGES)


def resnet50() -> Backbone:
    """ResNet-50 (He et al., 2016): 2048 channels at stride 32."""
    return TorchvisionBackbone("resnet50", _RESNET_LAYERS, 2048, stage_ends=_RESNET_STAGES)


def efficientnet_b0() -> Backbone:
    """EfficientNet-B0 (Tan and Le, 2019): 1280 channels at stride 32."""
    return TorchvisionBackbone(
        "efficientnet_b0", ("features",), 1280, stage_ends=_EFFICIENTNET_STAGES
    )
