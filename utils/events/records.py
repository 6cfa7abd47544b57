"""The records of the road from scores to a report: `FrameScore`, `Window`, `Event`.

Times are seconds from the first frame; intervals are half-open ``[start, end)``. Each record checks
itself when it is made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

PUBLISHED_DECIMALS = 6
"""A microsecond, or a millionth of a probability: more digits are the noise of float32."""


def check_interval(start: float, end: float) -> None:
    """Raises ``ValueError`` unless ``0 <= start < end`` and both are finite."""
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
        raise ValueError(f"an interval needs 0 <= start < end, got [{start}, {end})")


# Arrays have no single truth value, so the generated comparison could only raise.
@dataclass(frozen=True, kw_only=True, eq=False)
class FrameScore:
    """What the cascade knows of one sampled frame.

    Attributes:
        sample_index: Position among the sampled frames.
        frame_index: Position in the source.
        timestamp: Seconds.
        trigger: Trigger-head probabilities, ``(K,)``.
        temporal: Temporal-encoder probabilities, ``(K,)``; None where no candidate was near and the
            temporal encoder did not look.

    Raises:
        ValueError: The timestamp is negative or not finite, or the scores are not ``(K,)`` in
            [0, 1].
    """

    sample_index: int
    frame_index: int
    timestamp: float
    trigger: NDArray[np.float32]
    temporal: NDArray[np.float32] | None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timestamp) and self.timestamp >= 0):
            raise ValueError(
                f"sample {self.sample_index}: timestamp must be 0 or more seconds, "
                f"got {self.timestamp}"
            )
        self._check_scores("trigger", self.trigger)
        if self.temporal is not None:
            self._check_scores("temporal", self.temporal)
            if self.temporal.shape != self.trigger.shape:
                raise ValueError(
                    f"sample {self.sample_index}: trigger has shape {self.trigger.shape}, "
                    f"temporal {self.temporal.shape}; both must be (K,)"
                )

    def _check_scores(self, name: str, scores: NDArray[np.float32]) -> None:
        if scores.ndim != 1 or not scores.size:
            raise ValueError(
                f"sample {self.sample_index}: {name} scores must be (K,), got {scores.shape}"
            )
        # NaN fails both comparisons: a diverged model must not pass for a quiet one.
        if not bool(np.all((scores >= 0) & (scores <= 1))):
            raise ValueError(
                f"sample {self.sample_index}: {name} scores must be probabilities in [0, 1], "
                f"got {scores}"
            )

    @property
    def confidence(self) -> NDArray[np.float32]:
        """``(K,)``: the temporal scores, or zeros where the temporal encoder did not look."""
        return np.zeros_like(self.trigger) if self.temporal is None else self.temporal


@dataclass(frozen=True, kw_only=True)
class Window:
    """Candidates joined to an interval, with context.

    Attributes:
        start: Seconds; context included.
        end: Seconds, exclusive; context included.
        num_candidates: Candidate frames inside.

    Raises:
        ValueError: The times are no interval, or there is no candidate.
    """

    start: float
    end: float
    num_candidates: int

    def __post_init__(self) -> None:
        check_interval(self.start, self.end)
        if self.num_candidates < 1:
            raise ValueError(f"a window holds a candidate, got {self.num_candidates}")

    def to_plain(self) -> dict[str, Any]:
        """The fields as a dict that JSON can hold; `from_plain` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The record that `to_plain` was called on."""
        return cls(**plain)


@dataclass(frozen=True, kw_only=True)
class Event:
    """A stretch whose temporal score passed the threshold: what reports list as a *trigger*.

    Attributes:
        label: Class name.
        start: Seconds.
        end: Seconds, exclusive.
        timestamp: Seconds of the frame with the highest score.
        frame_index: That frame's position in the source.
        confidence: That score, in [0, 1].

    Raises:
        ValueError: The times are no interval, the peak lies outside, or the confidence does.
    """

    label: str
    start: float
    end: float
    timestamp: float
    frame_index: int
    confidence: float

    def __post_init__(self) -> None:
        check_interval(self.start, self.end)
        if not self.start <= self.timestamp < self.end:
            raise ValueError(
                f"the peak at {self.timestamp} s lies outside [{self.start}, {self.end})"
            )
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence must be in [0, 1], got {self.confidence}")

    @property
    def duration_seconds(self) -> float:
        """``end - start``."""
        return self.end - self.start

    def to_plain(self) -> dict[str, Any]:
        """The fields as a dict that JSON can hold; `from_plain` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The record that `to_plain` was called on."""
        return cls(**plain)
