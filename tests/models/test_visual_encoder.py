"""`VisualEncoder`: normalisation, motion images, gradient checkpointing, weights from a file."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from models.backbones.base import Backbone
from models.optical_flow import flow_statistics
from models.visual_encoder import (
    VisualEncoder,
    motion_energy,
    motion_image,
    motion_statistics,
    signed_motion_image,
)
from shifted_encoders import make_shift_visible
from utils.config.schema import VisualEncoderConfig
from utils.errors import CheckpointError, UsageError

TINY = "timm:test_resnet"


def build(**changes: Any) -> VisualEncoder:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"type": TINY, "weights": None, "feature_dim": 8, **changes}
    return VisualEncoder(VisualEncoderConfig.model_validate(settings))


def random_frames(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Recorder(Backbone):
    """A backbone that shows what it was given: its map is the picture."""

    mean, std, num_channels = (0.5, 0.25, 0.125), (0.5, 0.5, 0.25), 3

    def forward(self, images: Tensor) -> Tensor:
        return images

    def pretrained_state_dict(self) -> dict[str, Tensor]:
        return {}

    def network(self) -> nn.Module:
        return self


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.visual_encoder.build_backbone", lambda name: Recorder())


@pytest.mark.usefixtures("recording")
def test_normalisation_is_inside() -> None:
    encoder = build(feature_dim=None)
    frame = torch.tensor([1.0, 0.5, 0.25]).view(1, 1, 3, 1, 1).expand(1, 1, 3, 4, 4)
    # (1 - 0.5) / 0.5, (0.5 - 0.25) / 0.5, (0.25 - 0.125) / 0.25
    assert encoder.backbone_features(frame).squeeze().tolist() == [1.0, 0.5, 0.5]


@pytest.mark.usefixtures("recording")
def test_pool_grid_says_where_in_the_picture() -> None:
    encoder = build(feature_dim=None, pool_grid=2)
    frame = torch.zeros(1, 1, 3, 4, 4)
    frame[0, 0, 0, :2, 2:] = 1
    red = encoder.backbone_features(frame).view(3, 2, 2)[0]
    assert red.tolist() == [[-1, 1], [-1, -1]]
    assert encoder.backbone_dim == 12


@pytest.mark.usefixtures("recording")
def test_motion_features_stand_behind_those_of_the_frame() -> None:
    encoder = build(feature_dim=None, motion={"enabled": True, "gain": 3.0})
    frame, before, after = torch.full((3, 3, 4, 4), 0.5), torch.full((3, 4, 4), 0.4), torch.zeros(1)
    stacked = torch.cat((frame[0], before, after.expand(3, 4, 4)))[None, None]
    features = encoder.backbone_features(stacked).squeeze()
    assert len(features) == encoder.backbone_dim == 3 + 3 + 5
    assert features[:3].tolist() == pytest.approx([0, 0.5, 1.5])
    # Differences 0.1, 0.5 and their mean 0.3, three times amplified, cut at 1, normalised.
    assert features[3:6].tolist() == pytest.approx([-0.4, 1.5, (0.9 - 0.125) / 0.25], abs=1e-5)
    assert features[6:].tolist() == pytest.approx(
        [0.1**0.5, 0.5**0.5, 0.0, 1.0, 0.3**0.5], abs=1e-3
    )


def motion_image_by_hand(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """The three channels, written with loops."""
    images = []
    for sample in frames:
        grey = [0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2] for p in sample.reshape(3, 3, 6, 5)]
        before, after = abs(grey[0] - grey[1]), abs(grey[0] - grey[2])
        images.append([before, after, (before + after) / 2])
    return np.array(images)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_motion_image_is_the_hand_worked_one(seed: int) -> None:
    frames = np.random.default_rng(seed).random((2, 9, 6, 5))
    made = motion_image(torch.from_numpy(frames)).numpy()
    assert made == pytest.approx(motion_image_by_hand(frames))
    assert made.min() >= 0
    assert made.max() <= 1


def test_motion_statistics_are_the_hand_worked_ones() -> None:
    motion = np.random.default_rng(3).random((2, 3, 14, 14)) * 0.2
    made = motion_statistics(torch.from_numpy(motion)).numpy()
    for row, (to_before, to_after, mean) in zip(made, motion, strict=True):
        cells = mean.reshape(7, 2, 7, 2).mean((1, 3))
        expected = [
            to_before.mean(),
            to_after.mean(),
            mean.var(),
            (mean > 0.1).mean(),
            cells.max(),
        ]
        assert row == pytest.approx(np.sqrt(expected))


def test_motion_energy_says_where_it_moves() -> None:
    motion = np.random.default_rng(4).random((2, 3, 12, 8)) * 0.2
    made = motion_energy(torch.from_numpy(motion), 4).numpy()
    cells = motion[:, :2].reshape(2, 2, 4, 3, 4, 2).mean((3, 5))
    assert made == pytest.approx(np.sqrt(cells.reshape(2, -1)))


@pytest.mark.usefixtures("recording")
def test_motion_energy_stands_behind_the_statistics() -> None:
    encoder = build(feature_dim=None, motion={"enabled": True, "energy_grid": 2})
    without = build(feature_dim=None, motion={"enabled": True})
    frames = random_frames(1, 9, 8, 8)[None]
    features = encoder.backbone_features(frames)
    plain = without.backbone_dim
    assert encoder.backbone_dim == plain + 8
    expected = motion_energy(motion_image(frames[0]), 2)
    assert torch.equal(features[0, :, plain:], expected)


def test_signed_motion_image_is_the_hand_worked_one() -> None:
    frames = np.random.default_rng(5).random((2, 9, 6, 5))
    made = signed_motion_image(torch.from_numpy(frames), 1.5).numpy()
    luma = np.array([0.299, 0.587, 0.114])
    for sample, image in zip(frames, made, strict=True):
        grey, before, after = np.tensordot(luma, sample.reshape(3, 3, 6, 5), axes=(0, 1))
        expected = 0.5 + 0.75 * np.stack((grey - before, after - grey, (after - before) / 2))
        assert image == pytest.approx(expected.clip(0, 1))


@pytest.mark.usefixtures("recording")
def test_motion_without_appearance() -> None:
    motion = {"enabled": True, "signed": True, "statistics": False, "flow": True, "gain": 2.0}
    encoder = build(feature_dim=None, appearance=False, motion=motion)
    frames = random_frames(2, 9, 32, 32)
    features = encoder.backbone_features(frames[None])[0]
    assert features.shape == (2, encoder.backbone_dim) == (2, 3 + 3 + 31)
    mean, std = encoder.mean.flatten(), encoder.std.flatten()
    image = (motion_image(frames) * 2).clamp(0, 1).mean((2, 3))
    signed = signed_motion_image(frames, 2.0).mean((2, 3))
    torch.testing.assert_close(features[:, :3], (image - mean) / std)
    torch.testing.assert_close(features[:, 3:6], (signed - mean) / std)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = [(part * luma).sum(1) for part in frames.chunk(3, dim=1)]
    assert torch.equal(features[:, 6:], flow_statistics(*grey))


class TestEarlyStages:
    @pytest.mark.parametrize(
        "backbone", [TINY, "timm:test_efficientnet", "timm:test_convnext", "resnet18"]
    )
    def test_is_the_map_that_the_backbone_has_there(self, backbone: str) -> None:
        encoder = build(type=backbone).eval()
        network = encoder.backbone
        images = random_frames(2, 3, 64, 64)
        for num_stages, stage in enumerate(network.stages()[:-1], start=1):
            seen: list[Tensor] = []
            hook = stage.modules[-1].register_forward_hook(lambda m, i, o, s=seen: s.append(o))
            with torch.no_grad():
                network(images)
                hook.remove()
                early = network.early_map(images, num_stages)
            assert torch.equal(early, seen[0])
            assert network.early_channels(num_stages) == early.shape[1]

    def test_motion_images_go_no_further(self) -> None:
        motion = {"enabled": True, "num_stages": 2, "statistics": False}
        encoder = build(feature_dim=None, pool_grid=2, motion=motion).eval()
        frames = random_frames(1, 2, 9, 32, 32)
        amplified = (motion_image(frames[0]) * 3).clamp(0, 1)
        with torch.no_grad():
            features = encoder.backbone_features(frames)[0]
            normalised = (amplified - encoder.mean) / encoder.std
            early = encoder.backbone.early_map(normalised, 2)
        expected = torch.nn.functional.adaptive_avg_pool2d(early, 2).flatten(1)
        behind_the_frame = 4 * encoder.backbone.num_channels
        assert features.shape[1] == encoder.backbone_dim
        torch.testing.assert_close(features[:, behind_the_frame:], expected)

    def test_leaves_mode_and_statistics_alone(self) -> None:
        encoder = build().train()
        before = copy.deepcopy(encoder.state_dict())
        encoder.backbone.early_channels(1)
        assert encoder.backbone.training
        for name, tensor in encoder.state_dict().items():
            assert torch.equal(tensor, before[name]), name

    def test_too_many(self) -> None:
        with pytest.raises(UsageError, match=r"num_stages is 9, but this encoder has \d stages: "):
            build(motion={"enabled": True, "num_stages": 9})

    def test_what_cannot_be_cut(self) -> None:
        with pytest.raises(UsageError, match=r"num_stages is 1, but .* cannot be cut there; set"):
            build(type="timm:test_vit", motion={"enabled": True, "num_stages": 1})


def test_standard_norm_is_fitted_and_a_layer_norm_is_not() -> None:
    frames = random_frames(1, 12, 3, 32, 32)
    encoder = build(feature_norm="standard").eval()
    with torch.no_grad():
        features = encoder.backbone_features(frames)[0]
        encoder.fit_norm([features[:5].numpy(), features[5:].numpy()])
        scaled = encoder.norm(features)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(encoder.backbone_dim), atol=1e-4, rtol=0)
    plain = build()
    before = copy.deepcopy(plain.state_dict())
    plain.fit_norm([features.numpy()])
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_identical_frames_do_not_move() -> None:
    frame = random_frames(4, 3, 8, 8)
    motion = motion_image(frame.repeat(1, 3, 1, 1))
    assert not motion.any()
    assert not motion_statistics(motion).any()


def test_motion_sees_what_single_frames_do_not() -> None:
    encoder = build(motion={"enabled": True}).eval()
    frame = random_frames(3, 32, 32)
    still = frame.repeat(3, 1, 1)[None, None]
    moving = torch.cat((frame, random_frames(6, 32, 32, seed=1)))[None, None]
    half = encoder.backbone.num_channels
    with torch.no_grad():
        a, b = encoder.backbone_features(still)[0, 0], encoder.backbone_features(moving)[0, 0]
    assert torch.equal(a[:half], b[:half])
    assert not torch.allclose(a[half:], b[half:])


def test_too_few_channels_name_the_sampler_setting() -> None:
    encoder = build(motion={"enabled": True, "offset_seconds": 0.1})
    with pytest.raises(
        ValueError, match=r"takes frames \(B, T, 9, H, W\), got \(1, 2, 3, 32, 32\)"
    ) as e:
        encoder(torch.zeros(1, 2, 3, 32, 32))
    assert "neighbor_offsets_seconds=(0.1,)" in str(e.value)
    with pytest.raises(ValueError, match=r"takes frames \(B, T, 3, H, W\), got \(2, 3, 32, 32\)$"):
        build()(torch.zeros(2, 3, 32, 32))


def test_a_grid_needs_a_map() -> None:
    with pytest.raises(UsageError, match="pool_grid is 2, but 'timm:test_vit' gives one vector"):
        build(type="timm:test_vit", pool_grid=2)


@pytest.mark.parametrize(
    ("backbone", "shift"),
    [
        ("timm:test_resnet", "none"),
        ("timm:test_efficientnet", "none"),
        ("resnet18", "none"),
        ("timm:test_resnet", "tsm"),
        ("timm:test_resnet", "gsm"),
    ],
)
def test_gradient_checkpointing_changes_nothing_but_memory(backbone: str, shift: str) -> None:
    plain = build(type=backbone, motion={"enabled": True}, temporal_shift={"type": shift}).train()
    make_shift_visible(plain)
    saving = copy.deepcopy(plain)
    saving.use_gradient_checkpointing = True
    frames = random_frames(2, 3, 9, 32, 32)
    for _ in range(2):
        for encoder in (plain, saving):
            # The same dropout and stochastic depth for both.
            torch.manual_seed(1)
            encoder.zero_grad()
            encoder(frames).square().sum().backward()
    gradients = dict(plain.named_parameters())
    assert any(parameter.grad is not None for parameter in gradients.values())
    for name, parameter in saving.named_parameters():
        expected = gradients[name].grad
        assert expected is not None
        assert torch.equal(parameter.grad, expected), name
    buffers = dict(plain.named_buffers())
    for name, buffer in saving.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    counts = [b for n, b in saving.named_buffers() if n.endswith("num_batches_tracked")]
    # Two rounds, and each runs the backbone on frames and on motion images.
    assert {int(count) for count in counts} == {4}


def test_gradient_checkpointing_runs_the_blocks_again() -> None:
    encoder = build().train()
    encoder.use_gradient_checkpointing = True
    blocks = encoder.backbone.residual_blocks()
    calls: list[str] = []
    for path, _, branch, _ in blocks:
        branch.register_forward_pre_hook(lambda *_, path=path: calls.append(path))
    encoder(random_frames(1, 2, 3, 32, 32)).sum().backward()
    paths = [path for path, *_ in blocks]
    # Each by itself, from the last one on: no two are held at once.
    assert calls == paths + paths[::-1]
    calls.clear()
    encoder.eval()(random_frames(1, 2, 3, 32, 32)).sum().backward()
    assert calls == paths, "there is nothing to save in evaluation"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("backbone", ["timm:test_resnet", "timm:tf_efficientnet_lite0"])
def test_copies_stand_alone(backbone: str, copied: Any) -> None:
    encoder = build(type=backbone, temporal_shift={"type": "gsm"}).eval()
    frames = random_frames(1, 3, 3, 32, 32)
    other = copied(encoder)
    with torch.no_grad():
        expected = encoder(frames)
        assert torch.equal(other(frames), expected)
        for parameter in other.parameters():
            parameter.zero_()
        assert not other(frames).any()
        assert torch.equal(encoder(frames), expected)


def test_feature_dim() -> None:
    frames = random_frames(2, 3, 3, 32, 32)
    assert build(feature_dim=5)(frames).shape == (2, 3, 5)
    encoder = build(feature_dim=None)
    assert encoder.feature_dim == encoder.backbone.num_channels
    assert encoder(frames).shape == (2, 3, encoder.feature_dim)


def test_cached_features_project_to_the_same() -> None:
    encoder = build().eval()
    frames = random_frames(1, 2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(encoder(frames), encoder.project(encoder.backbone_features(frames)))


class TestWeightsFile:
    def test_loads_and_leaves_the_classifier_out(self, tmp_path: Path) -> None:
        source = build()
        state_dict = source.backbone.network().state_dict()
        path = tmp_path / "weights.pth"
        torch.save({**state_dict, "fc.weight": torch.zeros(10, 96)}, path)
        encoder = build(weights=str(path))
        with torch.no_grad():
            for parameter in encoder.backbone.parameters():
                parameter.zero_()
        report = encoder.load_pretrained()
        assert report is not None
        assert report.unexpected == ("fc.weight",)
        assert len(report.loaded) == len(state_dict)
        for name, tensor in encoder.backbone.network().state_dict().items():
            assert torch.equal(tensor, state_dict[name])

    def test_refuses_those_of_another_model(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        torch.save(build(type="resnet18").backbone.network().state_dict(), path)
        encoder = build(weights=str(path))
        before = copy.deepcopy(encoder.state_dict())
        with pytest.raises(CheckpointError) as error:
            encoder.load_pretrained()
        for part in (str(path), "missing", "set model.visual_encoder.type"):
            assert part in str(error.value)
        for name, tensor in encoder.state_dict().items():
            assert torch.equal(tensor, before[name])

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"absent\.pth: no such file"):
            build(weights=str(tmp_path / "absent.pth")).load_pretrained()

    def test_none_loads_nothing(self) -> None:
        assert build(weights="none").load_pretrained() is None

    def test_real_imagenet_weights(self, shared_data: Path) -> None:
        path = shared_data / "weights" / "tf_efficientnet_lite0.pth"
        encoder = build(type="timm:tf_efficientnet_lite0", weights=str(path))
        report = encoder.load_pretrained()
        assert report is not None
        assert not report.missing
        assert not report.mismatched
        # Input RGB, mean = std = 0.5.
        assert encoder.mean.flatten().tolist() == encoder.std.flatten().tolist() == [0.5] * 3
