"""The trigger model and its parts: tensors in, tensors or text out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.time_aware_encoder import (
        LstmEncoder,
        TimeAwareEncoder,
        TransformerEncoder,
    )
    from models.trigger_detector import TriggerDetector
    from models.video_trigger_model import VideoTriggerModel
    from models.visual_encoder import VisualEncoder

_HOME = {
    "LstmEncoder": "models.time_aware_encoder",
    "TimeAwareEncoder": "models.time_aware_encoder",
    "TransformerEncoder": "models.time_aware_encoder",
    "TriggerDetector": "models.trigger_detector",
    "VideoTriggerModel": "models.video_trigger_model",
    "VisualEncoder": "models.visual_encoder",
}

__all__ = [
    "LstmEncoder",
    "TimeAwareEncoder",
    "TransformerEncoder",
    "TriggerDetector",
    "VideoTriggerModel",
    "VisualEncoder",
]


def __getattr__(name: str) -> Any:
    # Lazy: a command that only reads a report must not wait for torch.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'models' has no attribute '{name}'")
