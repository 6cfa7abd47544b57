"""`EncoderStream`: frames in, their features and trigger logits out, as far as the encoder looks.

The first half of `models.score_stream`. An encoder of single frames, or one that looks back,
answers each frame at once. One that looks ahead (a temporal shift in both directions) learned on
whole clips, and sees such here: the windows of `models.window_grid`, of which each frame takes the
one that shows most around it. Frames wait for it, and each is encoded about twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.window_grid import GridWindow, WindowGrid

FloatArray = NDArray[np.float32]


class EncoderDoors(Protocol):
    """What an `EncoderStream` needs of a model."""

    @property
    def encoder_window(self) -> int | None:
        """Frames that the encoder sees at once where it looks ahead; None where it does not."""

    def encode_and_trigger(
        self, pixels: FloatArray, state: Any
    ) -> tuple[FloatArray, FloatArray, Any]:
        """``(T, C, H, W)``, state (None at first) to ``(T, D)``, logits ``(T, K)``, new state.

        With an ``encoder_window``, the frames are one window, and there is no state.
        """


class EncodedFrames(NamedTuple):
    """What is known of the frames from the last one answered on, in order.

    Attributes:
        features: ``(N, D)``.
        logits: ``(N, K)``.
    """

    features: FloatArray
    logits: FloatArray


class EncoderStream:
    """Encodes a stream; how it is cut into chunks changes nothing.

    Where the encoder looks ahead, it holds the pixels of less than two windows.

    Args:
        doors: The model.
    """

    def __init__(self, doors: EncoderDoors) -> None:
        self._doors = doors
        window = doors.encoder_window
        self._grid = None if window is None else WindowGrid(window, causal=False)
        self._reset()

    def _reset(self) -> None:
        self._state: Any = None
        self._held: list[FloatArray] = []
        self._first = 0  # Index in the stream of the first frame held.
        self._num_answered = 0

    def push(self, pixels: FloatArray) -> list[EncodedFrames]:
        """Take the next frames ``(N, C, H, W)`` in [0, 1]; get what is final now, in parts."""
        if self._grid is None:
            features, logits, self._state = self._doors.encode_and_trigger(pixels, self._state)
            return [EncodedFrames(features, logits)]
        # Copied: a row would keep the whole chunk alive.
        self._held += [frame.copy() for frame in pixels]
        answered: list[EncodedFrames] = []
        length = self._first + len(self._held)
        while (window := self._grid.next_window(self._num_answered, length)) is not None:
            answered.append(self._run(window))
        return answered

    def flush(self) -> list[EncodedFrames]:
        """The stream ends here: what is still open. The next frame begins a new one."""
        rest = None
        if self._grid is not None:
            rest = self._grid.last_window(self._num_answered, self._first + len(self._held))
        answered = [] if rest is None else [self._run(rest)]
        self._reset()
        return answered

    def _run(self, window: GridWindow) -> EncodedFrames:
        frames = self._held[window.start - self._first : window.end - self._first]
        features, logits, _ = self._doors.encode_and_trigger(np.stack(frames), None)
        self._num_answered = window.last
        # The next window, or the last one, starts at most a window before what it answers.
        drop = max(0, window.last - (window.end - window.start)) - self._first
        if drop > 0:
            del self._held[:drop]
            self._first += drop
        part = slice(window.first - window.start, window.last - window.start)
        return EncodedFrames(features[part], logits[part])
