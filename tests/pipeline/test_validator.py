"""`Validator`: the scores of the cascade, on every frame, while the model is being trained."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models import VideoTriggerModel
from models.freezing import set_frozen
from pipeline.cascade import Cascade
from pipeline.describers.template import TemplateDescriber
from pipeline.run_records import CascadeSettings
from pipeline.scorers.checkpoint import CheckpointScorer
from pipeline.validator import Validator
from utils.data.video_inputs import VideoInputs
from utils.errors import TrainingError
from utils.evaluation import frame_metrics
from utils.events.records import FrameScore
from utils.video.processor import VideoProcessor
from utils.video.sampler import FrameSampler
from utils.video.source import VideoSource

CPU = torch.device("cpu")


def inputs_of(
    helpers: ModuleType, video: Path, targets: NDArray[np.float32] | None = None
) -> VideoInputs:
    """The processed frames of ``video``, as training caches them."""
    frames, times = FrameSampler(helpers.SAMPLING_FPS).sample_frames(video)
    pixels = VideoProcessor(helpers.IMAGE_SIZE).process_uint8(np.stack(frames)).numpy()
    if targets is None:
        random = np.random.default_rng(0)
        targets = (random.random((len(times), 2)) < 0.4).astype(np.float32)
    return VideoInputs(
        video=video.name,
        inputs=pixels,
        copies=(),
        timestamps=np.asarray(times, np.float64),
        frame_indices=np.arange(len(times)),
        targets=targets,
        events=(),
        group=None,
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_scores_are_those_of_inference(
    helpers: ModuleType, video: Path, tmp_path: Path, batch_size: int, causal: bool
) -> None:
    path = helpers.write_checkpoint(tmp_path / "c.pt", video, causal=causal)
    scores: list[FrameScore] = []
    # Every frame is a candidate.
    settings = CascadeSettings(threshold=0.6, candidate_threshold=0.0)
    with VideoSource.open(video) as source:
        list(
            Cascade(CheckpointScorer.load(path), TemplateDescriber(), settings).stream(
                source, observe=scores.append
            )
        )
    inputs = inputs_of(helpers, video)
    model = helpers.tiny_model(video, causal=causal)
    validator = Validator([inputs], helpers.LABELS, batch_size=batch_size)
    scored = validator._score(model, 0, CPU)
    assert scored.trigger == pytest.approx(np.stack([s.trigger for s in scores]), abs=1e-5)
    temporal = np.stack([s.temporal for s in scores if s.temporal is not None])
    assert scored.temporal == pytest.approx(temporal, abs=1e-5)
    expected = frame_metrics(inputs.targets, temporal, helpers.LABELS)
    metrics = validator(model, CPU)
    assert metrics["frame_ap"] == pytest.approx(expected.average_precision, abs=1e-4)
    assert metrics["frame_auroc"] == pytest.approx(expected.auroc, abs=1e-4)
    for label in helpers.LABELS:
        per_class = expected.per_class[label].average_precision
        assert metrics[f"frame_ap/{label}"] == pytest.approx(per_class, abs=1e-4)


def test_a_perfect_model_scores_one(helpers: ModuleType, video: Path) -> None:
    model = helpers.tiny_model(video)
    inputs = inputs_of(helpers, video)
    scores = Validator([inputs], helpers.LABELS, batch_size=16)._score(model, 0, CPU)
    truth = (scores.temporal > np.median(scores.temporal, axis=0)).astype(np.float32)
    videos = [inputs_of(helpers, video, truth), inputs_of(helpers, video, truth)]
    metrics = Validator(videos, helpers.LABELS, batch_size=16)(model, CPU)
    assert metrics["frame_ap"] == metrics["frame_auroc"] == 1
    assert metrics["frame_ap_trigger_head"] < 1


def test_training_goes_on_as_before(helpers: ModuleType, video: Path) -> None:
    model: VideoTriggerModel = helpers.tiny_model(video)
    set_frozen(model, ["visual_backbone"])
    model.train()
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    Validator([inputs_of(helpers, video)], helpers.LABELS, batch_size=16)(model, CPU)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), state), "validation draws nothing"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_modes_come_back_after_an_error(helpers: ModuleType, video: Path) -> None:
    model: VideoTriggerModel = helpers.tiny_model(video).train()

    def fail(*arguments: Any) -> None:
        raise RuntimeError("out of memory")

    model.encode = fail  # type: ignore[method-assign,assignment]
    validator = Validator([inputs_of(helpers, video)], helpers.LABELS, batch_size=16)
    with pytest.raises(RuntimeError, match="out of memory"):
        validator(model, CPU)
    assert model.training


def test_undefined_is_nan(helpers: ModuleType, video: Path) -> None:
    inputs = inputs_of(helpers, video)
    targets = inputs.targets.copy()
    targets[:, 1] = 0
    model = helpers.tiny_model(video)
    some = Validator([inputs_of(helpers, video, targets)], helpers.LABELS, batch_size=16)
    metrics = some(model, CPU)
    assert math.isnan(metrics[f"frame_ap/{helpers.LABELS[1]}"])
    assert metrics["frame_ap"] == metrics[f"frame_ap/{helpers.LABELS[0]}"]
    none = inputs_of(helpers, video, np.zeros_like(targets))
    assert math.isnan(Validator([none], helpers.LABELS, batch_size=16)(model, CPU)["frame_ap"])


def test_scores_that_are_no_numbers(helpers: ModuleType, video: Path) -> None:
    model: VideoTriggerModel = helpers.tiny_model(video)
    inputs = inputs_of(helpers, video)
    validator = Validator([inputs], helpers.LABELS, batch_size=16)
    with torch.no_grad():
        next(model.trigger_detector.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError) as caught:
        validator(model, CPU)
    assert str(caught.value) == (
        f"validation: the scores of {video.name} at {inputs.timestamps[0]:.2f} s are not finite; "
        "the checkpoints so far are sound: try a lower training.learning_rate, or "
        "training.use_mixed_precision=false"
    )


def test_a_cache_entry_that_is_cut_off(helpers: ModuleType, video: Path, tmp_path: Path) -> None:
    """Who reads behind the end of a file in mapped memory is ended by the system."""
    path = tmp_path / "data.raw"
    inputs = inputs_of(helpers, video)
    inputs.inputs.tofile(path)
    mapped = np.memmap(path, np.uint8, "r", shape=inputs.inputs.shape)
    validator = Validator(
        [inputs, VideoInputs(**{**vars(inputs), "inputs": mapped})], helpers.LABELS, batch_size=16
    )
    model = helpers.tiny_model(video)
    validator(model, CPU)
    path.write_bytes(b"")
    with pytest.raises(TrainingError) as caught:
        validator(model, CPU)
    assert str(caught.value) == (
        f"{video.name}: its cache entry {path} was changed while training reads it; the "
        "checkpoints so far are sound: go on with --resume latest, which reads the video anew"
    )
