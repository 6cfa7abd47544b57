"""Any model of timm as a backbone: ``timm:NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import huggingface_hub
import timm
from torch import Tensor, nn

from models.backbones.base import (
    FETCH_TIMEOUT_SECONDS,
    Backbone,
    ResidualBlock,
    fetching,
    input_channels,
    probe_map,
)
from models.backbones.stages import Stage, split_stages
from utils.errors import UnknownNameError
from utils.registry import suggestion

_BRANCHES = {
    "resnet.BasicBlock": "conv1",
    "resnet.Bottleneck": "conv1",
    "regnet.Bottleneck": "conv1",
    "convnext.ConvNeXtBlock": "conv_dw",
    # EfficientNet, MobileNet and their kin.
    "_efficientnet_blocks.DepthwiseSeparableConv": "conv_dw",
    "_efficientnet_blocks.InvertedResidual": "conv_pw",
    "_efficientnet_blocks.EdgeResidual": "conv_exp",
    "_efficientnet_blocks.UniversalInvertedResidual": "dw_start",
}
"""Residual blocks of ``timm.models``, and the layer with which the branch of each begins.

By name: some are private, and some are not in every version.
"""


class TimmBackbone(Backbone):
    """A timm model without its classifier.

    Convolutional and hierarchical models give their last feature map; a model of tokens (a plain
    ViT) gives one pooled vector a picture, as a map of 1x1.

    Args:
        name: As `timm.list_models` knows it, with or without the tag of its weights.

    Raises:
        UnknownNameError: timm has no such model, or no weights with this tag.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if not timm.is_model(name):
            known = timm.list_models()
            raise UnknownNameError(
                f"unknown encoder 'timm:{name}': timm {timm.__version__} has no such model"
                f"{suggestion(name, known)}; timm.list_models() gives all {len(known)}"
            )
        architecture, _, tag = name.partition(".")
        tags = timm.list_pretrained(f"{architecture}.*")
        if tag and name not in tags:
            raise UnknownNameError(
                f"unknown encoder 'timm:{name}': timm {timm.__version__} has no weights '{tag}' of "
                f"{architecture}; known: {', '.join(tags) or 'none'}"
            )
        self.name = name
        model: Any = timm.create_model(name, pretrained=False, num_classes=0)
        self.model = model
        config: Mapping[str, Any] = model.pretrained_cfg
        self.mean = tuple(config["mean"])
        self.std = tuple(config["std"])
        self.num_channels = int(model.num_features)
        self.made_for = int(config["input_size"][-1])
        # Transformers take pictures of their own size alone.
        size = self.made_for if config.get("fixed_input_size") else 64
        shape = probe_map(_Features(self.model), size)
        self.has_map = len(shape) == 4
        self._channels_last = self.has_map and shape[1] != self.num_channels
        if not self.has_map:
            self.num_channels = int(probe_map(self.model, size)[-1])

    def forward(self, images: Tensor) -> Tensor:
        if not self.has_map:
            pooled: Tensor = self.model(images)
            return pooled[:, :, None, None]
        features: Tensor = self.network().forward_features(images)  # type: ignore[operator]
        return features.permute(0, 3, 1, 2) if self._channels_last else features

    def network(self) -> nn.Module:
        network: nn.Module = self.model
        return network

    def residual_blocks(self) -> list[ResidualBlock]:
        found: list[ResidualBlock] = []
        for path, block in self.network().named_modules():
            branch = _branch_of(type(block))
            # Blocks that change resolution or width have no shortcut in EfficientNets.
            if branch is not None and getattr(block, "has_skip", True):
                layer = block.get_submodule(branch)
                found.append(ResidualBlock(path, block, layer, input_channels(block)))
        return found

    def stages(self) -> list[Stage]:
        ends = [info["module"] for info in getattr(self.model, "feature_info", ())]
        if not ends:
            return super().stages()
        try:
            return split_stages(self.network(), ends)
        # A few models name there what is no layer of theirs.
        except ValueError:
            return super().stages()

    def pretrained_state_dict(self) -> Mapping[str, Tensor]:
        with fetching(f"timm:{self.name}"):
            pretrained = timm.create_model(
                self.name,
                pretrained=True,
                num_classes=0,
                pretrained_cfg_overlay=_cached_file(self.model.pretrained_cfg),
            )
        state_dict: Mapping[str, Tensor] = pretrained.state_dict()
        return state_dict


def _branch_of(block: type[nn.Module]) -> str | None:
    """The entry of `_BRANCHES` for ``block`` or the nearest class that it is made from."""
    names = (f"{kind.__module__}.{kind.__name__}" for kind in block.__mro__)
    entries = (_BRANCHES.get(name.removeprefix("timm.models.")) for name in names)
    return next((entry for entry in entries if entry is not None), None)


def _cached_file(config: Mapping[str, Any]) -> dict[str, str]:
    """The ``file`` that timm should read instead of asking the hub; empty where it must ask.

    The hub's client tries for a minute to reach a hub that is not there, even for what its cache
    holds. So the cache is looked at first, and the hub is asked once before the client is let
    loose.
    """
    hub_id = config.get("hf_hub_id")
    if not hub_id:
        return {}
    for name in ("model.safetensors", "pytorch_model.bin"):
        path = huggingface_hub.try_to_load_from_cache(hub_id, name)
        if isinstance(path, str):
            return {"file": path}
    huggingface_hub.HfApi().model_info(hub_id, timeout=FETCH_TIMEOUT_SECONDS)
    return {}


class _Features(nn.Module):
    """``forward_features`` as a forward."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(images)
        return features
