"""`VideoTriggerModel`: three doors and what goes through them, config in, errors out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import VideoTriggerModel
from models.scoring import score_sequence
from models.video_trigger_model import resolve_model_config
from utils.config import Config, parse_config
from utils.config.schema import ModelConfig
from utils.errors import ConfigError, UnknownNameError, UsageError

TINY: dict[str, Any] = {
    "labels": ["walk", "stop"],
    "visual_encoder": {"type": "timm:test_resnet", "weights": None, "feature_dim": 8},
    "trigger_detector": {"hidden_dims": [8]},
    "time_aware_encoder": {"hidden_dim": 8, "num_heads": 2, "num_layers": 1, "window_size": 6},
}


def build(**changes: Any) -> VideoTriggerModel:
    torch.manual_seed(0)
    return VideoTriggerModel.from_config({**TINY, **changes})


def test_forward_goes_through_the_three_doors() -> None:
    model = build().eval()
    frames, times = torch.rand(2, 4, 3, 32, 32), torch.arange(4.0).expand(2, 4)
    valid = torch.ones(2, 4, dtype=torch.bool)
    with torch.no_grad():
        output = model(frames, times, valid)
        features, state = model.encode(frames)
        assert torch.equal(output.trigger_logits, model.trigger(features))
        assert torch.equal(output.temporal_logits, model.contextualize(features, times, valid))
        cached = model(model.visual_encoder.backbone_features(frames), times, valid)
    assert state == {}
    assert output.trigger_logits.shape == output.temporal_logits.shape == (2, 4, 2)
    assert torch.equal(cached.temporal_logits, output.temporal_logits)


def test_padding_never_reaches_the_backbone() -> None:
    """Black frames would drag the running means of batch norm."""
    padded, alone = build().train(), build().train()
    frames = torch.rand(1, 2, 3, 32, 32)
    clip = torch.cat((frames, torch.zeros(1, 3, 3, 32, 32)), dim=1)
    times, valid = torch.arange(5.0)[None], torch.arange(5)[None] < 2
    for part in (padded, alone):
        part.trigger_detector.eval()
        part.time_aware_encoder.eval()
    with_padding = padded(clip, times, valid)
    without = alone(frames, times[:, :2], valid[:, :2])
    for got, expected in zip(with_padding, without, strict=True):
        torch.testing.assert_close(got[:, :2], expected, atol=1e-5, rtol=1e-5)
    statistics = dict(alone.named_buffers())
    for name, buffer in padded.named_buffers():
        assert torch.equal(buffer, statistics[name]), name


def test_garbage_on_padding_is_harmless() -> None:
    model = build().train()
    clip = torch.rand(2, 4, 3, 32, 32)
    clip[0, 2:] = float("nan")
    valid = torch.tensor([[True, True, False, False], [True] * 4])
    output = model(clip, torch.arange(4.0).expand(2, 4), valid)
    assert output.temporal_logits[valid].isfinite().all()
    output.temporal_logits[valid].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("chunk", [1, 3, 5, 50])
def test_score_sequence_does_not_depend_on_the_batch_size(chunk: int) -> None:
    model = build().eval()
    frames = torch.rand(13, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    times = torch.arange(13, dtype=torch.float64).numpy() / 3
    scores = score_sequence(model, lambda a, b: frames[a:b], times, batch_size=chunk)
    whole = score_sequence(model, lambda a, b: frames[a:b], times, batch_size=13)
    assert scores.trigger.shape == scores.temporal.shape == (13, 2)
    assert scores.trigger == pytest.approx(whole.trigger, abs=1e-5)
    assert scores.temporal == pytest.approx(whole.temporal, abs=1e-5)
    features = model.visual_encoder.backbone_features(frames[None])[0].detach()
    cached = score_sequence(model, lambda a, b: features[a:b], times, batch_size=chunk)
    assert cached.temporal == pytest.approx(whole.temporal, abs=1e-5)


class TestConfig:
    def test_mapping_and_section_give_the_same(self) -> None:
        names = build().state_dict().keys()
        section = VideoTriggerModel.from_config(ModelConfig.model_validate(TINY))
        assert section.state_dict().keys() == names
        assert section.labels == ("walk", "stop")
        assert section.window_size == 6

    def test_the_whole_config_of_a_checkpoint(self) -> None:
        plain = parse_config({"model": TINY}).to_plain()["model"]
        assert VideoTriggerModel.from_config(plain).config.model_dump() == plain

    def test_number_of_classes_alone(self) -> None:
        model = build(labels=None, trigger_detector={"num_classes": 3})
        assert model.labels == ("class_0", "class_1", "class_2")

    def test_no_classes(self) -> None:
        with pytest.raises(
            UsageError, match=r"set model\.labels, or model\.trigger_detector\.num_cl"
        ):
            build(labels=None)

    def test_unknown_key(self) -> None:
        with pytest.raises(
            ConfigError, match=r"unknown key 'visual_encodr'.*did you mean 'visual_enc"
        ):
            build(visual_encodr={})

    def test_unknown_encoder(self) -> None:
        with pytest.raises(UnknownNameError, match="unknown encoder 'resnet19'"):
            build(visual_encoder={"type": "resnet19"})

    def test_resolving_fills_in_what_the_data_decide(self) -> None:
        config = Config()
        resolved = resolve_model_config(config, ("a", "b"))
        assert resolved.model.labels == ["a", "b"]
        assert resolved.model.trigger_detector.num_classes == 2
        assert resolved.model.time_aware_encoder.window_size == config.data.clip_window_size
        assert resolve_model_config(resolved, ("other",)) == resolved
        assert config.model.labels is None, "the user's own is left alone"

    def test_resolving_refuses_another_number_of_classes(self) -> None:
        config = parse_config({"model": {"trigger_detector": {"num_classes": 3}}})
        with pytest.raises(ConfigError, match="num_classes is 3 but labels names 2"):
            resolve_model_config(config, ("a", "b"))
