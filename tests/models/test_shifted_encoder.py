"""A shifted encoder on clips and streams: what a frame sees, and what it must not see."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from models import VideoTriggerModel
from models.temporal_shift import TEMPORAL_SHIFTS, GatedShift
from shifted_encoders import build, make_shift_visible, random_frames

TYPES = [name for name in TEMPORAL_SHIFTS if name != "none"]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("motion", [False, True])
@pytest.mark.parametrize("type_", TYPES)
class TestClips:
    def test_clips_do_not_leak(self, type_: str, motion: bool, causal: bool) -> None:
        encoder = build(type_, motion={"enabled": motion}, causal=causal).eval()
        clips = random_frames(3, 4, encoder.num_input_channels, 32, 32)
        with torch.no_grad():
            together = encoder(clips)
            alone = torch.cat([encoder(clip[None]) for clip in clips])
            single = encoder(clips.flatten(0, 1)[:, None]).unflatten(0, (3, 4))[:, :, 0]
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(together, single, atol=1e-3), "neighbours are seen"

    def test_padding_does_not_leak(self, type_: str, motion: bool, causal: bool) -> None:
        torch.manual_seed(0)
        model = VideoTriggerModel.from_config(
            {
                "labels": ["a"],
                "visual_encoder": {
                    "type": "timm:test_resnet",
                    "weights": None,
                    "feature_dim": 8,
                    "motion": {"enabled": motion},
                    "temporal_shift": {"type": type_, "causal": causal},
                },
                "trigger_detector": {"hidden_dims": [8]},
                "time_aware_encoder": {"hidden_dim": 8, "num_heads": 2},
            }
        ).eval()
        make_shift_visible(model)
        lengths = (4, 1, 3)
        clips = random_frames(3, 4, 9 if motion else 3, 32, 32)
        times = torch.arange(4.0).expand(3, 4)
        valid = torch.arange(4) < torch.tensor(lengths)[:, None]
        clips[~valid] = torch.nan
        with torch.no_grad():
            together = model(clips, times, valid)
            for row, length in enumerate(lengths):
                part = slice(row, row + 1), slice(0, length)
                alone = model(clips[part], times[part], valid[part])
                for got, expected in zip(together, alone, strict=True):
                    torch.testing.assert_close(got[part], expected, atol=1e-5, rtol=1e-5)

    def test_what_a_frame_sees(self, type_: str, motion: bool, causal: bool) -> None:
        encoder = build(type_, motion={"enabled": motion}, causal=causal).eval()
        clip = random_frames(1, 5, encoder.num_input_channels, 32, 32).requires_grad_()
        encoder(clip)[0, 2].square().sum().backward()
        assert clip.grad is not None
        is_seen = [bool(grad.any()) for grad in clip.grad[0]]
        assert is_seen == [True, True, True, not causal, not causal]
        gates = [s for s in encoder.modules() if isinstance(s, GatedShift)]
        assert bool(gates) == (type_ == "gsm")
        for gate in gates:
            assert gate.gate.weight.grad is not None
            assert gate.gate.weight.grad.any()


@pytest.mark.parametrize("motion", [False, True])
@pytest.mark.parametrize("type_", TYPES)
class TestStreams:
    @settings(deadline=None, max_examples=8)
    @given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4))
    def test_cuts_change_nothing(self, type_: str, motion: bool, cuts: list[int]) -> None:
        encoder = build(type_, motion={"enabled": motion}, causal=True).eval()
        streams = random_frames(2, sum(cuts), encoder.num_input_channels, 32, 32)
        state = None
        parts: list[Tensor] = []
        with torch.inference_mode():
            whole = encoder(streams)
            for chunk in streams.split(cuts, dim=1):
                features, state = encoder.encode(chunk, state)
                parts.append(features)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)

    def test_the_state_is_small_and_named(self, type_: str, motion: bool) -> None:
        encoder = build(type_, motion={"enabled": motion}, causal=True).eval()
        with torch.inference_mode():
            _, state = encoder.encode(random_frames(2, 3, encoder.num_input_channels, 32, 32))
        kinds = {"frames", "motion"} if motion else {"frames"}
        assert {name.partition(".")[0] for name in state} == kinds
        assert "frames.layer1.0.shifted" in state
        assert ("frames.layer1.0.gate" in state) == (type_ == "gsm")
        blocks = len(encoder.backbone.residual_blocks())
        assert len(state) == blocks * len(kinds) * (2 if type_ == "gsm" else 1)
        for value in state.values():
            assert len(value) == 2
            assert value.untyped_storage().nbytes() == value.nbytes, "no whole map is kept alive"

    def test_a_state_of_zeros_is_a_start(self, type_: str, motion: bool) -> None:
        encoder = build(type_, motion={"enabled": motion}, causal=True).eval()
        frames = random_frames(1, 3, encoder.num_input_channels, 32, 32)
        with torch.inference_mode():
            features, state = encoder.encode(frames)
            zeros = {name: torch.zeros_like(value) for name, value in state.items()}
            again, _ = encoder.encode(frames, zeros)
        assert torch.equal(again, features)

    def test_looking_ahead_there_is_no_state(self, type_: str, motion: bool) -> None:
        encoder = build(type_, motion={"enabled": motion}).eval()
        with torch.inference_mode():
            _, state = encoder.encode(random_frames(1, 2, encoder.num_input_channels, 32, 32))
        assert state == {}
        assert encoder.looks_ahead


class TestStates:
    def test_of_another_encoder(self) -> None:
        encoder = build("gsm", causal=True)
        with pytest.raises(
            ValueError, match=r"the state has no 'frames\.layer1\.0\.gate': it is of"
        ):
            encoder.encode(random_frames(1, 2, 3, 32, 32), {"other": torch.zeros(1)})

    def test_of_another_number_of_streams(self) -> None:
        encoder = build("tsm", causal=True)
        _, state = encoder.encode(random_frames(2, 2, 3, 32, 32))
        with pytest.raises(
            ValueError, match=r"the state is of 2 streams, and the frames are of 1$"
        ):
            encoder.encode(random_frames(1, 2, 3, 32, 32), state)


class TestCalls:
    """Which frames follow each other is known to one call, and to no other."""

    def test_inside_one_another(self) -> None:
        outer, inner = build("gsm").eval(), build("tsm", causal=True).eval()
        frames, others = random_frames(2, 3, 3, 32, 32), random_frames(1, 5, 3, 32, 32, seed=1)
        with torch.no_grad():
            expected, expected_inner = outer(frames), inner(others)
            made: list[Tensor] = []
            block = outer.backbone.residual_blocks()[1].block
            block.register_forward_pre_hook(lambda *_: made.append(inner(others)))
            assert torch.equal(outer(frames), expected)
        assert torch.equal(made[0], expected_inner)

    def test_an_error_leaves_nothing_behind(self) -> None:
        encoder = build("tsm").eval()
        pictures = random_frames(4, 3, 32, 32)
        with torch.no_grad():
            expected = encoder.backbone(pictures)
            hook = encoder.backbone.residual_blocks()[-1].block.register_forward_pre_hook(
                lambda *_: 1 / 0
            )
            with pytest.raises(ZeroDivisionError):
                encoder(pictures[None])
            hook.remove()
            assert torch.equal(encoder.backbone(pictures), expected)

    def test_in_several_threads(self) -> None:
        encoder = build("gsm", causal=True).eval()
        streams = [random_frames(1, 6, 3, 32, 32, seed=seed) for seed in range(4)]

        def stream(frames: Tensor) -> Tensor:
            parts, state = [], None
            with torch.inference_mode():
                for chunk in frames.split(2, dim=1):
                    features, state = encoder.encode(chunk, state)
                    parts.append(features)
            return torch.cat(parts, dim=1)

        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(stream, streams * 3))
        for frames, features in zip(streams * 3, made, strict=True):
            assert torch.equal(features, stream(frames))


@pytest.mark.parametrize(("type_", "is_learned"), [("none", False), ("tsm", True), ("gsm", True)])
def test_what_single_frames_do_not_tell_is_learned(type_: str, is_learned: bool) -> None:
    """Whether a bar moves to the left or to the right, by the head on single frames."""
    torch.manual_seed(0)
    model = VideoTriggerModel.from_config(
        {
            "labels": ["to_the_right"],
            "visual_encoder": {
                "type": "timm:test_resnet",
                "weights": None,
                "feature_dim": 16,
                "temporal_shift": {"type": type_},
            },
            "trigger_detector": {"hidden_dims": [16], "dropout": 0},
            "time_aware_encoder": {"hidden_dim": 8, "num_heads": 2},
        }
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)

    def draw(num_clips: int) -> tuple[Tensor, Tensor]:
        direction = torch.randint(0, 2, (num_clips, 1)) * 2 - 1
        place = torch.randint(0, 32, (num_clips, 1)) + 3 * direction * torch.arange(6)
        bar = (torch.arange(32) - place[..., None]) % 32 < 6
        clips = torch.where(bar[:, :, None, None], 1.0, 0.3 * torch.rand(num_clips, 6, 3, 32, 32))
        return clips, (direction > 0).float().expand(-1, 6)

    def scores(clips: Tensor) -> Tensor:
        return model.trigger(model.encode(clips)[0])[..., 0]

    for _ in range(60):
        clips, targets = draw(8)
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(scores(clips), targets).backward()
        optimizer.step()
    clips, targets = draw(64)
    with torch.no_grad():
        accuracy = float(((scores(clips) > 0) == (targets > 0)).float().mean())
    assert (accuracy > 0.9) if is_learned else (accuracy < 0.75)
