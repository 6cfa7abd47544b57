"""`Figure`: one metric of a report, for all classes and for each, with its interval.

In evaluation, between the metrics, which know how to count any selection of the videos, and the
JSON of `scripts/evaluate.py`. A selection is told as how often each video counts, so a draw of the
bootstrap and a slice of the data are the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.evaluation.bootstrap import Interval, percentile_interval
from utils.evaluation.intervals import DEFAULT_CONFIDENCE
from utils.evaluation.metrics import none_if_nan

Weights = NDArray[np.int64]
"""``(V,)`` how often each video counts."""
Measure = Callable[[Weights], ArrayLike]
"""A number, or ``(M,)`` of them where the figure has M parts; NaN where undefined."""
ExactInterval = Callable[[Weights, float], Interval | None]
"""From a selection and the confidence."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One metric.

    Attributes:
        per_class: By label.
        overall: Of all classes; None: the mean of the classes for which it is defined.
        parts: Names of the M numbers; None where it is one number.
        exact: Where the interval is known without a bootstrap: by label, and under None overall.
    """

    per_class: Mapping[str, Measure]
    overall: Measure | None = None
    parts: tuple[str, ...] | None = None
    exact: Mapping[str | None, ExactInterval] | None = None

    def values(self, weights: Weights) -> dict[str, Any]:
        """``overall`` and ``per_class``, ready for JSON; what is undefined is None."""
        table = self._table(weights)
        return {
            "overall": self._named(none_if_nan(value) for value in table[-1].tolist()),
            "per_class": {
                label: self._named(none_if_nan(value) for value in row)
                for label, row in zip(self.per_class, table.tolist(), strict=False)
            },
        }

    def intervals(
        self,
        weights: Weights,
        draws: NDArray[np.int64] | None,
        *,
        confidence: float = DEFAULT_CONFIDENCE,
    ) -> dict[str, Any]:
        """Likewise, with ``[low, high]`` in the place of each number, or None.

        Args:
            weights: Of the figure itself, for exact intervals.
            draws: ``(N, V)`` of `cluster_draws`, for all others.
            confidence: In (0, 1).
        """
        if self.exact is not None:
            exact = self.exact
            return {
                "overall": _as_list(exact[None](weights, confidence)),
                "per_class": {
                    label: _as_list(exact[label](weights, confidence)) for label in self.per_class
                },
            }
        if draws is None:
            found: list[list[list[float] | None]] = [
                [None] * len(self.parts or ("",)) for _ in range(len(self.per_class) + 1)
            ]
        else:
            tables = np.stack([self._table(draw) for draw in draws], axis=-1)
            found = [
                [_as_list(percentile_interval(drawn, confidence=confidence)) for drawn in row]
                for row in tables
            ]
        return {
            "overall": self._named(found[-1]),
            "per_class": {
                label: self._named(row) for label, row in zip(self.per_class, found, strict=False)
            },
        }

    def _table(self, weights: Weights) -> NDArray[np.float64]:
        """``(K + 1, M)``: the classes, and overall last."""
        rows = np.array(
            [np.ravel(measure(weights)) for measure in self.per_class.values()], np.float64
        )
        overall = mean_of_rows(rows) if self.overall is None else np.ravel(self.overall(weights))
        return np.concatenate((rows, np.asarray(overall, np.float64)[None]))

    def _named(self, values: Any) -> Any:
        listed = list(values)
        return listed[0] if self.parts is None else dict(zip(self.parts, listed, strict=True))


def mean_of_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over the first axis of what is not NaN; NaN where nothing else is there."""
    is_defined = ~np.isnan(rows)
    counts = is_defined.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is documented.
        means: NDArray[np.float64] = np.where(is_defined, rows, 0.0).sum(axis=0) / counts
    return means


def _as_list(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def selection(positions: Sequence[int], num_videos: int) -> Weights:
    """Weights that count the videos at ``positions`` once, and no other."""
    weights = np.zeros(num_videos, np.int64)
    weights[list(positions)] = 1
    return weights
