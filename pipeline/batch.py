"""`analyse`: one video or many through a run, into one report.

Above the cascade, below the command: it keeps what the report needs of each video, writes pictures
and scores as they come, and lets one bad file of many fail alone.
"""

from __future__ import annotations

import abc
import dataclasses
import logging
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pipeline.cascade import Cascade
from pipeline.describers.base import Describer
from pipeline.event_stage import summarize_video
from pipeline.inputs import Inputs
from pipeline.replay import Replay
from pipeline.report import (
    FORMAT_VERSION,
    OutputFiles,
    VideoFiles,
    config_entry,
    event_entry,
    event_of_entry,
    loss_entry,
    video_entry,
    write_jpeg,
)
from pipeline.review import ReviewFolder
from pipeline.run_records import CascadeSettings, DescribedEvent, RunTotals, ScoreObserver
from pipeline.score_file import SavedScores, ScoreWriter
from pipeline.settings import settings_to_store
from pipeline.timeline import TimelineColumns, TimelineText, draw_timeline
from utils.config import Config
from utils.errors import UsageError, VideoError
from utils.events.near_misses import NearMissFinder
from utils.events.records import FrameScore
from utils.events.wording import format_time
from utils.thresholds import by_label
from utils.video.source import VideoSource

_log = logging.getLogger(__name__)


class Run(Protocol):
    """What `VideoRun` and `Replay` have in common."""

    totals: RunTotals
    max_gap_seconds: float

    def __iter__(self) -> Generator[DescribedEvent]:
        """Events as they become certain; ``totals`` are complete afterwards."""


class Analysis(abc.ABC):
    """Where the runs of one report come from.

    Attributes:
        labels: K class names.
        describer: Who words events and videos.
        settings: Of every run.
        identity: The model, ready for JSON.
        sampling: How frames were picked and prepared, ready for JSON.
        config: The run's.
        is_replay: Inputs are saved scores.
    """

    is_replay: ClassVar[bool]
    labels: tuple[str, ...]
    describer: Describer
    settings: CascadeSettings
    identity: Mapping[str, Any]
    sampling: Mapping[str, Any]
    config: Config

    @abc.abstractmethod
    def open(self, path: Path, observe: ScoreObserver) -> AbstractContextManager[Run]:
        """A context manager that gives the `Run` over one input."""

    @abc.abstractmethod
    def video_path(self, path: Path) -> str:
        """The video behind an input."""


class VideoAnalysis(Analysis):
    """Runs videos through a cascade.

    Args:
        cascade: What scores them.
        config: The run's.
    """

    is_replay = False

    def __init__(self, cascade: Cascade, config: Config) -> None:
        self._cascade = cascade
        self.config = config
        self.labels = cascade.labels
        self.describer = cascade.describer
        self.settings = cascade.settings
        self.identity = cascade.scorer.identity
        self.sampling = dataclasses.asdict(cascade.scorer.sampling)

    @contextmanager
    def open(self, path: Path, observe: ScoreObserver) -> Iterator[Run]:
        with VideoSource.open(path, decoder=self.config.data.decoder) as source:
            yield self._cascade.stream(source, observe=observe)

    def video_path(self, path: Path) -> str:
        return str(path)


class ScoresAnalysis(Analysis):
    """Makes events of saved scores.

    Args:
        scores: The first score file; all must be of the same model.
        describer: Who words events.
        settings: Of every run.
        config: That they come from.
    """

    is_replay = True

    def __init__(
        self,
        scores: SavedScores,
        describer: Describer,
        settings: CascadeSettings,
        config: Config,
    ) -> None:
        self.labels = scores.labels
        self.describer = describer
        self.settings = settings
        self.identity = scores.metadata["model"]
        self.sampling = scores.metadata["sampling"]
        self.config = config
        self._first_path = scores.path

    @contextmanager
    def open(self, path: Path, observe: ScoreObserver) -> Iterator[Run]:
        scores = SavedScores.read(path)
        if scores.metadata["model"] != self.identity:
            raise UsageError(
                f"{path}: scored by another model than {self._first_path}; make a report for each"
            )
        yield Replay(scores, self.describer, self.settings, observe=observe)

    def video_path(self, path: Path) -> str:
        return SavedScores.read(path).video_path


class Progress(Protocol):
    """Is told how far a video is; see `inference.py`'s bar."""

    def start(self, path: Path, duration_seconds: float | None) -> None:
        """The next video begins."""

    def reach(self, seconds: float) -> None:
        """Scores are final up to here."""

    def stop(self) -> None:
        """The video is done, or failed."""


@dataclass(frozen=True, kw_only=True)
class AnalysisOutcome:
    """What the command prints and exits by.

    Attributes:
        entries: Of each video, in order, as in the report; a failed one has ``error``.
        num_failed: Videos with an error.
        review: The near misses, where they were asked for.
    """

    entries: tuple[Mapping[str, Any], ...]
    num_failed: int
    review: ReviewFolder | None = None


def analyse(
    analysis: Analysis,
    inputs: Inputs,
    files: OutputFiles,
    *,
    save_scores: bool,
    progress: Progress,
    review_dir: Path | None = None,
) -> AnalysisOutcome:
    """Run every input and write the report.

    One video gives a flat report and its error is raised. Of many, those that fail have an
    ``error`` in the report, which is written anew after each video with ``is_complete`` false until
    the last.

    Args:
        analysis: What makes runs.
        inputs: Files.
        files: Where everything goes.
        save_scores: Write score files.
        progress: Is told how far it is.
        review_dir: Folder for the near misses of videos; None: nobody wants them.

    Raises:
        UsageError: The folder for the near misses cannot be used.
        VideoError: The only video cannot be used.
    """
    review = None if review_dir is None else _review_folder(analysis, review_dir)
    common = {
        "model": dict(analysis.identity),
        "config": config_entry(
            analysis.settings,
            analysis.sampling,
            labels=analysis.labels,
            describer=analysis.config.model.llm.describer,
        ),
    }
    if inputs.is_single:
        entry = _analyse_one(analysis, inputs.paths[0], files, save_scores, progress, review)
        files.publish({"format_version": FORMAT_VERSION, **entry, **common})
        return AnalysisOutcome(entries=(entry,), num_failed=0, review=review)
    entries: list[Mapping[str, Any]] = []
    num_failed = 0
    for number, path in enumerate(inputs.paths, 1):
        try:
            entries.append(_analyse_one(analysis, path, files, save_scores, progress, review))
        except (VideoError, UsageError) as error:
            _log.error("%s", error)
            files.discard()
            entries.append({"video_path": str(path), "error": str(error)})
            num_failed += 1
        except KeyboardInterrupt:
            if entries:
                _log.warning(
                    "%s holds the first %d of %d videos",
                    files.output,
                    len(entries),
                    len(inputs.paths),
                )
            raise
        is_complete = number == len(inputs.paths)
        files.publish(
            {
                "format_version": FORMAT_VERSION,
                "is_complete": is_complete,
                "num_videos": len(inputs.paths),
                "num_failed": num_failed,
                "num_triggers_detected": sum(
                    entry.get("num_triggers_detected", 0) for entry in entries
                ),
                "videos": entries,
                **common,
            },
            is_final=is_complete,
        )
    return AnalysisOutcome(entries=tuple(entries), num_failed=num_failed, review=review)


def _analyse_one(
    analysis: Analysis,
    path: Path,
    files: OutputFiles,
    save_scores: bool,
    progress: Progress,
    review: ReviewFolder | None,
) -> dict[str, Any]:
    names = files.for_video(path)
    columns = TimelineColumns(len(analysis.labels))
    finder: NearMissFinder | None = None
    with ExitStack() as stack:
        writer = (
            stack.enter_context(ScoreWriter(files.staged(names.scores), analysis.labels))
            if save_scores
            else None
        )

        def observe(score: FrameScore) -> None:
            columns.add(score)
            if finder is not None:
                finder.push(score)
            if writer is not None:
                writer.add(score)
            progress.reach(score.timestamp)

        run: Run = stack.enter_context(analysis.open(path, observe))
        totals = run.totals
        if review is not None:
            finder = _near_miss_finder(analysis, run)
        progress.start(path, totals.source["duration_seconds"])
        stack.callback(progress.stop)
        # Closed before the source is, also when interrupted: a thread reads from it.
        described = stack.enter_context(closing(iter(run)))
        triggers = [
            event_entry(event, thumbnail=_write_thumbnail(event, number, names, files))
            for number, event in enumerate(described, 1)
        ]
        if writer is not None:
            writer.finish(_score_metadata(analysis, path, run))
    for note in totals.loss.notes:
        _log.warning("%s: %s", path, note)
    video_path = analysis.video_path(path)
    events = [event_of_entry(trigger) for trigger in triggers]
    if review is not None and finder is not None:
        review.add(path, finder.finish(totals.source["duration_seconds"]), events)
    summary = summarize_video(analysis.describer, events, totals, analysis.labels)
    draw_timeline(
        files.staged(names.timeline),
        columns,
        events,
        TimelineText(
            title=f"{Path(video_path).name}  {format_time(totals.duration_seconds)}",
            labels=analysis.labels,
            threshold=analysis.settings.threshold,
            candidate_threshold=analysis.settings.candidate_threshold,
            duration_seconds=totals.duration_seconds,
        ),
    )
    return video_entry(
        video_path,
        triggers,
        summary=summary,
        totals=totals,
        timeline=names.timeline,
        scores=names.scores if save_scores else None,
        replayed_from=(os.path.relpath(path, files.output.parent) if analysis.is_replay else None),
    )


def _review_folder(analysis: Analysis, folder: Path) -> ReviewFolder:
    return ReviewFolder(
        folder,
        analysis.labels,
        analysis.config.inference,
        origin={
            "model": dict(analysis.identity),
            "threshold": by_label(analysis.settings.threshold, analysis.labels),
            "ratio": analysis.config.inference.review_ratio,
        },
        decoder=analysis.config.data.decoder,
    )


def _near_miss_finder(analysis: Analysis, run: Run) -> NearMissFinder:
    events, inference = analysis.settings.events, analysis.config.inference
    return NearMissFinder(
        analysis.labels,
        threshold=analysis.settings.threshold,
        ratio=inference.review_ratio,
        limit=inference.review_max_clips,
        hysteresis_ratio=events.hysteresis_ratio,
        min_duration_seconds=events.min_duration_seconds,
        merge_gap_seconds=events.merge_gap_seconds,
        max_gap_seconds=run.max_gap_seconds,
    )


def _write_thumbnail(
    described: DescribedEvent, number: int, names: VideoFiles, files: OutputFiles
) -> str | None:
    if described.picture is None:
        return None
    name = names.thumbnail(number)
    write_jpeg(described.picture, files.staged(name))
    return name


def _score_metadata(analysis: Analysis, path: Path, run: Run) -> dict[str, Any]:
    """What `pipeline.score_file` keeps beside the scores."""
    settings = analysis.settings
    return {
        "video_path": str(path),
        "model": dict(analysis.identity),
        "sampling": dict(analysis.sampling),
        "threshold": by_label(settings.threshold, analysis.labels),
        "candidate_threshold": settings.candidate_threshold,
        "context_seconds": settings.events.context_seconds,
        "max_gap_seconds": run.max_gap_seconds,
        "config": settings_to_store(analysis.config),
        "source": run.totals.source,
        "loss": loss_entry(run.totals),
    }
