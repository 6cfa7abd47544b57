"""How good scores and events are: frames, events, segments, alarms, calibration, intervals.

The metrics are in files by subject; `utils.evaluation.scorecard` computes all of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.evaluation.alarms import AlarmCounts, alarm_counts, match_alarms, time_to_detect
    from utils.evaluation.bootstrap import bootstrap_interval, cluster_draws
    from utils.evaluation.calibration import (
        brier_score,
        expected_calibration_error,
        fit_temperature,
        reliability_curve,
    )
    from utils.evaluation.evidence import Evidence, JudgedVideo, Judgement
    from utils.evaluation.intervals import poisson_interval, poisson_upper_bound, wilson_interval
    from utils.evaluation.matching import EventCounts, EventScores, event_scores, match_events
    from utils.evaluation.metrics import (
        ClassFrameMetrics,
        FrameMetrics,
        auroc,
        average_precision,
        frame_metrics,
    )
    from utils.evaluation.mistakes import find_mistakes
    from utils.evaluation.proposals import make_proposals
    from utils.evaluation.ranking import RankedPredictions
    from utils.evaluation.scorecard import Scorecard
    from utils.evaluation.scored_video import EventRules, ScoredVideo
    from utils.evaluation.segments import edit_score, segmental_f1, temporal_iou
    from utils.evaluation.spotting import SoccerNetSpotting
    from utils.evaluation.sweeps import ThresholdSweep

__all__ = [
    "AlarmCounts",
    "ClassFrameMetrics",
    "EventCounts",
    "EventRules",
    "EventScores",
    "Evidence",
    "FrameMetrics",
    "JudgedVideo",
    "Judgement",
    "RankedPredictions",
    "Scorecard",
    "ScoredVideo",
    "SoccerNetSpotting",
    "ThresholdSweep",
    "alarm_counts",
    "auroc",
    "average_precision",
    "bootstrap_interval",
    "brier_score",
    "cluster_draws",
    "edit_score",
    "event_scores",
    "expected_calibration_error",
    "find_mistakes",
    "fit_temperature",
    "frame_metrics",
    "make_proposals",
    "match_alarms",
    "match_events",
    "poisson_interval",
    "poisson_upper_bound",
    "reliability_curve",
    "segmental_f1",
    "temporal_iou",
    "time_to_detect",
    "wilson_interval",
]

_MODULES = {
    "AlarmCounts": "alarms",
    "ClassFrameMetrics": "metrics",
    "EventCounts": "matching",
    "EventRules": "scored_video",
    "EventScores": "matching",
    "Evidence": "evidence",
    "FrameMetrics": "metrics",
    "JudgedVideo": "evidence",
    "Judgement": "evidence",
    "RankedPredictions": "ranking",
    "Scorecard": "scorecard",
    "ScoredVideo": "scored_video",
    "SoccerNetSpotting": "spotting",
    "ThresholdSweep": "sweeps",
    "alarm_counts": "alarms",
    "auroc": "metrics",
    "average_precision": "metrics",
    "bootstrap_interval": "bootstrap",
    "brier_score": "calibration",
    "cluster_draws": "bootstrap",
    "edit_score": "segments",
    "event_scores": "matching",
    "expected_calibration_error": "calibration",
    "find_mistakes": "mistakes",
    "fit_temperature": "calibration",
    "frame_metrics": "metrics",
    "make_proposals": "proposals",
    "match_alarms": "alarms",
    "match_events": "matching",
    "poisson_interval": "intervals",
    "poisson_upper_bound": "intervals",
    "reliability_curve": "calibration",
    "segmental_f1": "segments",
    "temporal_iou": "segments",
    "time_to_detect": "alarms",
    "wilson_interval": "intervals",
}


def __getattr__(name: str) -> Any:
    # Lazy: the `--help` of a command must not wait for numpy.
    if name in _MODULES:
        return getattr(importlib.import_module(f"utils.evaluation.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'utils.evaluation' has no attribute '{name}'")
