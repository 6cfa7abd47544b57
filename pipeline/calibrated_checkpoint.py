"""Calibrated checkpoints: an operating point in the config, where it comes from in the metadata.

Behind `pipeline.calibration`. The weights stay as they are, so scores that were saved with the
checkpoint before are scores of the one after; that it knows its earlier files is how one can tell.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.calibration import Calibration
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import parse_config
from utils.config.schema import EventsConfig
from utils.data.annotations import AnnotationSet
from utils.data.data_hash import data_identity
from utils.thresholds import in_order


def earlier_identities(content: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Files with the same weights from which calibration made this checkpoint, by sha256.

    Args:
        content: Of `load_checkpoint`.

    Returns:
        The temperatures of each, by label: scores that were saved with it are of this model.
    """
    earlier: dict[str, dict[str, float]] = (
        content.get("metadata", {}).get("calibration", {}).get("earlier", {})
    )
    return dict(earlier)


def is_training_data(content: Mapping[str, Any], annotations: AnnotationSet) -> bool:
    """Whether the model was trained on these annotations; False where nobody knows.

    Args:
        content: Of `load_checkpoint`.
        annotations: As loaded.
    """
    trained = content.get("metadata", {}).get("data", {}).get("train") or {}
    return bool(trained.get("hash") == data_identity(annotations)["hash"])


def stored_temperatures(content: Mapping[str, Any], labels: Sequence[str]) -> dict[str, float]:
    """By label, those of a checkpoint.

    Args:
        content: Of `load_checkpoint`.
        labels: Of its model.
    """
    detector = parse_config(content["config"], interpolate=()).model.trigger_detector
    found = in_order(detector.temperature, labels)
    values = found if isinstance(found, tuple) else (found,) * len(labels)
    return dict(zip(labels, values, strict=True))


def write_calibration(
    source: Path,
    target: Path,
    calibration: Calibration,
    *,
    sha256: str,
    events: EventsConfig,
    data: Mapping[str, Any],
) -> None:
    """Write ``source`` with the operating point in it to ``target``, which may be the same file.

    The weights stay as they are. In the config, thresholds and temperatures are those of each
    class; the rules that make events belong to the operating point and are written, too.
    ``metadata["calibration"]`` keeps what it was chosen for and what it costs.

    Args:
        source: A training checkpoint.
        target: Where to.
        calibration: The operating point.
        sha256: Of ``source``.
        events: The rules that it holds for.
        data: What it was chosen on, ready for JSON.

    Raises:
        CheckpointError: ``source`` cannot be read, or ``target`` not be written.
    """
    content = load_checkpoint(source)
    labels = tuple(calibration.thresholds)
    config = copy.deepcopy(content["config"])
    earlier = {**earlier_identities(content), sha256: stored_temperatures(content, labels)}
    config["model"]["trigger_detector"].update(
        threshold=dict(calibration.thresholds),
        temperature=dict(calibration.temperatures),
        candidate_threshold=calibration.gate.threshold,
    )
    config["events"] = events.model_dump(mode="json")
    # Whatever is wrong with it must be found before the file is replaced.
    parse_config(config, origin=f"{target}: config", interpolate=())
    metadata = {
        **content.get("metadata", {}),
        "calibration": {**calibration.to_plain(), "data": dict(data), "earlier": earlier},
    }
    save_checkpoint({**content, "config": config, "metadata": metadata}, target)
