"""The records check themselves and survive the way through JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.events.records import Event, FrameScore, Window

EVENT: dict[str, Any] = {
    "label": "fight",
    "start": 1.0,
    "end": 2.0,
    "timestamp": 1.5,
    "frame_index": 37,
    "confidence": 0.9,
}


def test_confidence_is_zero_where_the_temporal_encoder_did_not_look() -> None:
    trigger = np.array([0.9, 0.2], np.float32)
    unseen = FrameScore(
        sample_index=0, frame_index=0, timestamp=0.0, trigger=trigger, temporal=None
    )
    seen = FrameScore(
        sample_index=0, frame_index=0, timestamp=0.0, trigger=trigger, temporal=trigger[::-1]
    )
    assert unseen.confidence.tolist() == [0.0, 0.0]
    assert seen.confidence is seen.temporal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestamp": -0.1}, r"sample 4: timestamp must be 0 or more seconds, got -0.1"),
        ({"timestamp": math.nan}, r"timestamp must be 0 or more seconds, got nan"),
        ({"trigger": np.zeros((2, 1), np.float32)}, r"trigger scores must be \(K,\), got \(2, 1\)"),
        ({"trigger": np.zeros(0, np.float32)}, r"trigger scores must be \(K,\), got \(0,\)"),
        ({"trigger": np.array([0.5, np.nan], np.float32)}, r"probabilities in \[0, 1\], got .*nan"),
        ({"temporal": np.array([0.5, 1.5], np.float32)}, r"temporal scores must be probabilities"),
        ({"temporal": np.zeros(3, np.float32)}, r"trigger has shape \(2,\), temporal \(3,\)"),
    ],
)
def test_frame_score_rejects(changes: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {
        "sample_index": 4,
        "frame_index": 40,
        "timestamp": 1.0,
        "trigger": np.zeros(2, np.float32),
        "temporal": None,
    }
    with pytest.raises(ValueError, match=message):
        FrameScore(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": 2.0}, r"0 <= start < end, got \[2.0, 2.0\)"),
        ({"start": -0.5}, r"0 <= start < end, got \[-0.5, 2.0\)"),
        ({"end": math.inf}, r"0 <= start < end, got \[1.0, inf\)"),
        ({"timestamp": 2.0}, r"the peak at 2.0 s lies outside \[1.0, 2.0\)"),
        ({"confidence": 1.01}, r"confidence must be in \[0, 1\], got 1.01"),
        ({"confidence": math.nan}, r"confidence must be in \[0, 1\], got nan"),
    ],
)
def test_event_rejects(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Event(**{**EVENT, **changes})


def test_window_rejects_no_candidate() -> None:
    with pytest.raises(ValueError, match="a window holds a candidate, got 0"):
        Window(start=0.0, end=1.0, num_candidates=0)


@settings(deadline=None, max_examples=50)
@given(
    start=st.floats(0, 1e5),
    length=st.floats(1e-3, 1e5),
    where=st.floats(0, 0.999),
    confidence=st.floats(0, 1),
    number=st.integers(1, 10**9),
)
def test_round_trip_through_json(
    start: float, length: float, where: float, confidence: float, number: int
) -> None:
    event = Event(
        label="überfall",
        start=start,
        end=start + length,
        timestamp=start + where * length * 0.5,
        frame_index=number,
        confidence=confidence,
    )
    window = Window(start=start, end=start + length, num_candidates=number)
    assert Event.from_plain(json.loads(json.dumps(event.to_plain()))) == event
    assert Window.from_plain(json.loads(json.dumps(window.to_plain()))) == window


def test_duration() -> None:
    assert Event(**EVENT).duration_seconds == 1.0
