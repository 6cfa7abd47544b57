"""How much time one frame stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from utils.events.frame_extent import UNKNOWN_STEP_SECONDS, FrameExtents


def extents(
    timestamps: list[float], *, max_gap: float | None = None, end: float | None = None
) -> list[tuple[float, float]]:
    borders = FrameExtents(max_gap_seconds=max_gap)
    arrivals = [borders.push(timestamp) for timestamp in timestamps]
    ends = [arrival.previous_end for arrival in arrivals[1:]] + [borders.finish(end)]
    assert all(value is not None for value in ends)
    return [(arrival.start, value or 0.0) for arrival, value in zip(arrivals, ends, strict=True)]


def test_borders_lie_midway() -> None:
    assert extents([0.0, 1.0, 3.0]) == [(0.0, 0.5), (0.5, 2.0), (2.0, 4.0)]


def test_midway_is_unbiased() -> None:
    """Over random true starts, the border before the first positive frame is right on average."""
    generator = np.random.default_rng(0)
    timestamps = np.arange(0, 20, 0.5)
    starts = generator.uniform(5, 15, 4000)
    borders = [start for start, _ in extents(timestamps.tolist())]
    found = np.array(borders)[np.searchsorted(timestamps, starts, side="left")]
    # Uniform errors within half a step of 0.5 s: standard error of the mean 0.0023.
    assert abs(np.mean(found - starts)) < 0.01
    assert np.abs(found - starts).max() <= 0.25


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (None, 2.5),  # half a step
        (2.2, 2.2),
        (3.0, 3.0),
        (60.0, 3.0),  # no further than one step
        (2.0, 2.5),  # not after the last frame
        (math.nan, 2.5),
    ],
)
def test_last_frame(end: float | None, expected: float) -> None:
    assert extents([0.0, 1.0, 2.0], end=end)[-1] == (1.5, expected)


def test_single_frame() -> None:
    assert extents([0.0]) == [(0.0, UNKNOWN_STEP_SECONDS / 2)]
    assert extents([0.0], end=0.2) == [(0.0, 0.2)]
    assert FrameExtents().finish(3.0) is None


def test_hole() -> None:
    expected = [(0.0, 0.5), (0.5, 1.5), (9.0, 9.5), (9.5, 10.5)]
    assert extents([0.0, 1.0, 9.0, 10.0], max_gap=2.0) == expected
    assert extents([0.0, 1.0, 9.0], max_gap=8.0) == [(0.0, 0.5), (0.5, 5.0), (5.0, 13.0)]


def test_a_gap_as_long_as_allowed_is_no_hole_for_rounding() -> None:
    step = 0.1 + 0.2  # a little more than 0.3
    borders = FrameExtents(max_gap_seconds=0.3)
    borders.push(0.0)
    assert not borders.push(step).is_after_hole
    assert borders.push(step + 0.31).is_after_hole


def test_holes_do_not_overlap_when_every_step_is_one() -> None:
    found = extents([0.0, 1.0, 2.0], max_gap=0.1)
    assert found == [(0.0, 0.05), (1.0, 1.05), (2.0, 2.05)]


def test_neighbouring_floats_keep_an_extent() -> None:
    second = math.nextafter(1.0, 2.0)
    found = extents([1.0, second, 2.0])
    assert all(
        start <= timestamp < end
        for (start, end), timestamp in zip(found, [1.0, second, 2.0], strict=True)
    )


def test_rejects() -> None:
    borders = FrameExtents()
    borders.push(1.0)
    with pytest.raises(ValueError, match=r"timestamps must rise, got 1.0 s after 1.0 s"):
        borders.push(1.0)
    with pytest.raises(ValueError, match=r"timestamps must rise, got 0.5 s after 1.0 s"):
        borders.push(0.5)
    with pytest.raises(ValueError, match=r"timestamps must be 0 or more seconds, got -1"):
        borders.push(-1.0)
    with pytest.raises(ValueError, match=r"max_gap_seconds must be above 0, got 0"):
        FrameExtents(max_gap_seconds=0.0)
    assert borders.push(2.0).start == 1.5, "a rejected frame leaves no trace"
