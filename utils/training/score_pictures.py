"""`score_timeline_picture`: the scores of one validation video over time, for TensorBoard.

Drawn from what the last validation scored; where the curve leaves the shaded events, one sees at
once what a metric only counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CLASSES = 8
"""That one picture shows; of more, those with events come first, then those that score highest."""

_DOTS_PER_INCH = 100
_WIDTH_INCHES = 10.0
_PANEL_INCHES = 1.15
_TOP_INCHES, _BOTTOM_INCHES = 0.6, 0.5
_MAX_BINS = 1000
"""Of longer videos the lowest and the highest score of each so long stretch is drawn."""
_IS_ON = 0.5
_BAR = (-0.17, 0.1)
"""Lowest score and height of the bars below the curve."""
_SCORE_COLOR = "#1f4e79"
_EVENT_COLOR = "#f2b134"


def score_timeline_picture(
    timestamps: NDArray[np.float64],
    scores: NDArray[np.floating],
    targets: NDArray[np.floating],
    labels: Sequence[str],
    title: str,
) -> NDArray[np.uint8]:
    """One panel for each class: its score as a curve, its annotated events shaded.

    Args:
        timestamps: ``(T,)`` seconds, rising; T at least 1.
        scores: ``(T, K)`` in [0, 1].
        targets: ``(T, K)``; on from 0.5 on.
        labels: K class names.
        title: Such as the name of the video.

    Returns:
        ``(H, W, 3)`` RGB; W is the same for all pictures, H grows with the classes that are shown.

    Raises:
        ValueError: The shapes do not fit.
    """
    expected = (len(timestamps), len(labels))
    if not len(timestamps) or not len(labels) or not scores.shape == targets.shape == expected:
        raise ValueError(
            f"scores and targets must be (T, K) with a row for each of {len(timestamps)} "
            f"timestamps and a column for each of {len(labels)} labels, and neither of them none; "
            f"got {scores.shape} and {targets.shape}"
        )
    # Not pyplot: that keeps every figure, and may want a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = _shown_classes(scores, targets)
    height = _TOP_INCHES + _PANEL_INCHES * len(shown) + _BOTTOM_INCHES
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    ends = _frame_ends(timestamps)
    for axes, k in zip(panels, shown, strict=True):
        _draw_class(axes, timestamps, ends, scores[:, k], targets[:, k], labels[k])
    panels[-1].set_xlabel("seconds")
    panels[-1].set_xlim(timestamps[0], ends[-1])
    hidden = len(labels) - len(shown)
    note = f" ({hidden} more classes are not shown)" if hidden else ""
    # A dollar sign in a name would begin a formula.
    figure.suptitle(
        f"{title}{note}",
        fontsize=11,
        x=0.01,
        y=1 - 0.08 / height,
        ha="left",
        va="top",
        parse_math=False,
    )
    figure.subplots_adjust(
        left=0.05,
        right=0.98,
        top=1 - _TOP_INCHES / height,
        bottom=_BOTTOM_INCHES / height,
        hspace=0.4,
    )
    with warnings.catch_warnings():
        # The font has no letters for some scripts, and draws boxes; that is no news every epoch.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()


def _shown_classes(scores: NDArray[np.floating], targets: NDArray[np.floating]) -> list[int]:
    """At most `MAX_CLASSES` columns, in the order of the labels."""
    has_event = (targets >= _IS_ON).any(axis=0)
    order = np.lexsort((-scores.max(axis=0), ~has_event))
    return sorted(order[:MAX_CLASSES].tolist())


def _frame_ends(timestamps: NDArray[np.float64]) -> NDArray[np.float64]:
    """When the next frame comes; for the last one, as long after it as is usual in this video."""
    steps = np.diff(timestamps)
    usual = float(np.median(steps)) if len(steps) else 1.0
    return np.append(timestamps[1:], timestamps[-1] + usual)


def _draw_class(
    axes: Axes,
    timestamps: NDArray[np.float64],
    ends: NDArray[np.float64],
    scores: NDArray[np.floating],
    targets: NDArray[np.floating],
    label: str,
) -> None:
    is_on = np.concatenate(([False], targets >= _IS_ON, [False]))
    # Pairs: where a run of frames begins, and the first frame behind it.
    borders = np.flatnonzero(is_on[1:] != is_on[:-1]).reshape(-1, 2)
    spans = [(timestamps[first], ends[last - 1] - timestamps[first]) for first, last in borders]
    axes.broken_barh(spans, (0, 1), facecolor=_EVENT_COLOR, alpha=0.4, linewidth=0)
    # Where the curve of a long video hides the shade, this is still to be seen.
    axes.broken_barh(spans, _BAR, facecolor=_EVENT_COLOR, edgecolor=_EVENT_COLOR, linewidth=0.5)
    times, values = _thinned(timestamps, scores)
    width = 1.1 if len(times) == len(timestamps) else 0.5
    marker = "o" if len(times) == 1 else ""
    axes.plot(times, values, color=_SCORE_COLOR, linewidth=width, marker=marker, clip_on=False)
    axes.set_ylim(_BAR[0], 1.03)
    axes.set_yticks([0, 0.5, 1])
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(label, fontsize=9, loc="left", pad=3, parse_math=False)


def _thinned(
    timestamps: NDArray[np.float64], scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
    """A curve that looks the same with at most two points for each of `_MAX_BINS` stretches."""
    if len(scores) <= 2 * _MAX_BINS:
        return timestamps, scores
    kept: list[int] = []
    for part in np.array_split(np.arange(len(scores)), _MAX_BINS):
        kept += sorted({int(part[scores[part].argmin()]), int(part[scores[part].argmax()])})
    return timestamps[kept], scores[kept]
