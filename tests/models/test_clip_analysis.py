"""`infer_triggered_analysis`: the same as the cascade, and clear about bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline_files
from models import VideoTriggerModel
from pipeline.cascade import Cascade
from pipeline.describers.template import TemplateDescriber
from pipeline.run_records import CascadeSettings
from pipeline.scorers.checkpoint import CheckpointScorer
from utils import FrameSampler, VideoProcessor
from utils.checkpoint import load_checkpoint
from utils.config.schema import EventsConfig
from utils.errors import ConfigError, UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = pipeline_files.write_video(tmp_path_factory.mktemp("videos") / "clip.mp4")
    return path


@pytest.fixture(scope="module")
def model(video: Path) -> VideoTriggerModel:
    tiny: VideoTriggerModel = pipeline_files.tiny_model(video)
    return tiny


@pytest.mark.parametrize("is_end_known", [False, True])
@pytest.mark.parametrize("rules", [None, {"merge_gap_seconds": 1.2, "context_seconds": 1.0}])
@pytest.mark.parametrize(("causal", "batch_size"), [(False, 7), (True, 1), (True, 100)])
def test_same_as_the_cascade(
    video: Path,
    tmp_path: Path,
    causal: bool,
    batch_size: int,
    rules: dict[str, float] | None,
    is_end_known: bool,
) -> None:
    trained = pipeline_files.tiny_config(causal=causal).to_plain()
    trained["events"] |= rules or {}
    path = pipeline_files.write_checkpoint(tmp_path / "c.pt", video, causal=causal, config=trained)
    result = Cascade(
        CheckpointScorer.load(path),
        TemplateDescriber(),
        CascadeSettings(
            threshold=0.4, candidate_threshold=0.5, events=EventsConfig(**trained["events"])
        ),
    ).run(video)
    assert len(result.events) >= 2

    # As a user of the Python API types it.
    frames, timestamps = FrameSampler(fps=pipeline_files.SAMPLING_FPS).sample_frames(str(video))
    tensors = VideoProcessor(pipeline_files.IMAGE_SIZE).process_frames(frames)
    checkpoint = torch.load(path)
    model = VideoTriggerModel.from_config(checkpoint["config"]["model"])
    model.load_state_dict(checkpoint["model_state_dict"])
    model.eval()
    analysis = model.infer_triggered_analysis(
        tensors,
        timestamps=torch.tensor(timestamps),
        trigger_threshold=0.4,
        events=checkpoint["config"]["events"] if rules else None,
        duration_seconds=10.0 if is_end_known else None,
        batch_size=batch_size,
    )

    assert analysis["num_frames_analyzed"] == result.totals.num_frames
    assert analysis["num_candidate_frames"] == result.totals.num_candidates
    assert analysis["num_triggers_detected"] == len(result.events)
    for trigger, described in zip(analysis["triggers"], result.events, strict=True):
        event = described.event
        assert trigger["label"] == event.label
        assert trigger["start"] == round(event.start, 6)
        assert trigger["timestamp"] == round(event.timestamp, 6)
        # Every other source frame was sampled.
        assert trigger["sample_index"] == trigger["frame_index"] == event.frame_index / 2
        assert trigger["trigger_confidence"] == pytest.approx(event.confidence, abs=1e-5)
        assert trigger["trigger_confidence"] == round(trigger["trigger_confidence"], 6)
        if is_end_known or event.end < 9.9:
            assert trigger["end"] == round(event.end, 6)
            assert trigger["analysis"] == described.analysis
        else:  # Half a step after the last frame.
            assert trigger["end"] == 9.9
    if is_end_known:
        assert analysis["video_summary"] == result.summary
    else:
        start = f"{len(result.events)} events in 0:09.9: "
        assert analysis["video_summary"].startswith(start)


def test_the_operating_point_is_the_models(video: Path, tmp_path: Path) -> None:
    """Thresholds and temperatures of each class, as calibration writes them."""
    labels = pipeline_files.LABELS
    trained = pipeline_files.tiny_config().to_plain()
    trained["model"]["trigger_detector"] |= {
        "threshold": dict(zip(labels, (0.3, 0.55), strict=True)),
        "temperature": dict(zip(labels, (0.5, 3.0), strict=True)),
    }
    path = pipeline_files.write_checkpoint(tmp_path / "c.pt", video, config=trained)
    scorer = CheckpointScorer.load(path)
    assert scorer.threshold == (0.3, 0.55)
    settings = CascadeSettings(threshold=scorer.threshold, candidate_threshold=0.5)
    result = Cascade(scorer, TemplateDescriber(), settings).run(video)
    frames, times = FrameSampler(fps=pipeline_files.SAMPLING_FPS).sample_frames(str(video))
    tensors = VideoProcessor(pipeline_files.IMAGE_SIZE).process_frames(frames)
    model = VideoTriggerModel.from_config(trained["model"])
    model.load_state_dict(load_checkpoint(path)["model_state_dict"])

    def events(**options: Any) -> list[tuple[str, float, float]]:
        analysis = model.infer_triggered_analysis(
            tensors, timestamps=torch.tensor(times), duration_seconds=10.0, **options
        )
        return [
            (found["label"], found["start"], round(found["trigger_confidence"], 4))
            for found in analysis["triggers"]
        ]

    assert {label for label, _, _ in events()} == set(labels)
    assert events() == [
        (found.event.label, round(found.event.start, 6), round(found.event.confidence, 4))
        for found in result.events
    ]
    # One number is for all classes; a class that is warm is seldom so sure.
    assert {label for label, _, _ in events(trigger_threshold=0.8)} == {labels[0]}


def test_rules_change_the_events(model: VideoTriggerModel) -> None:
    clip, threshold = torch.rand(30, 3, 32, 32), 0.05
    default = model.infer_triggered_analysis(clip, trigger_threshold=threshold)
    assert default["num_triggers_detected"]
    for rules in ({"min_duration_seconds": 99}, EventsConfig(min_duration_seconds=99)):
        none = model.infer_triggered_analysis(clip, trigger_threshold=threshold, events=rules)
        assert none["num_triggers_detected"] == 0
    with pytest.raises(ConfigError, match=r"unknown key 'cooldown' in 'events'"):
        model.infer_triggered_analysis(clip, events={"cooldown": 3})


def test_default_threshold_and_times(model: VideoTriggerModel) -> None:
    clip = torch.rand(12, 3, 32, 32)
    analysis = model.infer_triggered_analysis(clip)
    explicit = model.infer_triggered_analysis(
        clip, timestamps=torch.arange(12) / 3, trigger_threshold=0.6
    )
    assert analysis["num_frames_analyzed"] == 12
    assert analysis["num_triggers_detected"] == explicit["num_triggers_detected"]
    assert analysis["video_summary"] == explicit["video_summary"]


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_is_left_as_it_was(video: Path, training: bool) -> None:
    model = pipeline_files.tiny_model(video).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.infer_triggered_analysis(torch.rand(5, 3, 32, 32))
    assert model.training is training
    # Batch-norm statistics included.
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


CLIP = torch.zeros(4, 3, 32, 32)


@pytest.mark.parametrize(
    ("frames", "arguments", "message"),
    [
        (CLIP[None], {}, r"frames must be one clip, \(T, 3, H, W\), .* got \(1, 4, 3, 32, 32\)"),
        (torch.zeros(4, 9, 32, 32), {}, r"got \(4, 9, 32, 32\)"),
        (CLIP[:0], {}, r"got \(0, 3, 32, 32\)"),
        (CLIP.to(torch.uint8), {}, r"frames must be floats in \[0, 1\], got torch\.uint8"),
        (CLIP, {"timestamps": torch.zeros(3)}, r"timestamps must be \(4,\), .* got \(3,\)"),
        (CLIP, {"timestamps": torch.tensor([0.0, 1, 1, 2])}, "that rise from frame to frame"),
        (CLIP, {"timestamps": torch.tensor([-1.0, 0, 1, 2])}, "seconds from 0 on"),
        (CLIP, {"timestamps": torch.tensor([0.0, 1, 2, torch.nan])}, "seconds from 0 on"),
        (CLIP, {"trigger_threshold": 0}, "trigger_threshold must be above 0 and at most 1, got 0"),
        (CLIP, {"duration_seconds": -1.0}, "duration_seconds must be seconds from 0 on, got -1.0"),
        (CLIP, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_input(
    model: VideoTriggerModel, frames: torch.Tensor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model.infer_triggered_analysis(frames, **arguments)


def test_motion_model_says_how_to_sample(video: Path, tmp_path: Path) -> None:
    path = pipeline_files.write_checkpoint(tmp_path / "c.pt", video, motion=True)
    model = VideoTriggerModel.from_config(load_checkpoint(path)["config"]["model"])
    with pytest.raises(UsageError, match=r"neighbor_offsets_seconds=\(0\.08,\)"):
        model.infer_triggered_analysis(CLIP)
