"""Temporal shift: the papers' arithmetic, the backbones that take it, and their weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from models.backbones import build_backbone
from models.backbones.base import SHIFT_NAME
from models.temporal_shift import (
    TEMPORAL_SHIFTS,
    ChannelShift,
    FrameOrder,
    GatedShift,
    ShiftPass,
    TemporalShift,
    add_temporal_shift,
    shifting,
)
from shifted_encoders import build, open_branches, open_gates, random_frames
from utils.config.schema import TemporalShiftConfig
from utils.errors import CheckpointError, UnknownNameError, UsageError

TYPES = [name for name in TEMPORAL_SHIFTS if name != "none"]
SHIFTABLE = [
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "timm:test_resnet",
    "timm:test_convnext",
    "timm:regnety_002",
    "timm:tf_efficientnet_lite0",
    "timm:mobilenetv3_small_050",
    "timm:mobilenetv4_conv_small_050",
]


def shifted(shift: ChannelShift, clips: Tensor) -> Tensor:
    """``shift`` of clips ``(B, T, C, H, W)``."""
    batch, length = clips.shape[:2]
    order = FrameOrder.of_clips(batch, length, clips.device)
    with shifting(ShiftPass(order)):
        result: Tensor = shift(clips.flatten(0, 1))
    return result.unflatten(0, (batch, length))


def by_hand(clips: Tensor, *, num_shifted: int, causal: bool) -> Tensor:
    """Figure 1 of arXiv:1811.08383, written with loops."""
    batch, length, channels = clips.shape[:3]
    result = clips.clone()
    num_forward = num_shifted if causal else num_shifted // 2
    for clip in range(batch):
        for frame in range(length):
            for channel in range(channels):
                source = frame
                if channel < num_forward:
                    source = frame - 1
                elif channel < num_shifted:
                    source = frame + 1
                is_inside = 0 <= source < length
                result[clip, frame, channel] = clips[clip, source, channel] if is_inside else 0
    return result


class TestArithmetic:
    @settings(deadline=None, max_examples=25)
    @given(
        batch=st.integers(1, 3),
        length=st.integers(1, 5),
        channels=st.integers(2, 9),
        fraction=st.sampled_from([0.125, 0.25, 0.5, 1.0]),
        causal=st.booleans(),
    )
    def test_tsm_is_the_hand_worked_one(
        self, batch: int, length: int, channels: int, fraction: float, causal: bool
    ) -> None:
        shift = TemporalShift(channels, fraction=fraction, causal=causal)
        directions = 1 if causal else 2
        assert shift.num_shifted == max(1, int(channels * fraction) // directions) * directions
        clips = torch.randn(batch, length, channels, 2, 3)
        expected = by_hand(clips, num_shifted=shift.num_shifted, causal=causal)
        assert torch.equal(shifted(shift, clips), expected)

    def test_shares_of_the_papers(self) -> None:
        # An eighth of the channels each way; looking back alone, an eighth in all.
        assert TemporalShift(64, fraction=0.25, causal=False).num_shifted == 8 + 8
        assert TemporalShift(64, fraction=0.125, causal=True).num_shifted == 8

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("causal", [False, True])
    def test_gsm_is_the_one_with_a_convolution_over_time_and_space(
        self, causal: bool, training: bool
    ) -> None:
        torch.manual_seed(0)
        shift = GatedShift(12, fraction=0.5, causal=causal).train(training)
        open_gates(shift)
        nn.init.normal_(shift.norm.weight)
        nn.init.normal_(shift.norm.bias)
        clips = torch.randn(2, 5, 12, 4, 3)
        groups, places = (1, 2) if causal else (2, 3)
        convolution = nn.Conv3d(6, groups, (places, 3, 3), groups=groups, padding=(0, 1, 1))
        norm = nn.BatchNorm3d(6).train(training)
        weight = shift.gate.weight.view(groups, places, -1, 3, 3).transpose(1, 2)
        convolution.load_state_dict({"weight": weight, "bias": shift.gate_bias})
        norm.load_state_dict(shift.norm.state_dict())
        with torch.no_grad():
            made = shifted(shift, clips)
            # (B, C, T, H, W), as `nn.Conv3d` wants it.
            part = clips[:, :, :6].transpose(1, 2)
            ends = (1, 0) if causal else (1, 1)
            seen = functional.pad(norm(part).relu(), (0, 0, 0, 0, *ends))
            gates = convolution(seen).tanh().repeat_interleave(6 // groups, dim=1)
            gated = part * gates
            moved = by_hand(gated.transpose(1, 2), num_shifted=6, causal=causal)
            expected = (part - gated).transpose(1, 2) + moved
        torch.testing.assert_close(made[:, :, :6], expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(made[:, :, 6:], clips[:, :, 6:])
        for name, buffer in norm.named_buffers():
            torch.testing.assert_close(shift.norm.get_buffer(name), buffer)

    @pytest.mark.parametrize("causal", [False, True])
    def test_gates_begin_closed(self, causal: bool) -> None:
        shift = GatedShift(12, fraction=0.5, causal=causal)
        clips = torch.randn(2, 3, 12, 4, 4)
        assert torch.equal(shifted(shift, clips), clips)
        shifted(shift, clips).square().sum().backward()
        assert shift.gate.weight.grad is not None
        # And can open: every weight is pulled at.
        assert shift.gate.weight.grad.abs().amin() > 0

    @pytest.mark.parametrize("name", TYPES)
    def test_clips_of_different_lengths(self, name: str) -> None:
        shift = TEMPORAL_SHIFTS.resolve(name)(8, fraction=0.5, causal=False).eval()
        open_gates(shift)
        valid = torch.tensor(
            [[True] * 4, [True, True, False, False], [False] * 4, [True, False, False, False]]
        )
        clips = torch.randn(4, 4, 8, 2, 2)
        with torch.no_grad(), shifting(ShiftPass(FrameOrder.of_valid(valid))):
            made = shift(clips[valid])
        with torch.no_grad():
            parts = [
                shifted(shift, clip[:length][None])[0]
                for clip, length in zip(clips, valid.sum(1), strict=True)
                if length
            ]
        torch.testing.assert_close(made, torch.cat(parts))

    def test_layout_stays(self) -> None:
        shift = TemporalShift(8, fraction=0.25, causal=False)
        clips = torch.randn(6, 8, 5, 5).contiguous(memory_format=torch.channels_last)
        with shifting(ShiftPass(FrameOrder.of_clips(2, 3, clips.device))):
            assert shift(clips).is_contiguous(memory_format=torch.channels_last)

    def test_pictures_without_an_order_are_clips_of_their_own(self) -> None:
        backbone = build("gsm").backbone.eval()
        pictures = random_frames(3, 3, 32, 32)
        with torch.no_grad():
            together = backbone(pictures)
            alone = torch.cat([backbone(picture[None]) for picture in pictures])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


class TestBackbones:
    @pytest.mark.parametrize("name", SHIFTABLE)
    def test_branches_begin_with_what_the_block_is_given(self, name: str) -> None:
        backbone = build_backbone(name).eval()
        blocks = backbone.residual_blocks()
        assert len(blocks) >= 3
        given: dict[str, Tensor] = {}
        read: dict[str, Tensor] = {}

        def keep(record: dict[str, Tensor], path: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                record[path] = inputs[0]

            return hook

        for path, block, branch, _ in blocks:
            block.register_forward_pre_hook(keep(given, path))
            branch.register_forward_pre_hook(keep(read, path))
        with torch.no_grad():
            backbone(random_frames(1, 3, 64, 64))
        for path, _, _, num_channels in blocks:
            assert given[path] is read[path]
            assert given[path].shape[1] == num_channels

    @pytest.mark.parametrize("name", SHIFTABLE)
    @pytest.mark.parametrize("type_", TYPES)
    def test_names_of_the_weights_stay(self, name: str, type_: str) -> None:
        plain = build_backbone(name).to(memory_format=torch.channels_last)
        open_branches(plain)
        with_shift = build_backbone(name).to(memory_format=torch.channels_last)
        config = TemporalShiftConfig(type=type_)
        assert add_temporal_shift(with_shift, config, encoder=name)
        names = list(plain.state_dict())
        own = [path for path in with_shift.state_dict() if path not in names]
        assert [path for path in with_shift.state_dict() if path in names] == names
        assert all(f".{SHIFT_NAME}." in path for path in own)
        assert bool(own) == (type_ == "gsm")
        # Gates are closed at first, so the pretrained network begins as it was.
        with_shift.load_state_dict(plain.state_dict(), strict=type_ == "tsm")
        pictures = random_frames(2, 3, 64, 64)
        with torch.no_grad(), shifting(ShiftPass(FrameOrder.of_clips(1, 2, pictures.device))):
            expected, made = plain.eval()(pictures), with_shift.eval()(pictures)
        difference = float((made - expected).norm() / expected.norm())
        assert difference < 1e-4 if type_ == "gsm" else difference > 1e-2

    def test_none_changes_nothing(self) -> None:
        backbone = build_backbone("timm:test_resnet")
        assert not add_temporal_shift(backbone, TemporalShiftConfig(), encoder="x")
        assert not any(isinstance(module, ChannelShift) for module in backbone.modules())

    # Tokens, other blocks, and blocks none of which has a shortcut.
    @pytest.mark.parametrize(
        "name", ["timm:test_vit", "timm:test_mambaout", "timm:test_efficientnet"]
    )
    def test_backbones_without_such_blocks(self, name: str) -> None:
        with pytest.raises(
            UsageError,
            match=f"temporal_shift.type is gsm, but '{name}' has no residual blocks that can be "
            "shifted; take another encoder, such as resnet18 or timm:regnety_002, or set it to no",
        ):
            build("gsm", encoder=name)

    def test_unknown_type(self) -> None:
        with pytest.raises(
            UnknownNameError,
            match=r"unknown temporal shift 'tms'; known: gsm, none, tsm \(did you mean 'tsm'\?\)",
        ):
            build("tms")

    def test_a_copy_has_shifts_of_its_own(self) -> None:
        encoder = build("gsm").eval()
        other = copy.deepcopy(encoder)
        frames = random_frames(1, 3, 3, 32, 32)
        with torch.no_grad():
            expected = encoder(frames)
            for parameter in other.parameters():
                parameter.zero_()
            assert not other(frames).any()
            assert torch.equal(encoder(frames), expected)


class TestWeights:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Of a plain backbone."""
        path = tmp_path / "weights.pth"
        torch.save(build("none").backbone.network().state_dict(), path)
        return path

    @pytest.mark.parametrize("type_", TYPES)
    def test_those_of_the_plain_backbone_load(self, type_: str, path: Path) -> None:
        encoder = build(type_, weights=str(path))
        own = {
            name: tensor.clone()
            for name, tensor in encoder.backbone.network().state_dict().items()
            if SHIFT_NAME in name
        }
        with torch.no_grad():
            for name, parameter in encoder.backbone.named_parameters():
                if SHIFT_NAME not in name:
                    parameter.zero_()
        report = encoder.load_pretrained()
        assert report is not None
        assert set(report.missing) == set(own)
        expected = {**torch.load(path), **own}
        for name, tensor in encoder.backbone.network().state_dict().items():
            assert torch.equal(tensor, expected[name]), name

    def test_those_of_a_shifted_backbone_load_whole(self, path: Path) -> None:
        source = build("gsm").backbone.network().state_dict()
        torch.save(source, path)
        encoder = build("gsm", weights=str(path))
        with torch.no_grad():
            for parameter in encoder.backbone.parameters():
                parameter.zero_()
        report = encoder.load_pretrained()
        assert report is not None
        assert report.is_exact
        for name, tensor in encoder.backbone.network().state_dict().items():
            assert torch.equal(tensor, source[name]), name

    @pytest.mark.parametrize("lost", ["layer1.0.conv1.weight", "layer1.0.temporal_shift.gate_bias"])
    def test_a_file_that_lacks_some_is_refused(self, lost: str, path: Path) -> None:
        source = dict(build("gsm").backbone.network().state_dict())
        del source[lost]
        torch.save(source, path)
        with pytest.raises(CheckpointError, match=rf"1 missing \({lost}\); they are not weights"):
            build("gsm", weights=str(path)).load_pretrained()
