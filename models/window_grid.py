"""`WindowGrid`: overlapping windows on a fixed grid over a stream, and which frames each answers.

Windows of W frames start at every W/2-th sampled frame, counted from the start of the stream, never
from where a chunk begins; each frame is answered by the one window in which it has the most
context. So how a stream is cut into chunks changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class GridWindow(NamedTuple):
    """One window: it sees frames ``[start, end)`` and answers those in ``[first, last)``."""

    start: int
    end: int
    first: int
    last: int


class WindowGrid:
    """The windows, in order; holds no stream.

    Looking both ways, a window answers its middle half (the first one from its start, the last one
    to its end). Looking back alone, it answers its last half, each frame as soon as it is there:
    what comes later in the window cannot change it.

    Args:
        window_size: W, frames.
        causal: Whether what runs on the windows looks back alone.

    Raises:
        ValueError: ``window_size`` is below 2.
    """

    def __init__(self, window_size: int, *, causal: bool) -> None:
        if window_size < 2:
            raise ValueError(f"window_size must be at least 2 frames, got {window_size}")
        self.window_size = window_size
        self.stride = window_size // 2
        self.causal = causal

    def next_window(self, num_answered: int, length: int) -> GridWindow | None:
        """The window that answers the next frame of a stream, or None while it has to wait.

        Args:
            num_answered: Frames answered so far.
            length: Frames that are there so far.
        """
        size, stride = self.window_size, self.stride
        # Frames that the window with the number n answers end at `n * stride + tail`.
        tail = size if self.causal else size - (size - stride) // 2
        number = 0 if num_answered < tail else (num_answered - tail) // stride + 1
        start = number * stride
        if self.causal:
            end = min(length, start + size)
            return GridWindow(start, end, num_answered, end) if num_answered < length else None
        if start + size > length:
            return None
        return GridWindow(start, start + size, num_answered, start + tail)

    def last_window(self, num_answered: int, length: int) -> GridWindow | None:
        """The window that answers the rest of a stream that ends, or None without a rest."""
        if num_answered >= length:
            return None
        return GridWindow(max(0, length - self.window_size), length, num_answered, length)

    def windows(self, length: int) -> Iterator[GridWindow]:
        """All windows of a whole stream of ``length`` frames."""
        num_answered = 0
        while (window := self.next_window(num_answered, length)) is not None:
            yield window
            num_answered = window.last
        rest = self.last_window(num_answered, length)
        if rest is not None:
            yield rest
