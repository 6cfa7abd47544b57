"""`VideoRun`: one video on its way through decoding, the model's doors and the event stage.

`pipeline.cascade.Cascade.stream` makes it. Memory does not grow with the video.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.score_stream import ScoreStream
from pipeline.describers.base import Describer
from pipeline.event_stage import EventStage
from pipeline.executor import prefetch
from pipeline.run_records import (
    CascadeSettings,
    DescribedEvent,
    RunTotals,
    ScoreObserver,
    StageTotals,
    Stopwatch,
)
from pipeline.scorers.base import FloatArray, FrameScorer
from utils.errors import EmptyVideoError
from utils.events.frame_extent import FrameExtents
from utils.events.records import FrameScore
from utils.video.processor import VideoProcessor
from utils.video.sampler import FrameSampler, SampledFrame
from utils.video.source import Image, VideoInfo, VideoSource

_log = logging.getLogger(__name__)

HOLE_STEPS = 10
"""A jump of more sampling steps than this is a hole in the stream; nothing is joined across it."""
_PREFETCHED_BATCHES = 2


class VideoRun:
    """One video on its way through the cascade: iterate once, then read ``totals``.

    Args:
        scorer: The model.
        describer: Who words events.
        settings: Of the run.
        source: Stays open while the run is iterated; closing it is the caller's.
        observe: See `ScoreObserver`.

    Attributes:
        totals: Grow while the run is iterated.
        max_gap_seconds: A larger jump between sampled frames is a hole.
    """

    def __init__(
        self,
        scorer: FrameScorer,
        describer: Describer,
        settings: CascadeSettings,
        source: VideoSource,
        *,
        observe: ScoreObserver | None = None,
    ) -> None:
        self._scorer = scorer
        self._settings = settings
        self._source = source
        self._observe = observe
        self.totals = RunTotals(
            stages={name: StageTotals() for name in ("decode", "encode", "contextualize")},
            source=_source_entry(source.info),
        )
        sampling = scorer.sampling
        self.max_gap_seconds = HOLE_STEPS / min(
            sampling.sampling_fps, source.info.source_fps or math.inf
        )
        self._scores = ScoreStream(
            _TimedDoors(scorer, self.totals),
            candidate_threshold=settings.candidate_threshold,
            context_seconds=settings.events.context_seconds,
            max_gap_seconds=self.max_gap_seconds,
        )
        self._events = EventStage(
            scorer.labels,
            settings,
            describer,
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
        if self._scorer.sampling.skip_nonref_frames:
            skipping = self._source.skipping
            self.totals.source["skipping"] = dataclasses.asdict(skipping)
            _log.info("%s: %s", self._source.info.path, skipping)
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
            short_side=sampling.decode_short_side,
            is_sparse=sampling.skip_nonref_frames,
        )
        processor = VideoProcessor(sampling.image_size, resize_mode=sampling.resize_mode)
        stage = self.totals.stages["decode"]
        samples = sampler.stream(self._source)
        held: list[tuple[SampledFrame, FloatArray, Image | None]] = []
        while True:
            with Stopwatch(stage):
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
        self.encoder_window = scorer.encoder_window

    def encode_and_trigger(
        self, pixels: FloatArray, state: Any
    ) -> tuple[FloatArray, FloatArray, Any]:
        self._encode.num_frames += len(pixels)
        with Stopwatch(self._encode):
            return self._scorer.encode_and_trigger(pixels, state)

    def contextualize(
        self, features: FloatArray, timestamps: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> FloatArray:
        with Stopwatch(self._contextualize):
            return self._scorer.contextualize(features, timestamps, valid)
