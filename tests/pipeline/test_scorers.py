"""`CheckpointScorer`: what it reads from a checkpoint, and what it refuses."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pipeline.scorers import SCORERS
from pipeline.scorers.base import FrameScorer
from pipeline.scorers.checkpoint import CheckpointScorer
from utils.checkpoint import FORMAT_VERSION
from utils.errors import CheckpointError, ConfigError


def test_table() -> None:
    for name in SCORERS:
        assert issubclass(SCORERS.resolve(name), FrameScorer)


def test_settings_are_the_checkpoints(
    helpers: ModuleType, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scorer = CheckpointScorer.load(checkpoint)
    assert scorer.labels == helpers.LABELS
    assert scorer.sampling.sampling_fps == helpers.SAMPLING_FPS
    assert scorer.sampling.image_size == helpers.IMAGE_SIZE
    assert (scorer.threshold, scorer.candidate_threshold) == (0.6, 0.5)
    assert scorer.window_size == 8
    assert scorer.identity == {
        "checkpoint": str(checkpoint),
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "epoch": 3,
        "global_step": 12,
        "format_version": FORMAT_VERSION,
        "encoder": "timm:test_resnet",
        "time_aware_encoder": "transformer",
        "labels": list(helpers.LABELS),
    }
    assert f"{checkpoint}: " in caplog.text
    assert "tensors fit" in caplog.text


def test_doors(checkpoint: Path) -> None:
    scorer = CheckpointScorer.load(checkpoint)
    pixels = np.random.default_rng(0).random((3, 3, 32, 32), np.float32)
    features, logits, _ = scorer.encode_and_trigger(pixels, None)
    assert features.shape == (3, 16)
    assert logits.shape == (3, 2)
    assert features.dtype == logits.dtype == np.float32
    # Ten hours into a stream as at its start: only differences of time count.
    for start in (0.0, 36000.0):
        times = np.array([[start, start + 0.2, start + 0.4]])
        temporal = scorer.contextualize(features[None], times, np.ones((1, 3), np.bool_))
        if start == 0:
            first = temporal
    assert temporal.shape == (1, 3, 2)
    np.testing.assert_allclose(temporal, first, atol=1e-5)


def test_extra_tensors_are_reported_or_refused(
    helpers: ModuleType, video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    state = {**helpers.tiny_model(video).state_dict(), "extra.weight": torch.zeros(2)}
    path = helpers.write_checkpoint(tmp_path / "c.pt", video, model_state_dict=state)
    CheckpointScorer.load(path, strict=False)
    assert "1 not used (extra.weight)" in caplog.text
    with pytest.raises(CheckpointError, match=r"1 not used \(extra\.weight\)"):
        CheckpointScorer.load(path, strict=True)


def test_missing_tensor_is_always_refused(helpers: ModuleType, video: Path, tmp_path: Path) -> None:
    state = helpers.tiny_model(video).state_dict()
    del state["visual_encoder.norm.weight"]
    path = helpers.write_checkpoint(tmp_path / "c.pt", video, model_state_dict=state)
    with pytest.raises(CheckpointError, match=r"1 missing \(visual_encoder\.norm\.weight\)"):
        CheckpointScorer.load(path, strict=False)


def test_config_of_another_version(helpers: ModuleType, video: Path, tmp_path: Path) -> None:
    config = helpers.tiny_config().to_plain()
    config["model"]["speed"] = 3
    path = helpers.write_checkpoint(tmp_path / "c.pt", video, config=config)
    with pytest.raises(ConfigError, match=r"c\.pt: config: unknown key 'speed' in 'model'"):
        CheckpointScorer.load(path)
