"""Which setting wins at inference: flag, ``--set``, checkpoint or config file.

The model and how its frames are sampled are the checkpoint's alone. Thresholds are the checkpoint's
too (calibration writes them there) unless a flag or an explicit ``--set`` gives others; a default
that merely stands in the config file does not. Everything else (events, inference, describer,
decoder, max_frames) is the config's: the file that ``--config`` names, else the config that the
checkpoint was trained with or the one that its scores were saved with; of these, all but
``max_frames``, which was how much of each video training looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.run_records import CascadeSettings
from utils.config import Config, load_config, parse_config
from utils.errors import ConfigError, UsageError
from utils.thresholds import Threshold, in_order

_log = logging.getLogger(__name__)

THRESHOLD_KEY = "model.trigger_detector.threshold"
CANDIDATE_THRESHOLD_KEY = "model.trigger_detector.candidate_threshold"
_FREE_MODEL_KEYS = (THRESHOLD_KEY, CANDIDATE_THRESHOLD_KEY, "model.llm")
_SAMPLING_KEYS = (
    "data.frame_sampling_rate",
    "data.image_size",
    "data.resize_mode",
    "data.decode_short_side",
    "data.skip_nonref_frames",
)
_USED_SECTIONS = ("events", "inference")
"""Only here must ``${NAME}`` be set; training's data folders and weights are not touched."""
_NOT_COMPARED = (
    THRESHOLD_KEY,
    CANDIDATE_THRESHOLD_KEY,
    # Of calibration; no config file gives it.
    "model.trigger_detector.temperature",
    "model.llm",
    # Where training took its first weights from; inference has the checkpoint's.
    "model.visual_encoder.weights",
)


def load_inference_config(name: str, overrides: Sequence[str]) -> Config:
    """The config that a run was told to use.

    Args:
        name: As given to ``--config``.
        overrides: As given to ``--set``.

    Raises:
        ConfigError: See `load_config`; or ``--set`` names a key that the checkpoint decides.
    """
    _refuse_what_the_checkpoint_decides(overrides)
    return load_config(name, overrides, interpolate=_USED_SECTIONS)


def stored_inference_config(
    stored: Mapping[str, Any], overrides: Sequence[str], *, origin: str
) -> Config:
    """The config of a run that was told none: what a checkpoint or score file brings along.

    Args:
        stored: Plain data; what it leaves out has its default. Its ``data.max_frames`` is left out,
            too: a run that was not told to stop early looks at whole videos.
        overrides: As given to ``--set``.
        origin: The file, for messages.

    Raises:
        ConfigError: As `load_inference_config`.
    """
    _refuse_what_the_checkpoint_decides(overrides)
    data = stored.get("data") if isinstance(stored, Mapping) else None
    if isinstance(data, Mapping):
        kept = {key: value for key, value in data.items() if key != "max_frames"}
        stored = {**stored, "data": kept}
    return parse_config(stored, overrides, origin=f"{origin}: config", interpolate=_USED_SECTIONS)


def settings_to_store(config: Config) -> dict[str, Any]:
    """What of a run's config makes events of scores: what score files keep for the next run."""
    plain = config.to_plain()
    return {"events": plain["events"], "model": {"llm": plain["model"]["llm"]}}


def _refuse_what_the_checkpoint_decides(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if _is_decided_by_checkpoint(key):
            raise ConfigError(
                f"--set {override}: the checkpoint decides {key}; of the model, only "
                f"{', '.join(_FREE_MODEL_KEYS)} can be changed at inference"
            )


def _is_decided_by_checkpoint(key: str) -> bool:
    if key in _SAMPLING_KEYS:
        return True
    is_model = key == "model" or key.startswith("model.")
    is_free = any(
        key == free or key.startswith(f"{free}.") or free.startswith(f"{key}.")
        for free in _FREE_MODEL_KEYS
    )
    return is_model and not is_free


def resolve_settings(
    config: Config,
    overrides: Sequence[str],
    *,
    labels: Sequence[str],
    threshold: float | None,
    candidate_threshold: float | None,
    model_threshold: Threshold,
    model_candidate_threshold: float,
    thumbnails: bool,
) -> CascadeSettings:
    """The settings of a run; see the module for what wins.

    Args:
        config: The run's, overrides applied.
        overrides: As given to ``--set``.
        labels: The model's K classes.
        threshold: ``--threshold``, for all classes.
        candidate_threshold: ``--candidate-threshold``.
        model_threshold: As the checkpoint or the score file has it.
        model_candidate_threshold: Likewise.
        thumbnails: Whether events carry pictures.

    Raises:
        ConfigError: ``--set`` gives thresholds of other classes than the model's.
    """
    detector = config.model.trigger_detector
    chosen: Threshold | None = threshold
    if chosen is None and is_set(overrides, THRESHOLD_KEY):
        try:
            chosen = in_order(detector.threshold, labels)
        except ValueError as error:
            raise ConfigError(f"--set {THRESHOLD_KEY}: {error}") from None
    return CascadeSettings(
        threshold=model_threshold if chosen is None else chosen,
        candidate_threshold=_first(
            candidate_threshold,
            detector.candidate_threshold if is_set(overrides, CANDIDATE_THRESHOLD_KEY) else None,
            model_candidate_threshold,
        ),
        events=config.events,
        batch_size=config.inference.batch_size,
        max_frames=config.data.max_frames,
        thumbnail_size=config.inference.thumbnail_size if thumbnails else None,
    )


def check_thresholds(threshold: float | None, candidate_threshold: float | None) -> None:
    """Refuse flags that are out of their range.

    Raises:
        UsageError: ``--threshold`` is not in (0, 1], or ``--candidate-threshold`` not in [0, 1].
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"--threshold must be above 0 and at most 1, got {threshold:g}")
    if candidate_threshold is not None and not 0 <= candidate_threshold <= 1:
        raise UsageError(f"--candidate-threshold must be in [0, 1], got {candidate_threshold:g}")


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def is_set(overrides: Sequence[str], key: str) -> bool:
    """Whether one of ``--set``'s overrides gives ``key``, a part of it, or a section around it."""
    for override in overrides:
        name, _, text = override.partition("=")
        name = name.strip()
        if name == key or name.startswith(f"{key}."):
            return True
        if key.startswith(f"{name}."):
            value = yaml.safe_load(text)
            for part in key.removeprefix(f"{name}.").split("."):
                if not isinstance(value, dict) or part not in value:
                    break
                value = value[part]
            else:
                return True
    return False


def log_differences(config: Config, trained: Config) -> None:
    """Say in one line where the config file differs from what the checkpoint decides.

    Thresholds are left out: every report and the command's result name those that were used. So is
    the temperature, which no config file gives.

    Args:
        config: The run's.
        trained: The checkpoint's.
    """
    ours, theirs = _flat(config.to_plain()), _flat(trained.to_plain())
    different = [
        f"{key} ({theirs.get(key)}, not {value})"
        for key, value in ours.items()
        if (key in _SAMPLING_KEYS or key.startswith("model."))
        and not any(key == name or key.startswith(f"{name}.") for name in _NOT_COMPARED)
        # Null where training takes it from the data.
        and (value is not None or key in _SAMPLING_KEYS)
        and value != theirs.get(key)
    ]
    if different:
        _log.info("the checkpoint's settings are used for %s", ", ".join(different))


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
