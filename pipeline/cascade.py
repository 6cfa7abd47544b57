"""`Cascade`: the one runtime, from a video to events; an offline run is a stream that ends.

Every stage is dearer than the one before it and sees less of the video::

    decode + sample -> encoder + trigger head -> temporal encoder -> events -> words
    every frame        every sampled frame       near candidates     few       fewer

`Cascade.stream` gives events as they become certain, in memory that does not grow with the video;
`Cascade.run` is the convenience for a file. `Replay` makes events of saved scores, without the
first stages.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.score_stream import ScoreStream
from pipeline.describers.base import Describer, EventContext
from pipeline.describers.template import TemplateDescriber
from pipeline.executor import prefetch
from pipeline.scorers.base import FloatArray, FrameScorer
from utils.config.schema import EventsConfig
from utils.errors import EmptyVideoError
from utils.events.candidate_windows import CandidateWindows, WindowUpdate
from utils.events.frame_extent import FrameExtents
from utils.events.records import Event, FrameScore
from utils.events.window_builder import WindowBuilder
from utils.video.processor import VideoProcessor
from utils.video.sampler import FrameSampler, SampledFrame
from utils.video.source import DecodeLoss, Image, VideoInfo, VideoSource

if TYPE_CHECKING:
    from pipeline.score_file import SavedScores

_log = logging.getLogger(__name__)

HOLE_STEPS = 10
"""A jump of more sampling steps than this is a hole in the stream; nothing is joined across it."""
_NUM_RECENT_EVENTS = 64
_PREFETCHED_BATCHES = 2

ScoreObserver = Callable[[FrameScore], None]
"""Is shown every frame's scores, in order, before the events that they finish come out."""


@dataclass(frozen=True, kw_only=True)
class CascadeSettings:
    """What is decided for one run.

    Attributes:
        threshold: The cut on the temporal scores that makes events, in (0, 1].
        candidate_threshold: The cut on the trigger head's scores, in [0, 1].
        events: How scores become events.
        batch_size: Frames that are encoded at once.
        max_frames: Stop after so many sampled frames; None: at the end of the video.
        thumbnail_size: Longer side of the pictures that events carry, pixels; None: no pictures.
    """

    threshold: float
    candidate_threshold: float
    events: EventsConfig = field(default_factory=EventsConfig)
    batch_size: int = 16
    max_frames: int | None = None
    thumbnail_size: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class DescribedEvent:
    """What is published of an event.

    Attributes:
        event: When, what, how sure.
        analysis: The describer's words.
        picture: The strongest frame, scaled down; None where pictures are not kept.
    """

    event: Event
    analysis: str
    picture: Image | None


@dataclass(kw_only=True)
class StageTotals:
    """What a stage did.

    Attributes:
        num_frames: Frames that it saw; events for the describer.
        seconds: Time that it worked. Decoding overlaps with the other stages.
    """

    num_frames: int = 0
    seconds: float = 0.0


@dataclass(kw_only=True)
class RunTotals:
    """What is known of a run beside its events; complete once the run has been iterated to its end.

    Attributes:
        num_frames: Sampled frames.
        num_candidates: Of these, those that passed ``candidate_threshold``.
        num_windows: Windows that the candidates were joined to.
        num_describer_failures: Events that the template worded because the describer raised.
        duration_seconds: How much video was looked at.
        stages: By name, in the order of the cascade.
        source: What the container says, ready for JSON: `VideoInfo` without its path.
        loss: What the file lost.
    """

    num_frames: int = 0
    num_candidates: int = 0
    num_windows: int = 0
    num_describer_failures: int = 0
    duration_seconds: float = 0.0
    stages: dict[str, StageTotals] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    loss: DecodeLoss = field(default_factory=DecodeLoss)


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """A whole video: its events by start (without pictures), one sentence, and the totals."""

    events: tuple[DescribedEvent, ...]
    summary: str
    totals: RunTotals


class EventStage:
    """Scores to described events: last part of the cascade, the same for videos and saved scores.

    Args:
        labels: K class names.
        settings: Of the run.
        describer: Who words events.
        totals: Failures and times are counted here.
        max_gap_seconds: See `WindowBuilder`.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        settings: CascadeSettings,
        describer: Describer,
        totals: RunTotals,
        *,
        max_gap_seconds: float | None,
    ) -> None:
        events = settings.events
        self._labels = labels
        self._builder = WindowBuilder(
            labels,
            threshold=settings.threshold,
            hysteresis_ratio=events.hysteresis_ratio,
            min_duration_seconds=events.min_duration_seconds,
            merge_gap_seconds=events.merge_gap_seconds,
            cooldown_seconds=events.cooldown_seconds,
            max_gap_seconds=max_gap_seconds,
        )
        self._describer = describer
        self._totals = totals
        self._stage = totals.stages.setdefault("describe", StageTotals())
        # Only of frames that an event yet to come can name as its strongest.
        self._pictures: dict[int, Image] = {}
        self._recent: deque[Event] = deque(maxlen=_NUM_RECENT_EVENTS)

    def push(self, score: FrameScore, picture: Image | None) -> list[DescribedEvent]:
        """Take the next frame; returns what it finishes."""
        if picture is not None:
            self._pictures[score.frame_index] = picture
        return self._publish(self._builder.push(score))

    def flush(self, end_seconds: float | None) -> list[DescribedEvent]:
        """End the video; returns the last events."""
        return self._publish(self._builder.flush(end_seconds))

    def _publish(self, events: Iterable[Event]) -> list[DescribedEvent]:
        described = [
            DescribedEvent(
                event=event,
                analysis=self._words(event),
                picture=self._pictures.get(event.frame_index),
            )
            for event in events
        ]
        open_peaks = self._builder.open_peaks()
        for frame_index in [index for index in self._pictures if index not in open_peaks]:
            del self._pictures[frame_index]
        return described

    def _words(self, event: Event) -> str:
        context = EventContext(
            labels=self._labels,
            earlier=tuple(self._recent),
            picture=self._pictures.get(event.frame_index),
        )
        self._recent.append(event)
        self._stage.num_frames += 1
        with _Stopwatch(self._stage):
            try:
                return self._describer.describe(event, context)
            except Exception as error:  # Whatever fails here, no event is lost.
                self._totals.num_describer_failures += 1
                _log.warning(
                    "the describer failed on '%s' at %.1f s (%s: %s); the template words it",
                    event.label,
                    event.start,
                    type(error).__name__,
                    error,
                )
                _log.debug("the describer's traceback", exc_info=True)
                return TemplateDescriber().describe(event, context)


def summarize(
    describer: Describer,
    events: Iterable[Event],
    totals: RunTotals,
    labels: tuple[str, ...],
) -> str:
    """The sentence about a whole video; the template's where ``describer`` fails."""
    ordered = sorted(events, key=lambda event: (event.start, event.label))
    try:
        return describer.summarize(ordered, duration_seconds=totals.duration_seconds, labels=labels)
    except Exception as error:  # As for single events.
        totals.num_describer_failures += 1
        _log.warning(
            "the describer failed on the summary (%s: %s); the template words it",
            type(error).__name__,
            error,
        )
        return TemplateDescriber().summarize(
            ordered, duration_seconds=totals.duration_seconds, labels=labels
        )


class Cascade:
    """Runs videos through one scorer with one setting; holds nothing of any video.

    Args:
        scorer: The model.
        describer: Who words events.
        settings: Of the run.
    """

    def __init__(
        self, scorer: FrameScorer, describer: Describer, settings: CascadeSettings
    ) -> None:
        self.scorer = scorer
        self.describer = describer
        self.settings = settings
        self.labels = scorer.labels

    def stream(self, source: VideoSource, *, observe: ScoreObserver | None = None) -> VideoRun:
        """The events of an open source as they become certain; iterate over what this returns.

        Args:
            source: Stays open while the run is iterated; closing it is the caller's.
            observe: See `ScoreObserver`.
        """
        return VideoRun(self, source, observe)

    def run(
        self,
        path: str | os.PathLike[str],
        *,
        decoder: str = "pyav",
        observe: ScoreObserver | None = None,
    ) -> VideoResult:
        """A whole file at once.

        Raises:
            VideoError: The file cannot be used.
        """
        with VideoSource.open(path, decoder=decoder) as source:
            run = self.stream(source, observe=observe)
            # Closed before the source is, also when interrupted: a thread reads from it.
            with closing(iter(run)) as stream:
                events = [dataclasses.replace(described, picture=None) for described in stream]
        events.sort(key=lambda described: (described.event.start, described.event.label))
        summary = summarize(
            self.describer, (described.event for described in events), run.totals, self.labels
        )
        return VideoResult(events=tuple(events), summary=summary, totals=run.totals)


class VideoRun:
    """One video on its way through the cascade: iterate once, then read ``totals``.

    Attributes:
        totals: Grow while the run is iterated.
        max_gap_seconds: A larger jump between sampled frames is a hole.
    """

    def __init__(
        self, cascade: Cascade, source: VideoSource, observe: ScoreObserver | None
    ) -> None:
        self._scorer = cascade.scorer
        self._settings = cascade.settings
        self._source = source
        self._observe = observe
        self.totals = RunTotals(
            stages={name: StageTotals() for name in ("decode", "encode", "contextualize")},
            source=_source_entry(source.info),
        )
        sampling = cascade.scorer.sampling
        self.max_gap_seconds = HOLE_STEPS / min(
            sampling.sampling_fps, source.info.source_fps or math.inf
        )
        self._scores = ScoreStream(
            _TimedDoors(cascade.scorer, self.totals),
            candidate_threshold=cascade.settings.candidate_threshold,
            context_seconds=cascade.settings.events.context_seconds,
            max_gap_seconds=self.max_gap_seconds,
        )
        self._events = EventStage(
            cascade.labels,
            cascade.settings,
            cascade.describer,
            self.totals,
            max_gap_seconds=self.max_gap_seconds,
        )
        # Of frames whose scores are not final: those of `context_seconds` and of the window.
        self._pictures: dict[int, Image] = {}

    def __iter__(self) -> Generator[DescribedEvent]:
        if self.totals.num_frames:
            raise RuntimeError("a run is iterated once; start another with Cascade.stream")
        extents = FrameExtents()
        with closing(prefetch(self._batches(), depth=_PREFETCHED_BATCHES)) as batches:
            for batch in batches:
                for timestamp in batch.timestamps:
                    extents.push(timestamp)
                self._pictures.update(batch.pictures)
                update = self._scores.push(batch.pixels, batch.timestamps, batch.frame_indices)
                self.totals.num_windows += len(update.windows)
                yield from self._publish(update.scores)
        # Only now: a source begins a new record each time that it is read.
        self.totals.loss = self._source.loss
        if not self._scores.num_frames:
            raise EmptyVideoError(self._source.info.path, "gave no frame")
        claimed = self._source.info.duration_seconds
        end = extents.finish(claimed)
        assert end is not None
        update = self._scores.flush(claimed)
        self.totals.num_windows += len(update.windows)
        yield from self._publish(update.scores)
        yield from self._events.flush(claimed)
        self.totals.duration_seconds = end

    def _publish(self, scores: Iterable[FrameScore]) -> Iterator[DescribedEvent]:
        self.totals.num_frames = self._scores.num_frames
        self.totals.num_candidates = self._scores.num_candidates
        self.totals.stages["contextualize"].num_frames = self._scores.num_contextualized
        for score in scores:
            if self._observe is not None:
                self._observe(score)
            yield from self._events.push(score, self._pictures.pop(score.frame_index, None))

    def _batches(self) -> Generator[_Batch]:
        """Runs in the decoding thread."""
        sampling = self._scorer.sampling
        sampler = FrameSampler(
            sampling.sampling_fps,
            max_frames=self._settings.max_frames,
            neighbor_offsets_seconds=sampling.neighbor_offsets_seconds,
        )
        processor = VideoProcessor(sampling.image_size, resize_mode=sampling.resize_mode)
        stage = self.totals.stages["decode"]
        samples = sampler.stream(self._source)
        held: list[tuple[SampledFrame, FloatArray, Image | None]] = []
        while True:
            with _Stopwatch(stage):
                sample = next(samples, None)
                if sample is not None:
                    stage.num_frames += 1
                    held.append(self._prepare(sample, processor))
            if held and (sample is None or len(held) == self._settings.batch_size):
                yield _Batch.of(held)
                held = []
            if sample is None:
                return

    def _prepare(
        self, sample: SampledFrame, processor: VideoProcessor
    ) -> tuple[SampledFrame, FloatArray, Image | None]:
        # Scaled at once, one by one: a batch of large pictures would be gigabytes.
        stack = np.stack((sample.image, *sample.neighbors))
        pixels: FloatArray = processor.process_frames(stack[None]).numpy()
        size = self._settings.thumbnail_size
        picture = None if size is None else thumbnail(sample.image, size)
        return dataclasses.replace(sample, image=_NO_IMAGE, neighbors=()), pixels, picture


def _source_entry(info: VideoInfo) -> dict[str, Any]:
    entry = dataclasses.asdict(info)
    del entry["path"]
    return entry


_NO_IMAGE: Image = np.empty((0, 0, 3), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """Frames that go through the encoder together."""

    pixels: FloatArray
    timestamps: list[float]
    frame_indices: list[int]
    pictures: dict[int, Image]

    @classmethod
    def of(cls, held: list[tuple[SampledFrame, FloatArray, Image | None]]) -> _Batch:
        return cls(
            pixels=np.concatenate([pixels for _, pixels, _ in held]),
            timestamps=[sample.timestamp for sample, _, _ in held],
            frame_indices=[sample.frame_index for sample, _, _ in held],
            pictures={
                sample.frame_index: picture for sample, _, picture in held if picture is not None
            },
        )


def thumbnail(image: Image, longer_side: int) -> Image:
    """``image`` scaled down so that its longer side is at most ``longer_side`` pixels."""
    from PIL import Image as Pillow

    height, width = image.shape[:2]
    scale = longer_side / max(height, width)
    if scale >= 1:
        # Copied: the array is a buffer of the sampler's.
        return image.copy()
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = Pillow.fromarray(image).resize(size, Pillow.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(scaled)


class _TimedDoors:
    """A scorer's doors that count frames and time into the totals."""

    def __init__(self, scorer: FrameScorer, totals: RunTotals) -> None:
        self._scorer = scorer
        self._encode = totals.stages["encode"]
        self._contextualize = totals.stages["contextualize"]
        self.window_size = scorer.window_size
        self.causal = scorer.causal

    def encode_and_trigger(
        self, pixels: FloatArray, state: Any
    ) -> tuple[FloatArray, FloatArray, Any]:
        self._encode.num_frames += len(pixels)
        with _Stopwatch(self._encode):
            return self._scorer.encode_and_trigger(pixels, state)

    def contextualize(
        self, features: FloatArray, timestamps: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> FloatArray:
        with _Stopwatch(self._contextualize):
            return self._scorer.contextualize(features, timestamps, valid)


class _Stopwatch:
    """Adds the time spent inside to a stage, also where it is left by an exception."""

    def __init__(self, stage: StageTotals) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._stage.seconds += time.perf_counter() - self._start


class Replay:
    """Events of saved scores: no video, no decoding, no model. Iterate once, then read ``totals``.

    Exactly what the video itself would give with the same settings, as long as these need no score
    that was not saved.

    Args:
        scores: As `--save-scores` wrote them.
        describer: Who words events.
        settings: ``batch_size``, ``max_frames`` and ``thumbnail_size`` mean nothing here.
        observe: See `ScoreObserver`.

    Raises:
        UsageError: While iterating: the settings ask for frames that the temporal encoder did not
            look at when the scores were saved.
    """

    def __init__(
        self,
        scores: SavedScores,
        describer: Describer,
        settings: CascadeSettings,
        *,
        observe: ScoreObserver | None = None,
    ) -> None:
        self._scores = scores
        self._settings = settings
        self._observe = observe
        self.totals = RunTotals(source=dict(scores.metadata["source"]), loss=scores.loss)
        self.max_gap_seconds = scores.max_gap_seconds
        self._candidates = CandidateWindows(
            candidate_threshold=settings.candidate_threshold,
            context_seconds=settings.events.context_seconds,
            max_gap_seconds=self.max_gap_seconds,
        )
        self._events = EventStage(
            scores.labels, settings, describer, self.totals, max_gap_seconds=self.max_gap_seconds
        )

    def __iter__(self) -> Generator[DescribedEvent]:
        if self.totals.num_frames:
            raise RuntimeError("a replay is iterated once; make another Replay")
        extents = FrameExtents()
        waiting: deque[FrameScore] = deque()
        for score in self._scores.frames():
            self.totals.num_frames += 1
            extents.push(score.timestamp)
            waiting.append(score)
            update = self._candidates.push(
                score.sample_index, score.timestamp, float(score.trigger.max())
            )
            yield from self._publish(update, waiting)
        claimed = self._scores.source_duration_seconds
        yield from self._publish(self._candidates.flush(claimed), waiting)
        yield from self._events.flush(claimed)
        end = extents.finish(claimed)
        self.totals.duration_seconds = 0.0 if end is None else end

    def _publish(
        self, update: WindowUpdate, waiting: deque[FrameScore]
    ) -> Iterator[DescribedEvent]:
        self.totals.num_windows += len(update.windows)
        for decision in update.decisions:
            score = waiting.popleft()
            self.totals.num_candidates += decision.is_candidate
            if not decision.in_window:
                score = dataclasses.replace(score, temporal=None)
            elif score.temporal is None:
                raise self._scores.lacks(score.timestamp)
            if self._observe is not None:
                self._observe(score)
            yield from self._events.push(score, None)
