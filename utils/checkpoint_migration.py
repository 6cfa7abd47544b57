"""`migrate`: content of an older checkpoint as today's program expects it.

Below `utils.checkpoint`, which calls it on every load. A change of what is in a checkpoint gets the
next version and one named function here; they are applied in turn, so an old file takes every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from utils.errors import CheckpointError

Content = dict[str, Any]


def migrate_1_to_2(content: Content) -> Content:
    """Version 2 knows averaged weights, early stopping, several processes, and the data's hash.

    It counts clips and frames of the epoch under way where version 1 counted batches.
    """
    metadata = content.get("metadata", {})
    best = metadata.get("best_metric")
    return {
        **content,
        "data_position": _position_in_clips(content),
        # Empty: the model's own weights are those that training goes on from.
        "raw_model_state_dict": {},
        "ema_state_dict": {},
        "other_rng_states": [],
        "early_stopping": {"best": best, "reference": best, "num_bad": 0},
        "metadata": {
            **metadata,
            # All that version 1 could choose by, and run on.
            "best_metric_name": "frame_ap",
            "world_size": 1,
            # Empty: it is not known.
            "data": {},
        },
    }


def _position_in_clips(content: Content) -> Content:
    old = content.get("data_position", {})
    batches = old.get("batch", 0)
    if not batches:
        return {**old, "clip": 0, "epoch_frames": 0}
    config = content["config"]
    clip = min(batches * config["training"]["batch_size"], old["clips_per_epoch"])
    # As if no clip were padded: only the mean loss that this epoch reports depends on it.
    frames = clip * config["data"]["clip_window_size"]
    return {
        **old,
        "clip": clip,
        "epoch_frames": frames,
        # Version 1 added up one mean for each batch.
        "epoch_loss_sum": old["epoch_loss_sum"] / batches * frames,
    }


MIGRATIONS: Mapping[int, Callable[[Content], Content]] = {1: migrate_1_to_2}
"""By the version that each begins with; it leads to the next one."""


def migrate(content: Content, *, to: int, source: str) -> Content:
    """``content`` in version ``to``; the argument itself is not changed.

    Args:
        content: Of a checkpoint of any version.
        to: The version that this program writes.
        source: The checkpoint's path, for messages.

    Raises:
        CheckpointError: It is of a newer version, its version is none, or it lacks what its version
            has.
    """
    version = content["format_version"]
    # bool is an int in Python.
    if type(version) is not int or version < 1:
        raise CheckpointError(
            f"{source}: damaged: its format version is {version!r:.20}, not a whole number from 1"
        )
    if version > to:
        raise CheckpointError(
            f"{source}: of format version {version}, and this program reads versions up to {to}; "
            "update the program to the release that wrote it, or a later one"
        )
    while version < to:
        try:
            content = MIGRATIONS[version](content)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{source}: damaged: it is no whole checkpoint of format version {version}: "
                f"{type(error).__name__} {error}"
            ) from error
        version += 1
        content = {**content, "format_version": version}
    return content
