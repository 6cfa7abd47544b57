"""`Track`: where an actor is along its line at any time, in closed form.

Lowest floor of the synthetic data set: no drawing, no randomness. Positions are in picture widths
(0 is the left edge, 1 the right edge), so that speeds mean the same at every picture size.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Interval = tuple[float, float]
"""Half-open ``[start, end)`` in seconds."""


@dataclass(frozen=True)
class Phase:
    """A stretch of uniform acceleration.

    Attributes:
        duration: Seconds; may be infinite if both velocities are 0.
        start_velocity: Picture widths a second; positive is to the right.
        end_velocity: Likewise, at the end of the phase.
    """

    duration: float
    start_velocity: float
    end_velocity: float

    def __post_init__(self) -> None:
        if not self.duration > 0:
            raise ValueError(f"a phase needs a positive duration, got {self.duration}")
        if self.start_velocity * self.end_velocity < 0:
            raise ValueError("a phase does not turn round; split it where the actor stands still")
        if math.isinf(self.duration) and (self.start_velocity or self.end_velocity):
            raise ValueError("only standing still can last for ever")

    @property
    def is_still(self) -> bool:
        return self.start_velocity == 0 and self.end_velocity == 0

    @property
    def displacement(self) -> float:
        """Picture widths, signed."""
        if self.is_still:
            return 0.0
        return self.duration * (self.start_velocity + self.end_velocity) / 2

    def displacement_after(self, seconds: float) -> float:
        """Picture widths covered in the first ``seconds`` of the phase, signed."""
        if self.is_still:
            return 0.0
        change = (self.end_velocity - self.start_velocity) / self.duration
        return seconds * (self.start_velocity + change * seconds / 2)


class Track:
    """Phases in a row from a starting time and place.

    Args:
        start: Seconds; the actor does not exist before.
        position: Picture widths at ``start``.
        phases: At least one.
    """

    def __init__(self, start: float, position: float, phases: Sequence[Phase]) -> None:
        if not phases:
            raise ValueError("a track needs at least one phase")
        self.phases = tuple(phases)
        self.starts: list[float] = []
        self._positions: list[float] = []
        self._travelled: list[float] = []
        self._facings: list[int] = []
        facing = next((_sign(phase) for phase in phases if not phase.is_still), 0)
        travelled = 0.0
        for phase in phases:
            facing = _sign(phase) or facing
            self.starts.append(start)
            self._positions.append(position)
            self._travelled.append(travelled)
            self._facings.append(facing)
            start += phase.duration
            position += phase.displacement
            travelled += abs(phase.displacement)
        self.end = start
        """Seconds, exclusive; the actor is gone from here on."""

    @property
    def start(self) -> float:
        return self.starts[0]

    def _locate(self, time: float) -> tuple[int, float]:
        index = max(bisect.bisect_right(self.starts, time) - 1, 0)
        phase = self.phases[index]
        return index, min(max(time - self.starts[index], 0.0), phase.duration)

    def position(self, time: float) -> float:
        """Picture widths; outside ``[start, end)`` the nearest end's."""
        index, elapsed = self._locate(time)
        return self._positions[index] + self.phases[index].displacement_after(elapsed)

    def travelled(self, time: float) -> float:
        """Picture widths covered since ``start``, turns counted both ways."""
        index, elapsed = self._locate(time)
        return self._travelled[index] + abs(self.phases[index].displacement_after(elapsed))

    def facing(self, time: float) -> int:
        """1 to the right, -1 to the left, 0 for an actor that never moves.

        An actor that stands faces where it last went, or where it will go first.
        """
        return self._facings[self._locate(time)[0]]

    def inside(self, index: int) -> Interval | None:
        """When the position lies in [0, 1) during phase ``index``, one without acceleration.

        Returns:
            The interval, or None where the phase stays outside.
        """
        phase, start, position = self.phases[index], self.starts[index], self._positions[index]
        if phase.start_velocity != phase.end_velocity:
            raise ValueError("inside() wants a phase without acceleration")
        if phase.is_still:
            return (start, start + phase.duration) if 0 <= position < 1 else None
        at_edges = sorted((edge - position) / phase.start_velocity for edge in (0.0, 1.0))
        first, last = max(at_edges[0], 0.0), min(at_edges[1], phase.duration)
        return (start + first, start + last) if first < last else None


def _sign(phase: Phase) -> int:
    total = phase.start_velocity + phase.end_velocity
    return (total > 0) - (total < 0)


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Disjoint intervals in order that cover the same moments; touching ones are joined."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        # Phases in a row meet at sums of floats: a gap of rounding error is no gap.
        if merged and start <= merged[-1][1] + 1e-9:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def at_least(intervals: Sequence[Interval], count: int) -> list[Interval]:
    """Disjoint intervals in which at least ``count`` of ``intervals`` hold at once."""
    steps = sorted(
        [(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals],
    )
    found: list[Interval] = []
    level, begun = 0, 0.0
    for time, step in steps:
        if step > 0 and level == count - 1:
            begun = time
        if step < 0 and level == count and time > begun:
            found.append((begun, time))
        level += step
    return union(found)
