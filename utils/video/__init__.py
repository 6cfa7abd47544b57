"""From a path to tensors: decoders, `FrameSampler`, `VideoProcessor`.

Names are imported on first use, so that a command can ask for the decoders' names without paying
for the decoders.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.video.processor import VideoProcessor
    from utils.video.sampler import FrameSampler, SampledFrame
    from utils.video.source import DecodeLoss, VideoInfo, VideoSource

__all__ = [
    "DecodeLoss",
    "FrameSampler",
    "SampledFrame",
    "VideoInfo",
    "VideoProcessor",
    "VideoSource",
]

_MODULES = {
    "DecodeLoss": "source",
    "FrameSampler": "sampler",
    "SampledFrame": "sampler",
    "VideoInfo": "source",
    "VideoProcessor": "processor",
    "VideoSource": "source",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
