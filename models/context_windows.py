"""`ContextWindows`: the temporal encoder over a stream, in the windows of `models.window_grid`.

The scores are the same however the stream is cut into chunks, and each frame is encoded once.

Arrays in, arrays out: the windows are the same whichever engine runs the temporal encoder.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.window_grid import GridWindow, WindowGrid

FloatArray = NDArray[np.float32]

Contextualize = Callable[[FloatArray, NDArray[np.float64], NDArray[np.bool_]], FloatArray]
"""``(features (B, T, D), timestamps (B, T), valid (B, T)) -> logits (B, T, K)``."""


class ContextWindows:
    """Scores a stream of features; holds at most about two windows of it.

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
        self._contextualize = contextualize
        self._grid = WindowGrid(window_size, causal=causal)
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
        windows: list[GridWindow] = []
        while (window := self._grid.next_window(self._num_scored, self._length)) is not None:
            windows.append(window)
            self._num_scored = window.last
        scored = self._run(windows)
        self._forget()
        return scored

    def flush(self) -> list[FloatArray | None]:
        """The stream ends here: the logits of all frames that are still open. Then `reset`."""
        rest = self._grid.last_window(self._num_scored, self._length)
        scored = [] if rest is None else self._run([rest])
        self.reset()
        return scored

    def _run(self, windows: list[GridWindow]) -> list[FloatArray | None]:
        needed = [
            window
            for window in windows
            if any(self._wanted[window.first - self._first : window.last - self._first])
        ]
        logits: dict[int, FloatArray] = {}
        for batch in _batches_of_one_length(needed, self._batch_size):
            self._run_batch(batch, logits)
        return [
            logits[index] if self._wanted[index - self._first] else None
            for window in windows
            for index in range(window.first, window.last)
        ]

    def _run_batch(self, windows: list[GridWindow], logits: dict[int, FloatArray]) -> None:
        assert self._features is not None
        assert self._timestamps is not None
        slices = [slice(w.start - self._first, w.end - self._first) for w in windows]
        features = np.stack([self._features[part] for part in slices])
        timestamps = np.stack([self._timestamps[part] for part in slices])
        valid = np.ones(timestamps.shape, dtype=np.bool_)
        output = self._contextualize(features, timestamps, valid)
        for row, window in zip(output, windows, strict=True):
            logits.update(
                (index, row[index - window.start]) for index in range(window.first, window.last)
            )

    def _forget(self) -> None:
        """Drop what no later window can reach."""
        assert self._features is not None
        assert self._timestamps is not None
        keep = max(0, min(self._num_scored, self._length) - self._grid.window_size)
        drop = keep - self._first
        if drop > 0:
            # Copied: a slice would keep the whole array alive.
            self._features = self._features[drop:].copy()
            self._timestamps = self._timestamps[drop:].copy()
            del self._wanted[:drop]
            self._first = keep


def _batches_of_one_length(windows: list[GridWindow], batch_size: int) -> list[list[GridWindow]]:
    batches: list[list[GridWindow]] = []
    for window in windows:
        last = batches[-1] if batches else None
        size = window.end - window.start
        if last and len(last) < batch_size and last[0].end - last[0].start == size:
            last.append(window)
        else:
            batches.append([window])
    return batches
