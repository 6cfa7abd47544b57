"""`CandidateWindows`: which sampled frames the temporal encoder looks at.

Between the trigger head and the temporal encoder: the head scores every sampled frame, frames at
or above ``candidate_threshold`` are candidates, and all frames within ``context_seconds`` of a
candidate are joined to windows. Only these go on to the dearer stage.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from utils.events.frame_extent import TIME_TOLERANCE_SECONDS, FrameExtents
from utils.events.records import Window


@dataclass(frozen=True, kw_only=True)
class FrameDecision:
    """Whether one sampled frame lies in a window.

    Attributes:
        sample_index: As pushed.
        timestamp: As pushed, seconds.
        window_index: Which window, counted from 0; None where the frame is in none. Frames of one
            window follow each other without a gap.
        is_candidate: The frame's own score passed ``candidate_threshold``.
    """

    sample_index: int
    timestamp: float
    window_index: int | None
    is_candidate: bool

    @property
    def in_window(self) -> bool:
        """Whether the temporal encoder looks at the frame."""
        return self.window_index is not None


@dataclass(frozen=True, kw_only=True)
class WindowUpdate:
    """What one more frame, or the end of the stream, made known.

    Attributes:
        decisions: In the order of the frames; over the whole stream one for each frame.
        windows: Those that closed, in order.
    """

    decisions: tuple[FrameDecision, ...]
    windows: tuple[Window, ...]


@dataclass(kw_only=True)
class _Frame:
    sample_index: int
    timestamp: float
    start: float


class CandidateWindows:
    """Joins candidates to windows while the frames come in.

    A frame is in a window if a candidate lies at most ``context_seconds`` before or after it. That
    is decided as soon as it can be: at once for a candidate and what follows one, else when a
    candidate comes or ``context_seconds`` have passed. Only undecided frames are remembered, so
    memory is that of ``context_seconds`` of video, however long a window or the stream is.

    Windows are disjoint, ordered, and hold every candidate. A window spans the intervals that its
    frames stand for (`utils.events.frame_extent`). Windows do not reach across holes in the stream.

    Args:
        candidate_threshold: In [0, 1]. At 0 every frame is a candidate.
        context_seconds: Context to either side of each candidate.
        max_gap_seconds: A larger jump in time is a hole in the stream; None: no jump is.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        candidate_threshold: float,
        context_seconds: float,
        max_gap_seconds: float | None = None,
    ) -> None:
        if not 0 <= candidate_threshold <= 1:
            raise ValueError(f"candidate_threshold must be in [0, 1], got {candidate_threshold}")
        if not (math.isfinite(context_seconds) and context_seconds >= 0):
            raise ValueError(f"context_seconds must be 0 or more seconds, got {context_seconds}")
        self.candidate_threshold = candidate_threshold
        self.context_seconds = context_seconds
        self.max_gap_seconds = max_gap_seconds
        self._reset()

    def _reset(self) -> None:
        self._extents = FrameExtents(max_gap_seconds=self.max_gap_seconds)
        self._undecided: deque[_Frame] = deque()
        self._last_candidate = -math.inf
        self._window_index = -1
        self._window_start: float | None = None
        self._num_candidates = 0

    def push(self, sample_index: int, timestamp: float, score: float) -> WindowUpdate:
        """Take the next sampled frame.

        Args:
            sample_index: Handed back in the frame's `FrameDecision`.
            timestamp: Seconds; must rise from frame to frame.
            score: Trigger-head score of the frame, the highest over all classes, in [0, 1].

        Raises:
            ValueError: ``score`` is no probability, or ``timestamp`` does not rise.
        """
        if not 0 <= score <= 1:
            raise ValueError(
                f"sample {sample_index}: the trigger score must be in [0, 1], got {score}"
            )
        arrival = self._extents.push(timestamp)
        decisions: list[FrameDecision] = []
        windows: list[Window] = []
        if arrival.is_after_hole and arrival.previous_end is not None:
            self._leave_out(len(self._undecided), decisions, windows)
            self._close_window(arrival.previous_end, windows)
            self._last_candidate = -math.inf
        num_out_of_reach = 0
        for frame in self._undecided:
            if self._is_in_reach(timestamp - frame.timestamp):
                break
            num_out_of_reach += 1
        self._leave_out(num_out_of_reach, decisions, windows)
        self._undecided.append(
            _Frame(sample_index=sample_index, timestamp=timestamp, start=arrival.start)
        )
        is_candidate = score >= self.candidate_threshold
        if is_candidate:
            self._last_candidate = timestamp
        if self._is_in_reach(timestamp - self._last_candidate):
            self._take_in(decisions, is_candidate=is_candidate)
        return WindowUpdate(decisions=tuple(decisions), windows=tuple(windows))

    def flush(self, end_seconds: float | None = None) -> WindowUpdate:
        """End the stream: decide what is open. After that the next stream may be pushed.

        Args:
            end_seconds: Where the video ends, if known; see `FrameExtents.finish`.
        """
        decisions: list[FrameDecision] = []
        windows: list[Window] = []
        end = self._extents.finish(end_seconds)
        self._leave_out(len(self._undecided), decisions, windows)
        if end is not None:
            self._close_window(end, windows)
        self._reset()
        return WindowUpdate(decisions=tuple(decisions), windows=tuple(windows))

    def _is_in_reach(self, seconds: float) -> bool:
        return seconds <= self.context_seconds + TIME_TOLERANCE_SECONDS

    def _take_in(self, decisions: list[FrameDecision], *, is_candidate: bool) -> None:
        """All undecided frames are in the window; the last of them is the new one."""
        if self._window_start is None:
            self._window_start = self._undecided[0].start
            self._window_index += 1
        self._num_candidates += is_candidate
        while self._undecided:
            frame = self._undecided.popleft()
            decisions.append(
                FrameDecision(
                    sample_index=frame.sample_index,
                    timestamp=frame.timestamp,
                    window_index=self._window_index,
                    is_candidate=is_candidate and not self._undecided,
                )
            )

    def _leave_out(
        self, num_frames: int, decisions: list[FrameDecision], windows: list[Window]
    ) -> None:
        """The oldest ``num_frames`` undecided frames are in no window."""
        for _ in range(num_frames):
            frame = self._undecided.popleft()
            # The frame before it was the window's last; the border between the two is known.
            self._close_window(frame.start, windows)
            decisions.append(
                FrameDecision(
                    sample_index=frame.sample_index,
                    timestamp=frame.timestamp,
                    window_index=None,
                    is_candidate=False,
                )
            )

    def _close_window(self, end: float, windows: list[Window]) -> None:
        if self._window_start is None:
            return
        windows.append(
            Window(start=self._window_start, end=end, num_candidates=self._num_candidates)
        )
        self._window_start = None
        self._num_candidates = 0
