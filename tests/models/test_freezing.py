"""Freezing: no gradients, still statistics, silent dropout, stages, plans, and the optimizer."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import VideoTriggerModel
from models.freezing import (
    COMPONENTS,
    Freeze,
    FreezePlan,
    component,
    parameter_groups,
    set_frozen,
)
from utils.config.schema import FreezingConfig, TrainingConfig
from utils.errors import ConfigError, UsageError
from utils.training.optimization import build_optimizer


def tiny_model() -> VideoTriggerModel:
    torch.manual_seed(0)
    return VideoTriggerModel.from_config(
        {
            "labels": ["a"],
            "visual_encoder": {"type": "timm:test_resnet", "weights": None, "feature_dim": 8},
            "trigger_detector": {"hidden_dims": [8], "dropout": 0.5},
            "time_aware_encoder": {"hidden_dim": 8, "num_heads": 2, "dropout": 0.5},
        }
    )


@pytest.fixture
def model() -> VideoTriggerModel:
    return tiny_model()


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


class TestStages:
    """Of the backbone, the last stages can learn alone."""

    def test_only_they_change(self, model: VideoTriggerModel) -> None:
        set_frozen(model, [], learning_stages=2)
        before = copy.deepcopy(component(model, "visual_backbone").state_dict())
        train_step(model)
        difference = changed(model, before, "visual_backbone")
        assert {name.split(".")[1] for name in difference} == {"layer3", "layer4"}
        # Weights, and the statistics of batch norm.
        assert "model.layer3.0.downsample.1.weight" in difference
        assert "model.layer3.0.bn1.running_mean" in difference

    def test_the_others_are_in_evaluation_mode(self, model: VideoTriggerModel) -> None:
        model.train()
        set_frozen(model, ["trigger_detector"], learning_stages=1)
        for _ in range(2):
            network = model.visual_encoder.backbone.network()
            modes = {name: child.training for name, child in network.named_children()}
            assert {name for name in ("bn1", "layer1", "layer3", "layer4") if modes[name]} == {
                "layer4"
            }
            assert not model.trigger_detector.training
            assert model.time_aware_encoder.training
            model.eval()
            assert not any(module.training for module in model.modules())
            model.train()

    def test_nothing_flows_through_what_is_frozen(self, model: VideoTriggerModel) -> None:
        set_frozen(model, [], learning_stages=1)
        model.train()
        inputs: list[Tensor] = []
        network = model.visual_encoder.backbone.network()
        network.get_submodule("layer4").register_forward_pre_hook(
            lambda module, given: inputs.append(given[0])
        )
        model(*batch())
        assert not inputs[0].requires_grad, "no activations are kept for a backward"

    def test_all_of_them_are_the_backbone(self, model: VideoTriggerModel) -> None:
        set_frozen(model, [], learning_stages=5)
        assert all(p.requires_grad for p in model.parameters())
        assert all(module.training for module in model.modules())

    @pytest.mark.parametrize("number", [0, 6])
    def test_there_are_no_more(self, model: VideoTriggerModel, number: int) -> None:
        with pytest.raises(
            UsageError,
            match=f"learning_stages is {number}, but the backbone 'timm:test_resnet' has 5 stages: "
            "conv1-bn1, layer1, layer2, layer3, layer4",
        ):
            set_frozen(model, [], learning_stages=number)
        assert all(p.requires_grad for p in model.parameters()), "nothing changed"

    def test_a_copy_keeps_them(self, model: VideoTriggerModel) -> None:
        set_frozen(model, ["time_aware_encoder"], learning_stages=1)
        other = copy.deepcopy(model).train()
        assert other.freeze == model.freeze
        assert not other.visual_encoder.backbone.network().get_submodule("layer1").training
        assert other.visual_encoder.backbone.network().get_submodule("layer4").training


def plan(steps: list[dict[str, Any]], **frozen: bool) -> FreezePlan:
    return FreezePlan(FreezingConfig.model_validate({**frozen, "unfreeze": steps}))


def step(from_epoch: int, name: str = "visual_backbone", **stages: int) -> dict[str, Any]:
    return {"from_epoch": from_epoch, "component": name, **stages}


STEPS = [
    step(9),
    step(3, last_stages=1),
    step(6, last_stages=2),
    step(4, "time_aware_encoder"),
]


class TestPlan:
    def test_by_hand(self) -> None:
        made = plan(STEPS, visual_backbone=True, time_aware_encoder=True)
        frozen = [made.at_epoch(epoch) for epoch in (1, 2, 3, 4, 5, 6, 8, 9, 50)]
        backbone, temporal = "visual_backbone", "time_aware_encoder"
        assert [sorted(freeze.components) for freeze in frozen] == [
            [temporal, backbone],
            [temporal, backbone],
            [temporal],
            [],
            [],
            [],
            [],
            [],
            [],
        ]
        stages = [freeze.learning_stages for freeze in frozen]
        assert stages == [None, None, 1, 1, 1, 2, 2, None, None]
        assert made.final == made.at_epoch(50) == Freeze()

    def test_without_steps_every_epoch_is_alike(self) -> None:
        made = plan([], trigger_detector=True)
        assert made.at_epoch(1) == made.at_epoch(99) == made.final
        assert made.final.components == {"trigger_detector"}

    def test_epochs_count_from_one(self) -> None:
        with pytest.raises(ValueError, match="epochs count from 1, got 0"):
            plan([]).at_epoch(0)

    @settings(deadline=None, max_examples=15)
    @given(data=st.data())
    def test_what_learns_once_learns_on(self, data: st.DataObject) -> None:
        made_model = tiny_model()
        epochs = sorted(data.draw(st.sets(st.integers(2, 9), min_size=1, max_size=3)))
        widths = sorted(
            data.draw(st.sets(st.integers(1, 5), min_size=len(epochs), max_size=len(epochs)))
        )
        steps = [
            step(epoch, last_stages=width) for epoch, width in zip(epochs, widths, strict=True)
        ]
        steps.append(step(data.draw(st.integers(2, 9)), "trigger_detector"))
        made = plan(data.draw(st.permutations(steps)), visual_backbone=True, trigger_detector=True)
        grouped = {
            id(p) for _, parameters in parameter_groups(made_model, made) for p in parameters
        }
        before: set[int] = set()
        for epoch in range(1, 11):
            made.apply(made_model, epoch)
            learning = {id(p) for p in made_model.parameters() if p.requires_grad}
            assert before <= learning <= grouped
            before = learning
        assert before == grouped, "and nothing is in a group in vain"

    def test_each_epoch_is_the_same_after_a_stop(self, model: VideoTriggerModel) -> None:
        made = plan(STEPS, visual_backbone=True, time_aware_encoder=True)
        other = copy.deepcopy(model)
        for epoch in range(1, 8):
            made.apply(model, epoch)
        made.apply(other, 7)
        assert other.freeze == model.freeze
        for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
            assert p.requires_grad == q.requires_grad, name
        for (name, m), n in zip(model.named_modules(), other.modules(), strict=True):
            assert m.training == n.training, name

    def test_changes_are_said(
        self, model: VideoTriggerModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        made = plan(STEPS, visual_backbone=True, time_aware_encoder=True)
        for epoch in range(1, 10):
            made.apply(model, epoch)
        assert [record.getMessage() for record in caplog.records] == [
            "epoch 1, frozen: visual_backbone, time_aware_encoder",
            "epoch 3, frozen: time_aware_encoder, visual_backbone but for layer4",
            "epoch 4, frozen: visual_backbone but for layer4",
            "epoch 6, frozen: visual_backbone but for layer3, layer4",
            "epoch 9, frozen: nothing",
        ]

    @pytest.mark.parametrize(
        ("steps", "text"),
        [
            (
                [step(3, last_stages=1), step(5, "trigger_detector")],
                r"freezing\.unfreeze\[1\] names trigger_detector, which learns from the start: set "
                r"freezing\.trigger_detector: true, or leave the step out",
            ),
            (
                [step(3, last_stages=2), step(6, last_stages=1)],
                r"freezing\.unfreeze\[1\] lets the last 1 stages of visual_backbone learn from "
                r"epoch 6 on, but freezing\.unfreeze\[0\] lets the last 2 stages learn from epoch "
                r"3 on: a later step must let more learn",
            ),
            (
                [step(6, last_stages=3), step(3)],
                r"freezing\.unfreeze\[0\] lets the last 3 stages .* but freezing\.unfreeze\[1\] "
                r"lets all learn from epoch 3 on",
            ),
            ([step(3, last_stages=1), step(6, last_stages=1)], "a later step must let more learn"),
            ([step(3, last_stages=1), step(3)], "a later step must let more learn"),
            (
                [step(3, "time_aware_encoder"), step(5, "time_aware_encoder")],
                r"freezing\.unfreeze\[1\] lets all of time_aware_encoder learn from epoch 5 on, "
                r"but freezing\.unfreeze\[0\] lets all learn from epoch 3 on",
            ),
        ],
    )
    def test_steps_that_do_not_fit(self, steps: list[dict[str, Any]], text: str) -> None:
        with pytest.raises(ConfigError, match=text):
            plan(steps, visual_backbone=True, time_aware_encoder=True)

    def test_more_stages_than_there_are(self, model: VideoTriggerModel) -> None:
        made = plan([step(3, last_stages=2), step(6, last_stages=7)], visual_backbone=True)
        text = (
            r"freezing\.unfreeze\[1\]\.last_stages is 7, but the backbone 'timm:test_resnet' has 5 "
            "stages: conv1-bn1, layer1, layer2, layer3, layer4"
        )
        # Before the first epoch, and not when it comes to the seventh stage.
        for use in (lambda: made.apply(model, 1), lambda: list(parameter_groups(model, made))):
            with pytest.raises(ConfigError, match=text):
                use()


class TestPlannedTraining:
    def test_the_optimizer_leaves_alone_what_waits(self, model: VideoTriggerModel) -> None:
        made = plan([step(2, last_stages=1), step(3)], visual_backbone=True)
        config = TrainingConfig(learning_rate=1e-2, weight_decay=0.5)
        optimizer = build_optimizer(parameter_groups(model, made), config)
        assert sum(len(g["params"]) for g in optimizer.param_groups) == len(
            list(model.parameters())
        )
        prefix = "visual_encoder.backbone.model."
        for epoch, expected in ((1, set()), (2, {"layer4"}), (3, {"conv1", "layer1", "layer4"})):
            made.apply(model, epoch)
            model.train()
            before = copy.deepcopy(model.state_dict())
            optimizer.zero_grad(set_to_none=True)
            output = model(*batch())
            (output.trigger_logits.square().sum() + output.temporal_logits.sum()).backward()
            optimizer.step()
            after = model.state_dict()
            learned = {
                name.removeprefix(prefix).split(".")[0]
                for name in before
                if name.startswith(prefix) and not torch.equal(before[name], after[name])
            }
            # Neither decay nor momentum nor batch-norm statistics move what is frozen.
            assert expected <= learned
            assert learned <= expected or epoch == 3
            waiting = {id(p) for p in model.parameters() if not p.requires_grad}
            assert waiting.isdisjoint({id(p) for p in optimizer.state})

    def test_what_never_learns_is_in_no_group(self, model: VideoTriggerModel) -> None:
        made = plan([step(2, last_stages=2)], visual_backbone=True, trigger_detector=True)
        groups = dict(parameter_groups(model, made))
        assert list(groups) == ["visual_backbone", "time_aware_encoder", "other"]
        names = {id(p): name for name, p in model.named_parameters()}
        stages = {names[id(p)].split(".")[3] for p in groups["visual_backbone"]}
        assert stages == {"layer3", "layer4"}
