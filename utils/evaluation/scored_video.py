"""`ScoredVideo`: truth and scores of one video as arrays, and its events at any threshold.

In evaluation, behind the cascade or a score file: metrics that look at many thresholds ask here
instead of pushing every frame through `utils.events.WindowBuilder` once more for each. A test holds
the two together: `ScoredVideo.stretches` gives the builder's events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from utils.data.annotations import AnnotatedEvent, frame_targets
from utils.events.frame_extent import TIME_TOLERANCE_SECONDS, FrameExtents
from utils.events.records import FrameScore


@dataclass(frozen=True, kw_only=True)
class EventRules:
    """How scores become events; see `utils.events.WindowBuilder`, whose arguments these are."""

    hysteresis_ratio: float = 0.6
    min_duration_seconds: float = 0.0
    merge_gap_seconds: float = 0.5
    cooldown_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Stretches:
    """Events of one class at one threshold, by start.

    Attributes:
        starts: ``(E,)`` seconds.
        ends: ``(E,)`` seconds, exclusive.
        peaks: ``(E,)`` position of the first frame with the highest score.
        crossings: ``(E,)`` position of the first frame that reaches the threshold: there the alarm
            is raised.
    """

    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    peaks: NDArray[np.int64]
    crossings: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredVideo:
    """One video's truth and scores.

    Attributes:
        name: As annotated.
        cluster: What is drawn together when intervals are bootstrapped: the video's group, or its
            own name where it has none.
        labels: K class names.
        references: The truth.
        duration_seconds: Of the video.
        timestamps: ``(T,)`` seconds, of the sampled frames.
        frame_indices: ``(T,)`` position in the source.
        starts: ``(T,)`` seconds; where the interval that a frame stands for begins.
        ends: ``(T,)`` seconds; where it ends. Both as of `utils.events.frame_extent`.
        blocks: ``(T,)``; rises by one at each hole in the stream.
        trigger: ``(T, K)`` probabilities of the trigger head.
        temporal: ``(T, K)`` probabilities of the temporal encoder; 0 where it did not look.
        is_contextualized: ``(T,)`` whether it looked.
    """

    name: str
    cluster: str
    labels: tuple[str, ...]
    references: tuple[AnnotatedEvent, ...]
    duration_seconds: float
    timestamps: NDArray[np.float64]
    frame_indices: NDArray[np.int64]
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    blocks: NDArray[np.int64]
    trigger: NDArray[np.float32]
    temporal: NDArray[np.float32]
    is_contextualized: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        scores: Sequence[FrameScore],
        *,
        name: str,
        labels: Sequence[str],
        references: Sequence[AnnotatedEvent] = (),
        cluster: str | None = None,
        end_seconds: float | None = None,
        max_gap_seconds: float | None = None,
    ) -> Self:
        """Of the frames that the cascade showed.

        Args:
            scores: In order.
            name: Of the video.
            labels: K class names.
            references: The truth.
            cluster: Group of the video; None: it stands for itself.
            end_seconds: Where the video claims to end; see `FrameExtents.finish`.
            max_gap_seconds: A larger jump between timestamps is a hole.

        Raises:
            ValueError: There is no frame, or their times do not rise.
        """
        if not scores:
            raise ValueError(f"'{name}' has no scored frame")
        extents = FrameExtents(max_gap_seconds=max_gap_seconds)
        arrivals = [extents.push(score.timestamp) for score in scores]
        end = extents.finish(end_seconds)
        assert end is not None
        starts = np.array([arrival.start for arrival in arrivals])
        return cls(
            name=name,
            cluster=name if cluster is None else cluster,
            labels=tuple(labels),
            references=tuple(references),
            duration_seconds=end,
            timestamps=np.array([score.timestamp for score in scores]),
            frame_indices=np.array([score.frame_index for score in scores], np.int64),
            starts=starts,
            ends=np.array([*(arrival.previous_end for arrival in arrivals[1:]), end], np.float64),
            blocks=np.cumsum([arrival.is_after_hole for arrival in arrivals]),
            trigger=np.stack([score.trigger for score in scores]),
            temporal=np.stack([score.confidence for score in scores]),
            is_contextualized=np.array([score.temporal is not None for score in scores]),
        )

    def __len__(self) -> int:
        return len(self.timestamps)

    def targets(self, *, point_radius_seconds: float) -> NDArray[np.float32]:
        """``(T, K)``: which classes are on at which frame; see `frame_targets`."""
        return frame_targets(
            self.references,
            self.labels,
            self.timestamps,
            point_radius_seconds=point_radius_seconds,
        )

    def intervals(self, label: str, *, point_radius_seconds: float) -> NDArray[np.float64]:
        """``(R, 2)`` start and end of the class's references; a point reaches to both sides."""
        spread = [
            reference.spread(point_radius_seconds)
            for reference in self.references
            if reference.label == label
        ]
        return np.array(spread, np.float64).reshape(-1, 2)

    def stretches(self, label: str, threshold: float, rules: EventRules) -> Stretches:
        """The events of one class at ``threshold``, as `utils.events.WindowBuilder` makes them.

        Args:
            label: The class.
            threshold: In (0, 1].
            rules: The other settings.
        """
        scores = self._columns[self.labels.index(label)]
        firsts, lasts = self._runs(scores >= threshold * rules.hysteresis_ratio)
        if not len(firsts):
            return _NO_STRETCHES
        # Up to the next run, between which nothing reaches the threshold.
        is_strong = np.maximum.reduceat(scores, firsts) >= threshold
        firsts, lasts = firsts[is_strong], lasts[is_strong]
        is_apart = self.starts[firsts[1:]] - self.ends[lasts[:-1]] > (
            rules.merge_gap_seconds + TIME_TOLERANCE_SECONDS
        )
        is_apart |= self.blocks[firsts[1:]] != self.blocks[lasts[:-1]]
        firsts = firsts[np.append(True, is_apart)[: len(firsts)]]
        lasts = lasts[np.append(is_apart, True)[: len(lasts)]]
        durations = self.ends[lasts] - self.starts[firsts] + TIME_TOLERANCE_SECONDS
        is_long = durations >= rules.min_duration_seconds
        firsts, lasts = firsts[is_long], lasts[is_long]
        if rules.cooldown_seconds:
            is_heard = self._after_cooldown(firsts, lasts, rules.cooldown_seconds)
            firsts, lasts = firsts[is_heard], lasts[is_heard]
        strong = np.flatnonzero(scores >= threshold)
        return Stretches(
            starts=self.starts[firsts],
            ends=self.ends[lasts],
            peaks=_first_maxima(scores, firsts, lasts),
            crossings=strong[np.searchsorted(strong, firsts)],
        )

    @cached_property
    def _columns(self) -> NDArray[np.float64]:
        # In double precision, as the builder compares: a threshold of 0.7 is no float32.
        return np.ascontiguousarray(self.temporal.T, np.float64)

    def _runs(self, is_on: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last position of each run of frames that are on, none across a hole."""
        is_border = np.diff(self.blocks) != 0
        begins = is_on.copy()
        begins[1:] &= ~is_on[:-1] | is_border
        finishes = is_on.copy()
        finishes[:-1] &= ~is_on[1:] | is_border
        return np.flatnonzero(begins), np.flatnonzero(finishes)

    def _after_cooldown(
        self, firsts: NDArray[np.int64], lasts: NDArray[np.int64], cooldown_seconds: float
    ) -> NDArray[np.bool_]:
        is_heard = np.zeros(len(firsts), np.bool_)
        published_end = -np.inf
        for number, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
            silence = self.starts[first] - published_end + TIME_TOLERANCE_SECONDS
            if silence >= cooldown_seconds:
                is_heard[number] = True
                published_end = self.ends[last]
        return is_heard


def _first_maxima(
    scores: NDArray[np.float64], firsts: NDArray[np.int64], lasts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Position of the first of the highest scores in each of some disjoint, ordered ranges."""
    if not len(firsts):
        return firsts
    lengths = lasts - firsts + 1
    begins = np.cumsum(lengths) - lengths
    owners = np.repeat(np.arange(len(firsts)), lengths)
    positions = np.arange(len(owners)) + np.repeat(firsts - begins, lengths)
    inner = scores[positions]
    is_highest = inner == np.maximum.reduceat(inner, begins)[owners]
    highest = np.searchsorted(owners[is_highest], np.arange(len(firsts)))
    found: NDArray[np.int64] = positions[is_highest][highest]
    return found


_NO_STRETCHES = Stretches(
    starts=np.zeros(0),
    ends=np.zeros(0),
    peaks=np.zeros(0, np.int64),
    crossings=np.zeros(0, np.int64),
)
