"""From scores to events: records, the candidates' windows, events, and sentences about them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.events.candidate_windows import CandidateWindows, FrameDecision, WindowUpdate
    from utils.events.records import Event, FrameScore, Window
    from utils.events.window_builder import WindowBuilder
    from utils.events.wording import event_sentence, format_time, summary_sentence

__all__ = [
    "CandidateWindows",
    "Event",
    "FrameDecision",
    "FrameScore",
    "Window",
    "WindowBuilder",
    "WindowUpdate",
    "event_sentence",
    "format_time",
    "summary_sentence",
]

_MODULES = {
    "CandidateWindows": "candidate_windows",
    "Event": "records",
    "FrameDecision": "candidate_windows",
    "FrameScore": "records",
    "Window": "records",
    "WindowBuilder": "window_builder",
    "WindowUpdate": "candidate_windows",
    "event_sentence": "wording",
    "format_time": "wording",
    "summary_sentence": "wording",
}


def __getattr__(name: str) -> Any:
    # Lazy: the `--help` of a command must not wait for numpy.
    if name in _MODULES:
        return getattr(importlib.import_module(f"utils.events.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'utils.events' has no attribute '{name}'")
