"""`FrameScorer`: the interface of what scores frames, and what it must say of itself."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from utils.thresholds import Threshold

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How frames must be picked and prepared for a model: as they were in its training.

    Attributes:
        sampling_fps: Samples a second.
        image_size: Side of the square picture, or its height and width; pixels.
        resize_mode: See `VideoProcessor`.
        neighbor_offsets_seconds: See `FrameSampler`; empty where the model does not look at motion.
        decode_short_side: The ``short_side`` of `FrameSampler`; None decodes at full size.
        skip_nonref_frames: The ``is_sparse`` of `FrameSampler`.
    """

    sampling_fps: float
    image_size: int | Sequence[int]
    resize_mode: Literal["crop", "stretch", "letterbox"]
    neighbor_offsets_seconds: tuple[float, ...]
    decode_short_side: int | None = None
    skip_nonref_frames: bool = False


class FrameScorer(abc.ABC):
    """A model behind engine-neutral doors (`models.score_stream.Doors`): arrays in, arrays out.

    It holds no state of a video: what a stream must remember goes out of ``encode_and_trigger`` and
    comes back with the next chunk, so one scorer serves any number of streams.

    Attributes:
        labels: The K class names, in the order of the scores.
        sampling: What frames it wants.
        threshold: The cut on the temporal scores that it was made with, in (0, 1]; one for all
            classes, or one each.
        candidate_threshold: The cut on the trigger head's scores that it was made with, in [0, 1].
        window_size: W, frames that the temporal encoder sees at once.
        causal: Whether the temporal encoder looks back alone.
        encoder_window: Frames that ``encode_and_trigger`` wants to see at once, where it looks
            ahead; None where it does not.
        identity: What tells this model from any other, ready for JSON.
    """

    labels: tuple[str, ...]
    sampling: Sampling
    threshold: Threshold
    candidate_threshold: float
    window_size: int
    causal: bool
    encoder_window: int | None = None
    identity: dict[str, Any]

    @abc.abstractmethod
    def encode_and_trigger(
        self, pixels: FloatArray, state: Any
    ) -> tuple[FloatArray, FloatArray, Any]:
        """Look at every frame.

        Args:
            pixels: ``(T, C, H, W)`` in [0, 1]; with an ``encoder_window``, one window.
            state: What the chunk before gave; None at the start of a stream and after a hole.

        Returns:
            Features ``(T, D)``, trigger logits ``(T, K)``, and the state for the next chunk.
        """

    @abc.abstractmethod
    def contextualize(
        self, features: FloatArray, timestamps: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> FloatArray:
        """Features ``(B, T, D)``, seconds and ``valid`` ``(B, T)`` to logits ``(B, T, K)``.

        The logits are calibrated: divided by the temperature of each class.
        """
