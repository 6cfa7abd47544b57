"""Event metrics: which predicted events find an annotated one, within a tolerance.

In evaluation, behind `utils.events.WindowBuilder`: precision, recall and F1 of events as a user
sees them. The measure is the event-based one of sed_eval (Mesaros, Heittola and Virtanen, "Metrics
for Polyphonic Sound Event Detection", Applied Sciences 6(6), 2016), to which points are added.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utils.data.annotations import AnnotatedEvent
from utils.evaluation.metrics import none_if_nan
from utils.events.records import Event

LENGTH_FRACTION = 0.5
"""Of sed_eval: by how much of its length the end of an event may be off."""


@dataclass(frozen=True, kw_only=True)
class EventCounts:
    """How many events there were, how many were claimed, and how many of the claims are right.

    Attributes:
        num_references: Annotated events.
        num_predictions: Predicted events.
        num_matches: Pairs of the two; each event is in one pair at most.

    Raises:
        ValueError: There are more matches than events.
    """

    num_references: int
    num_predictions: int
    num_matches: int

    def __post_init__(self) -> None:
        if not 0 <= self.num_matches <= min(self.num_references, self.num_predictions):
            raise ValueError(
                f"{self.num_matches} matches among {self.num_references} references and "
                f"{self.num_predictions} predictions"
            )

    @property
    def num_misses(self) -> int:
        """References that no prediction found."""
        return self.num_references - self.num_matches

    @property
    def num_false_alarms(self) -> int:
        """Predictions that found nothing."""
        return self.num_predictions - self.num_matches

    @property
    def precision(self) -> float:
        """Share of the predictions that are right; NaN where there are none."""
        return self.num_matches / self.num_predictions if self.num_predictions else math.nan

    @property
    def recall(self) -> float:
        """Share of the references that were found; NaN where there are none."""
        return self.num_matches / self.num_references if self.num_references else math.nan

    @property
    def f1(self) -> float:
        """``2 * matches / (references + predictions)``; NaN where there are neither."""
        total = self.num_references + self.num_predictions
        return 2 * self.num_matches / total if total else math.nan

    def __add__(self, other: EventCounts) -> EventCounts:
        return EventCounts(
            num_references=self.num_references + other.num_references,
            num_predictions=self.num_predictions + other.num_predictions,
            num_matches=self.num_matches + other.num_matches,
        )

    def to_plain(self) -> dict[str, int]:
        """The counts by name, with misses and false alarms."""
        return {
            "num_references": self.num_references,
            "num_predictions": self.num_predictions,
            "num_matches": self.num_matches,
            "num_misses": self.num_misses,
            "num_false_alarms": self.num_false_alarms,
        }


@dataclass(frozen=True, kw_only=True)
class EventScores:
    """Event metrics of all classes over all videos.

    Attributes:
        overall: Counts summed over the classes; its precision, recall and F1 are micro averages.
        per_class: By label, in the model's order.
        tolerance_seconds: What `event_scores` was called with.
        length_fraction: What `event_scores` was called with.
    """

    overall: EventCounts
    per_class: Mapping[str, EventCounts]
    tolerance_seconds: float
    length_fraction: float

    def to_plain(self) -> dict[str, Any]:
        """Ready for JSON, by metric; what is undefined (NaN) is None."""
        measures: dict[str, Callable[[EventCounts], float]] = {
            "event_f1": lambda counts: counts.f1,
            "event_precision": lambda counts: counts.precision,
            "event_recall": lambda counts: counts.recall,
        }
        plain: dict[str, Any] = {
            name: {
                "overall": none_if_nan(measure(self.overall)),
                "per_class": {k: none_if_nan(measure(v)) for k, v in self.per_class.items()},
            }
            for name, measure in measures.items()
        }
        plain["event_counts"] = {
            "overall": self.overall.to_plain(),
            "per_class": {k: v.to_plain() for k, v in self.per_class.items()},
        }
        plain["event_tolerance"] = {
            "tolerance_seconds": self.tolerance_seconds,
            "length_fraction": self.length_fraction,
        }
        return plain


def is_match(
    reference: AnnotatedEvent,
    prediction: Event,
    *,
    tolerance_seconds: float = 0.5,
    length_fraction: float = LENGTH_FRACTION,
) -> bool:
    """Whether ``prediction`` finds ``reference``.

    The labels are equal, the starts differ by at most the tolerance, and the ends by at most the
    tolerance or ``length_fraction`` of the reference's length, whichever is more: where a long
    event fades out is a matter of taste. A point has neither start nor end to be compared: it is
    found by a prediction whose peak lies within the tolerance.
    """
    if reference.label != prediction.label:
        return False
    if reference.is_point:
        return abs(reference.start - prediction.timestamp) <= tolerance_seconds
    end_tolerance = max(tolerance_seconds, length_fraction * (reference.end - reference.start))
    return (
        abs(reference.start - prediction.start) <= tolerance_seconds
        and abs(reference.end - prediction.end) <= end_tolerance
    )


def match_events(
    references: Sequence[AnnotatedEvent],
    predictions: Sequence[Event],
    *,
    tolerance_seconds: float = 0.5,
    length_fraction: float = LENGTH_FRACTION,
) -> list[tuple[int, int]]:
    """Pair the events of one video so that as many as possible are found.

    Args:
        references: What is annotated, of any classes and in any order.
        predictions: What was found, of any classes and in any order.
        tolerance_seconds: See `is_match`.
        length_fraction: See `is_match`.

    Returns:
        Pairs of positions ``(reference, prediction)``, by reference; no position twice. Their
        number is the largest possible; among pairings of that number the choice is arbitrary but
        fixed.

    Raises:
        ValueError: The tolerance or the fraction is negative or not finite.
    """
    _check_tolerance(tolerance_seconds, length_fraction)
    # Sorted, so that each reference is compared with its neighbours in time only.
    by_start = sorted(range(len(predictions)), key=lambda p: predictions[p].start)
    by_peak = sorted(range(len(predictions)), key=lambda p: predictions[p].timestamp)
    starts = [predictions[p].start for p in by_start]
    peaks = [predictions[p].timestamp for p in by_peak]
    candidates: list[list[int]] = []
    for reference in references:
        order, times = (by_peak, peaks) if reference.is_point else (by_start, starts)
        # `is_match` decides; the margin keeps the rounding of these two sums out of it.
        first = bisect_left(times, reference.start - tolerance_seconds - 1e-6)
        last = bisect_right(times, reference.start + tolerance_seconds + 1e-6)
        candidates.append(
            [
                position
                for position in order[first:last]
                if is_match(
                    reference,
                    predictions[position],
                    tolerance_seconds=tolerance_seconds,
                    length_fraction=length_fraction,
                )
            ]
        )
    return maximum_matching(candidates)


def maximum_matching(candidates: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Largest set of pairs in which left nodes take one of their candidates, none of them twice.

    Augmenting paths, searched breadth first (Kuhn's method; Berge's theorem says that a matching
    without an augmenting path is a largest one).

    Args:
        candidates: For each left node the right nodes that it may take.

    Returns:
        Pairs ``(left, right)``, by left node.
    """
    partner_of: dict[int, int] = {}
    taken_by: dict[int, int] = {}
    for root in range(len(candidates)):
        # Right node -> the left node from which the search came to it.
        came_from: dict[int, int] = {}
        queue = deque([root])
        free: int | None = None
        while queue and free is None:
            left = queue.popleft()
            for right in candidates[left]:
                if right in came_from:
                    continue
                came_from[right] = left
                if right not in taken_by:
                    free = right
                    break
                queue.append(taken_by[right])
        # Walk back to the root: each left node on the way takes the right node that was reached
        # from it and leaves the one it had to the left node before.
        while free is not None:
            left = came_from[free]
            left_behind = partner_of.get(left)
            partner_of[left], taken_by[free] = free, left
            free = left_behind
    return sorted(partner_of.items())


def event_scores(
    videos: Iterable[tuple[Sequence[AnnotatedEvent], Sequence[Event]]],
    labels: Sequence[str],
    *,
    tolerance_seconds: float = 0.5,
    length_fraction: float = LENGTH_FRACTION,
) -> EventScores:
    """Event precision, recall and F1 over videos.

    Args:
        videos: For each video its annotated and its predicted events.
        labels: K class names.
        tolerance_seconds: How far starts may differ; see `is_match`.
        length_fraction: Share of the reference's length by which ends may differ.

    Raises:
        ValueError: An event's label is not among ``labels``, or the tolerance or the fraction
            is negative or not finite.
    """
    _check_tolerance(tolerance_seconds, length_fraction)
    num_references = dict.fromkeys(labels, 0)
    num_predictions = dict.fromkeys(labels, 0)
    num_matches = dict.fromkeys(labels, 0)
    for references, predictions in videos:
        for counts, events in ((num_references, references), (num_predictions, predictions)):
            for event in events:
                if event.label not in counts:
                    raise ValueError(
                        f"event of unknown label '{event.label}'; known: {', '.join(labels)}"
                    )
                counts[event.label] += 1
        pairs = match_events(
            references,
            predictions,
            tolerance_seconds=tolerance_seconds,
            length_fraction=length_fraction,
        )
        for reference, _ in pairs:
            num_matches[references[reference].label] += 1
    per_class = {
        label: EventCounts(
            num_references=num_references[label],
            num_predictions=num_predictions[label],
            num_matches=num_matches[label],
        )
        for label in labels
    }
    return EventScores(
        overall=sum(
            per_class.values(), EventCounts(num_references=0, num_predictions=0, num_matches=0)
        ),
        per_class=per_class,
        tolerance_seconds=tolerance_seconds,
        length_fraction=length_fraction,
    )


def _check_tolerance(tolerance_seconds: float, length_fraction: float) -> None:
    for name, value in (
        ("tolerance_seconds", tolerance_seconds),
        ("length_fraction", length_fraction),
    ):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be 0 or more, got {value}")
