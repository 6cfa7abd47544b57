"""`calibrate`: temperatures, thresholds and the candidates' gate of a checkpoint, for one wish.

Last step of the training road before the cascade runs: scored calibration videos in, an operating
point out, which `pipeline.calibrated_checkpoint` writes down. docs/operating_points.md says what is
promised, and why it holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.candidate_gate import (
    GateCost,
    choose_candidate_threshold,
    gate_cost,
    gated,
    scores_near_events,
)
from pipeline.operating_points import RECALL_CUTS, Choice, Wish, choose
from pipeline.promises import (
    rate_upper_bound,
    share_lower_bound,
    share_upper_bound,
    sum_lower_bound,
    sum_upper_bound,
)
from pipeline.threshold_curves import ClassCurve, threshold_grid
from utils.config.schema import EventsConfig
from utils.errors import UsageError
from utils.evaluation.alarms import DEFAULT_TOLERANCE_SECONDS, AlarmCounts, over_classes
from utils.evaluation.budget import sent_share, sent_video
from utils.evaluation.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    logits_of,
)
from utils.evaluation.intervals import poisson_interval
from utils.evaluation.scored_video import EventRules, ScoredVideo

DEFAULT_MAX_GATE_LOSS = 0.02
_FEW_CLUSTERS = 5
_SECONDS_PER_HOUR = 3600.0
_SIGNIFICANT_DIGITS = 6

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """What is decided before anyone looks at the scores.

    Attributes:
        events: How scores become events.
        max_gate_loss: Share of the annotated events that the candidates' gate may hide, in [0, 1).
        candidate_threshold: The gate, where it is given and not chosen.
        least_candidate_threshold: Below it nothing was scored.
        tolerance_seconds: See `utils.evaluation.alarms.match_alarms`.
        point_radius_seconds: How far an event that is a point reaches to either side.
    """

    events: EventsConfig
    max_gate_loss: float = DEFAULT_MAX_GATE_LOSS
    candidate_threshold: float | None = None
    least_candidate_threshold: float = 0.0
    tolerance_seconds: float = DEFAULT_TOLERANCE_SECONDS
    point_radius_seconds: float = 0.5

    @property
    def rules(self) -> EventRules:
        """As `ScoredVideo.stretches` takes them."""
        return EventRules(
            hysteresis_ratio=self.events.hysteresis_ratio,
            min_duration_seconds=self.events.min_duration_seconds,
            merge_gap_seconds=self.events.merge_gap_seconds,
            cooldown_seconds=self.events.cooldown_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one class, or all together, do on the calibration videos.

    Attributes:
        counts: Alarms and misses.
        recall_interval: Of the true recall; None where nothing is annotated.
        false_alarms_interval: Of the true rate an hour; None where there is no quiet time.
    """

    counts: AlarmCounts
    recall_interval: Interval | None
    false_alarms_interval: Interval | None

    def to_plain(self) -> dict[str, Any]:
        """Ready for JSON and for a checkpoint."""
        counts = self.counts
        return {
            "num_events": counts.num_references,
            "num_found": counts.num_detected,
            "num_false_alarms": counts.num_false_alarms,
            "quiet_hours": float(counts.quiet_hours),
            "recall": float(counts.recall) if counts.num_references else None,
            "recall_interval": _plain_interval(self.recall_interval),
            "false_alarms_per_hour": (
                float(counts.false_alarms_per_hour) if counts.quiet_hours > 0 else None
            ),
            "false_alarms_interval": _plain_interval(self.false_alarms_interval),
        }


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """An operating point, and what it costs.

    Attributes:
        wish: What it was chosen for.
        promised: What may be relied on, in the wish's own unit; see `Choice`.
        temperatures: By label; temporal logits are divided by them.
        thresholds: By label; of the calibrated scores.
        gate: The candidate threshold, and what it costs.
        per_class: By label.
        overall: All classes together.
        stage3_fraction: Share of the video that lies in an event of any class.
        stage3_interval: Of the true share.
        calibration_error: ECE of all classes' frames, before and after the temperatures.
        num_videos: That it rests on.
        hours: Of video.
        notes: What one should know, a sentence each.
    """

    wish: Wish
    promised: float
    temperatures: Mapping[str, float]
    thresholds: Mapping[str, float]
    gate: GateCost
    per_class: Mapping[str, Figures]
    overall: Figures
    stage3_fraction: float
    stage3_interval: Interval
    calibration_error: tuple[float, float]
    num_videos: int
    hours: float
    notes: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """Ready for JSON and for a checkpoint."""
        return {
            "wish": dataclasses.asdict(self.wish),
            "promised": float(self.promised),
            "temperatures": dict(self.temperatures),
            "thresholds": dict(self.thresholds),
            "candidate_gate": dataclasses.asdict(self.gate),
            "per_class": {label: figures.to_plain() for label, figures in self.per_class.items()},
            "overall": self.overall.to_plain(),
            "stage3_fraction": float(self.stage3_fraction),
            "stage3_interval": _plain_interval(self.stage3_interval),
            "calibration_error": [float(error) for error in self.calibration_error],
            "num_videos": self.num_videos,
            "hours": float(self.hours),
            "notes": list(self.notes),
        }


def calibrate(
    videos: Sequence[ScoredVideo],
    wish: Wish,
    settings: CalibrationSettings,
    *,
    temperatures: Mapping[str, float] | None = None,
) -> Calibration:
    """The operating point that keeps ``wish``.

    Args:
        videos: Annotated and scored, with no candidates' gate or with one at
            ``settings.least_candidate_threshold``. No video that the model was trained on.
        wish: What must hold.
        settings: What is decided already.
        temperatures: By label, those that the scores were made with; None: none.

    Raises:
        UsageError: There is no video, the videos are too short to support the wish, or no threshold
            keeps it.
    """
    if not videos:
        raise UsageError("calibration needs videos, and there are none")
    labels = videos[0].labels
    before = dict.fromkeys(labels, 1.0) if temperatures is None else temperatures
    fitted, notes = _fit_temperatures(videos, before, settings)
    error_before = _calibration_error(videos, settings)
    calibrated = [rescaled(video, before, fitted) for video in videos]
    error_after = _calibration_error(calibrated, settings)
    spread = {
        "tolerance_seconds": settings.tolerance_seconds,
        "point_radius_seconds": settings.point_radius_seconds,
    }
    gate = _gate(calibrated, settings)
    behind = [
        gated(video, gate.threshold, context_seconds=settings.events.context_seconds)
        for video in calibrated
    ]
    curves = []
    for label in labels:
        ratio = fitted[label] / before[label]
        grid = threshold_grid(behind, label, temperature_ratio=ratio, **spread)
        first, *others = (
            ClassCurve.of(video, label, grid, settings.rules, **spread) for video in behind
        )
        curves.append(sum(others, first))
    duration_seconds = sum(video.duration_seconds for video in videos)
    choice = choose(curves, wish, duration_seconds=duration_seconds)
    return _outcome(
        behind,
        curves,
        choice,
        wish,
        settings,
        temperatures=fitted,
        gate=gate,
        errors=(error_before, error_after),
        notes=notes,
    )


def _fit_temperatures(
    videos: Sequence[ScoredVideo], before: Mapping[str, float], settings: CalibrationSettings
) -> tuple[dict[str, float], list[str]]:
    fitted: dict[str, float] = {}
    notes: list[str] = []
    for position, label in enumerate(videos[0].labels):
        targets, scores = _frames(videos, position, settings)
        is_on = targets > 0.5
        if is_on.all() or not is_on.any():
            fitted[label] = before[label]
            notes.append(
                f"class '{label}': the frames that the temporal encoder looked at are all "
                f"{'on' if is_on.any() else 'off'}; its temperature stays {before[label]:g}"
            )
            continue
        fitted[label] = _rounded(fit_temperature(is_on, logits_of(scores) * before[label]))
    return fitted, notes


def _frames(
    videos: Sequence[ScoredVideo], position: int, settings: CalibrationSettings
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Targets and scores ``(N,)`` of one class at all frames that the temporal encoder saw."""
    targets = [
        video.targets(point_radius_seconds=settings.point_radius_seconds)[
            video.is_contextualized, position
        ]
        for video in videos
    ]
    scores = [video.temporal[video.is_contextualized, position] for video in videos]
    return np.concatenate(targets), np.concatenate(scores)


def _calibration_error(videos: Sequence[ScoredVideo], settings: CalibrationSettings) -> float:
    """Mean over the classes."""
    errors = [
        expected_calibration_error(*_frames(videos, position, settings))
        for position in range(len(videos[0].labels))
    ]
    return float(np.mean(errors))


def rescaled(
    video: ScoredVideo, before: Mapping[str, float], after: Mapping[str, float]
) -> ScoredVideo:
    """With other temperatures.

    Args:
        video: Truth and scores.
        before: By label, those of its scores.
        after: By label, those that are wanted.
    """
    columns = [
        apply_temperature(video.temporal[:, position], after[label] / before[label])
        for position, label in enumerate(video.labels)
    ]
    return dataclasses.replace(video, temporal=np.stack(columns, axis=1).astype(np.float32))


def _gate(videos: Sequence[ScoredVideo], settings: CalibrationSettings) -> GateCost:
    context_seconds = settings.events.context_seconds
    scores = scores_near_events(
        videos,
        context_seconds=context_seconds,
        tolerance_seconds=settings.tolerance_seconds,
        point_radius_seconds=settings.point_radius_seconds,
    )
    threshold = settings.candidate_threshold
    if threshold is None:
        threshold = choose_candidate_threshold(
            scores,
            max_loss=settings.max_gate_loss,
            least=settings.least_candidate_threshold,
        )
        threshold = _rounded(threshold)
    elif threshold < settings.least_candidate_threshold:
        raise UsageError(
            f"a candidate threshold of {threshold:g} lets frames through that were never scored: "
            f"the scores were saved with {settings.least_candidate_threshold:g}; save them anew "
            "with a lower one"
        )
    return gate_cost(videos, threshold, scores, context_seconds=context_seconds)


def _outcome(
    videos: Sequence[ScoredVideo],
    curves: Sequence[ClassCurve],
    choice: Choice,
    wish: Wish,
    settings: CalibrationSettings,
    *,
    temperatures: Mapping[str, float],
    gate: GateCost,
    errors: tuple[float, float],
    notes: Sequence[str],
) -> Calibration:
    at = list(zip(curves, choice.positions, strict=True))
    thresholds = {curve.label: _rounded(float(curve.thresholds[place])) for curve, place in at}
    counts = {curve.label: curve.counts(place) for curve, place in at}
    hours = sum(video.duration_seconds for video in videos) / _SECONDS_PER_HOUR
    share = sent_share(
        sent_video(
            video,
            thresholds,
            settings.rules,
            point_radius_seconds=settings.point_radius_seconds,
        )
        for video in videos
    )
    return Calibration(
        wish=wish,
        promised=choice.promised,
        temperatures=temperatures,
        thresholds=thresholds,
        gate=gate,
        per_class={
            label: _figures(found, wish.confidence, num_thresholds=1)
            for label, found in counts.items()
        },
        overall=_figures(over_classes(counts), wish.confidence, num_thresholds=len(curves)),
        stage3_fraction=share,
        stage3_interval=_share_interval(at, hours, wish.confidence),
        calibration_error=errors,
        num_videos=len(videos),
        hours=hours,
        notes=(*notes, *choice.notes, *_cluster_notes(videos)),
    )


def _figures(counts: AlarmCounts, confidence: float, *, num_thresholds: int) -> Figures:
    """With intervals that know that the thresholds were chosen on these very events."""
    one_sided = (1 + confidence) / 2
    recall: Interval | None = None
    if counts.num_references:
        recall = (
            share_lower_bound(
                counts.num_detected,
                counts.num_references,
                num_cuts=RECALL_CUTS - 1 + num_thresholds,
                confidence=one_sided,
            ),
            share_upper_bound(counts.num_detected, counts.num_references, confidence=one_sided),
        )
    alarms: Interval | None = None
    if counts.quiet_hours > 0:
        low, _ = poisson_interval(
            counts.num_false_alarms, counts.quiet_hours, confidence=confidence
        )
        high = rate_upper_bound(
            counts.num_false_alarms,
            counts.quiet_hours,
            num_cuts=num_thresholds,
            confidence=one_sided,
        )
        alarms = (low, high)
    return Figures(counts=counts, recall_interval=recall, false_alarms_interval=alarms)


def _share_interval(
    at: Sequence[tuple[ClassCurve, int]], hours: float, confidence: float
) -> Interval:
    """Of the classes' times added up: where they overlap, the union is less."""
    one_sided = (1 + confidence) / 2
    seconds = sum(float(curve.sent_seconds[place]) for curve, place in at)
    squares = sum(float(curve.sent_squares[place]) for curve, place in at)
    longest = [float(curve.longest_seconds[place]) for curve, place in at]
    high = sum_upper_bound(
        seconds,
        squares,
        longest=sum(longest),
        squared_longest=sum(length**2 for length in longest),
        confidence=one_sided,
    )
    low = sum_lower_bound(seconds, squares, confidence=one_sided)
    total = hours * _SECONDS_PER_HOUR
    return min(1.0, low / total), min(1.0, high / total)


def _cluster_notes(videos: Sequence[ScoredVideo]) -> list[str]:
    """The bounds take events for independent of each other; say where they hardly can be."""
    num_clusters = len({video.cluster for video in videos})
    if num_clusters >= _FEW_CLUSTERS:
        return []
    groups = "group" if num_clusters == 1 else "groups"
    return [
        f"all of it comes from {num_clusters} {groups} of videos: the promise and the intervals "
        "are for video of these cameras, and say little of others"
    ]


def _rounded(value: float) -> float:
    """As people read it; the steps near 1 are finer than six digits."""
    if value > 0.999:
        return value
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")


def _plain_interval(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [float(bound) for bound in interval]
