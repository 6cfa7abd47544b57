"""`Replay`: events of saved scores, without the first stages of the cascade."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Generator, Iterator

from pipeline.describers.base import Describer
from pipeline.event_stage import EventStage
from pipeline.run_records import CascadeSettings, DescribedEvent, RunTotals, ScoreObserver
from pipeline.score_file import SavedScores
from utils.events.candidate_windows import CandidateWindows, WindowUpdate
from utils.events.frame_extent import FrameExtents
from utils.events.records import FrameScore


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
