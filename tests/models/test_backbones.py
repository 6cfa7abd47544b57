"""Contract of every image backbone, and what the ImageNet download does without a network."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub.constants
import pytest
import safetensors.torch
import torch

from models.backbones import BACKBONES, build_backbone
from models.backbones.base import FETCH_TIMEOUT_SECONDS, fetching
from utils.errors import CheckpointError, UnknownNameError, UsageError

# A plain CNN, one with squeeze and excitation, ConvNeXt, tokens, a fixed picture size, NHWC maps.
TIMM = [
    "timm:test_resnet",
    "timm:test_efficientnet",
    "timm:test_convnext",
    "timm:test_vit",
    "timm:test_vit3",
    "timm:test_mambaout",
    "timm:swin_tiny_patch4_window7_224",
]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every connection fails, and no cache holds anything."""

    def refuse(*arguments: object, **settings: object) -> NoReturn:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("name", [*BACKBONES, *TIMM])
def test_contract(name: str, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> NoReturn:
        raise AssertionError("building is not loading")

    with monkeypatch.context() as context:
        context.setattr(torch, "load", refuse)
        context.setattr(safetensors.torch, "load_file", refuse)
        backbone = build_backbone(name).eval()
    is_fixed = name in ("timm:test_vit3", "timm:swin_tiny_patch4_window7_224")
    size = backbone.made_for if is_fixed else 64
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        maps = backbone(images)
    assert maps.shape[:2] == (2, backbone.num_channels)
    assert maps.dim() == 4
    is_of_tokens = name in ("timm:test_vit", "timm:test_vit3")
    assert backbone.has_map == (not is_of_tokens)
    assert (maps.shape[-1] > 1) == backbone.has_map
    assert len(backbone.mean) == len(backbone.std) == 3
    with torch.no_grad():
        single = backbone(images[1:])
    # A picture's features do not depend on its neighbours in the batch.
    torch.testing.assert_close(single[0], maps[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "timm:test_resnet", "timm:test_vit"])
def test_building_leaves_training_mode(name: str) -> None:
    assert all(module.training for module in build_backbone(name).modules())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet19", r"unknown encoder 'resnet19'; known: .*\(did you mean 'resnet18'\?\)"),
        (
            "timm:resnet1",
            r"unknown encoder 'timm:resnet1': timm \S+ has no such model .*did you mean",
        ),
        ("timm:test_vit.nope", r"no weights 'nope' of test_vit; known: test_vit\.r160_in1k"),
    ],
)
def test_unknown_names(name: str, text: str) -> None:
    with pytest.raises(UnknownNameError, match=text):
        build_backbone(name)


def test_a_tag_of_weights_is_taken() -> None:
    assert build_backbone("timm:test_vit.r160_in1k").num_channels == 64


def test_pictures_of_a_size_that_does_not_fit() -> None:
    backbone = build_backbone("timm:test_vit3")
    backbone.check_image_size(160)
    with pytest.raises(UsageError, match=r"data.image_size is 32, .* it was made for 160"):
        backbone.check_image_size(32)
    assert backbone.training


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["resnet18", "timm:test_resnet"])
def test_without_a_network_one_error_says_what_to_do(name: str) -> None:
    with pytest.raises(CheckpointError) as error:
        build_backbone(name).load_weights("imagenet")
    text = str(error.value)
    assert f"the ImageNet weights of '{name}' are not cached and could not be fetched" in text
    assert "set model.visual_encoder.weights to a file with them, or to none" in text
    assert "\n" not in text


def test_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def model_info(self: object, name: str, **settings: Any) -> NoReturn:
        asked.append({"name": name, **settings})
        raise ConnectionError("unreachable")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="ConnectionError: unreachable"):
        build_backbone("timm:test_resnet").load_weights("imagenet")
    assert asked == [{"name": "timm/test_resnet.r160_in1k", "timeout": FETCH_TIMEOUT_SECONDS}]


@pytest.mark.usefixtures("no_network")
def test_weights_in_the_hub_cache_need_no_network(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = build_backbone("timm:test_resnet").network().state_dict()
    folder = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abcd")
    (folder / "snapshots" / "0123abcd").mkdir(parents=True)
    safetensors.torch.save_file(source, folder / "snapshots" / "0123abcd" / "model.safetensors")
    backbone = build_backbone("timm:test_resnet")
    report = backbone.load_weights("imagenet")
    assert report.is_exact
    for name, tensor in backbone.network().state_dict().items():
        assert torch.equal(tensor, source[name])


def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("models.backbones.base.FETCH_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setenv("no_proxy", "*")
    # It listens, and never answers.
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/weights.pth"
        with pytest.raises(CheckpointError, match="timed out"), fetching("resnet18"):
            urllib.request.urlopen(url)
    assert socket.getdefaulttimeout() is None
