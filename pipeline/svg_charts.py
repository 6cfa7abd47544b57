"""Small line charts as SVG text, for pages that hold everything and run nothing.

Drawn by hand and not by matplotlib: text stays text, both color schemes of the page are met by its
own style, and a chart of a few curves is a few kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.data.strip_page import escape

NUM_COLORS = 10
"""Further series begin again with the first color, dashed."""
_WIDTH, _HEIGHT = 470, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 44
_MAX_POINTS = 400

CHART_STYLE = """
:root { --c0: #2f6fb5; --c1: #d9701b; --c2: #2e8b57; --c3: #8a5fbf; --c4: #1f9aa3; --c5: #c2497f;
  --c6: #8c6d46; --c7: #7d8a1f; --c8: #5b6b7a; --c9: #b5502f; }
@media (prefers-color-scheme: dark) {
  :root { --c0: #6ea8e6; --c1: #f5a055; --c2: #63c08d; --c3: #b794e6; --c4: #5bc8d0; --c5: #ea83b1;
    --c6: #c4a47c; --c7: #bccb58; --c8: #a3b1bf; --c9: #e68a6a; } }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 14px; }
.chart { background: var(--card); border-radius: 8px; padding: 12px 14px 10px; margin: 0; }
.chart h3 { margin: 0 0 2px; }
.chart p { margin: 0 0 6px; font-size: 13px; color: var(--soft); }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif;
  font-variant-numeric: tabular-nums; }
.grid { stroke: var(--line); stroke-width: 1; }
.frame { stroke: var(--soft); stroke-width: 1; fill: none; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.again { stroke-dasharray: 7 4; }
.guide { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 4 4; fill: none; }
.mark { stroke: var(--card); stroke-width: 2; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px; margin: 6px 0 0;
  padding: 0; list-style: none; }
.legend i { display: inline-block; width: 16px; height: 3px; margin-right: 6px;
  vertical-align: middle; }
.legend li { overflow-wrap: anywhere; }
""" + "".join(
    f".s{number} {{ stroke: var(--c{number}); }} .f{number} {{ fill: var(--c{number}); }}\n"
    f".b{number} {{ background: var(--c{number}); }}\n"
    for number in range(NUM_COLORS)
)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One side of a chart.

    Attributes:
        label: What is measured.
        low: Where it begins.
        high: Where it ends, above ``low``.
        is_log: Logarithmic; both ends are above 0 then.
        ticks: Where it is written what it is.

    Raises:
        ValueError: The ends are no range.
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.is_log and not self.low > 0):
            raise ValueError(f"axis '{self.label}' cannot go from {self.low} to {self.high}")

    def share(self, values: ArrayLike) -> NDArray[np.float64]:
        """Where values lie, from 0 at the beginning to 1 at the end; clipped to that."""
        clipped = np.clip(np.asarray(values, np.float64), self.low, self.high)
        if self.is_log:
            return np.log(clipped / self.low) / math.log(self.high / self.low)
        shares: NDArray[np.float64] = (clipped - self.low) / (self.high - self.low)
        return shares


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One curve.

    Attributes:
        name: In the legend; HTML-safe text is not asked for.
        xs: ``(N,)``.
        ys: ``(N,)``; both finite.
        color: Number of its color.
        marks: Points to be marked: x, y and what they say when the mouse is over them.
        sizes: Radii of dots at every point, pixels; None: no dots.
    """

    name: str
    xs: NDArray[np.float64]
    ys: NDArray[np.float64]
    color: int
    marks: tuple[tuple[float, float, str], ...] = ()
    sizes: tuple[float, ...] | None = None


UNIT_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def unit_axis(label: str) -> Axis:
    """From 0 to 1."""
    return Axis(label=label, low=0.0, high=1.0, ticks=UNIT_TICKS)


def log_axis(label: str, low: float, high: float) -> Axis:
    """Logarithmic, with ticks at powers of ten, or at 1, 2 and 5 where these are few.

    Args:
        label: What is measured.
        low: Above 0.
        high: Above ``low``.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = (step * 10.0**decade for decade in decades for step in steps)
    inside = tuple(tick for tick in ticks if low * 0.999 <= tick <= high * 1.001)
    return Axis(label=label, low=low, high=high, ticks=inside or (low, high), is_log=True)


def chart(
    title: str,
    about: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    guide: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> str:
    """A chart with its heading and legend, as a piece of HTML.

    Args:
        title: Above it.
        about: One sentence below the title.
        x: The horizontal axis.
        y: The vertical axis.
        series: What is drawn; the legend names each.
        guide: A dashed line from one point to another, such as what would be perfect.
    """
    parts = [
        f'<figure class="chart"><h3>{escape(title)}</h3><p>{escape(about)}</p>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_axes(x, y),
    ]
    if guide is not None:
        (x1, y1), (x2, y2) = guide
        parts.append(f'<path class="guide" d="M{_point(x, y, x1, y1)} L{_point(x, y, x2, y2)}"/>')
    for curve in series:
        parts += _curve(x, y, curve)
    # Above all curves: a mark is what one looks for.
    for curve in series:
        parts += _marks(x, y, curve)
    parts.append("</svg>")
    parts += _legend(series)
    parts.append("</figure>\n")
    return "".join(parts)


def staircase(
    xs: NDArray[np.float64], ys: NDArray[np.float64], *, until: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The best that is had for at most each price, as steps that can be drawn.

    Args:
        xs: ``(N,)`` prices.
        ys: ``(N,)`` gains.
        until: The last price.
    """
    order = np.lexsort((-ys, xs))
    prices, gains = xs[order], np.maximum.accumulate(ys[order])
    is_step = np.append(True, np.diff(gains) > 0)
    prices, gains = prices[is_step], gains[is_step]
    return (
        np.append(np.repeat(prices, 2)[1:], until),
        np.repeat(gains, 2),
    )


def thinned(
    xs: NDArray[np.float64], ys: NDArray[np.float64], limit: int = _MAX_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most about ``limit`` points of a curve, spread evenly along it, its ends among them."""
    if len(xs) <= limit:
        return xs, ys
    steps = np.hypot(np.diff(xs), np.diff(ys))
    length = np.concatenate(([0.0], np.cumsum(steps)))
    wanted = np.linspace(0, length[-1], limit)
    chosen = np.unique(np.append(np.searchsorted(length, wanted), len(xs) - 1))
    return xs[chosen], ys[chosen]


def _axes(x: Axis, y: Axis) -> Iterable[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for tick in y.ticks:
        height = _y(y, tick)
        yield f'<path class="grid" d="M{_LEFT} {height:.1f}H{right}"/>'
        yield (
            f'<text x="{_LEFT - 7}" y="{height + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
        )
    for tick in x.ticks:
        place = _x(x, tick)
        yield f'<path class="grid" d="M{place:.1f} {_TOP}V{bottom}"/>'
        yield (
            f'<text x="{place:.1f}" y="{bottom + 16}" text-anchor="middle">{_number(tick)}</text>'
        )
    yield f'<path class="frame" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>'
    yield (
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
    )
    middle = (_TOP + bottom) / 2
    yield (
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{escape(y.label)}</text>"
    )


def _curve(x: Axis, y: Axis, curve: Series) -> Iterable[str]:
    if not len(curve.xs):
        return
    points = " ".join(
        f"{_LEFT + px * (_WIDTH - _LEFT - _RIGHT):.1f},"
        f"{_TOP + (1 - py) * (_HEIGHT - _TOP - _BOTTOM):.1f}"
        for px, py in zip(x.share(curve.xs), y.share(curve.ys), strict=True)
    )
    color = curve.color % NUM_COLORS
    again = " again" if curve.color >= NUM_COLORS else ""
    yield f'<polyline class="curve s{color}{again}" points="{points}"/>'
    for px, py, size in zip(curve.xs, curve.ys, curve.sizes or (), strict=False):
        yield f'<circle class="f{color}" cx="{_x(x, px):.1f}" cy="{_y(y, py):.1f}" r="{size:.1f}"/>'


def _marks(x: Axis, y: Axis, curve: Series) -> Iterable[str]:
    for px, py, text in curve.marks:
        yield (
            f'<circle class="mark f{curve.color % NUM_COLORS}" cx="{_x(x, px):.1f}" '
            f'cy="{_y(y, py):.1f}" r="6"><title>{escape(text)}</title></circle>'
        )


def _legend(series: Sequence[Series]) -> Iterable[str]:
    yield '<ul class="legend">'
    for curve in series:
        yield f'<li><i class="b{curve.color % NUM_COLORS}"></i>{escape(curve.name)}</li>'
    yield "</ul>"


def _x(axis: Axis, value: float) -> float:
    return _LEFT + float(axis.share(value)) * (_WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return _TOP + (1 - float(axis.share(value))) * (_HEIGHT - _TOP - _BOTTOM)


def _point(x: Axis, y: Axis, px: float, py: float) -> str:
    return f"{_x(x, px):.1f} {_y(y, py):.1f}"


def _number(value: float) -> str:
    return f"{value:g}"
