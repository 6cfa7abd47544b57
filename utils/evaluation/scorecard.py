"""`Scorecard`: every metric of a set of videos, each `{overall, per_class, interval}`.

Top of evaluation: `pipeline.evaluation` hands it truth, scores and published events, and
`scripts/evaluate.py` writes down what it says. `docs/metrics.md` explains each key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.alarms import AlarmCounts, time_to_detect
from utils.evaluation.bootstrap import Interval
from utils.evaluation.calibration import CalibrationSums
from utils.evaluation.evidence import ALL_TIOUS, Evidence, JudgedVideo
from utils.evaluation.figure import Figure, Weights
from utils.evaluation.intervals import DEFAULT_CONFIDENCE
from utils.evaluation.matching import LENGTH_FRACTION, EventScores
from utils.evaluation.ranking import RankedPredictions
from utils.evaluation.segments import (
    ACTIVITYNET_TIOUS,
    OVERLAPS,
    THUMOS_TIOUS,
    edit_score,
    segmental_counts,
    segmental_f1,
)
from utils.evaluation.spotting import TOLERANCES_FRAMES, TOLERANCES_SECONDS

BUDGET_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
ALARM_RATES = (0.1, 1.0, 10.0, 60.0)
"""Per hour: from one in ten hours to one a minute."""


class Scorecard:
    """All metrics of some videos.

    Args:
        evidence: What they rest on.

    Attributes:
        evidence: As given.
        figures: By key of the report, in its order.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.figures: dict[str, Figure] = {
            **_frame_figures(evidence),
            **_event_figures(evidence),
            **_alarm_figures(evidence),
            **_sweep_figures(evidence),
            **_ranked_figures(evidence),
            **_segmental_figures(evidence),
            **_calibration_figures(evidence),
        }

    def to_plain(
        self,
        draws: NDArray[np.int64] | None = None,
        *,
        confidence: float = DEFAULT_CONFIDENCE,
    ) -> dict[str, Any]:
        """All figures with their intervals, and the counts that they rest on, ready for JSON.

        Args:
            draws: ``(N, V)`` of `cluster_draws`; None: intervals are given of counts alone.
            confidence: Of the intervals.
        """
        everything = self.evidence.everything
        plain: dict[str, Any] = {
            key: {
                **figure.values(everything),
                "interval": figure.intervals(everything, draws, confidence=confidence),
            }
            for key, figure in self.figures.items()
        }
        return {**plain, **_counts(self.evidence)}

    def values(self, weights: Weights) -> dict[str, Any]:
        """All figures of a selection, without intervals.

        Args:
            weights: ``(V,)`` how often each video counts.
        """
        return {key: figure.values(weights) for key, figure in self.figures.items()}


def _frame_figures(evidence: Evidence) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for suffix, rankings in (
        ("", evidence.frame_rankings),
        ("_trigger_head", evidence.trigger_rankings),
    ):
        figures[f"frame_ap{suffix}"] = Figure(
            per_class={label: found.average_precision for label, found in rankings.items()}
        )
        figures[f"frame_auroc{suffix}"] = Figure(
            per_class={label: found.auroc for label, found in rankings.items()}
        )
    return figures


def _calibration_figures(evidence: Evidence) -> dict[str, Figure]:
    def expected_error(sums: CalibrationSums, weights: Weights) -> float:
        return sums.curve(weights).expected_error

    sums = evidence.calibrations
    return {
        "ece": Figure(per_class={k: partial(expected_error, v) for k, v in sums.items()}),
        "brier": Figure(per_class={k: v.brier_score for k, v in sums.items()}),
    }


def _event_figures(evidence: Evidence) -> dict[str, Figure]:
    def counted(name: str, label: str | None, weights: Weights) -> float:
        value: float = getattr(evidence.event_counts(weights, label), name)
        return value

    return {
        f"event_{name}": Figure(
            per_class={label: partial(counted, name, label) for label in evidence.labels},
            overall=partial(counted, name, None),
        )
        for name in ("f1", "precision", "recall")
    }


def _alarm_figures(evidence: Evidence) -> dict[str, Figure]:
    labels = evidence.labels
    durations = np.array([video.scored.duration_seconds for video in evidence.videos])

    def recall(label: str | None, weights: Weights) -> float:
        return evidence.alarm_counts(weights, label).recall

    def rate(label: str | None, weights: Weights) -> float:
        return evidence.alarm_counts(weights, label).false_alarms_per_hour

    def rate_interval(label: str | None, weights: Weights, confidence: float) -> Interval | None:
        return evidence.alarm_counts(weights, label).false_alarms_interval(confidence)

    def delays(chosen: Sequence[str], weights: Weights) -> list[float]:
        pooled = [
            np.tile(by_label[label].delays, int(count))
            for by_label, count in zip(evidence.alarms, weights, strict=True)
            for label in chosen
        ]
        found = time_to_detect(
            np.concatenate(pooled), tolerance_seconds=evidence.judgement.tolerance_seconds
        )
        return [found.median, found.p95, found.early_share, found.late_share]

    def share(sent: NDArray[np.float64], weights: Weights) -> float:
        total = float(weights @ durations)
        return float(weights @ sent) / total if total else math.nan

    def sent(chosen: Sequence[str]) -> NDArray[np.float64]:
        return np.array([video.sent_seconds(chosen) for video in evidence.videos])

    return {
        "alarm_recall": Figure(
            per_class={label: partial(recall, label) for label in labels},
            overall=partial(recall, None),
        ),
        "false_alarms_per_hour": Figure(
            per_class={label: partial(rate, label) for label in labels},
            overall=partial(rate, None),
            exact={label: partial(rate_interval, label) for label in (None, *labels)},
        ),
        "time_to_detect_seconds": Figure(
            per_class={label: partial(delays, [label]) for label in labels},
            overall=partial(delays, labels),
            parts=("median", "p95", "early_share", "late_share"),
        ),
        "sent_share": Figure(
            per_class={label: partial(share, sent([label])) for label in labels},
            overall=partial(share, sent(labels)),
        ),
    }


def _sweep_figures(evidence: Evidence) -> dict[str, Figure]:
    sweeps = evidence.sweeps

    def at_shares(label: str | None, weights: Weights) -> list[float]:
        curve = sweeps[label].budget_curve(weights)
        return [curve.recall_at(share) for share in BUDGET_SHARES]

    def at_rates(label: str | None, weights: Weights) -> list[float]:
        curve = sweeps[label].alarm_curve(weights)
        return [curve.recall_at(rate) for rate in ALARM_RATES]

    return {
        "recall_at_budget": Figure(
            per_class={label: partial(at_shares, label) for label in evidence.labels},
            overall=partial(at_shares, None),
            parts=_names(BUDGET_SHARES),
        ),
        "recall_at_false_alarms_per_hour": Figure(
            per_class={label: partial(at_rates, label) for label in evidence.labels},
            overall=partial(at_rates, None),
            parts=_names(ALARM_RATES),
        ),
    }


def _ranked_figures(evidence: Evidence) -> dict[str, Figure]:
    ranked = evidence.ranked
    seconds = {label: found.seconds for label, found in ranked.items()}
    frames = {label: found.frames for label, found in ranked.items()}
    segments = {label: found.segments for label, found in ranked.items()}
    return {
        "event_map": _mean_figure(seconds),
        "event_map_at_seconds": _parts_figure(seconds, TOLERANCES_SECONDS),
        "event_map_frames": _mean_figure(frames),
        "event_map_at_frames": _parts_figure(frames, TOLERANCES_FRAMES),
        "event_map_tight": Figure(
            per_class={label: found.tight.average_precision for label, found in ranked.items()}
        ),
        "event_map_loose": Figure(
            per_class={label: found.loose.average_precision for label, found in ranked.items()}
        ),
        "segment_map": _mean_figure(segments, [ALL_TIOUS.index(t) for t in ACTIVITYNET_TIOUS]),
        "segment_map_loose": _mean_figure(segments, [ALL_TIOUS.index(t) for t in THUMOS_TIOUS]),
        "segment_map_at_tiou": _parts_figure(segments, ALL_TIOUS),
    }


def _mean_figure(
    rankings: Mapping[str, RankedPredictions], positions: Sequence[int] | None = None
) -> Figure:
    """The mean over the limits, or over some of them."""
    chosen = slice(None) if positions is None else list(positions)

    def mean(ranked: RankedPredictions, weights: Weights) -> float:
        return float(ranked.average_precision(weights)[chosen].mean())

    return Figure(per_class={label: partial(mean, found) for label, found in rankings.items()})


def _parts_figure(rankings: Mapping[str, RankedPredictions], limits: Iterable[float]) -> Figure:
    return Figure(
        per_class={label: found.average_precision for label, found in rankings.items()},
        parts=_names(limits),
    )


def _segmental_figures(evidence: Evidence) -> dict[str, Figure]:
    labels = evidence.labels
    counts = np.array(
        [
            [
                segmental_counts(video.intervals([label]), evidence.references(video, label))
                for label in labels
            ]
            for video in evidence.videos
        ]
    )

    def f1(classes: Sequence[int], weights: Weights) -> NDArray[np.float64]:
        return segmental_f1(np.tensordot(weights, counts, 1)[list(classes)].sum(axis=0))

    def edits(chosen: Sequence[str]) -> Callable[[Weights], float]:
        values = np.array([_edit_score(video, chosen) for video in evidence.videos])
        return partial(_mean_of_videos, values)

    return {
        "segmental_f1": Figure(
            per_class={label: partial(f1, [k]) for k, label in enumerate(labels)},
            overall=partial(f1, range(len(labels))),
            parts=_names(OVERLAPS),
        ),
        "edit_score": Figure(
            per_class={label: edits([label]) for label in labels}, overall=edits(labels)
        ),
    }


def _edit_score(video: JudgedVideo, labels: Sequence[str]) -> float:
    def in_order(events: Iterable[Any]) -> list[str]:
        own = (event for event in events if event.label in labels)
        ordered = sorted(own, key=lambda event: (event.start, event.end, event.label))
        return [event.label for event in ordered]

    return edit_score(in_order(video.events), in_order(video.scored.references))


def _mean_of_videos(values: NDArray[np.float64], weights: Weights) -> float:
    is_counted = ~np.isnan(values) & (weights > 0)
    if not is_counted.any():
        return math.nan
    return float(np.average(values[is_counted], weights=weights[is_counted]))


def _counts(evidence: Evidence) -> dict[str, Any]:
    everything = evidence.everything
    events = EventScores(
        overall=evidence.event_counts(everything),
        per_class={label: evidence.event_counts(everything, label) for label in evidence.labels},
        tolerance_seconds=evidence.judgement.tolerance_seconds,
        length_fraction=LENGTH_FRACTION,
    ).to_plain()
    return {
        "event_counts": events["event_counts"],
        "event_tolerance": events["event_tolerance"],
        "alarm_counts": {
            "overall": _plain_alarms(evidence.alarm_counts(everything)),
            "per_class": {
                label: _plain_alarms(evidence.alarm_counts(everything, label))
                for label in evidence.labels
            },
        },
        "num_frames": len(evidence.targets),
        "num_positive_frames": {
            label: int(np.count_nonzero(evidence.targets[:, k]))
            for k, label in enumerate(evidence.labels)
        },
        "num_videos": len(evidence.videos),
        "duration_seconds": sum(video.scored.duration_seconds for video in evidence.videos),
        "contextualized_share": float(evidence.is_contextualized.mean()),
    }


def _plain_alarms(counts: AlarmCounts) -> dict[str, float]:
    return {
        "num_references": counts.num_references,
        "num_detected": counts.num_detected,
        "num_alarms": counts.num_alarms,
        "num_false_alarms": counts.num_false_alarms,
        "quiet_hours": counts.quiet_hours,
    }


def _names(limits: Iterable[float]) -> tuple[str, ...]:
    return tuple(f"{limit:g}" for limit in limits)
