"""How good scores and events are: frame metrics, and events matched within a tolerance."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.evaluation.matching import EventCounts, EventScores, event_scores, match_events
    from utils.evaluation.metrics import (
        ClassFrameMetrics,
        FrameMetrics,
        auroc,
        average_precision,
        frame_metrics,
    )

__all__ = [
    "ClassFrameMetrics",
    "EventCounts",
    "EventScores",
    "FrameMetrics",
    "auroc",
    "average_precision",
    "event_scores",
    "frame_metrics",
    "match_events",
]

_MODULES = {
    "ClassFrameMetrics": "metrics",
    "EventCounts": "matching",
    "EventScores": "matching",
    "FrameMetrics": "metrics",
    "auroc": "metrics",
    "average_precision": "metrics",
    "event_scores": "matching",
    "frame_metrics": "metrics",
    "match_events": "matching",
}


def __getattr__(name: str) -> Any:
    # Lazy: the `--help` of a command must not wait for numpy.
    if name in _MODULES:
        return getattr(importlib.import_module(f"utils.evaluation.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'utils.evaluation' has no attribute '{name}'")
