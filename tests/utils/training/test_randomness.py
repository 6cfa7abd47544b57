"""Random state: seeded, taken, stored and put back."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.training.randomness import random_state, restore_random_state, seed_everything


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.normal()),
        *torch.rand(3).tolist(),
        *torch.nn.functional.dropout(torch.ones(8)).tolist(),
    ]


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    seed_everything(3)
    # Both gauss generators hold a second number back; it is part of the state.
    draw()
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draw() + draw()
    seed_everything(4)
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() + draw() == expected


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, 2**63 - 1])
def test_seed_decides_all(seed: int) -> None:
    seed_everything(seed)
    first = draw()
    assert draw() != first
    seed_everything(seed)
    assert draw() == first
    seed_everything(seed ^ 1)
    assert draw() != first
