"""Stages of the backbones: every parameter in one, from stem to head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.backbones import BACKBONES, build_backbone
from models.backbones.stages import split_stages
from models.temporal_shift import add_temporal_shift
from utils.config.schema import TemporalShiftConfig

TIMM = [
    "test_resnet",
    "test_efficientnet",
    "test_convnext",
    "test_vit",
    "test_mambaout",
    "regnety_002",
    "mobilenetv3_small_050",
    "vgg11",
    # Names what is no layer of its own: its direct children are taken.
    "hrnet_w18_small",
]


@pytest.mark.parametrize("name", [*BACKBONES, *(f"timm:{name}" for name in TIMM)])
def test_every_parameter_is_in_one_stage(name: str) -> None:
    backbone = build_backbone(name)
    stages = backbone.stages()
    found = [id(p) for stage in stages for p in stage.parameters()]
    assert sorted(found) == sorted(id(p) for p in backbone.parameters())
    assert len({stage.name for stage in stages}) == len(stages) >= 3
    assert all(any(True for _ in stage.parameters()) for stage in stages)
    modules = [id(m) for stage in stages for top in stage.modules for m in top.modules()]
    assert len(modules) == len(set(modules))


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", ["conv1-bn1", "layer1", "layer2", "layer3", "layer4"]),
        ("timm:test_resnet", ["conv1-bn1", "layer1", "layer2", "layer3", "layer4"]),
        ("timm:regnety_002", ["stem", "s1", "s2", "s3", "s4"]),
        # Where EfficientNet-Lite0 halves the resolution; the head's convolution is with the last.
        (
            "timm:tf_efficientnet_lite0",
            ["conv_stem-blocks.0", "blocks.1", "blocks.2", "blocks.3-blocks.4", "blocks.5-bn2"],
        ),
        # What stands behind the last map, which the encoder does not use, makes no stage.
        ("timm:vgg11", [*(f"features.{n}" for n in ("0", "3", "6-features.8", "11-features.13"))]),
    ],
)
def test_by_hand(name: str, stages: list[str]) -> None:
    found = [stage.name for stage in build_backbone(name).stages()]
    assert found[: len(stages)] == stages
    assert len(found) == 5


def test_the_last_of_efficientnet_has_the_head() -> None:
    stages = build_backbone("efficientnet_b0").stages()
    assert len(stages) == 8
    assert stages[-1].name == "features.7-features.8"


def test_loose_parameters_are_of_the_stem() -> None:
    backbone = build_backbone("timm:test_vit")
    network = backbone.network()
    stages = backbone.stages()
    loose = dict(network.named_parameters(recurse=False))
    assert {"cls_token", "pos_embed"} <= set(loose)
    assert {id(p) for p in stages[0].loose_parameters} == {id(p) for p in loose.values()}
    assert not any(stage.loose_parameters for stage in stages[1:])


@pytest.mark.parametrize("name", ["resnet18", "timm:regnety_002", "timm:test_convnext"])
def test_they_stand_one_behind_the_other(name: str) -> None:
    backbone = build_backbone(name).eval()
    order: list[int] = []
    for number, stage in enumerate(backbone.stages()):
        for module in stage.modules:
            module.register_forward_hook(lambda *_, number=number: order.append(number))
    with torch.no_grad():
        backbone(torch.rand(1, 3, 64, 64))
    assert order == sorted(order)
    assert set(order) == set(range(len(backbone.stages())))


def test_gates_are_in_the_stage_of_their_block() -> None:
    backbone = build_backbone("timm:test_resnet")
    add_temporal_shift(backbone, TemporalShiftConfig(type="gsm"), encoder="x")
    last = {id(p) for p in backbone.stages()[-1].parameters()}
    gates = {name: p for name, p in backbone.named_parameters() if "temporal_shift" in name}
    assert {name.split(".")[1] for name, p in gates.items() if id(p) in last} == {"layer4"}
    assert {name.split(".")[1] for name in gates} == {"layer1", "layer2", "layer3", "layer4"}


class Branching(nn.Module):
    """Layers inside layers, some without parameters, one of its own, one shared."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1))
        self.stem = nn.Linear(1, 1)
        self.dropout = nn.Dropout()
        self.body = nn.ModuleDict(
            {"a": nn.Linear(1, 1), "b": nn.Linear(1, 1), "c": nn.Linear(1, 1)}
        )
        self.pool = nn.Identity()
        self.head = nn.Linear(1, 1)
        self.shared = nn.Sequential(nn.Linear(1, 1))
        self.shared[0].weight = self.stem.weight

    def forward(self, values: Tensor) -> Tensor:
        return values


class TestSplitting:
    def test_what_stands_between_goes_with_the_next(self) -> None:
        network = Branching()
        stages = split_stages(network, ["stem", "body.b"])
        assert [stage.layer_names for stage in stages] == [
            ["stem"],
            ["body.a", "body.b", "body.c", "head", "shared"],
        ]
        assert [stage.name for stage in stages] == ["stem", "body.a-shared"]
        assert stages[1].modules[0] is network.dropout
        assert stages[0].loose_parameters == [network.token]

    def test_one_without_parameters_is_none(self) -> None:
        network = Branching()
        names = [s.name for s in split_stages(network, ["stem", "dropout", "body", "pool"])]
        assert names == ["stem", "body-shared"]
        assert split_stages(nn.Sequential(nn.ReLU()), ["0"]) == []
        assert split_stages(nn.Sequential(nn.ReLU()), []) == []

    def test_shared_parameters_are_in_both(self) -> None:
        network = Branching()
        stages = split_stages(network, ["stem", "body"])
        assert all(any(p is network.stem.weight for p in stage.parameters()) for stage in stages)

    @pytest.mark.parametrize("ends", [["stem", "neck"], ["body.b", "stem"], ["body.z"], [""]])
    def test_layers_that_are_not_there(self, ends: list[str]) -> None:
        with pytest.raises(
            ValueError, match=r"the network has no layer '.*', or has it before another stage's end"
        ):
            split_stages(Branching(), ends)

    def test_evaluation_mode(self) -> None:
        network = Branching().train()
        split_stages(network, ["stem", "body"])[0].eval()
        assert not network.stem.training
        assert network.body["a"].training
