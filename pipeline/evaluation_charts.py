"""The curves of an evaluation's page: what a threshold can be moved to, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.svg_charts import Axis, Series, chart, log_axis, staircase, thinned, unit_axis
from utils.evaluation.evidence import Evidence
from utils.evaluation.spotting import TOLERANCES_SECONDS
from utils.events.wording import format_duration, spoken_label

_EVENT_TOLERANCE_SECONDS = 1.0
_DELAY_STEPS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 1e4, 1e5)
_MIN_SHARE = 0.001
"""Where the axis of shares begins."""


def charts(evidence: Evidence) -> Iterator[str]:
    """The curves of an evaluation, as pieces of HTML with the style `CHART_STYLE`."""
    yield _frame_chart(evidence)
    yield _event_chart(evidence)
    yield _alarm_chart(evidence)
    yield _budget_chart(evidence)
    yield _delay_chart(evidence)
    yield _reliability(evidence)


def _frame_chart(evidence: Evidence) -> str:
    series = []
    for k, (label, ranking) in enumerate(evidence.frame_rankings.items()):
        recall, precision = ranking.curve()
        if np.isnan(recall).any() or not len(recall):
            continue
        xs, ys = thinned(recall, precision)
        name = f"{spoken_label(label)}, AP {ranking.average_precision():.3f}"
        series.append(Series(name=name, xs=xs, ys=ys, color=k))
    return chart(
        "Precision and recall of frames",
        "Of the frames that score above a threshold, how many are right; of the right, how many.",
        unit_axis("recall"),
        unit_axis("precision"),
        series,
    )


def _event_chart(evidence: Evidence) -> str:
    limit = TOLERANCES_SECONDS.index(_EVENT_TOLERANCE_SECONDS)
    series = []
    for k, (label, ranked) in enumerate(evidence.ranked.items()):
        recall, precision = ranked.seconds.curve(limit)
        value = ranked.seconds.average_precision()[limit]
        if np.isnan(value):
            continue
        xs, ys = thinned(np.append(0.0 * recall[:1], recall), np.append(precision[:1], precision))
        name = f"{spoken_label(label)}, AP {value:.3f}"
        series.append(Series(name=name, xs=xs, ys=ys, color=k))
    return chart(
        "Precision and recall of events",
        f"Of events ranked by their confidence, right where they begin within "
        f"{_EVENT_TOLERANCE_SECONDS:g} s.",
        unit_axis("recall"),
        unit_axis("precision"),
        series,
    )


def _alarm_chart(evidence: Evidence) -> str:
    hours = max(evidence.alarm_counts(evidence.everything, k).quiet_hours for k in evidence.labels)
    curves = {k: evidence.sweeps[k].alarm_curve() for k in evidence.labels}
    highest = max((float(np.nanmax(c.prices, initial=0.0)) for c in curves.values()), default=0.0)
    # One alarm in all of this video is the lowest rate but none that it can show.
    low = 0.5 / hours if hours > 0 else 1.0
    high = max(highest, 10 * low)
    series = []
    for k, (label, curve) in enumerate(curves.items()):
        counts = evidence.alarm_counts(evidence.everything, label)
        series += _price_series(
            label,
            k,
            curve.prices,
            curve.recalls,
            low=low,
            high=high,
            now=(counts.false_alarms_per_hour, counts.recall),
        )
    return chart(
        "Recall against false alarms per hour",
        f"The most that any threshold finds at a rate; dots are where it stands. Half an alarm in "
        f"{format_duration(hours * 3600)}, the left border, is none.",
        log_axis("false alarms per hour", low, high),
        unit_axis("alarm recall"),
        series,
    )


def _budget_chart(evidence: Evidence) -> str:
    durations = np.array([video.scored.duration_seconds for video in evidence.videos])
    series = []
    for k, label in enumerate(evidence.labels):
        curve = evidence.sweeps[label].budget_curve()
        sent = sum(video.sent_seconds([label]) for video in evidence.videos) / durations.sum()
        series += _price_series(
            label,
            k,
            curve.prices,
            curve.recalls,
            low=_MIN_SHARE,
            high=1.0,
            now=(float(sent), curve.recall_at(float(sent))),
        )
    return chart(
        "Recall against the share sent to stage three",
        "Events of which stage three sees at least a moment, and how much video it gets for that.",
        log_axis("share of the video", _MIN_SHARE, 1.0),
        unit_axis("recall"),
        series,
    )


def _price_series(
    label: str,
    color: int,
    prices: NDArray[np.float64],
    recalls: NDArray[np.float64],
    *,
    low: float,
    high: float,
    now: tuple[float, float],
) -> list[Series]:
    """The staircase of one class; none where prices or recalls are undefined."""
    if np.isnan(prices).any() or np.isnan(recalls).any():
        return []
    xs, ys = staircase(prices, recalls, until=high)
    name = spoken_label(label)
    price, recall = now
    text = f"{name} as it is set: {price:.3g}, recall {recall:.3f}"
    is_shown = not (np.isnan(price) or np.isnan(recall))
    return [
        Series(
            name=name,
            xs=np.maximum(xs, low),
            ys=ys,
            color=color,
            marks=((max(price, low), recall, text),) if is_shown else (),
        )
    ]


def _delay_chart(evidence: Evidence) -> str:
    by_label = {
        label: np.concatenate([alarms[label].delays for alarms in evidence.alarms])
        for label in evidence.labels
    }
    found = np.concatenate([delays[~np.isnan(delays)] for delays in by_label.values()])
    low = min(-0.5, float(np.floor(2 * found.min(initial=0.0)) / 2))
    high = max(2.0, float(np.ceil(np.quantile(found, 0.99))) if len(found) else 0.0)
    series = []
    for k, (label, delays) in enumerate(by_label.items()):
        if not len(delays):
            continue
        rising = np.sort(delays[~np.isnan(delays)])
        # Of all events, so that a curve ends at the recall.
        xs = np.concatenate(([low], np.repeat(rising, 2), [high]))
        ys = np.repeat(np.arange(len(rising) + 1) / len(delays), 2)
        xs, ys = thinned(np.minimum(xs, high), ys)
        series.append(Series(name=spoken_label(label), xs=xs, ys=ys, color=k))
    step = next(step for step in _DELAY_STEPS if (high - low) / step <= 6)
    first = int(np.ceil(low / step))
    ticks = tuple(step * number for number in range(first, int(high / step) + 1))
    return chart(
        "Time to detect",
        "Share of all annotated events with an alarm so many seconds after their start.",
        Axis(label="seconds from the annotated start", low=low, high=high, ticks=ticks),
        unit_axis("share of events"),
        series,
        guide=((0.0, 0.0), (0.0, 1.0)),
    )


def _reliability(evidence: Evidence) -> str:
    series = []
    for k, (label, sums) in enumerate(evidence.calibrations.items()):
        curve = sums.curve()
        is_full = curve.counts > 0
        if not is_full.any():
            continue
        # The area of a dot tells how many frames it stands for; the smallest are still seen.
        sizes = 2 + 8 * np.sqrt(curve.counts[is_full] / curve.counts.sum())
        series.append(
            Series(
                name=f"{spoken_label(label)}, ECE {curve.expected_error:.3f}",
                xs=curve.mean_scores[is_full],
                ys=curve.positive_shares[is_full],
                color=k,
                sizes=tuple(float(size) for size in sizes),
            )
        )
    return chart(
        "Reliability",
        "How often what is said with a confidence comes true. Above the dashes scores are too "
        "modest, below them too sure.",
        unit_axis("confidence of a frame"),
        unit_axis("share of frames in an event"),
        series,
        guide=((0.0, 0.0), (1.0, 1.0)),
    )
