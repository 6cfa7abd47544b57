"""`ContextWindows`: the temporal encoder over a stream, in overlapping windows on a fixed grid.

Windows of W frames start at every W/2-th sampled frame, counted from the start of the stream, never
from where a chunk begins; each frame is scored by the one window in which it has the most context.
So the scores are the same however the stream is cut into chunks, and each frame is encoded once.

Arrays in, arrays out: the windows are the same whichever engine runs the temporal encoder.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

Contextualize = Callable[[FloatArray, NDArray[np.float64], NDArray[np.bool_]], FloatArray]
"""``(features (B, T, D), timestamps (B, T), valid (B, T)) -> logits (B, T, K)``."""


class ContextWindows:
    """Scores a stream of features; holds at most about two windows of it.

    A bidirectional encoder scores the middle half of each window (the first window from its start,
    the last to its end). A causal one scores the last half, and as soon as a frame is there: what
    comes later in the window cannot change it.

    Args:
        contextualize: The temporal encoder.
        window_size: W, frames.
        causal: Whether the encoder looks back alone.
        batch_size: Windows that go through the encoder at once.

    Raises:
        ValueError: ``window_size`` is below 2.
    """

    def __init__(
        self,
        contextualize: Contextualize,
        *,
        window_size: int,
        causal: bool,
        batch_size: int = 32,
    ) -> None:
        if window_size < 2:
            raise ValueError(f"window_size must be at least 2 frames, got {window_size}")
        self._contextualize = contextualize
        self._window_size = window_size
        self._stride = window_size // 2
        self._causal = causal
        self._batch_size = batch_size
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self._features: FloatArray | None = None
        self._timestamps: NDArray[np.float64] | None = None
        self._wanted: list[bool] = []
        self._first = 0  # Index in the stream of the first frame held.
        self._num_scored = 0
        self._length = 0

    def push(
        self,
        features: FloatArray,
        timestamps: NDArray[np.float64],
        wanted: NDArray[np.bool_] | None = None,
    ) -> list[FloatArray | None]:
        """Add frames; get the logits that are final now.

        Args:
            features: ``(N, D)``.
            timestamps: ``(N,)`` seconds.
            wanted: ``(N,)`` bool, frames whose score is asked for; by default all. A
                window is run only where it would score a wanted frame.

        Returns:
            For each frame from the last one answered on, in order: logits ``(K,)``, or None where
            the score was not wanted.
        """
        if len(features) == 0:
            return []
        if self._features is None or self._timestamps is None:
            self._features, self._timestamps = features, timestamps
        else:
            self._features = np.concatenate((self._features, features))
            self._timestamps = np.concatenate((self._timestamps, timestamps))
        self._wanted += [True] * len(features) if wanted is None else [bool(w) for w in wanted]
        self._length += len(features)
        jobs: list[tuple[int, int, int, int]] = []
        while (job := self._next_job()) is not None:
            jobs.append(job)
            self._num_scored = job[3]
        scored = self._run(jobs)
        self._forget()
        return scored

    def flush(self) -> list[FloatArray | None]:
        """The stream ends here: the logits of all frames that are still open. Then `reset`."""
        scored: list[FloatArray | None] = []
        if self._num_scored < self._length:
            start = max(0, self._length - self._window_size)
            scored = self._run([(start, self._length, self._num_scored, self._length)])
        self.reset()
        return scored

    def _next_job(self) -> tuple[int, int, int, int] | None:
        """``(window start, window end, first frame to score, end of those)``; None: wait."""
        size, stride = self._window_size, self._stride
        first = self._num_scored
        # Frames that the window with the number n scores end at `n * stride + tail`.
        tail = size if self._causal else size - (size - stride) // 2
        number = 0 if first < tail else (first - tail) // stride + 1
        start = number * stride
        if self._causal:
            end = min(self._length, start + size)
            return (start, end, first, end) if first < self._length else None
        if start + size > self._length:
            return None
        return start, start + size, first, start + tail

    def _run(self, jobs: list[tuple[int, int, int, int]]) -> list[FloatArray | None]:
        needed = [
            job for job in jobs if any(self._wanted[job[2] - self._first : job[3] - self._first])
        ]
        logits: dict[int, FloatArray] = {}
        for batch in _batches_of_one_length(needed, self._batch_size):
            self._run_batch(batch, logits)
        return [
            logits[index] if self._wanted[index - self._first] else None
            for job in jobs
            for index in range(job[2], job[3])
        ]

    def _run_batch(
        self, jobs: list[tuple[int, int, int, int]], logits: dict[int, FloatArray]
    ) -> None:
        assert self._features is not None
        assert self._timestamps is not None
        slices = [slice(start - self._first, end - self._first) for start, end, _, _ in jobs]
        features = np.stack([self._features[part] for part in slices])
        timestamps = np.stack([self._timestamps[part] for part in slices])
        valid = np.ones(timestamps.shape, dtype=np.bool_)
        output = self._contextualize(features, timestamps, valid)
        for row, (start, _, first, end) in zip(output, jobs, strict=True):
            logits.update((index, row[index - start]) for index in range(first, end))

    def _forget(self) -> None:
        """Drop what no later window can reach."""
        assert self._features is not None
        assert self._timestamps is not None
        keep = max(0, min(self._num_scored, self._length) - self._window_size)
        drop = keep - self._first
        if drop > 0:
            # Copied: a slice would keep the whole array alive.
            self._features = self._features[drop:].copy()
            self._timestamps = self._timestamps[drop:].copy()
            del self._wanted[:drop]
            self._first = keep


def _batches_of_one_length(
    jobs: list[tuple[int, int, int, int]], batch_size: int
) -> list[list[tuple[int, int, int, int]]]:
    batches: list[list[tuple[int, int, int, int]]] = []
    for job in jobs:
        last = batches[-1] if batches else None
        if last and len(last) < batch_size and last[0][1] - last[0][0] == job[1] - job[0]:
            last.append(job)
        else:
            batches.append([job])
    return batches
