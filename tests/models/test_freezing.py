"""Freezing: no gradients, still statistics, silent dropout, and the groups of the optimizer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from models import VideoTriggerModel
from models.freezing import COMPONENTS, component, parameter_groups, set_frozen
from utils.config.schema import TrainingConfig
from utils.errors import UsageError
from utils.training.optimization import build_optimizer


@pytest.fixture
def model() -> VideoTriggerModel:
    torch.manual_seed(0)
    return VideoTriggerModel.from_config(
        {
            "labels": ["a"],
            "visual_encoder": {"type": "timm:test_resnet", "weights": None, "feature_dim": 8},
            "trigger_detector": {"hidden_dims": [8], "dropout": 0.5},
            "time_aware_encoder": {"hidden_dim": 8, "num_heads": 2, "dropout": 0.5},
        }
    )


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(2, 3, 3, 32, 32, generator=generator)
    return frames, torch.arange(3.0).expand(2, 3), torch.ones(2, 3, dtype=torch.bool)


def train_step(model: VideoTriggerModel) -> None:
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    output = model(*batch())
    (output.trigger_logits.square().sum() + output.temporal_logits.square().sum()).backward()
    optimizer.step()


def changed(model: VideoTriggerModel, before: dict[str, Any], name: str) -> set[str]:
    after = component(model, name).state_dict()
    return {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}


@pytest.mark.parametrize("frozen", COMPONENTS)
def test_a_train_step_changes_all_but_what_is_frozen(model: VideoTriggerModel, frozen: str) -> None:
    set_frozen(model, [frozen])
    before = {name: copy.deepcopy(component(model, name).state_dict()) for name in COMPONENTS}
    train_step(model)
    for name in COMPONENTS:
        difference = changed(model, before[name], name)
        assert bool(difference) == (name != frozen), (name, difference)
        requires = {p.requires_grad for p in component(model, name).parameters()}
        assert requires == {name != frozen}
    # Weights, and the statistics of batch norm, drift where they may.
    if frozen != "visual_backbone":
        drifted = changed(model, before["visual_backbone"], "visual_backbone")
        assert any(key.endswith("running_mean") for key in drifted)


def test_dropout_of_frozen_components_is_silent(model: VideoTriggerModel) -> None:
    set_frozen(model, COMPONENTS)
    model.train()
    frames, times, valid = batch()
    with torch.no_grad():
        first, second = model(frames, times, valid), model(frames, times, valid)
    assert torch.equal(first.trigger_logits, second.trigger_logits)
    assert torch.equal(first.temporal_logits, second.temporal_logits)
    assert model.training
    assert model.visual_encoder.training


def test_modes_survive_evaluation(model: VideoTriggerModel) -> None:
    set_frozen(model, ["visual_backbone"])
    model.train()
    model.eval()
    assert not model.trigger_detector.training
    model.train()
    assert not model.visual_encoder.backbone.training
    assert model.trigger_detector.training


def test_freezing_while_training_stills_at_once(model: VideoTriggerModel) -> None:
    model.train()
    set_frozen(model, ["visual_backbone"])
    assert not model.visual_encoder.backbone.training
    assert model.time_aware_encoder.training


def test_unfreezing(model: VideoTriggerModel) -> None:
    set_frozen(model, COMPONENTS)
    set_frozen(model, ["trigger_detector"])
    assert model.frozen_components == {"trigger_detector"}
    model.train()
    assert model.visual_encoder.backbone.training
    assert all(p.requires_grad for p in model.visual_encoder.backbone.parameters())
    before = copy.deepcopy(model.visual_encoder.backbone.state_dict())
    train_step(model)
    assert changed(model, before, "visual_backbone")


def test_unknown_component(model: VideoTriggerModel) -> None:
    with pytest.raises(
        UsageError,
        match=r"unknown component 'visual_backbon'; known: visual_backbone, trigger_detector, "
        r"time_aware_encoder \(did you mean 'visual_backbone'\?\)",
    ):
        set_frozen(model, ["trigger_detector", "visual_backbon"])
    assert model.frozen_components == frozenset(), "nothing changed"
    assert all(p.requires_grad for p in model.parameters())


def test_groups_hold_each_parameter_once(model: VideoTriggerModel) -> None:
    groups = dict(parameter_groups(model))
    assert list(groups) == [*COMPONENTS, "other"]
    grouped = [id(p) for parameters in groups.values() for p in parameters]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in groups["other"]} == {
        "visual_encoder.norm.weight",
        "visual_encoder.norm.bias",
        "visual_encoder.projection.weight",
        "visual_encoder.projection.bias",
    }


def test_frozen_components_have_no_group(model: VideoTriggerModel) -> None:
    set_frozen(model, ["visual_backbone", "time_aware_encoder"])
    assert [name for name, _ in parameter_groups(model)] == ["trigger_detector", "other"]


def test_learning_rates_by_component(model: VideoTriggerModel) -> None:
    config = TrainingConfig.model_validate(
        {
            "learning_rate": 1e-3,
            "learning_rates": {"visual_backbone": 1e-5},
            "weight_decay": 0.1,
        }
    )
    optimizer = build_optimizer(parameter_groups(model), config)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {
        "visual_backbone": 1e-5,
        "trigger_detector": 1e-3,
        "time_aware_encoder": 1e-3,
        "other": 1e-3,
    }
    for group in optimizer.param_groups:
        is_decayed = {p.ndim > 1 for p in group["params"]}
        assert is_decayed == {group["weight_decay"] == 0.1}
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(model.parameters()))
