"""A video's timeline as SVG text: scores, what is annotated, what was published, what went wrong.

One lane for each class. Bars above the scores are published events, bars below them annotated ones;
what is wrong is red. A picture of ten hours is as large as one of ten minutes: columns hold the
highest score of the frames that they stand for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.timeline import tick_step
from utils.data.strip_page import escape
from utils.evaluation.evidence import Evidence
from utils.evaluation.mistakes import FalseAlarm, Miss
from utils.evaluation.scored_video import ScoredVideo
from utils.events.wording import format_time, spoken_label

_WIDTH = 1180
_GUTTER = 140
_LANE, _SCORES, _BAR = 62, 34, 7
_AXIS = 20
_MAX_COLUMNS = 900
_MIN_BAR = 2.5
"""Pixels, so that a second in ten hours is seen."""
_LABEL_LETTERS = 20

TIMELINE_STYLE = """
:root { --score: #2f6fb5; --trigger: #9aa5b1; --event: #e58a2b; --truth: #2e8b57; --wrong: #d1242f;
  --seen: #e6ecf3; }
@media (prefers-color-scheme: dark) {
  :root { --score: #6ea8e6; --trigger: #6f7c8a; --event: #f0a04b; --truth: #58b384;
    --wrong: #ff6b64; --seen: #2a333d; } }
.timeline { margin: 4px 0 0; }
.timeline .label { fill: var(--ink); font-size: 12px; }
.seen { fill: var(--seen); }
.area { fill: var(--score); opacity: .16; }
.score { fill: none; stroke: var(--score); stroke-width: 1.5; stroke-linejoin: round; }
.trigger { fill: none; stroke: var(--trigger); stroke-width: 1; stroke-linejoin: round; }
.cut { stroke: var(--score); stroke-width: 1; stroke-dasharray: 5 4; opacity: .8; }
.event { fill: var(--event); }
.truth { fill: var(--truth); }
.wrong { fill: var(--wrong); }
.missed { fill: none; stroke: var(--wrong); stroke-width: 1.6; }
.raised { stroke: var(--ink); stroke-width: 1.4; }
.tick { stroke: var(--soft); stroke-width: 1; }
.key.event { background: var(--event); } .key.truth { background: var(--truth); }
.key.wrong { background: var(--wrong); } .key.score { background: var(--score); height: 3px; }
.key.trigger { background: var(--trigger); height: 2px; }
.key.missed { background: none; border: 2px solid var(--wrong); box-sizing: border-box;
  height: 8px; }
.key.raised { background: var(--ink); width: 2px; height: 12px; }
.key.seen { background: var(--seen); height: 12px; }
"""


def timeline_svg(
    evidence: Evidence,
    number: int,
    misses: Sequence[Miss],
    false_alarms: Sequence[FalseAlarm],
) -> str:
    """The timeline of one video: a lane for each class.

    Args:
        evidence: Of all videos.
        number: Position of the video.
        misses: Of this video.
        false_alarms: Of this video.
    """
    whole = (0.0, evidence.videos[number].scored.duration_seconds)
    return _svg(evidence, number, evidence.labels, whole, misses, false_alarms)


def moment_svg(
    evidence: Evidence,
    number: int,
    label: str,
    within: tuple[float, float],
    misses: Sequence[Miss],
    false_alarms: Sequence[FalseAlarm],
) -> str:
    """A part of one lane.

    Args:
        evidence: Of all videos.
        number: Position of the video.
        label: The class.
        within: Start and end, seconds.
        misses: Of this video.
        false_alarms: Of this video.
    """
    return _svg(evidence, number, (label,), within, misses, false_alarms)


def _svg(
    evidence: Evidence,
    number: int,
    labels: Sequence[str],
    within: tuple[float, float],
    misses: Sequence[Miss],
    false_alarms: Sequence[FalseAlarm],
) -> str:
    scored = evidence.videos[number].scored
    scale = _Scale(*within)
    columns = _Columns(scored, scale)
    parts = [
        f'<svg class="timeline" viewBox="0 0 {_WIDTH} {_LANE * len(labels) + _AXIS}" role="img" '
        f'aria-label="timeline of {escape(scored.name)}">'
    ]
    for row, label in enumerate(labels):
        lane = _Lane(evidence, number, label, scale, row * _LANE)
        parts += lane.frame()
        parts += lane.scores(columns)
        parts += lane.published(false_alarms)
        parts += lane.annotated(misses)
    parts += _time_axis(scale, _LANE * len(labels))
    parts.append("</svg>\n")
    return "".join(parts)


@dataclass(frozen=True)
class _Scale:
    """Seconds to pixels from the left."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return max(self.end - self.start, 1e-3)

    def places(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        shares = np.clip((times - self.start) / self.seconds, 0, 1)
        places: NDArray[np.float64] = _GUTTER + shares * (_WIDTH - _GUTTER)
        return places

    def place(self, seconds: float) -> float:
        return float(self.places(np.array([seconds]))[0])

    def span(self, start: float, end: float) -> tuple[float, float] | None:
        """Left border and width of a bar, wide enough to be seen; None where it lies outside."""
        if end < self.start or start > self.end:
            return None
        left, right = self.places(np.array([start, end])).tolist()
        width = max(right - left, _MIN_BAR)
        return min(left, _WIDTH - width), width


class _Columns:
    """Scores of a part of a video in at most `_MAX_COLUMNS` columns."""

    def __init__(self, scored: ScoredVideo, scale: _Scale) -> None:
        is_inside = (scored.ends >= scale.start) & (scored.starts <= scale.end)
        inside = np.flatnonzero(is_inside)
        size = max(1, -(-len(inside) // _MAX_COLUMNS))
        firsts = inside[::size]
        lasts = np.append(firsts[1:] - 1, inside[-1:])
        self.blocks = scored.blocks[firsts]
        self.times = (scored.timestamps[firsts] + scored.timestamps[lasts]) / 2
        upto = inside[-1] + 1 if len(inside) else 0
        self.temporal = _highest(scored.temporal[:upto], firsts)
        self.trigger = _highest(scored.trigger[:upto], firsts)


def _highest(scores: NDArray[np.float32], firsts: NDArray[np.int64]) -> NDArray[np.float32]:
    if not len(firsts):
        return scores[:0]
    highest: NDArray[np.float32] = np.maximum.reduceat(scores, firsts)
    return highest


class _Lane:
    """One class of one video, as pieces of SVG."""

    def __init__(
        self, evidence: Evidence, number: int, label: str, scale: _Scale, top: float
    ) -> None:
        self._evidence = evidence
        self._scored = evidence.videos[number].scored
        self._label = label
        self._words = spoken_label(label)
        self._class = evidence.labels.index(label)
        self._scale = scale
        self._top = top + 3
        self._base = top + 3 + _BAR + 3 + _SCORES

    def frame(self) -> Iterable[str]:
        """The name, and where the temporal encoder looked."""
        words = self._words
        shown = words if len(words) <= _LABEL_LETTERS else f"{words[: _LABEL_LETTERS - 1]}…"
        yield (
            f'<text class="label" x="{_GUTTER - 10}" y="{self._base - _SCORES / 2 + 4}" '
            f'text-anchor="end">{escape(shown)}<title>{escape(words)}</title></text>'
        )
        for start, end in _runs(self._scored):
            span = self._scale.span(start, end)
            if span is not None:
                yield (
                    f'<rect class="seen" x="{span[0]:.1f}" y="{self._base - _SCORES}" '
                    f'width="{span[1]:.1f}" height="{_SCORES}"/>'
                )

    def scores(self, columns: _Columns) -> Iterable[str]:
        """Both stages, and the threshold."""
        xs = self._scale.places(columns.times)
        borders = np.flatnonzero(np.diff(columns.blocks)) + 1
        for part in np.split(np.arange(len(xs)), borders):
            if not len(part):
                continue
            trigger = self._points(xs[part], columns.trigger[part, self._class])
            temporal = self._points(xs[part], columns.temporal[part, self._class])
            yield f'<polyline class="trigger" points="{trigger}"/>'
            yield (
                f'<polygon class="area" points="{xs[part[0]]:.1f},{self._base} {temporal} '
                f'{xs[part[-1]]:.1f},{self._base}"/>'
            )
            yield f'<polyline class="score" points="{temporal}"/>'
        height = self._base - self._evidence.judgement.thresholds[self._label] * _SCORES
        yield f'<path class="cut" d="M{_GUTTER} {height:.1f}H{_WIDTH}"/>'
        yield f'<path class="tick" d="M{_GUTTER} {self._base}H{_WIDTH}"/>'

    def published(self, false_alarms: Sequence[FalseAlarm]) -> Iterable[str]:
        """Events above the scores, with the moments of their alarms."""
        judgement = self._evidence.judgement
        stretches = self._scored.stretches(
            self._label, judgement.thresholds[self._label], judgement.rules
        )
        wrong = {alarm.start for alarm in false_alarms if alarm.label == self._label}
        for start, end, raised, peak in zip(
            stretches.starts.tolist(),
            stretches.ends.tolist(),
            self._scored.timestamps[stretches.crossings].tolist(),
            stretches.peaks.tolist(),
            strict=True,
        ):
            confidence = self._scored.temporal[peak, self._class]
            kind = "false alarm" if start in wrong else "event"
            text = (
                f"{kind}: {self._words}, {format_time(start)} to {format_time(end)}, "
                f"alarm at {format_time(raised)}, confidence {confidence:.2f}"
            )
            yield from self._bar("wrong" if start in wrong else "event", start, end, text, "above")
            if self._scale.start <= raised <= self._scale.end:
                at = self._scale.place(raised)
                yield (
                    f'<path class="raised" d="M{at:.1f} {self._top - 2}V{self._top + _BAR + 2}"/>'
                )

    def annotated(self, misses: Sequence[Miss]) -> Iterable[str]:
        """References below the scores."""
        radius = self._evidence.judgement.point_radius_seconds
        missed = [miss.event for miss in misses]
        for event in self._scored.references:
            if event.label != self._label:
                continue
            start, end = event.spread(radius)
            is_missed = any(event is other for other in missed)
            when = (
                f"at {format_time(event.start)}"
                if event.is_point
                else f"{format_time(event.start)} to {format_time(event.end)}"
            )
            text = f"{'missed' if is_missed else 'annotated'}: {self._words}, {when}"
            yield from self._bar("missed" if is_missed else "truth", start, end, text, "below")

    def _bar(self, kind: str, start: float, end: float, text: str, where: str) -> Iterable[str]:
        span = self._scale.span(start, end)
        if span is not None:
            top = self._top if where == "above" else self._base + 3
            yield (
                f'<rect class="{kind}" x="{span[0]:.1f}" y="{top}" width="{span[1]:.1f}" '
                f'height="{_BAR}" rx="1.5"><title>{escape(text)}</title></rect>'
            )

    def _points(self, xs: NDArray[np.float64], scores: NDArray[np.float32]) -> str:
        heights = self._base - scores.astype(np.float64) * _SCORES
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, heights, strict=True))


def _runs(scored: ScoredVideo) -> Iterable[tuple[float, float]]:
    """Stretches at which the temporal encoder looked."""
    is_seen = np.concatenate(([False], scored.is_contextualized, [False]))
    changes = np.flatnonzero(is_seen[1:] != is_seen[:-1])
    for first, end in zip(changes[::2], changes[1::2], strict=True):
        yield float(scored.starts[first]), float(scored.ends[end - 1])


def _time_axis(scale: _Scale, top: int) -> Iterable[str]:
    step = tick_step(scale.seconds)
    num_decimals = 0 if step >= 1 else 1
    first = np.ceil(scale.start / step - 1e-9) * step
    for tick in np.arange(first, scale.end + 1e-9, step).tolist():
        at = scale.place(tick)
        anchor = "end" if at > _WIDTH - 20 else "middle"
        yield f'<path class="tick" d="M{at:.1f} {top}v4"/>'
        yield (
            f'<text x="{at:.1f}" y="{top + 15}" text-anchor="{anchor}">'
            f"{format_time(tick, num_decimals=num_decimals)}</text>"
        )
