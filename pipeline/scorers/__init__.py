"""What scores frames: a trained checkpoint; exported and zero-shot models take the same place."""

from __future__ import annotations

from utils.registry import Registry

SCORERS = Registry("scorer", {"checkpoint": "pipeline.scorers.checkpoint:CheckpointScorer"})
