"""`torch.export` of both graphs, for any batch and length: encode + trigger, and contextualize.

A causal temporal shift has its state among the inputs and outputs of the first.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from models import VideoTriggerModel
from models.temporal_shift import TEMPORAL_SHIFTS
from models.time_aware_encoder import TIME_AWARE_ENCODERS
from shifted_encoders import make_shift_visible

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


class EncodeAndTriggerStream(nn.Module):
    """First graph, with the state of a stream."""

    def __init__(self, model: VideoTriggerModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, frames: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        features, state = self.model.encode(frames, state)
        return features, self.model.trigger(features), state


class Contextualize(nn.Module):
    """Second graph."""

    def __init__(self, model: VideoTriggerModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, timestamps: Tensor, valid: Tensor) -> Tensor:
        return self.model.contextualize(features, timestamps, valid)


def build(
    *, motion: Any = False, shift: dict[str, Any] | None = None, **temporal: Any
) -> VideoTriggerModel:
    torch.manual_seed(0)
    model = VideoTriggerModel.from_config(
        {
            "labels": ["a", "b"],
            "visual_encoder": {
                "type": "timm:test_resnet",
                "weights": None,
                "feature_dim": 8,
                "motion": motion if isinstance(motion, dict) else {"enabled": motion},
                "temporal_shift": shift or {},
            },
            "trigger_detector": {"hidden_dims": [8]},
            "time_aware_encoder": {"hidden_dim": 16, "num_heads": 2, "num_layers": 2, **temporal},
        }
    )
    make_shift_visible(model)
    return model.eval()


def temporal_inputs(batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    features = torch.randn(batch, length, 8)
    times = torch.arange(length, dtype=torch.float32).expand(batch, length) / 3
    valid = torch.arange(length)[None] < torch.arange(length, length - batch, -1)[:, None].clamp(1)
    return features, times.contiguous(), valid


@pytest.mark.parametrize(
    ("motion", "type_"),
    [
        (True, "none"),
        (
            {"enabled": True, "num_stages": 2, "signed": True, "energy_grid": 2, "flow": True},
            "none",
        ),
        *((False, name) for name in TEMPORAL_SHIFTS),
    ],
)
def test_encode_and_trigger(motion: Any, type_: str) -> None:
    model = build(motion=motion, shift={"type": type_})
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


@pytest.mark.parametrize(("motion", "type_"), [(True, "tsm"), (False, "gsm")])
def test_encode_and_trigger_a_stream(type_: str, motion: bool) -> None:
    model = build(motion=motion, shift={"type": type_, "causal": True})
    channels = model.visual_encoder.num_input_channels
    batch, length = Dim("batch", min=1), Dim("length", min=1)
    state = model.initial_state(2, 32)
    program = torch.export.export(
        EncodeAndTriggerStream(model),
        (torch.rand(2, 3, channels, 32, 32), state),
        dynamic_shapes=({0: batch, 1: length}, {name: {0: batch} for name in state}),
    ).module()
    frames = torch.rand(3, 6, channels, 32, 32)
    with torch.no_grad():
        expected = EncodeAndTrigger(model)(frames)
        state, parts = model.initial_state(3, 32), []
        for chunk in frames.split([1, 3, 2], dim=1):
            *outputs, state = program(chunk, state)
            parts.append(outputs)
    for number, whole in enumerate(expected):
        got = torch.cat([part[number] for part in parts], dim=1)
        torch.testing.assert_close(got, whole, atol=1e-4, rtol=1e-4)


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
