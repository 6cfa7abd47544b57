"""`evaluate`: how good the cascade is on annotated videos, as `inference.py` would run it.

Last step of the training road: checkpoint and annotations in, metrics out.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cascade import Cascade
from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation, frame_targets
from utils.errors import VideoError
from utils.evaluation import event_scores, frame_metrics
from utils.events.records import Event, FrameScore

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatedVideo:
    """One video's truth and what the cascade said.

    Attributes:
        video: As annotated.
        references: The truth.
        events: What the cascade published.
        targets: ``(T, K)``.
        trigger: ``(T, K)`` probabilities of the trigger head.
        temporal: ``(T, K)`` probabilities of the temporal encoder; 0 where it did not look.
        num_contextualized: Frames at which it looked.
        duration_seconds: Of the video.
    """

    video: str
    references: tuple[AnnotatedEvent, ...]
    events: tuple[Event, ...]
    targets: NDArray[np.float32]
    trigger: NDArray[np.float32]
    temporal: NDArray[np.float32]
    num_contextualized: int
    duration_seconds: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        metrics: Ready for JSON; `docs/metrics.md` says what each key means.
        failed: Videos that could not be used, with the reason.
    """

    metrics: Mapping[str, Any]
    failed: Mapping[str, str] = field(default_factory=dict)


def evaluate(
    cascade: Cascade,
    annotations: AnnotationSet,
    *,
    decoder: str,
    point_radius_seconds: float,
    tolerance_seconds: float,
    on_done: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Run the cascade over all videos and compare.

    Videos are watched whole, whatever ``max_frames`` says: what was never looked at would count as
    missed, or, with the truth cut to fit, as easy.

    Args:
        cascade: With the thresholds that are to be judged.
        annotations: The truth; labels that the model does not know are an error.
        decoder: Name in `utils.video.decoders.DECODERS`.
        point_radius_seconds: How far a point event reaches, for frame metrics.
        tolerance_seconds: How far start and end of an event may be off; see `event_scores`.
        on_done: Called with its name after each video.

    Raises:
        AnnotationError: A label is unknown to the model.
        VideoError: No video at all can be used.
    """
    annotations = annotations.with_labels(cascade.labels)
    cascade = Cascade(
        cascade.scorer,
        cascade.describer,
        dataclasses.replace(cascade.settings, max_frames=None),
    )
    videos: list[EvaluatedVideo] = []
    failed: dict[str, str] = {}
    first_error: VideoError | None = None
    for video in annotations.videos:
        try:
            videos.append(_run(cascade, video, decoder, point_radius_seconds))
        except VideoError as error:
            first_error = first_error or error
            failed[video.video] = error.reason
            _log.warning("not evaluated: %s", error)
        on_done(video.video)
    if not videos:
        assert first_error is not None, "an annotation set has at least one video"
        raise first_error
    return Evaluation(metrics=_metrics(cascade, videos, tolerance_seconds), failed=failed)


def _run(
    cascade: Cascade, video: VideoAnnotation, decoder: str, point_radius_seconds: float
) -> EvaluatedVideo:
    scores: list[FrameScore] = []
    result = cascade.run(video.path, decoder=decoder, observe=scores.append)
    timestamps = np.array([score.timestamp for score in scores], np.float64)
    return EvaluatedVideo(
        video=video.video,
        references=video.events,
        events=tuple(described.event for described in result.events),
        targets=frame_targets(
            video.events, cascade.labels, timestamps, point_radius_seconds=point_radius_seconds
        ),
        trigger=np.stack([score.trigger for score in scores]),
        temporal=np.stack([score.confidence for score in scores]),
        num_contextualized=sum(score.temporal is not None for score in scores),
        duration_seconds=result.totals.duration_seconds,
    )


def _metrics(
    cascade: Cascade, videos: list[EvaluatedVideo], tolerance_seconds: float
) -> dict[str, Any]:
    labels = cascade.labels
    targets = np.concatenate([video.targets for video in videos])
    temporal = frame_metrics(
        targets, np.concatenate([video.temporal for video in videos]), labels
    ).to_plain()
    trigger = frame_metrics(
        targets, np.concatenate([video.trigger for video in videos]), labels
    ).to_plain()
    events = event_scores(
        [(video.references, video.events) for video in videos],
        labels,
        tolerance_seconds=tolerance_seconds,
    ).to_plain()
    return {
        **temporal,
        "frame_ap_trigger_head": trigger["frame_ap"],
        "frame_auroc_trigger_head": trigger["frame_auroc"],
        **events,
        "num_videos": len(videos),
        "duration_seconds": sum(video.duration_seconds for video in videos),
        "contextualized_share": sum(video.num_contextualized for video in videos) / len(targets),
        "threshold": cascade.settings.threshold,
        "candidate_threshold": cascade.settings.candidate_threshold,
    }
