"""`InputsReader`: training sees what inference sees, however the decoder is told to save work."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models import VideoTriggerModel
from pipeline.cascade import Cascade
from pipeline.describers.template import TemplateDescriber
from pipeline.run_records import CascadeSettings
from pipeline.scorers.base import FloatArray
from pipeline.scorers.checkpoint import CheckpointScorer
from pipeline.training_inputs import InputsReader
from utils.config import parse_config
from utils.data.annotations import AnnotatedEvent, VideoAnnotation

B_FRAMES = {"bf": "2", "x264-params": "b-adapt=0:b-pyramid=none:scenecut=0"}
"""Two thirds of the frames are referred to by no other."""


class RecordingScorer(CheckpointScorer):
    """Keeps the pixels that it was shown."""

    def encode_and_trigger(
        self, pixels: FloatArray, state: Any
    ) -> tuple[FloatArray, FloatArray, Any]:
        self.shown = [*getattr(self, "shown", []), pixels]
        return super().encode_and_trigger(pixels, state)


@pytest.fixture(scope="module")
def video(helpers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "b_frames.mp4"
    helpers.write_video(path, num_frames=120, fps=30, size=(160, 120), options=B_FRAMES)
    return path


def seen(
    helpers: ModuleType, video: Path, motion: bool, data: dict[str, Any]
) -> tuple[NDArray[np.uint8], NDArray[np.float64], FloatArray, dict[str, Any]]:
    """Pixels and times that training sees, pixels that inference sees, and the report's source."""
    plain = helpers.tiny_config(motion=motion).to_plain()
    plain["data"].update(data, cache_dir=None)
    config = parse_config(plain)
    model = VideoTriggerModel.from_config(config.model)
    reader = InputsReader(config, model, torch.device("cpu"), training=True)
    inputs = reader.read(VideoAnnotation(video=video.name, path=video))
    scorer = RecordingScorer(model, config, identity={})
    settings = CascadeSettings(threshold=0.5, candidate_threshold=0.5)
    result = Cascade(scorer, TemplateDescriber(), settings).run(video)
    shown = np.concatenate(scorer.shown)
    return inputs.inputs, inputs.timestamps, shown, result.totals.source


@pytest.mark.parametrize(
    ("motion", "data"),
    [
        (False, {}),
        (True, {}),
        (False, {"decode_short_side": 48}),
        (True, {"decode_short_side": 48}),
        (False, {"skip_nonref_frames": True}),
        (False, {"decode_short_side": 48, "skip_nonref_frames": True}),
    ],
)
def test_training_and_inference_see_the_same_pixels(
    helpers: ModuleType, video: Path, motion: bool, data: dict[str, Any]
) -> None:
    trained, _, inferred, _ = seen(helpers, video, motion, data)
    assert trained.shape == inferred.shape == (20, 9 if motion else 3, 32, 32)
    np.testing.assert_array_equal(trained, np.round(inferred * 255).astype(np.uint8))


def test_decoding_at_a_smaller_size_gives_other_pixels(helpers: ModuleType, video: Path) -> None:
    """Or the test above would say nothing of it."""
    full, _, _, _ = seen(helpers, video, False, {})
    small, _, _, _ = seen(helpers, video, False, {"decode_short_side": 48})
    difference = np.abs(full.astype(int) - small)
    assert difference.max() > 0
    assert difference.mean() < 8, "they still show the same"


def test_skipping_is_reported(
    helpers: ModuleType, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    # At 5 a second every sample would be a frame that others refer to.
    sampling = {"frame_sampling_rate": 4}
    _, exact, _, source = seen(helpers, video, False, sampling)
    assert "skipping" not in source
    assert not caplog.messages
    _, late, _, source = seen(helpers, video, False, {**sampling, "skip_nonref_frames": True})
    skipping = source["skipping"]
    assert skipping["num_frames"] > 40
    assert 0 < skipping["max_time_error_seconds"] <= 0.125, "half a sampling step"
    # What was wanted is the first frame at or after each target.
    assert 0 < np.max(late - exact) <= skipping["max_time_error_seconds"] + 1e-9
    messages = [text for text in caplog.messages if "frames were skipped" in text]
    assert len(messages) == 2, "once in training and once in inference"
    assert messages[0] == messages[1]
    assert messages[0] == (
        f"{video}: {skipping['num_frames']} frames were skipped; a sample is at most "
        f"{skipping['max_time_error_seconds']:.3f} s late"
    )


def test_targets_are_soft_in_training_alone(helpers: ModuleType, video: Path) -> None:
    plain = helpers.tiny_config().to_plain()
    plain["data"].update(cache_dir=None)
    plain["training"]["soft_border_seconds"] = 0.8
    config = parse_config(plain)
    model = VideoTriggerModel.from_config(config.model)
    event = AnnotatedEvent(label=config.model.class_labels()[0], start=1.1, end=3.1)
    annotation = VideoAnnotation(video=video.name, path=video, events=(event,))
    found = {}
    for training in (True, False):
        reader = InputsReader(config, model, torch.device("cpu"), training=training)
        found[training] = reader.read(annotation).targets[:, 0]
    assert set(found[False].tolist()) == {0, 1}
    assert len(set(found[True].tolist())) > 3
    np.testing.assert_array_equal(found[True] >= 0.5, found[False] == 1)
