"""Any model of timm as a backbone: ``timm:NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from models.backbones.base import Backbone, fetch_error, probe_map
from utils.errors import UnknownNameError
from utils.registry import suggestion


class TimmBackbone(Backbone):
    """A timm model without its classifier.

    Convolutional and hierarchical models give their last feature map; a model of tokens (a plain
    ViT) gives one pooled vector a picture, as a map of 1x1.

    Args:
        name: As `timm.list_models` knows it.

    Raises:
        UnknownNameError: timm has no such model.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if not timm.is_model(name):
            known = timm.list_models()
            raise UnknownNameError(
                f"unknown encoder 'timm:{name}': timm {timm.__version__} has no such model"
                f"{suggestion(name, known)}; timm.list_models() gives all {len(known)}"
            )
        self.name = name
        self.model: Any = timm.create_model(name, pretrained=False, num_classes=0)
        config: Mapping[str, Any] = self.model.pretrained_cfg
        self.mean = tuple(config["mean"])
        self.std = tuple(config["std"])
        self.num_channels = int(self.model.num_features)
        # Transformers take pictures of their own size alone.
        size = int(config["input_size"][-1]) if config.get("fixed_input_size") else 64
        shape = probe_map(_Features(self.model), size)
        self.has_map = len(shape) == 4
        self._channels_last = self.has_map and shape[1] != self.num_channels
        if not self.has_map:
            self.num_channels = int(probe_map(self.model, size)[-1])

    def forward(self, images: Tensor) -> Tensor:
        if not self.has_map:
            pooled: Tensor = self.model(images)
            return pooled[:, :, None, None]
        features: Tensor = self.model.forward_features(images)
        return features.permute(0, 3, 1, 2) if self._channels_last else features

    def network(self) -> nn.Module:
        network: nn.Module = self.model
        return network

    def pretrained_state_dict(self) -> Mapping[str, Tensor]:
        try:
            pretrained = timm.create_model(self.name, pretrained=True, num_classes=0)
        # timm reaches the net through several libraries, each with errors of its own.
        except (OSError, RuntimeError, ValueError) as error:
            raise fetch_error(f"timm:{self.name}", error) from error
        state_dict: Mapping[str, Tensor] = pretrained.state_dict()
        return state_dict


class _Features(nn.Module):
    """``forward_features`` as a forward."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> torch.Tensor:
        features: Tensor = self.model.forward_features(images)
        return features
