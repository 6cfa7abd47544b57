"""`EarlyStopping`: the best value of a metric so far, and when to stop waiting for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class EarlyStopping:
    """Watches a metric of the validation that is better the higher it is.

    Any rise makes a new best. Patience asks for more: the counter starts again where the metric is
    by more than ``min_delta`` above what it was when the counter last started. So small rises count
    together, and the best weights are kept whatever ``min_delta`` is.

    Args:
        patience: Validations without such a rise until `should_stop`; None: never stop.
        min_delta: In units of the metric.

    Attributes:
        best: Highest value so far; None before the first.
        num_bad: Validations since the counter last started.

    Raises:
        ValueError: ``patience`` is below 1, or ``min_delta`` negative.
    """

    def __init__(self, patience: int | None, min_delta: float = 0.0) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be 1 or more, or None, got {patience}")
        if not min_delta >= 0:
            raise ValueError(f"min_delta must not be negative, got {min_delta}")
        self._patience = patience
        self._min_delta = min_delta
        self.best: float | None = None
        self.num_bad = 0
        self._reference: float | None = None

    @property
    def should_stop(self) -> bool:
        return self._patience is not None and self.num_bad >= self._patience

    def update(self, value: float) -> bool:
        """Take in the metric of one validation.

        Args:
            value: NaN, where no validation frame is positive, is never better than anything.

        Returns:
            Whether it is the best so far.
        """
        # Written so that NaN fails.
        if value > _or_lowest(self._reference) + self._min_delta:
            self._reference = value
            self.num_bad = 0
        else:
            self.num_bad += 1
        is_best = value > _or_lowest(self.best)
        if is_best:
            self.best = value
        return is_best

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"best": self.best, "reference": self._reference, "num_bad": self.num_bad}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; patience and min_delta stay those of this object."""
        self.best = state["best"]
        self._reference = state["reference"]
        self.num_bad = state["num_bad"]


def _or_lowest(value: float | None) -> float:
    return -math.inf if value is None else value
