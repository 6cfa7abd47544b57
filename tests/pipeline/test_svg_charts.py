"""Charts: where points land, staircases, thinning, and names that mean harm."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.svg_charts import Axis, Series, chart, log_axis, staircase, thinned, unit_axis

HOSTILE = "<script>alert(1)</script>\"'&\udcff"


def drawn(piece: str) -> ElementTree.Element:
    """The piece as XML: what is not well-formed raises."""
    return ElementTree.fromstring(piece.replace("\n", ""))


def series(**changes: object) -> Series:
    values: dict[str, object] = {
        "name": "fall",
        "xs": np.array([0.0, 0.5, 1.0]),
        "ys": np.array([1.0, 0.5, 0.0]),
        "color": 0,
    }
    return Series(**{**values, **changes})  # type: ignore[arg-type]


def test_a_chart_is_well_formed_and_says_what_it_shows() -> None:
    piece = chart(
        "Title",
        "About it.",
        unit_axis("recall"),
        unit_axis("precision"),
        [series(marks=((0.5, 0.5, "here"),), sizes=(1.0, 2.0, 3.0)), series(color=13)],
        guide=((0, 0), (1, 1)),
    )
    figure = drawn(piece)
    text = "".join(figure.itertext())
    for word in ("Title", "About it.", "recall", "precision", "fall", "here", "0.2"):
        assert word in text
    assert piece.count("<polyline") == 2
    assert piece.count("<circle") == 4
    # The fourteenth color is the fourth, dashed.
    assert 'class="curve s3 again"' in piece


def test_points_land_where_they_belong() -> None:
    piece = chart("t", "a", unit_axis("x"), unit_axis("y"), [series()])
    match = re.search(r'points="([^"]+)"', piece)
    assert match is not None
    points = [tuple(map(float, pair.split(","))) for pair in match[1].split()]
    xs, ys = zip(*points, strict=True)
    assert xs[1] == pytest.approx((xs[0] + xs[2]) / 2, abs=0.1)
    # Up is less: pictures count from the top.
    assert ys[0] < ys[1] < ys[2]


def test_names_are_escaped() -> None:
    piece = chart(
        HOSTILE,
        HOSTILE,
        Axis(label=HOSTILE, low=0, high=1, ticks=()),
        unit_axis(HOSTILE),
        [series(name=HOSTILE, marks=((0.5, 0.5, HOSTILE),))],
    )
    assert "<script" not in piece
    assert "&lt;script&gt;" in piece
    drawn(piece)


def test_a_logarithmic_axis() -> None:
    axis = log_axis("rate", 0.1, 1000)
    assert axis.share([0.1, 10, 1000, 0.001, 1e9]).tolist() == pytest.approx([0, 0.5, 1, 0, 1])
    assert axis.ticks == pytest.approx((0.1, 1, 10, 100, 1000))
    assert log_axis("rate", 3, 40).ticks == pytest.approx((5, 10, 20))
    assert log_axis("rate", 3.1, 3.9).ticks == (3.1, 3.9)
    for low, high in ((0, 1), (1, 1), (2, 1)):
        with pytest.raises(ValueError, match=f"axis 'rate' cannot go from {low} to {high}"):
            Axis(label="rate", low=low, high=high, ticks=(), is_log=True)


def test_a_staircase_is_the_best_for_each_price() -> None:
    xs, ys = staircase(np.array([0.0, 4.0, 2.0, 3.0]), np.array([0.1, 0.9, 0.5, 0.4]), until=9.0)
    # From 0.1 to 0.5 at a price of 2; 3 brings nothing; 0.9 at 4, and on to the end.
    assert list(zip(xs.tolist(), ys.tolist(), strict=True)) == [
        (0, 0.1),
        (2, 0.1),
        (2, 0.5),
        (4, 0.5),
        (4, 0.9),
        (9, 0.9),
    ]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 1)), min_size=1, max_size=20))
def test_a_staircase_rises(points: list[tuple[float, float]]) -> None:
    prices, gains = (np.array(values) for values in zip(*points, strict=True))
    xs, ys = staircase(prices, gains, until=10.0)
    assert len(xs) == len(ys)
    assert (np.diff(xs) >= 0).all() and (np.diff(ys) >= 0).all()
    for price, gain in points:
        assert ys[np.flatnonzero(xs <= price)[-1]] >= gain


def test_thinning_keeps_the_ends_and_the_shape() -> None:
    xs = np.linspace(0, 1, 10_000)
    ys = np.where(xs < 0.5, 1.0, 0.0)
    fewer_xs, fewer_ys = thinned(xs, ys, 100)
    assert len(fewer_xs) <= 102
    assert (fewer_xs[0], fewer_xs[-1]) == (0, 1)
    # The cliff stands where it stood.
    assert abs(fewer_xs[np.argmax(fewer_ys < 0.5)] - 0.5) < 0.02
    same = thinned(xs[:50], ys[:50], 100)
    assert len(same[0]) == 50
