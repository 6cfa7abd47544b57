"""The best value, patience, and going on from a checkpoint as if nothing had been."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.training.early_stopping import EarlyStopping

NAN = math.nan


def stops_after(values: list[float], *, patience: int | None, min_delta: float = 0.0) -> int | None:
    """Number of validations after which it stops."""
    watch = EarlyStopping(patience, min_delta)
    for number, value in enumerate(values, start=1):
        watch.update(value)
        if watch.should_stop:
            return number
    return None


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], 1, 0, None),
        ([0.1, 0.1], 1, 0, 2),
        ([0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5], 3, 0, 7),
        ([0.5, 0.4, 0.3, 0.2, 0.1], None, 0, None),
        # Too little each time, enough together.
        ([0.5, 0.54, 0.58, 0.62, 0.66], 3, 0.1, None),
        ([0.5, 0.51, 0.52, 0.53, 0.54], 3, 0.1, 4),
        # Exactly min_delta is not more than it.
        ([0.25, 0.5, 0.75], 1, 0.25, 2),
        # A class that never is positive in the validation videos.
        ([NAN, NAN, NAN], 2, 0, 2),
        ([NAN, 0.1, NAN, 0.2], 2, 0, None),
        ([0.3, NAN, 0.2], 2, 0, 3),
        ([0.0, 0.0], 1, 0, 2),
    ],
)
def test_when_it_stops(
    values: list[float], patience: int | None, min_delta: float, expected: int | None
) -> None:
    assert stops_after(values, patience=patience, min_delta=min_delta) == expected


def test_any_rise_is_the_best_whatever_min_delta_is() -> None:
    watch = EarlyStopping(2, 0.1)
    values = [NAN, 0.0, 0.01, 0.01, NAN, 0.02, 0.01]
    found = [watch.update(value) for value in values]
    assert found == [False, True, True, False, False, True, False]
    assert watch.best == 0.02
    assert watch.num_bad == 5
    assert watch.should_stop


def test_without_a_value_there_is_no_best() -> None:
    watch = EarlyStopping(None)
    assert not watch.update(NAN)
    assert watch.best is None
    assert not watch.should_stop


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.floats(0, 1) | st.just(NAN), min_size=1, max_size=20),
    stop=st.integers(0, 20),
    min_delta=st.floats(0, 0.3),
)
def test_resumed_it_decides_as_if_never_stopped(
    values: list[float], stop: int, min_delta: float
) -> None:
    whole, stopped = EarlyStopping(3, min_delta), EarlyStopping(3, min_delta)
    for number, value in enumerate(values):
        if number == stop:
            state = stopped.state()
            stopped = EarlyStopping(3, min_delta)
            stopped.restore(state)
        assert whole.update(value) == stopped.update(value)
        assert whole.should_stop == stopped.should_stop
    assert whole.state() == stopped.state()


def test_the_state_is_plain() -> None:
    watch = EarlyStopping(3, 0.1)
    watch.update(0.5)
    watch.update(0.55)
    assert watch.state() == {"best": 0.55, "reference": 0.5, "num_bad": 1}


@pytest.mark.parametrize(
    ("patience", "min_delta", "message"),
    [
        (0, 0.0, "patience must be 1 or more, or None, got 0"),
        (1, -0.1, r"min_delta must not be negative, got -0\.1"),
        (1, NAN, "min_delta must not be negative, got nan"),
    ],
)
def test_refusals(patience: int, min_delta: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyStopping(patience, min_delta)
