"""`EncoderStream`: every frame answered once and in order, however the stream is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.encoder_stream import EncoderStream, FloatArray
from models.window_grid import WindowGrid


class Recorder:
    """Answers each frame with its number, and the first and the last frame that it was shown with.

    Without a window it counts in the state, as an encoder that looks back.
    """

    def __init__(self, window: int | None) -> None:
        self.encoder_window = window
        self.shapes: list[int] = []

    def encode_and_trigger(
        self, pixels: FloatArray, state: Any
    ) -> tuple[FloatArray, FloatArray, Any]:
        self.shapes.append(len(pixels))
        own = pixels[:, 0, 0, 0]
        if self.encoder_window is not None:
            assert state is None
            shown = np.stack((np.full_like(own, own[0]), np.full_like(own, own[-1])), axis=1)
            return own[:, None], shown, "never asked for"
        before = state or 0
        assert own.tolist() == list(range(before, before + len(own)))
        return own[:, None], np.stack((own * 0, own), axis=1), before + len(own)


def run(cuts: list[int], window: int | None) -> tuple[FloatArray, FloatArray, Recorder]:
    """Features, logits, and what the model saw; a stream before this one leaves nothing."""
    recorder = Recorder(window)
    stream = EncoderStream(recorder)
    stream.push(np.zeros((1, 1, 1, 1), np.float32))
    stream.flush()
    recorder.shapes.clear()
    parts = []
    start = 0
    for size in cuts:
        numbers = np.arange(start, start + size, dtype=np.float32)
        parts += stream.push(numbers[:, None, None, None])
        start += size
    parts += stream.flush()
    features = np.concatenate([part.features for part in parts])
    return features[:, 0], np.concatenate([part.logits for part in parts]), recorder


CUTS = st.lists(st.integers(1, 13), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(cuts=CUTS, window=st.integers(2, 9))
def test_an_encoder_that_looks_ahead_sees_the_windows_of_the_grid(
    cuts: list[int], window: int
) -> None:
    features, shown, recorder = run(cuts, window)
    total = sum(cuts)
    assert features.tolist() == list(range(total))
    for start, end, first, last in WindowGrid(window, causal=False).windows(total):
        assert (shown[first:last] == (start, end - 1)).all()
    assert set(recorder.shapes) == {min(window, total)}


@settings(deadline=None, max_examples=30)
@given(cuts=CUTS)
def test_any_other_is_asked_at_once_with_its_state(cuts: list[int]) -> None:
    features, _, recorder = run(cuts, None)
    assert features.tolist() == list(range(sum(cuts)))
    assert recorder.shapes == cuts


@pytest.mark.parametrize("chunk", [1, 5, 40])
def test_what_is_held_does_not_grow(chunk: int) -> None:
    stream = EncoderStream(Recorder(8))
    for start in range(0, 400, chunk):
        pixels = np.arange(start, start + chunk, dtype=np.float32)[:, None, None, None]
        stream.push(pixels)
        assert len(stream._held) < 2 * 8
        assert all(frame.base is None for frame in stream._held), "no chunk is kept alive"
