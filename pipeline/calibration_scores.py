"""Scores of annotated videos for calibration: from the cascade without a gate, or from files.

Before `pipeline.calibration`: both ways give a `ScoredVideo` for each annotated video.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cascade import Cascade
from pipeline.evaluation import score_files_of_videos
from pipeline.score_file import SavedScores
from utils.data.annotations import AnnotationSet, VideoAnnotation
from utils.errors import UsageError, VideoError
from utils.evaluation.scored_video import ScoredVideo
from utils.events.records import FrameScore
from utils.video.source import VideoSource

_log = logging.getLogger(__name__)
_NUM_NAMED = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationScores:
    """What calibration looks at.

    Attributes:
        videos: Truth and scores.
        temperatures: By label, those that the scores were made with.
        failed: Videos that could not be used, with the reason.
        least_candidate_threshold: Below it nothing was scored.
    """

    videos: tuple[ScoredVideo, ...]
    temperatures: Mapping[str, float]
    failed: Mapping[str, str] = field(default_factory=dict)
    least_candidate_threshold: float = 0.0


def score_videos(
    cascade: Cascade,
    annotations: AnnotationSet,
    *,
    temperatures: Mapping[str, float],
    decoder: str,
    on_done: Callable[[str], None] = lambda name: None,
) -> CalibrationScores:
    """Score every frame of every annotated video.

    Args:
        cascade: With a candidate threshold of 0, so that the temporal encoder sees all.
        annotations: The truth.
        temperatures: By label, those of the model.
        decoder: Name in `utils.video.decoders.DECODERS`.
        on_done: Called with its name after each video.

    Raises:
        AnnotationError: A label is unknown to the model.
        VideoError: No video at all can be used.
    """
    annotations = annotations.with_labels(cascade.labels)
    videos: list[ScoredVideo] = []
    failed: dict[str, str] = {}
    first_error: VideoError | None = None
    for video in annotations.videos:
        try:
            videos.append(_score(cascade, video, decoder))
        except VideoError as error:
            first_error = first_error or error
            failed[video.video] = error.reason
            _log.warning("left out: %s", error)
        on_done(video.video)
    if not videos:
        assert first_error is not None, "an annotation set has at least one video"
        raise first_error
    return CalibrationScores(videos=tuple(videos), temperatures=temperatures, failed=failed)


def _score(cascade: Cascade, video: VideoAnnotation, decoder: str) -> ScoredVideo:
    scores: list[FrameScore] = []
    with VideoSource.open(video.path, decoder=decoder) as source:
        run = cascade.stream(source, observe=scores.append)
        # Closed before the source is, also when interrupted: a thread reads from it.
        with closing(iter(run)) as stream:
            for _ in stream:
                pass
        end_seconds = source.info.duration_seconds
    return _scored(video, scores, cascade.labels, end_seconds, run.max_gap_seconds)


def read_scores(
    paths: Sequence[Path],
    annotations: AnnotationSet,
    labels: Sequence[str],
    *,
    identities: Mapping[str, Mapping[str, float]],
    context_seconds: float,
) -> CalibrationScores:
    """Saved scores of every annotated video.

    Args:
        paths: Files of ``--save-scores``; see `score_files_of_videos`.
        annotations: The truth.
        labels: K class names of the model.
        identities: Temperatures by label of each checkpoint with the model's weights, by sha256.
        context_seconds: As the cascade will have it.

    Raises:
        AnnotationError: A label is unknown to the model.
        UsageError: A file cannot be read or is of another model, its candidates had less context,
            or a video has no scores.
    """
    annotations = annotations.with_labels(labels)
    first = SavedScores.read(paths[0])
    sha256 = first.metadata["model"].get("sha256")
    if sha256 not in identities:
        raise UsageError(
            f"{first.path}: scored by another model ({first.metadata['model'].get('checkpoint')}) "
            "than the one that is to be calibrated; score the videos with that one"
        )
    files = score_files_of_videos(paths, annotations, first)
    missing = [video.video for video in annotations.videos if video.video not in files]
    if missing:
        more = f" and {len(missing) - _NUM_NAMED} more" if len(missing) > _NUM_NAMED else ""
        raise UsageError(
            f"--scores: none for {', '.join(missing[:_NUM_NAMED])}{more}; score them with "
            "inference.py --save-scores --candidate-threshold 0, or leave --scores out"
        )
    videos: list[ScoredVideo] = []
    least = 0.0
    for video in annotations.videos:
        scores = SavedScores.read(files[video.video])
        _check_context(scores, context_seconds)
        least = max(least, scores.candidate_threshold)
        videos.append(
            _scored(
                video,
                list(scores.frames()),
                labels,
                scores.source_duration_seconds,
                scores.max_gap_seconds,
            )
        )
    return CalibrationScores(
        videos=tuple(videos),
        temperatures=identities[sha256],
        least_candidate_threshold=least,
    )


def _check_context(scores: SavedScores, context_seconds: float) -> None:
    stored = float(scores.metadata["context_seconds"])
    if scores.candidate_threshold > 0 and stored < context_seconds:
        raise UsageError(
            f"{scores.path}: saved with context_seconds {stored:g}, and calibration is to have "
            f"{context_seconds:g}; save the scores anew with --candidate-threshold 0"
        )


def _scored(
    video: VideoAnnotation,
    scores: Sequence[FrameScore],
    labels: Sequence[str],
    end_seconds: float | None,
    max_gap_seconds: float,
) -> ScoredVideo:
    return ScoredVideo.of(
        scores,
        name=video.video,
        labels=labels,
        references=video.events,
        cluster=video.group,
        end_seconds=end_seconds,
        max_gap_seconds=max_gap_seconds,
    )
