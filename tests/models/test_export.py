"""`torch.export` of both graphs, for any batch and length: encode + trigger, and contextualize."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from models import VideoTriggerModel
from models.time_aware_encoder import TIME_AWARE_ENCODERS

# torch.export's own use of its deprecated parts.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch"
)


class EncodeAndTrigger(nn.Module):
    """First graph."""

    def __init__(self, model: VideoTriggerModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        features, _ = self.model.encode(frames)
        return features, self.model.trigger(features)


class Contextualize(nn.Module):
    """Second graph."""

    def __init__(self, model: VideoTriggerModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, timestamps: Tensor, valid: Tensor) -> Tensor:
        return self.model.contextualize(features, timestamps, valid)


def build(*, motion: bool = False, **temporal: Any) -> VideoTriggerModel:
    torch.manual_seed(0)
    model = VideoTriggerModel.from_config(
        {
            "labels": ["a", "b"],
            "visual_encoder": {
                "type": "timm:test_resnet",
                "weights": None,
                "feature_dim": 8,
                "motion": {"enabled": motion},
            },
            "trigger_detector": {"hidden_dims": [8]},
            "time_aware_encoder": {"hidden_dim": 16, "num_heads": 2, "num_layers": 2, **temporal},
        }
    )
    return model.eval()


def temporal_inputs(batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    features = torch.randn(batch, length, 8)
    times = torch.arange(length, dtype=torch.float32).expand(batch, length) / 3
    valid = torch.arange(length)[None] < torch.arange(length, length - batch, -1)[:, None].clamp(1)
    return features, times.contiguous(), valid


@pytest.mark.parametrize("motion", [False, True])
def test_encode_and_trigger(motion: bool) -> None:
    model = build(motion=motion)
    channels = model.visual_encoder.num_input_channels
    batch, length = Dim("batch", min=1), Dim("length", min=1)
    program = torch.export.export(
        EncodeAndTrigger(model),
        (torch.rand(2, 3, channels, 32, 32),),
        dynamic_shapes=({0: batch, 1: length},),
    )
    for shape in ((1, 1), (3, 5), (1, 9)):
        frames = torch.rand(*shape, channels, 32, 32)
        with torch.no_grad():
            exported = program.module()(frames)
            eager = EncodeAndTrigger(model)(frames)
        for got, expected in zip(exported, eager, strict=True):
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("example", [(2, 5), (2, 2)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", list(TIME_AWARE_ENCODERS))
def test_contextualize(name: str, causal: bool, example: tuple[int, int]) -> None:
    model = build(type=name, causal=causal)
    batch, length = Dim("batch", min=1, max=64), Dim("length", min=2, max=4096)
    dims = {0: batch, 1: length}
    with torch.no_grad():
        program = torch.export.export(
            Contextualize(model), temporal_inputs(*example), dynamic_shapes=(dims, dims, dims)
        )
        for shape in ((1, 2), (3, 8), (1, 40)):
            inputs = temporal_inputs(*shape)
            got, expected = program.module()(*inputs), Contextualize(model)(*inputs)
            valid = inputs[2]
            torch.testing.assert_close(got[valid], expected[valid], atol=1e-5, rtol=1e-5)
