"""`analyse_clip`: the cascade's stages over one short clip in memory, for the Python API.

The same `ScoreStream` and `WindowBuilder` as `pipeline.cascade`: with the same rules, a clip gives
what a file with these frames gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.numpy_doors import NumpyDoors
from models.score_stream import ScoreStream
from utils.config import parse_config
from utils.config.schema import EventsConfig
from utils.errors import UsageError
from utils.events.frame_extent import FrameExtents
from utils.events.records import PUBLISHED_DECIMALS, Event
from utils.events.window_builder import WindowBuilder
from utils.events.wording import event_sentence, summary_sentence
from utils.thresholds import in_order

if TYPE_CHECKING:
    from models.video_trigger_model import VideoTriggerModel

DEFAULT_STEP_SECONDS = 1 / 3
"""Between frames that come without timestamps: the default of ``data.frame_sampling_rate``."""


def analyse_clip(
    model: VideoTriggerModel,
    frames: Tensor,
    *,
    timestamps: Tensor | None = None,
    trigger_threshold: float | None = None,
    events: Mapping[str, Any] | EventsConfig | None = None,
    duration_seconds: float | None = None,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Events of a clip; see `VideoTriggerModel.infer_triggered_analysis`, which is this function.

    The model is put into evaluation mode for the call and left as it was. Dropouts between frames
    are not looked for: a clip is taken to be whole.

    Raises:
        ConfigError: ``events`` has an unknown key or a bad value.
        UsageError: Shapes do not fit, times do not rise, the threshold is not in (0, 1], or the
            duration is no time.
    """
    times = _check(model, frames, timestamps, batch_size)
    if duration_seconds is not None and not 0 <= duration_seconds < math.inf:
        raise UsageError(f"duration_seconds must be seconds from 0 on, got {duration_seconds}")
    detector = model.config.trigger_detector
    threshold = in_order(detector.threshold, model.labels)
    if trigger_threshold is not None:
        if not 0 < trigger_threshold <= 1:
            raise UsageError(
                f"trigger_threshold must be above 0 and at most 1, got {trigger_threshold}"
            )
        threshold = trigger_threshold
    rules = _rules(events)
    stream = ScoreStream(
        NumpyDoors(model),
        candidate_threshold=detector.candidate_threshold,
        context_seconds=rules.context_seconds,
    )
    builder = WindowBuilder(
        model.labels,
        threshold=threshold,
        hysteresis_ratio=rules.hysteresis_ratio,
        min_duration_seconds=rules.min_duration_seconds,
        merge_gap_seconds=rules.merge_gap_seconds,
        cooldown_seconds=rules.cooldown_seconds,
    )
    found: list[Event] = []
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(times), batch_size):
            end = min(start + batch_size, len(times))
            pixels = frames[start:end].detach().float().cpu().numpy()
            update = stream.push(pixels, times[start:end].tolist(), range(start, end))
            found += builder.extend(update.scores)
        found += builder.extend(stream.flush(duration_seconds).scores)
    finally:
        model.train(was_training)
    found += builder.flush(duration_seconds)
    return _report(model, times, stream, found, duration_seconds)


def _rules(events: Mapping[str, Any] | EventsConfig | None) -> EventsConfig:
    if isinstance(events, EventsConfig):
        return events
    return parse_config({} if events is None else {"events": dict(events)}).events


def _check(
    model: VideoTriggerModel, frames: Tensor, timestamps: Tensor | None, batch_size: int
) -> NDArray[np.float64]:
    """The frames' times, after everything was found to fit."""
    channels = model.visual_encoder.num_input_channels
    if frames.dim() != 4 or frames.shape[1] != channels or 0 in frames.shape:
        motion = model.config.visual_encoder.motion
        remedy = (
            "; this model looks at motion: sample with FrameSampler(..., "
            f"neighbor_offsets_seconds=({motion.offset_seconds:g},))"
            if motion.enabled
            else ""
        )
        raise UsageError(
            f"frames must be one clip, (T, {channels}, H, W), as VideoProcessor.process_frames "
            f"gives it; got {tuple(frames.shape)}{remedy}"
        )
    if not frames.is_floating_point():
        raise UsageError(f"frames must be floats in [0, 1], got {frames.dtype}")
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {batch_size}")
    times: NDArray[np.float64]
    if timestamps is None:
        times = np.arange(len(frames), dtype=np.float64) * np.float64(DEFAULT_STEP_SECONDS)
        return times
    if timestamps.shape != (len(frames),):
        raise UsageError(
            f"timestamps must be ({len(frames)},), one for each frame; "
            f"got {tuple(timestamps.shape)}"
        )
    times = timestamps.detach().double().cpu().numpy()
    if not np.isfinite(times).all() or times[0] < 0 or not (np.diff(times) > 0).all():
        raise UsageError("timestamps must be seconds from 0 on that rise from frame to frame")
    return times


def _report(
    model: VideoTriggerModel,
    times: NDArray[np.float64],
    stream: ScoreStream,
    events: list[Event],
    duration_seconds: float | None,
) -> dict[str, Any]:
    extents = FrameExtents()
    for time in times.tolist():
        extents.push(time)
    duration = extents.finish(duration_seconds)
    assert duration is not None
    triggers = [
        {
            "timestamp": round(event.timestamp, PUBLISHED_DECIMALS),
            "frame_index": event.frame_index,
            "sample_index": event.frame_index,
            "trigger_confidence": round(event.confidence, PUBLISHED_DECIMALS),
            "analysis": event_sentence(event, others=events[:index]),
            "start": round(event.start, PUBLISHED_DECIMALS),
            "end": round(event.end, PUBLISHED_DECIMALS),
            "label": event.label,
        }
        for index, event in enumerate(events)
    ]
    return {
        "num_frames_analyzed": stream.num_frames,
        "num_candidate_frames": stream.num_candidates,
        "num_triggers_detected": len(triggers),
        "triggers": sorted(triggers, key=lambda trigger: (trigger["start"], trigger["label"])),
        "video_summary": summary_sentence(events, duration_seconds=duration, labels=model.labels),
    }
