"""`NearMissFinder`: stretches that peak just under the threshold, where no event is.

Beside `WindowBuilder`, on the same scores: what a person should look at, because the model was in
two minds about it. Right, it is an event that was missed; wrong, it is the background that the
model should learn best.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from utils.events.records import Event, FrameScore
from utils.events.window_builder import WindowBuilder
from utils.thresholds import per_class


@dataclass(frozen=True, kw_only=True)
class NearMiss:
    """A stretch that is no event.

    Attributes:
        stretch: As the event that a lower threshold would have made of it.
        threshold: That it did not reach.
    """

    stretch: Event
    threshold: float

    @property
    def nearness(self) -> float:
        """How much of the threshold its peak reached, below 1."""
        return self.stretch.confidence / self.threshold


class NearMissFinder:
    """Finds near misses while the scores come in; keeps the nearest of them.

    It makes events at ``ratio`` times the threshold and leaves out those that reach the threshold
    itself: of an event, and of all that is merged with it, nothing is a near miss.

    Args:
        labels: K class names.
        threshold: Of the events; one for all classes, or K of them.
        ratio: In (0, 1); how much of the threshold a near miss must reach.
        limit: At most so many are kept.
        hysteresis_ratio: See `WindowBuilder`; of the lower threshold.
        min_duration_seconds: See `WindowBuilder`.
        merge_gap_seconds: See `WindowBuilder`.
        max_gap_seconds: See `WindowBuilder`.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        threshold: float | Sequence[float],
        ratio: float,
        limit: int,
        hysteresis_ratio: float = 0.6,
        min_duration_seconds: float = 0.0,
        merge_gap_seconds: float = 0.5,
        max_gap_seconds: float | None = None,
    ) -> None:
        if not 0 < ratio < 1:
            raise ValueError(f"ratio must be between 0 and 1, got {ratio}")
        thresholds = per_class(threshold, labels)
        self._thresholds = dict(zip(labels, thresholds, strict=True))
        self._builder = WindowBuilder(
            labels,
            threshold=[ratio * value for value in thresholds],
            hysteresis_ratio=hysteresis_ratio,
            min_duration_seconds=min_duration_seconds,
            merge_gap_seconds=merge_gap_seconds,
            max_gap_seconds=max_gap_seconds,
        )
        self._limit = limit
        self._numbers = itertools.count()
        # The least near on top, to make way; the number decides between equals.
        self._kept: list[tuple[float, int, NearMiss]] = []

    def push(self, frame: FrameScore) -> None:
        """Take the next frame."""
        self._take(self._builder.push(frame))

    def finish(self, end_seconds: float | None = None) -> list[NearMiss]:
        """End the stream; returns the nearest misses, the nearest first.

        Args:
            end_seconds: Where the video ends, if known.
        """
        self._take(self._builder.flush(end_seconds))
        kept, self._kept = self._kept, []
        return [miss for _, _, miss in sorted(kept, reverse=True)]

    def _take(self, stretches: Iterable[Event]) -> None:
        for stretch in stretches:
            threshold = self._thresholds[stretch.label]
            # As the event's own builder compares.
            if stretch.confidence >= threshold:
                continue
            miss = NearMiss(stretch=stretch, threshold=threshold)
            heapq.heappush(self._kept, (miss.nearness, -next(self._numbers), miss))
            if len(self._kept) > self._limit:
                heapq.heappop(self._kept)
