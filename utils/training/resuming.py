"""`check_resumable`: which settings a run must share with the checkpoint that it goes on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from utils.config import Config, parse_config
from utils.errors import CheckpointError

logger = logging.getLogger(__name__)

_NOT_OF_THE_MODEL = (
    "model.llm",
    "model.trigger_detector.candidate_threshold",
    "model.trigger_detector.threshold",
    # Read once, at the start of the first run.
    "model.visual_encoder.weights",
)
_FIXED_IN_AN_EPOCH = (
    "training.batch_size",
    "training.clips_per_epoch",
    "training.gradient_accumulation_steps",
)
_PLACES = (
    "data.cache_dir",
    "data.cache_max_gb",
    "data.num_workers",
    "training.checkpoint_dir",
    "training.log_dir",
)
"""Keys that change nothing of what is learned."""


def check_resumable(content: Mapping[str, Any], config: Config, *, source: str) -> None:
    """Whether a run with ``config`` can go on from a checkpoint; logs what differs and may.

    Args:
        content: Of `load_checkpoint`.
        config: The resolved config of the run that goes on.
        source: The checkpoint's path, for messages.

    Raises:
        CheckpointError: It is of another model or another freezing, or was saved inside an epoch
            that was cut into batches in another way.
    """
    # Parsed, so that keys which are newer than the checkpoint have their defaults.
    old = parse_config(content["config"], origin=f"{source}: config", interpolate=()).to_plain()
    differing = _differing_keys(old, config.to_plain())
    is_inside_epoch = bool(content.get("data_position", {}).get("batch"))
    refused = [
        text
        for key, text in differing.items()
        if (_is_under(key, ("model", "freezing")) and not _is_under(key, _NOT_OF_THE_MODEL))
        or (is_inside_epoch and _is_under(key, _FIXED_IN_AN_EPOCH))
    ]
    if refused:
        raise CheckpointError(
            f"{source}: is of another run: {', '.join(refused)}; resume with the config of that "
            "run, or start anew without --resume"
        )
    changed = [
        text
        for key, text in differing.items()
        if _is_under(key, ("data", "training")) and not _is_under(key, _PLACES)
    ]
    if changed:
        logger.warning("the run goes on with changes: %s", ", ".join(changed))


def _is_under(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _differing_keys(old: Any, new: Any, prefix: str = "") -> dict[str, str]:
    """Dotted keys at which two plain configs differ, each with a text that gives both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {
            key: text
            for name in sorted({*old, *new})
            for key, text in _differing_keys(
                old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name
            ).items()
        }
    return {} if old == new else {prefix: f"{prefix} was {old!r}, is {new!r}"}
