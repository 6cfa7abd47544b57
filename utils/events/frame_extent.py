"""How much time one sampled frame stands for: shared by windows and events, so that they agree.

Frame ``i`` stands for the half-open interval from midway between frames ``i - 1`` and ``i`` to
midway between ``i`` and ``i + 1``. Midway is the unbiased choice. An annotated start ``s`` makes
the frames with ``t >= s`` positive, so all that a first positive frame tells is that ``s`` lies
after the frame before and not after itself; the middle of that is wrong by no more than half a step
and, on average, by nothing. The same holds for ends. Taking ``[t_i, t_{i+1})`` instead would report
every event half a step late.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TIME_TOLERANCE_SECONDS = 1e-6
"""Times are sums and quotients of clock ticks: "within 1 s" must hold for ten steps of 0.1 s."""

UNKNOWN_STEP_SECONDS = 1.0
"""Sampling step that is assumed of a stream that holds a single frame."""


@dataclass(frozen=True, kw_only=True)
class FrameArrival:
    """What a new frame settles.

    Attributes:
        start: Where the new frame's interval begins, seconds.
        previous_end: Where the interval of the frame before ends, seconds; None for the first.
        is_after_hole: There is a frame before, and a hole in the stream between the two.
    """

    start: float
    previous_end: float | None
    is_after_hole: bool


class FrameExtents:
    """Borders between the intervals of frames that come one by one.

    Where nothing was seen before a frame (first of the stream, or after a hole) its interval begins
    at the frame itself. Where nothing was seen after it, it reaches half of the last known step.

    Args:
        max_gap_seconds: A jump in time that is larger is a hole in the stream, of which nothing is
            known. None: no jump is.

    Raises:
        ValueError: ``max_gap_seconds`` is not above 0.
    """

    def __init__(self, *, max_gap_seconds: float | None = None) -> None:
        if max_gap_seconds is not None and not max_gap_seconds > 0:
            raise ValueError(f"max_gap_seconds must be above 0, got {max_gap_seconds}")
        self._max_gap = math.inf if max_gap_seconds is None else max_gap_seconds
        self._step = min(UNKNOWN_STEP_SECONDS, self._max_gap)
        self._previous: float | None = None

    def push(self, timestamp: float) -> FrameArrival:
        """Take the next frame's time.

        Raises:
            ValueError: ``timestamp`` is negative, not finite, or not after the frame before.
        """
        if not (math.isfinite(timestamp) and timestamp >= 0):
            raise ValueError(f"timestamps must be 0 or more seconds, got {timestamp}")
        previous, self._previous = self._previous, timestamp
        if previous is None:
            return FrameArrival(start=timestamp, previous_end=None, is_after_hole=False)
        step = timestamp - previous
        if step <= 0:
            self._previous = previous
            raise ValueError(f"timestamps must rise, got {timestamp} s after {previous} s")
        if step > self._max_gap + TIME_TOLERANCE_SECONDS:
            end = previous + self._step / 2
            return FrameArrival(start=timestamp, previous_end=end, is_after_hole=True)
        self._step = step
        border = previous + step / 2
        if border <= previous:  # The two are neighbours among floats.
            border = timestamp
        return FrameArrival(start=border, previous_end=border, is_after_hole=False)

    def finish(self, end_seconds: float | None) -> float | None:
        """Where the last frame's interval ends, seconds; None if there was no frame.

        Args:
            end_seconds: Where the stream ends. The last frame reaches to there, but no further than
                one step, after which there would have been another sample. None, or a time that is
                not after the last frame: the frame reaches half a step.
        """
        if self._previous is None:
            return None
        if end_seconds is None or not end_seconds > self._previous:
            return self._previous + self._step / 2
        return min(end_seconds, self._previous + self._step)
