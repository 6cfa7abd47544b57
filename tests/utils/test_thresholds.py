"""Thresholds of K classes: by label, in order, and what is wrong with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.thresholds import by_label, in_order, per_class

LABELS = ("fight", "fall")
numbers = st.floats(0.01, 1)


@given(numbers | st.tuples(numbers, numbers))
def test_round_trip(threshold: float | tuple[float, float]) -> None:
    assert in_order(by_label(threshold, LABELS), LABELS) == threshold


def test_order_is_that_of_the_labels() -> None:
    assert in_order({"fall": 0.2, "fight": 0.1}, LABELS) == (0.1, 0.2)
    assert per_class(in_order({"fall": 0.2, "fight": 0.1}, LABELS), LABELS) == (0.1, 0.2)
    assert per_class(0.3, LABELS) == (0.3, 0.3)


def test_every_class_has_a_number_and_no_other() -> None:
    with pytest.raises(ValueError, match=r"^has no number for fall; give one for each class$"):
        in_order({"fight": 0.1}, LABELS)
    with pytest.raises(
        ValueError,
        match=r"^names 'figth', which is no class of the model; its classes: fight, fall "
        r"\(did you mean 'fight'\?\)$",
    ):
        in_order({"figth": 0.1, "fall": 0.2}, LABELS)
