"""`ScoreStream` and `score_sequence`: the same scores, in any chunks, however the encoder looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import VideoTriggerModel
from models.numpy_doors import NumpyDoors
from models.score_stream import ScoreStream
from models.scoring import score_sequence
from shifted_encoders import make_shift_visible
from utils.errors import CheckpointError
from utils.events.records import FrameScore

WINDOW = 4
SHIFTS: list[dict[str, Any]] = [
    {"type": "none"},
    {"type": "tsm"},
    {"type": "gsm"},
    {"type": "tsm", "causal": True},
    {"type": "gsm", "causal": True},
]


def build(shift: dict[str, Any]) -> VideoTriggerModel:
    torch.manual_seed(0)
    model = VideoTriggerModel.from_config(
        {
            "labels": ["a", "b"],
            "visual_encoder": {
                "type": "timm:test_resnet",
                "weights": None,
                "feature_dim": 8,
                "temporal_shift": shift,
            },
            "trigger_detector": {"hidden_dims": [8]},
            "time_aware_encoder": {
                "hidden_dim": 8,
                "num_heads": 2,
                "num_layers": 1,
                "window_size": WINDOW,
            },
        }
    )
    make_shift_visible(model)
    return model.eval()


def clip(length: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    return (
        np.random.default_rng(0).random((length, 3, 32, 32), np.float32),
        np.arange(length) / 3,
    )


def stream(
    model: VideoTriggerModel,
    pixels: NDArray[np.float32],
    times: NDArray[np.float64],
    cuts: list[int],
    **settings: Any,
) -> tuple[list[FrameScore], ScoreStream]:
    """Every frame is a candidate, and so has both scores."""
    made = ScoreStream(NumpyDoors(model), candidate_threshold=0.0, context_seconds=1.0, **settings)
    scores: list[FrameScore] = []
    start = 0
    for size in cuts:
        part = slice(start, start + size)
        indices = range(2 * start, 2 * (start + size), 2)
        scores += made.push(pixels[part], times[part].tolist(), indices).scores
        start += size
        assert made.num_frames == start, "counted when they come, not when they are encoded"
    return scores + list(made.flush().scores), made


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
@settings(deadline=None, max_examples=6)
@given(cuts=st.lists(st.integers(1, 7), min_size=1, max_size=4), batch_size=st.integers(1, 9))
def test_the_same_in_chunks_and_in_memory(
    shift: dict[str, Any], cuts: list[int], batch_size: int
) -> None:
    model = build(shift)
    pixels, times = clip(sum(cuts))
    scores, _ = stream(model, pixels, times, cuts)
    whole = score_sequence(
        model, lambda a, b: torch.from_numpy(pixels[a:b]), times, batch_size=batch_size
    )
    assert [score.sample_index for score in scores] == list(range(len(times)))
    assert [score.frame_index for score in scores] == list(range(0, 2 * len(times), 2))
    assert [score.timestamp for score in scores] == times.tolist()
    assert np.stack([s.trigger for s in scores]) == pytest.approx(whole.trigger, abs=1e-5)
    temporal = np.stack([s.temporal for s in scores if s.temporal is not None])
    assert temporal == pytest.approx(whole.temporal, abs=1e-5)


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_each_frame_is_encoded_as_in_training(shift: dict[str, Any]) -> None:
    """In a clip of W frames, by hand: the windows of seven frames are 0-4, 2-6 and 3-7."""
    model = build(shift)
    pixels, times = clip(7)
    whole = score_sequence(model, lambda a, b: torch.from_numpy(pixels[a:b]), times, batch_size=3)
    frames = torch.from_numpy(pixels)[None]
    with torch.no_grad():
        if model.encoder_window is None:
            features = model.encode(frames)[0][0]
        else:
            assert model.encoder_window == WINDOW
            parts = [model.encode(frames[:, a : a + WINDOW])[0][0] for a in (0, 2, 3)]
            features = torch.cat((parts[0][:3], parts[1][1:3], parts[2][2:]))
        expected = model.trigger(features).sigmoid().numpy()
        assert not np.allclose(
            expected, model.trigger(model.encode(frames.transpose(0, 1))[0])[:, 0].sigmoid()
        ) or (shift["type"] == "none")
    assert whole.trigger == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_behind_a_hole_a_new_stream_begins(shift: dict[str, Any]) -> None:
    model = build(shift)
    pixels, times = clip(11)
    times[6:] += 60
    scores, made = stream(model, pixels, times, [5, 4, 2], max_gap_seconds=1.0)
    parts = [
        score_sequence(
            model,
            lambda a, b, start=start: torch.from_numpy(pixels[start + a : start + b]),
            times[start:end],
            batch_size=4,
        ).trigger
        for start, end in ((0, 6), (6, 11))
    ]
    assert np.stack([s.trigger for s in scores]) == pytest.approx(np.concatenate(parts), abs=1e-5)
    assert [score.sample_index for score in scores] == list(range(11))
    assert made.num_frames == made.num_candidates == 11


@pytest.mark.parametrize("length", [1, 2, WINDOW - 1])
def test_less_than_a_window(length: int) -> None:
    model = build({"type": "tsm"})
    pixels, times = clip(length)
    scores, made = stream(model, pixels, times, [length])
    with torch.no_grad():
        features, _ = model.encode(torch.from_numpy(pixels)[None])
        expected = model.trigger(features)[0].sigmoid().numpy()
    assert np.stack([s.trigger for s in scores]) == pytest.approx(expected, abs=1e-5)
    assert made.num_frames == length


def test_scores_that_are_no_numbers_name_their_frame() -> None:
    model = build({"type": "gsm"})
    pixels, times = clip(9)
    pixels[5] = np.nan
    with pytest.raises(CheckpointError, match=r"the trigger head gave a score that is no number"):
        stream(model, pixels, times, [9])
