"""One wish to one threshold for each class, so that it holds on video that was not looked at.

Under `pipeline.calibration`. `choose` takes, of the thresholds of a `ClassCurve`, those that keep a
`Wish`; the bounds that make it a promise and not a hope are those of `pipeline.promises`.

K classes share a wish about alarms or time equally: the same number of false alarms, or the same
share of the video, is allowed to each. So a class that the model cannot tell from background costs
the others nothing. A wish about recall is kept by each class for itself.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.promises import (
    hits_needed,
    rate_upper_bound,
    share_lower_bound,
    sum_upper_bound,
    trials_needed,
)
from pipeline.threshold_curves import ClassCurve
from utils.errors import UsageError
from utils.evaluation.calibration import logits_of
from utils.evaluation.intervals import DEFAULT_CONFIDENCE, exposure_needed

WishKind = Literal["recall", "false_alarms_per_hour", "stage3_fraction"]

RECALL_CUTS = 2
"""Thresholds that are chosen with a look at annotated events: the candidates' gate and the class's
own."""

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What thresholds are chosen for.

    Attributes:
        kind: ``recall``: at least so much of each class's events. ``false_alarms_per_hour``: at
            most so many of all classes together. ``stage3_fraction``: at most so much of the video
            lies in events.
        value: In (0, 1), or of false alarms above 0.
        confidence: How often the promise may be relied on, in (0, 1).

    Raises:
        UsageError: A value is out of its range.
    """

    kind: WishKind
    value: float
    confidence: float = DEFAULT_CONFIDENCE

    def __post_init__(self) -> None:
        most = math.inf if self.kind == "false_alarms_per_hour" else 1.0
        if not 0 < self.value < most:
            bounds = "above 0" if most == math.inf else "between 0 and 1"
            raise UsageError(f"a wish for {self.kind} must be {bounds}, got {self.value:g}")
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence must be between 0 and 1, got {self.confidence:g}")

    def __str__(self) -> str:
        wish = {
            "recall": f"at least {_percent(self.value)} of the events of each class found",
            "false_alarms_per_hour": f"at most {_count(self.value, 'false alarm')} an hour",
            "stage3_fraction": f"at most {_percent(self.value)} of the video sent to stage 3",
        }[self.kind]
        return f"{wish}, with {_percent(self.confidence)} confidence"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The thresholds that keep a wish.

    Attributes:
        positions: Of each class, in its curve.
        promised: What may be relied on, at least as good as the wish; but where there are too few
            events to promise the recall that was wished, less than that. The lowest of the classes.
        notes: What one should know, a sentence each.
    """

    positions: tuple[int, ...]
    promised: float
    notes: tuple[str, ...] = ()


def choose(curves: Sequence[ClassCurve], wish: Wish, *, duration_seconds: float) -> Choice:
    """The thresholds that keep ``wish``, and of these the best for what it does not speak of.

    Args:
        curves: Of each class, over the calibration videos.
        wish: What must hold.
        duration_seconds: Of all calibration videos.

    Raises:
        UsageError: The videos are too short to support it, or no threshold keeps it.
    """
    for curve in curves:
        if not curve.num_references:
            raise UsageError(
                f"the calibration videos hold no event of class '{curve.label}': what its "
                "threshold would miss cannot be known; add videos with some"
            )
        if not len(curve.thresholds):
            raise UsageError(
                f"the model never scores class '{curve.label}' above 0 on the calibration videos: "
                "no threshold can find it"
            )
    if wish.kind == "recall":
        return _for_recall(curves, wish)
    if wish.kind == "false_alarms_per_hour":
        return _for_false_alarms(curves, wish)
    return _for_share(curves, wish, duration_seconds)


def _for_recall(curves: Sequence[ClassCurve], wish: Wish) -> Choice:
    """Of each class, about the highest threshold that finds as many events as the promise needs."""
    positions: list[int] = []
    promised: list[float] = []
    notes: list[str] = []
    for curve in curves:
        total, most = curve.num_references, int(curve.num_detected.max())
        if most < wish.value * total:
            best = curve.thresholds[np.flatnonzero(curve.num_detected == most)[-1]]
            raise UsageError(
                f"{wish}: no threshold finds that much of class '{curve.label}': at most {most} of "
                f"{total} events, at {best:.3g}; wish for less, or train a better model"
            )
        needed = hits_needed(wish.value, total, num_cuts=RECALL_CUTS, confidence=wish.confidence)
        if needed is None or needed > most:
            notes.append(_too_few_events(curve.label, most, total, needed, wish))
            needed = most
        highest = int(np.flatnonzero(curve.num_detected >= needed)[-1])
        positions.append(_best_up_to(curve, highest, needed))
        promised.append(_recall_bound(needed, total, wish))
    return Choice(positions=tuple(positions), promised=min(promised), notes=tuple(notes))


def _recall_bound(num_found: int, total: int, wish: Wish) -> float:
    return share_lower_bound(num_found, total, num_cuts=RECALL_CUTS, confidence=wish.confidence)


def _too_few_events(label: str, most: int, total: int, needed: int | None, wish: Wish) -> str:
    if needed is None:
        enough = trials_needed(wish.value, num_cuts=RECALL_CUTS, confidence=wish.confidence)
        remedy = f"it takes {enough} events, all of them found"
    else:
        remedy = f"it takes {needed} of them found"
    return (
        f"class '{label}': {most} of {total} events found can promise a recall of "
        f"{_recall_bound(most, total, wish):.2f} and no more, with {_percent(wish.confidence)} "
        f"confidence: {remedy}. The threshold finds as many as it can"
    )


def _for_false_alarms(curves: Sequence[ClassCurve], wish: Wish) -> Choice:
    """Thresholds beyond which every class raised as many false alarms as all may."""
    hours = float(np.mean([curve.quiet_hours for curve in curves]))
    num_classes = len(curves)

    def bound(count: int) -> float:
        return rate_upper_bound(count, hours, num_cuts=num_classes, confidence=wish.confidence)

    if not hours > 0 or bound(0) > wish.value:
        needed = exposure_needed(wish.value, count=num_classes - 1, confidence=wish.confidence)
        least = (
            f"; {_rounded_up(bound(0))} an hour is the least that they support" if hours > 0 else ""
        )
        raise UsageError(
            f"{wish}: {hours:.2f} hours without annotated events are too few to promise that, even "
            f"if not one false alarm came in them: it takes {needed:.2f} hours "
            f"({needed - hours:.2f} more){least}"
        )
    allowed = 0
    while bound(num_classes * (allowed + 1)) <= wish.value:
        allowed += 1
    positions = []
    for curve in curves:
        lowest = _lowest_permitted(curve.num_false > allowed)
        if lowest is None:
            raise UsageError(
                f"{wish}: class '{curve.label}' raises {int(curve.num_false[-1])} false alarms "
                f"even at a threshold of {curve.thresholds[-1]:.6g}, and {allowed} are allowed in "
                f"{hours:.2f} hours; wish for more, or train a better model"
            )
        positions.append(_best_from(curve, lowest))
    # Not of those that came: how many may come was settled before anyone looked.
    return Choice(positions=tuple(positions), promised=bound(num_classes * allowed))


def _for_share(curves: Sequence[ClassCurve], wish: Wish, duration_seconds: float) -> Choice:
    """Thresholds at which every class sends as much as all may."""

    def permitted(allowance: float) -> list[int]:
        lowest = (_lowest_permitted(curve.sent_seconds > allowance) for curve in curves)
        return [position for position in lowest if position is not None]

    def bound(positions: Sequence[int]) -> float:
        at = list(zip(curves, positions, strict=True))
        longest = [float(curve.longest_seconds[position]) for curve, position in at]
        seconds = sum_upper_bound(
            sum(float(curve.sent_seconds[position]) for curve, position in at),
            sum(float(curve.sent_squares[position]) for curve, position in at),
            longest=sum(longest),
            squared_longest=sum(length**2 for length in longest),
            confidence=wish.confidence,
        )
        return seconds / duration_seconds

    sent = np.unique(np.concatenate([curve.sent_seconds for curve in curves]))
    # No class can send less than at its highest threshold.
    allowances = sent[sent >= max(curve.sent_seconds[-1] for curve in curves)]
    least = bound(permitted(float(allowances[0])))
    if least > wish.value:
        hours = duration_seconds / _SECONDS_PER_HOUR
        needed = hours * least / wish.value
        raise UsageError(
            f"{wish}: {hours:.2f} hours of video are too few to promise that, even if next to "
            f"nothing is sent: it takes about {needed:.2f} hours ({needed - hours:.2f} more); "
            f"{_rounded_up(100 * least)} % is the least that they support"
        )
    # More allowance, more time and a higher bound: the last that keeps the wish is found by halves.
    num_kept = bisect_right(
        allowances, wish.value, key=lambda allowance: bound(permitted(float(allowance)))
    )
    kept = permitted(float(allowances[num_kept - 1]))
    best = [_best_from(curve, position) for curve, position in zip(curves, kept, strict=True)]
    return Choice(positions=tuple(best), promised=bound(kept))


def _lowest_permitted(is_too_much: NDArray[np.bool_]) -> int | None:
    """The lowest position above which nothing is too much; None where the highest is.

    Counts need not fall as the threshold rises, for two events may become one. To take the lowest
    that is just so would be to pick the luckiest of many tries.
    """
    wrong = np.flatnonzero(is_too_much)
    position = int(wrong[-1]) + 1 if len(wrong) else 0
    return position if position < len(is_too_much) else None


def _best_from(curve: ClassCurve, lowest: int) -> int:
    """Among positions from ``lowest`` on, the middle of those that find most events.

    Any of them keeps the promise. In the middle, on the scale of logits, there is room to both
    sides: for events that score less than those seen, and for background that scores more.
    """
    detected = curve.num_detected[lowest:]
    return _middle(curve, lowest + np.flatnonzero(detected == detected.max()))


def _best_up_to(curve: ClassCurve, highest: int, num_needed: int) -> int:
    """Among positions up to ``highest``, the middle of those that cost no false alarm more."""
    is_free = curve.num_false[: highest + 1] <= curve.num_false[highest]
    is_free &= curve.num_detected[: highest + 1] >= num_needed
    dear = np.flatnonzero(~is_free)
    lowest = int(dear[-1]) + 1 if len(dear) else 0
    return _middle(curve, np.arange(lowest, highest + 1))


def _middle(curve: ClassCurve, positions: NDArray[np.intp]) -> int:
    logits = logits_of(curve.thresholds[positions])
    return int(positions[np.argmin(np.abs(logits - (logits[0] + logits[-1]) / 2))])


def _rounded_up(number: float) -> str:
    """In two digits, so that a wish for it can be kept."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / unit) * unit:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
