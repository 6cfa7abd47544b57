"""Building blocks with one noun each; imports nothing else of the project."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.video.processor import VideoProcessor
    from utils.video.sampler import FrameSampler

__all__ = ["FrameSampler", "VideoProcessor"]


def __getattr__(name: str) -> Any:
    # Lazy: `python train.py --help` must not wait for torch.
    if name in __all__:
        return getattr(importlib.import_module("utils.video"), name)
    raise AttributeError(f"module 'utils' has no attribute '{name}'")
