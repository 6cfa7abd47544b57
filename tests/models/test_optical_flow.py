"""Optical flow: known displacements, what flow cannot explain, and statistics worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.optical_flow import NUM_FLOW_STATISTICS, flow_statistics, optical_flow


def pattern(across: float = 0.0, down: float = 0.0, *, size: int = 64) -> Tensor:
    """A smooth pattern ``(1, size, size)`` that has moved so far."""
    y, x = torch.meshgrid(torch.arange(size) - down, torch.arange(size) - across, indexing="ij")
    waves = torch.sin(x / 2.5) * torch.cos(y / 3) + torch.sin((x + y) / 4)
    return (0.5 + 0.2 * waves)[None]


@pytest.mark.parametrize("moved", [(0.5, 0.0), (0.0, -0.5), (-0.8, 0.3)])
def test_a_moving_pattern_has_its_velocity(moved: tuple[float, float]) -> None:
    flow = optical_flow(pattern(), pattern(*moved))
    assert flow.across.median() == pytest.approx(moved[0], abs=0.05)
    assert flow.down.median() == pytest.approx(moved[1], abs=0.05)
    assert flow.unexplained.sum() < 0.1 * flow.change.sum()


def test_cells_are_lucas_and_kanades_least_squares() -> None:
    rng = np.random.default_rng(0)
    picture, later = rng.random((2, 1, 14, 14))
    flow = optical_flow(torch.from_numpy(picture), torch.from_numpy(later))
    assert flow.across.shape == (1, 2, 2)
    middle = np.pad((picture + later)[0] / 2, 1)
    for row in range(2):
        for column in range(2):
            equations, changes = [], []
            for y in range(5 * row, 5 * row + 9):
                for x in range(5 * column, 5 * column + 9):
                    # The gradient across the picture's border counts as 0.
                    to_right = middle[y + 1, x + 2] - middle[y + 1, x] if 0 < x < 13 else 0.0
                    to_bottom = middle[y + 2, x + 1] - middle[y, x + 1] if 0 < y < 13 else 0.0
                    equations.append((to_right / 2, to_bottom / 2))
                    changes.append(later[0, y, x] - picture[0, y, x])
            # Two rows more: the noise that keeps the solution small where nothing is to be seen.
            noise = np.sqrt(81 * 1e-4) * np.eye(2)
            solution, *_ = np.linalg.lstsq(
                np.vstack((equations, noise)), -np.array([*changes, 0, 0]), rcond=None
            )
            found = flow.across[0, row, column], flow.down[0, row, column]
            assert [float(value) for value in found] == pytest.approx(solution)


def test_what_stands_still_has_no_statistics() -> None:
    still = pattern()
    assert not flow_statistics(still, still, still).any()
    flat = torch.full((1, 32, 32), 0.5)
    # Light alone moves nothing.
    brighter = optical_flow(flat, flat + 0.2)
    assert not brighter.speed.any()
    assert torch.equal(brighter.unexplained, brighter.change)


def test_statistics_of_one_direction() -> None:
    statistics = flow_statistics(pattern(0.5), pattern(0.0), pattern(1.0))[0]
    assert statistics.shape == (NUM_FLOW_STATISTICS,)
    # The median speed, over two steps of half a pixel.
    assert statistics[0] == pytest.approx(1.0, abs=0.05)
    # As long as the mean speed: everything moves one way.
    assert statistics[11] == pytest.approx(float(statistics[5]), abs=0.05)
    directions = statistics[16:24].square()
    assert directions[-1] == pytest.approx(float(statistics[11]) ** 2, rel=0.1)
    assert directions[0] < 0.1
    # The second step is as the first one.
    assert statistics[25] < 0.35


def test_speed_that_changes_is_a_jerk() -> None:
    steady = flow_statistics(pattern(0.4), pattern(0.0), pattern(0.8))[0]
    abrupt = flow_statistics(pattern(0.0), pattern(0.0), pattern(0.8))[0]
    assert steady[0] == pytest.approx(float(abrupt[0]), abs=0.05)
    # 0.8 pixels in the second step and none in the first.
    assert abrupt[26].square() == pytest.approx(0.8, abs=0.1)
    assert steady[26].square() < 0.1


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["left-right", "top-bottom"]))
def test_a_mirror_changes_nothing(seed: int, mirror: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    # 9 + 5 n pixels, so that the cells of the mirrored picture are the mirrored cells.
    pictures = [torch.rand(2, 34, 34, generator=generator, dtype=torch.double) for _ in range(3)]
    mirrored = [picture.flip(2 if mirror == "left-right" else 1) for picture in pictures]
    torch.testing.assert_close(flow_statistics(*mirrored), flow_statistics(*pictures))


def test_statistics_are_numbers_for_any_picture() -> None:
    black, white = torch.zeros(1, 19, 19), torch.ones(1, 19, 19)
    for pictures in ((black, white, black), (white, black, white), (black, black, white)):
        statistics = flow_statistics(*pictures)
        assert statistics.isfinite().all()
        assert (statistics >= 0).all()
