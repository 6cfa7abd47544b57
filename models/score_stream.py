"""`ScoreStream`: pixels in, one `FrameScore` a frame out, whatever engine runs the model.

The numeric middle of the cascade: encoder and trigger head on every frame, candidates, the temporal
encoder near these. `pipeline.cascade` puts video before it and events behind it; the model's own
`infer_triggered_analysis` runs the same object over a clip in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.context_windows import ContextWindows
from models.encoder_stream import EncodedFrames, EncoderDoors, EncoderStream
from utils.errors import CheckpointError
from utils.events.candidate_windows import CandidateWindows, FrameDecision
from utils.events.frame_extent import TIME_TOLERANCE_SECONDS
from utils.events.records import FrameScore, Window

FloatArray = NDArray[np.float32]


class Doors(EncoderDoors, Protocol):
    """What a `ScoreStream` needs of a model; `NumpyDoors` has it for a `VideoTriggerModel`."""

    @property
    def window_size(self) -> int:
        """W, frames that the temporal encoder sees at once."""

    @property
    def causal(self) -> bool:
        """Whether the temporal encoder looks back alone."""

    def contextualize(
        self, features: FloatArray, timestamps: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> FloatArray:
        """``(B, T, D)``, ``(B, T)`` seconds and ``(B, T)`` to logits ``(B, T, K)``."""


class ScoreUpdate(NamedTuple):
    """What one push made known.

    Attributes:
        scores: In the order of the frames; over the whole stream one for each frame.
        windows: Those that closed, in order.
    """

    scores: tuple[FrameScore, ...]
    windows: tuple[Window, ...]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    sample_index: int
    frame_index: int
    timestamp: float
    features: FloatArray
    trigger: FloatArray


class ScoreStream:
    """Scores a stream of frames; holds those of ``context_seconds`` and about two windows.

    Where the encoder looks ahead, it holds the pixels of less than two windows, too. How the
    frames are grouped into calls changes nothing.

    Args:
        doors: The model.
        candidate_threshold: In [0, 1]; a frame whose highest trigger-head probability reaches it is
            a candidate.
        context_seconds: The temporal encoder looks at frames that have a candidate this near.
        max_gap_seconds: A larger jump in time is a hole in the stream: what comes after is scored
            like a stream of its own. None: no jump is.
    """

    def __init__(
        self,
        doors: Doors,
        *,
        candidate_threshold: float,
        context_seconds: float,
        max_gap_seconds: float | None = None,
    ) -> None:
        self._candidates = CandidateWindows(
            candidate_threshold=candidate_threshold, context_seconds=context_seconds
        )
        self._context = ContextWindows(
            doors.contextualize, window_size=doors.window_size, causal=doors.causal
        )
        self._max_gap_seconds = max_gap_seconds
        self._encoder = EncoderStream(doors)
        self._last_timestamp: float | None = None
        # (frame_index, timestamp)
        self._unencoded: deque[tuple[int, float]] = deque()
        self._undecided: deque[_Frame] = deque()
        self._unscored: deque[_Frame] = deque()
        self.num_frames = 0
        self._num_encoded = 0
        self.num_candidates = 0
        self.num_contextualized = 0

    def push(
        self, pixels: FloatArray, timestamps: Sequence[float], frame_indices: Sequence[int]
    ) -> ScoreUpdate:
        """Take the next frames.

        Args:
            pixels: ``(N, C, H, W)`` in [0, 1].
            timestamps: N times in seconds; must rise, from call to call too.
            frame_indices: N positions in the source.

        Raises:
            CheckpointError: The model gave a score that is no number.
            ValueError: The times do not rise.
        """
        scores: list[FrameScore] = []
        windows: list[Window] = []
        for start, end in self._parts_without_hole(timestamps):
            if self._is_hole_before(timestamps[start]):
                self._collect(self._end_stretch(None), scores, windows)
            update = self._push_part(
                pixels[start:end], timestamps[start:end], frame_indices[start:end]
            )
            self._collect(update, scores, windows)
            self._last_timestamp = timestamps[end - 1]
        return ScoreUpdate(tuple(scores), tuple(windows))

    def flush(self, end_seconds: float | None = None) -> ScoreUpdate:
        """End the stream and score what is open.

        Args:
            end_seconds: Where the video ends, if known.
        """
        return self._end_stretch(end_seconds)

    @staticmethod
    def _collect(update: ScoreUpdate, scores: list[FrameScore], windows: list[Window]) -> None:
        scores += update.scores
        windows += update.windows

    def _is_hole(self, seconds: float) -> bool:
        return (
            self._max_gap_seconds is not None
            and seconds > self._max_gap_seconds + TIME_TOLERANCE_SECONDS
        )

    def _is_hole_before(self, timestamp: float) -> bool:
        return self._last_timestamp is not None and self._is_hole(timestamp - self._last_timestamp)

    def _parts_without_hole(self, timestamps: Sequence[float]) -> Iterable[tuple[int, int]]:
        borders = [0, len(timestamps)]
        borders[1:1] = [
            index
            for index in range(1, len(timestamps))
            if self._is_hole(timestamps[index] - timestamps[index - 1])
        ]
        return ((a, b) for a, b in pairwise(borders) if a < b)

    def _push_part(
        self, pixels: FloatArray, timestamps: Sequence[float], frame_indices: Sequence[int]
    ) -> ScoreUpdate:
        self.num_frames += len(timestamps)
        self._unencoded.extend(
            (int(index), float(time)) for index, time in zip(frame_indices, timestamps, strict=True)
        )
        return self._decide(self._encoder.push(pixels))

    def _decide(self, parts: Iterable[EncodedFrames]) -> ScoreUpdate:
        """Which of the frames that are encoded now are candidates, and what that settles."""
        decisions: list[FrameDecision] = []
        windows: list[Window] = []
        for features, logits in parts:
            encoded = [self._unencoded.popleft() for _ in logits]
            self._check_finite("trigger head", logits, [time for _, time in encoded])
            for row, trigger in enumerate(_sigmoid(logits)):
                frame_index, timestamp = encoded[row]
                frame = _Frame(
                    sample_index=self._num_encoded,
                    frame_index=frame_index,
                    timestamp=timestamp,
                    # Copied: a row would keep the whole chunk alive.
                    features=features[row].copy(),
                    trigger=trigger,
                )
                self._num_encoded += 1
                self._undecided.append(frame)
                update = self._candidates.push(frame.sample_index, timestamp, float(trigger.max()))
                decisions += update.decisions
                windows += update.windows
        return ScoreUpdate(tuple(self._contextualize(decisions)), tuple(windows))

    def _end_stretch(self, end_seconds: float | None) -> ScoreUpdate:
        scores: list[FrameScore] = []
        windows: list[Window] = []
        self._collect(self._decide(self._encoder.flush()), scores, windows)
        update = self._candidates.flush(end_seconds)
        scores += self._contextualize(update.decisions)
        scores += self._finished(self._context.flush())
        self._last_timestamp = None
        return ScoreUpdate(tuple(scores), (*windows, *update.windows))

    def _contextualize(self, decisions: Sequence[FrameDecision]) -> list[FrameScore]:
        if not decisions:
            return []
        frames = [self._undecided.popleft() for _ in decisions]
        self._unscored.extend(frames)
        self.num_candidates += sum(decision.is_candidate for decision in decisions)
        return self._finished(
            self._context.push(
                np.stack([frame.features for frame in frames]),
                np.array([frame.timestamp for frame in frames]),
                np.array([decision.in_window for decision in decisions]),
            )
        )

    def _finished(self, logits: Sequence[FloatArray | None]) -> list[FrameScore]:
        scores: list[FrameScore] = []
        for temporal in logits:
            frame = self._unscored.popleft()
            if temporal is not None:
                self._check_finite("temporal encoder", temporal[None], [frame.timestamp])
                self.num_contextualized += 1
            scores.append(
                FrameScore(
                    sample_index=frame.sample_index,
                    frame_index=frame.frame_index,
                    timestamp=frame.timestamp,
                    trigger=frame.trigger,
                    temporal=None if temporal is None else _sigmoid(temporal),
                )
            )
        return scores

    @staticmethod
    def _check_finite(stage: str, logits: FloatArray, timestamps: Sequence[float]) -> None:
        is_bad = ~np.isfinite(logits).all(axis=1)
        if is_bad.any():
            raise CheckpointError(
                f"the {stage} gave a score that is no number at "
                f"{timestamps[int(is_bad.argmax())]:.3f} s: the weights are damaged or training "
                "diverged; take an earlier checkpoint"
            )


def _sigmoid(logits: FloatArray) -> FloatArray:
    # tanh does not overflow where exp(-x) would.
    probabilities: FloatArray = (0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))).astype(
        np.float32
    )
    return probabilities
