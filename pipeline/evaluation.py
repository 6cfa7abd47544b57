"""`evaluate`: how good the cascade is on annotated videos, as `inference.py` would run it.

Last step of the training road: checkpoint and annotations in, metrics out. Saved scores will do in
the place of the checkpoint: then no video is decoded a second time.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.batch import Run
from pipeline.cascade import Cascade
from pipeline.describers.template import TemplateDescriber
from pipeline.replay import Replay
from pipeline.run_records import CascadeSettings, ScoreObserver
from pipeline.score_file import SavedScores
from utils.data.annotations import AnnotationSet, VideoAnnotation
from utils.errors import UsageError, VideoError
from utils.evaluation.bootstrap import DEFAULT_NUM_DRAWS, cluster_draws
from utils.evaluation.evidence import Evidence, JudgedVideo, Judgement
from utils.evaluation.figure import selection
from utils.evaluation.intervals import DEFAULT_CONFIDENCE, wilson_interval
from utils.evaluation.metrics import none_if_nan
from utils.evaluation.scorecard import Scorecard
from utils.evaluation.scored_video import EventRules, ScoredVideo
from utils.evaluation.slices import check_slice_fields, slices_of_events, slices_of_videos
from utils.events.records import FrameScore
from utils.thresholds import by_label, per_class
from utils.video.source import VideoSource

_log = logging.getLogger(__name__)

ResampleUnit = Literal["group", "video"]
RunOpener = Callable[[VideoAnnotation, ScoreObserver], AbstractContextManager[Run]]
"""Gives the run over one annotated video."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is asked of an evaluation.

    Attributes:
        point_radius_seconds: How far a point event reaches, wherever an interval is needed.
        tolerance_seconds: How far annotated borders may be off; see `is_match`, `match_alarms`.
        num_draws: Of the bootstrap; 0: no bootstrapped intervals.
        resample: What the bootstrap draws: whole groups, or single videos.
        slice_by: Fields of the annotations by which the videos, or the events, are parted.
    """

    point_radius_seconds: float = 0.5
    tolerance_seconds: float = 0.5
    num_draws: int = DEFAULT_NUM_DRAWS
    resample: ResampleUnit = "group"
    slice_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        metrics: Ready for JSON; `docs/metrics.md` says what each key means.
        failed: Videos that could not be used, with the reason.
        videos: Those that were judged, as annotated.
        evidence: Of these, in the same order.
        settings: Of the cascade.
    """

    metrics: Mapping[str, Any]
    failed: Mapping[str, str] = field(default_factory=dict)
    videos: tuple[VideoAnnotation, ...]
    evidence: Evidence
    settings: CascadeSettings


def evaluate(
    cascade: Cascade,
    annotations: AnnotationSet,
    *,
    decoder: str,
    settings: EvaluationSettings | None = None,
    on_done: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Run the cascade over all videos and compare.

    Videos are watched whole, whatever ``max_frames`` says: what was never looked at would count as
    missed, or, with the truth cut to fit, as easy. Nobody words the events.

    Args:
        cascade: With the thresholds that are to be judged.
        annotations: The truth; labels that the model does not know are an error.
        decoder: Name in `utils.video.decoders.DECODERS`.
        settings: What is asked; None: the defaults.
        on_done: Called with its name after each video.

    Raises:
        AnnotationError: A label is unknown to the model.
        UsageError: No video and no event has a field to slice by.
        VideoError: No video at all can be used.
    """
    run_settings = dataclasses.replace(cascade.settings, max_frames=None, thumbnail_size=None)
    whole = Cascade(cascade.scorer, TemplateDescriber(), run_settings)

    @contextmanager
    def open_run(video: VideoAnnotation, observe: ScoreObserver) -> Iterator[Run]:
        with VideoSource.open(video.path, decoder=decoder) as source:
            yield whole.stream(source, observe=observe)

    return _evaluate(
        open_run,
        annotations.with_labels(cascade.labels),
        run_settings,
        settings or EvaluationSettings(),
        on_done,
    )


def evaluate_scores(
    paths: Sequence[Path],
    annotations: AnnotationSet,
    run_settings: CascadeSettings,
    *,
    settings: EvaluationSettings | None = None,
    on_done: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """As `evaluate`, of saved scores.

    Args:
        paths: Score files of one model. Each belongs to the annotated video of the same path, else
            to the one of the same file name; files of other videos are passed over.
        annotations: The truth.
        run_settings: How events are made of scores.
        settings: What is asked; None: the defaults.
        on_done: Called with its name after each video.

    Raises:
        AnnotationError: A label is unknown to the model.
        UsageError: A score file cannot be read, is of another model, is one of two for a video, or
            lacks scores that the settings ask for; none belongs to a video; or as `evaluate`.
    """
    first = SavedScores.read(paths[0])
    annotations = annotations.with_labels(first.labels)
    files = score_files_of_videos(paths, annotations, first)

    @contextmanager
    def open_run(video: VideoAnnotation, observe: ScoreObserver) -> Iterator[Run]:
        if video.video not in files:
            raise VideoError(video.path, "no score file of it was given")
        scores = SavedScores.read(files[video.video])
        yield Replay(scores, TemplateDescriber(), run_settings, observe=observe)

    return _evaluate(open_run, annotations, run_settings, settings or EvaluationSettings(), on_done)


def score_files_of_videos(
    paths: Sequence[Path], annotations: AnnotationSet, first: SavedScores
) -> dict[str, Path]:
    """Score file by the name of its video.

    Args:
        paths: Score files of one model. Each belongs to the annotated video of the same path, else
            to the one of the same file name; files of other videos are passed over.
        annotations: The truth.
        first: Of the first of ``paths``.

    Raises:
        UsageError: A file cannot be read, is of another model, or is one of two for a video; or
            none belongs to a video.
    """
    by_path = {video.path.resolve(): video.video for video in annotations.videos}
    by_name: dict[str, list[str]] = {}
    for video in annotations.videos:
        by_name.setdefault(video.path.name, []).append(video.video)
    files: dict[str, Path] = {}
    for path in paths:
        scores = SavedScores.read(path)
        if scores.metadata["model"] != first.metadata["model"]:
            raise UsageError(
                f"{path}: scored by another model than {first.path}; take each by itself"
            )
        scored = Path(scores.video_path)
        found = by_path.get(scored.resolve())
        if found is None:
            # Scored elsewhere: a name that is there once is as good.
            names = by_name.get(scored.name, [])
            found = names[0] if len(names) == 1 else None
        if found is None:
            _log.warning("passed over: %s: %s is not annotated", path, scored)
        elif found in files:
            raise UsageError(f"{path}: {files[found]} holds scores of {found}, too; leave one out")
        else:
            files[found] = path
    if not files:
        raise UsageError(
            f"--scores: none of {len(paths)} files is of a video in "
            f"{annotations.path or 'the annotations'}; {paths[0]} is of {first.video_path}"
        )
    return files


def _evaluate(
    open_run: RunOpener,
    annotations: AnnotationSet,
    run_settings: CascadeSettings,
    settings: EvaluationSettings,
    on_done: Callable[[str], None],
) -> Evaluation:
    check_slice_fields(annotations.videos, settings.slice_by)
    judged: list[JudgedVideo] = []
    videos: list[VideoAnnotation] = []
    failed: dict[str, str] = {}
    first_error: VideoError | None = None
    for video in annotations.videos:
        try:
            judged.append(_judge(open_run, video, annotations.labels, settings))
            videos.append(video)
        except VideoError as error:
            first_error = first_error or error
            failed[video.video] = error.reason
            _log.warning("not evaluated: %s", error)
        on_done(video.video)
    if not judged:
        assert first_error is not None, "an annotation set has at least one video"
        raise first_error
    thresholds = per_class(run_settings.threshold, annotations.labels)
    events = run_settings.events
    evidence = Evidence(
        judged,
        Judgement(
            thresholds=dict(zip(annotations.labels, thresholds, strict=True)),
            rules=EventRules(
                hysteresis_ratio=events.hysteresis_ratio,
                min_duration_seconds=events.min_duration_seconds,
                merge_gap_seconds=events.merge_gap_seconds,
                cooldown_seconds=events.cooldown_seconds,
            ),
            tolerance_seconds=settings.tolerance_seconds,
            point_radius_seconds=settings.point_radius_seconds,
        ),
    )
    return Evaluation(
        metrics={
            **metrics_of(evidence, videos, settings),
            "threshold": by_label(run_settings.threshold, annotations.labels),
            "candidate_threshold": run_settings.candidate_threshold,
        },
        failed=failed,
        videos=tuple(videos),
        evidence=evidence,
        settings=run_settings,
    )


def _judge(
    open_run: RunOpener,
    video: VideoAnnotation,
    labels: tuple[str, ...],
    settings: EvaluationSettings,
) -> JudgedVideo:
    scores: list[FrameScore] = []
    # Closed before the source is, also when interrupted: a thread reads from it.
    with open_run(video, scores.append) as run, closing(iter(run)) as stream:
        events = [described.event for described in stream]
    if not scores:
        raise VideoError(video.path, "its score file holds no frame")
    return JudgedVideo(
        scored=ScoredVideo.of(
            scores,
            name=video.video,
            labels=labels,
            references=video.events,
            cluster=video.group if settings.resample == "group" else None,
            end_seconds=run.totals.source["duration_seconds"],
            max_gap_seconds=run.max_gap_seconds,
        ),
        events=tuple(sorted(events, key=lambda event: (event.start, event.label))),
    )


def metrics_of(
    evidence: Evidence, videos: Sequence[VideoAnnotation], settings: EvaluationSettings
) -> dict[str, Any]:
    """All metrics with their intervals, and those of the slices, ready for JSON.

    Args:
        evidence: What was judged.
        videos: As annotated, in the same order.
        settings: What is asked; its tolerances are those that ``evidence`` was made with.
    """
    clusters = [video.scored.cluster for video in evidence.videos]
    draws = cluster_draws(clusters, num_draws=settings.num_draws) if settings.num_draws else None
    card = Scorecard(evidence)
    return {
        **card.to_plain(draws),
        "bootstrap": {
            "unit": settings.resample,
            "num_units": len(set(clusters)),
            "num_draws": 0 if draws is None else len(draws),
            "confidence": DEFAULT_CONFIDENCE,
        },
        "slices": {name: _slice(card, videos, name) for name in settings.slice_by},
    }


def _slice(card: Scorecard, videos: Sequence[VideoAnnotation], name: str) -> dict[str, Any]:
    """The figures of the parts that a field makes of the videos, and of the events."""
    parts: dict[str, Any] = {}
    by_video = slices_of_videos(videos, name)
    if by_video is not None:
        parts["videos"] = {
            value: {
                "num_videos": len(positions),
                "duration_seconds": sum(
                    card.evidence.videos[position].scored.duration_seconds for position in positions
                ),
                **card.values(selection(positions, len(videos))),
            }
            for value, positions in by_video.items()
        }
    found = [
        (event, delay)
        for video, alarms in zip(videos, card.evidence.alarms, strict=True)
        for label in card.evidence.labels
        for event, delay in zip(
            [event for event in video.events if event.label == label],
            alarms[label].delays.tolist(),
            strict=True,
        )
    ]
    by_event = slices_of_events([event for event, _ in found], name)
    if by_event is not None:
        parts["events"] = {
            value: _event_slice(np.array([found[position][1] for position in positions]))
            for value, positions in by_event.items()
        }
    return parts


def _event_slice(delays: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """What can be said of some of the events: no alarm belongs to them alone but in a hit."""
    is_detected = ~np.isnan(delays)
    num_detected = int(np.count_nonzero(is_detected))
    return {
        "num_references": len(delays),
        "num_detected": num_detected,
        "alarm_recall": num_detected / len(delays),
        "alarm_recall_interval": list(wilson_interval(num_detected, len(delays))),
        "median_seconds_to_detect": none_if_nan(
            float(np.median(delays[is_detected])) if num_detected else float("nan")
        ),
    }
