"""A backbone with a temporal shift in the cascade: the scores are those of validation."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from models import VideoTriggerModel
from models.scoring import score_sequence
from pipeline.cascade import Cascade
from pipeline.describers.template import TemplateDescriber
from pipeline.run_records import CascadeSettings
from pipeline.scorers.checkpoint import CheckpointScorer
from shifted_encoders import make_shift_visible
from utils import FrameSampler, VideoProcessor
from utils.config import parse_config
from utils.events.records import FrameScore
from utils.video.source import VideoSource


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_shifted_backbone_scores_as_in_validation(
    helpers: ModuleType, video: Path, tmp_path: Path, batch_size: int, causal: bool
) -> None:
    config = helpers.tiny_config().to_plain()
    config["model"]["visual_encoder"]["temporal_shift"] = {"type": "gsm", "causal": causal}
    torch.manual_seed(0)
    model = VideoTriggerModel.from_config(parse_config(config).model).eval()
    make_shift_visible(model)
    path = helpers.write_checkpoint(
        tmp_path / "c.pt", video, config=config, model_state_dict=model.state_dict()
    )
    scorer = CheckpointScorer.load(path, strict=True)
    assert scorer.encoder_window == (None if causal else scorer.window_size)
    # Every frame is a candidate.
    settings = CascadeSettings(threshold=0.6, candidate_threshold=0.0, batch_size=batch_size)
    scores: list[FrameScore] = []
    with VideoSource.open(video) as source:
        run = Cascade(scorer, TemplateDescriber(), settings).stream(source, observe=scores.append)
        list(run)
    frames, times = FrameSampler(helpers.SAMPLING_FPS).sample_frames(video)
    pixels = VideoProcessor(helpers.IMAGE_SIZE).process_frames(frames)
    expected = score_sequence(model, lambda a, b: pixels[a:b], times, batch_size=5)
    assert np.stack([s.trigger for s in scores]) == pytest.approx(expected.trigger, abs=1e-5)
    temporal = np.stack([s.temporal for s in scores if s.temporal is not None])
    assert temporal == pytest.approx(expected.temporal, abs=1e-5)
    # The windows overlap by half: what each frame costs is said.
    encoded = run.totals.stages["encode"].num_frames
    assert (encoded == len(times)) if causal else (1.5 * len(times) < encoded < 2.1 * len(times))


def test_a_video_shorter_than_the_window_of_the_encoder(
    helpers: ModuleType, tmp_path: Path
) -> None:
    video = helpers.write_video(tmp_path / "short.mp4", num_frames=6)
    config = helpers.tiny_config().to_plain()
    config["model"]["visual_encoder"]["temporal_shift"] = {"type": "tsm"}
    model = VideoTriggerModel.from_config(parse_config(config).model)
    path = helpers.write_checkpoint(
        tmp_path / "c.pt", video, config=config, model_state_dict=model.state_dict()
    )
    settings = CascadeSettings(threshold=0.6, candidate_threshold=0.0)
    cascade = Cascade(CheckpointScorer.load(path), TemplateDescriber(), settings)
    assert cascade.run(video).totals.num_frames == 3
