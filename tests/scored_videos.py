"""Helpers of the evaluation tests: scored videos without a video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.data.annotations import AnnotatedEvent
from utils.evaluation.evidence import Evidence, JudgedVideo, Judgement
from utils.evaluation.scored_video import EventRules, ScoredVideo
from utils.events.records import Event, FrameScore
from utils.events.window_builder import WindowBuilder

LABELS = ("a", "b")
PLAIN = EventRules(hysteresis_ratio=1.0, merge_gap_seconds=0.0)
"""An event is a run of frames at or above the threshold."""


def annotated(start: float, end: float | None = None, label: str = "a") -> AnnotatedEvent:
    """An interval, or a point."""
    return AnnotatedEvent(label=label, start=start, end=start if end is None else end)


def frames_of(
    scores: ArrayLike,
    timestamps: ArrayLike | None = None,
    *,
    is_seen: ArrayLike | None = None,
    trigger: ArrayLike | None = None,
) -> list[FrameScore]:
    """Of ``(T,)`` or ``(T, K)`` temporal scores; by default a frame a second, all looked at."""
    temporal = np.asarray(scores, np.float32)
    temporal = temporal[:, None] if temporal.ndim == 1 else temporal
    times = np.arange(len(temporal)) if timestamps is None else np.asarray(timestamps)
    looked = np.ones(len(temporal), bool) if is_seen is None else np.asarray(is_seen)
    first = temporal if trigger is None else np.asarray(trigger, np.float32).reshape(temporal.shape)
    return [
        FrameScore(
            sample_index=index,
            frame_index=4 * index,
            timestamp=float(times[index]),
            trigger=first[index],
            temporal=temporal[index] if looked[index] else None,
        )
        for index in range(len(temporal))
    ]


def scored(
    scores: ArrayLike,
    references: Sequence[AnnotatedEvent] = (),
    *,
    timestamps: ArrayLike | None = None,
    is_seen: ArrayLike | None = None,
    trigger: ArrayLike | None = None,
    name: str = "v.mp4",
    cluster: str | None = None,
    end_seconds: float | None = None,
    max_gap_seconds: float | None = None,
) -> ScoredVideo:
    """A scored video; see `frames_of`."""
    frames = frames_of(scores, timestamps, is_seen=is_seen, trigger=trigger)
    return ScoredVideo.of(
        frames,
        name=name,
        labels=LABELS[: len(frames[0].trigger)],
        references=references,
        cluster=cluster,
        end_seconds=end_seconds,
        max_gap_seconds=max_gap_seconds,
    )


def built(
    frames: Sequence[FrameScore],
    threshold: float,
    rules: EventRules,
    *,
    end_seconds: float | None = None,
    max_gap_seconds: float | None = None,
) -> list[Event]:
    """The events of `WindowBuilder`."""
    builder = WindowBuilder(
        LABELS[: len(frames[0].trigger)],
        threshold=threshold,
        hysteresis_ratio=rules.hysteresis_ratio,
        min_duration_seconds=rules.min_duration_seconds,
        merge_gap_seconds=rules.merge_gap_seconds,
        cooldown_seconds=rules.cooldown_seconds,
        max_gap_seconds=max_gap_seconds,
    )
    return [*builder.extend(frames), *builder.flush(end_seconds)]


def judged(video: ScoredVideo, threshold: float, rules: EventRules = PLAIN) -> JudgedVideo:
    """With the events that it has at a threshold."""
    events = [
        Event(
            label=label,
            start=float(start),
            end=float(end),
            timestamp=float(video.timestamps[peak]),
            frame_index=int(video.frame_indices[peak]),
            confidence=float(video.temporal[peak, k]),
        )
        for k, label in enumerate(video.labels)
        for start, end, peak in _rows(video, label, threshold, rules)
    ]
    return JudgedVideo(scored=video, events=tuple(events))


def evidence_of(
    *videos: ScoredVideo, threshold: float = 0.5, rules: EventRules = PLAIN
) -> Evidence:
    """Of videos judged at one threshold."""
    return Evidence(
        [judged(video, threshold, rules) for video in videos],
        Judgement(thresholds=dict.fromkeys(videos[0].labels, threshold), rules=rules),
    )


def _rows(
    video: ScoredVideo, label: str, threshold: float, rules: EventRules
) -> list[tuple[float, float, int]]:
    found = video.stretches(label, threshold, rules)
    peaks: NDArray[np.int64] = found.peaks
    return list(zip(found.starts.tolist(), found.ends.tolist(), peaks.tolist(), strict=True))
