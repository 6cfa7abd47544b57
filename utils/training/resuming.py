"""What a run must share with the checkpoint that it goes on from: settings, data, optimizer.

`check_resumable` comes before the model's weights are loaded, `check_same_inputs` when the videos
have been read, `check_optimizer_fits` before the optimizer's state is loaded. They say no in words;
nothing is changed by them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from utils.config import Config, parse_config
from utils.errors import CheckpointError

logger = logging.getLogger(__name__)

_OF_TRAINING = ("data", "model", "training", "freezing")
"""Sections that decide what is learned; the others are read at inference."""
_HARMLESS = (
    # Where things lie and how fast they come. The data themselves are compared by their hash.
    "data.cache_dir",
    "data.cache_max_gb",
    "data.num_workers",
    "data.train_annotations",
    "data.train_video_dir",
    "data.val_annotations",
    "data.val_video_dir",
    "training.checkpoint_dir",
    "training.log_dir",
    # What is kept, and when.
    "training.keep_last",
    "training.save_every",
    "training.save_every_steps",
    # Read at inference alone.
    "model.llm",
    "model.trigger_detector.candidate_threshold",
    "model.trigger_detector.temperature",
    "model.trigger_detector.threshold",
    # Read once, at the start of the first run.
    "model.visual_encoder.weights",
)
_MOST_VIDEOS_NAMED = 16
_SAME_PIXELS = {"pyav_isolated": "pyav"}
"""Decoders that are another one in a process of its own."""
_BECAUSE = {
    "training.num_epochs": "the learning rate falls over all epochs, so the rest would be learned "
    "at other rates than in one run of that length",
}


def check_resumable(
    content: Mapping[str, Any],
    config: Config,
    *,
    source: str,
    allow_changes: bool = False,
    data: Mapping[str, Mapping[str, Any] | None] | None = None,
) -> None:
    """Whether a run with ``config`` on ``data`` goes on from a checkpoint as if it had not stopped.

    Args:
        content: Of `load_checkpoint`.
        config: The resolved config of the run that goes on.
        source: The checkpoint's path, for messages.
        allow_changes: Log what differs instead of refusing it. Whether the weights, the optimizer
            and the place in an epoch fit is found when they are loaded.
        data: By split, ``train`` and ``val``, its `data_identity`, or None where the run has no
            such split. None altogether: the data are not compared.

    Raises:
        CheckpointError: A setting or the data differ, and changes are not allowed; the message
            names each key with both values.
    """
    # Parsed, so that keys which are newer than the checkpoint have their defaults.
    old = parse_config(content["config"], origin=f"{source}: config", interpolate=()).to_plain()
    differing = {
        key: text
        for key, text in _differing_keys(_comparable(old), _comparable(config.to_plain())).items()
        if _is_under(key, _OF_TRAINING) and not _is_under(key, _HARMLESS)
    }
    if data is not None:
        differing |= _differing_data(content, data, source)
    if not differing:
        return
    if not allow_changes:
        raise CheckpointError(
            f"{source}: is of another run: {', '.join(differing.values())}; resume with the config "
            "of that run, give --allow-config-change to go on with these changes, or start anew "
            "without --resume"
        )
    for text in differing.values():
        logger.warning("%s: the run goes on with a change: %s", source, text)


def check_same_inputs(
    content: Mapping[str, Any],
    data: Mapping[str, Mapping[str, Any] | None],
    *,
    source: str,
    allow_changes: bool = False,
) -> None:
    """Whether what can be read of the annotated videos is what the checkpoint's run read of them.

    With a video more or less the same places of an epoch hold other clips. Splits of other
    annotations are not compared, which `check_resumable` is for, and neither are those of which a
    side does not say what was read.

    Args:
        content: Of `load_checkpoint`.
        data: By split, ``train`` and ``val``, its `data_identity` and `usable_identity`, or None.
        source: The checkpoint's path, for messages.
        allow_changes: Log what differs instead of refusing it.

    Raises:
        CheckpointError: Videos or frames differ, and changes are not allowed.
    """
    saved = content.get("metadata", {}).get("data") or {}
    differing: list[str] = []
    for split, now in data.items():
        then = saved.get(split)
        if not then or not now or then["hash"] != now["hash"]:
            continue
        if "left_out" not in then or "left_out" not in now:
            continue
        if (then["num_frames"], then["left_out"]) != (now["num_frames"], now["left_out"]):
            differing.append(f"data.{split}_annotations: {_usable_in_words(then, now)}")
    if not differing:
        return
    if not allow_changes:
        raise CheckpointError(
            f"{source}: the videos that can be read are not those it was trained on: "
            f"{', '.join(differing)}; bring back what has changed, give --allow-config-change to "
            "go on with what there is now, or start anew without --resume"
        )
    for text in differing:
        logger.warning("%s: the run goes on with a change: %s", source, text)


def check_optimizer_fits(
    optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any], *, source: str
) -> None:
    """Hold that the optimizer's groups and the shapes of its parameters are those of a checkpoint.

    torch compares the groups' sizes alone, and fails at the first update where shapes differ.

    Args:
        optimizer: Of the run that goes on; its groups are named.
        state_dict: Of the optimizer that was saved.
        source: The checkpoint's path, for messages.

    Raises:
        CheckpointError: They are not.
    """
    groups = optimizer.param_groups
    saved = state_dict["param_groups"]
    then, now = (
        [(group.get("name"), len(group["params"])) for group in one] for one in (saved, groups)
    )
    if then != now:
        raise CheckpointError(
            f"{source}: its optimizer trained other tensors: {_in_words(then)} then, "
            f"{_in_words(now)} now; resume with the freezing and the model of that run, or start "
            "anew without --resume"
        )
    for old_group, group in zip(saved, groups, strict=True):
        for index, parameter in zip(old_group["params"], group["params"], strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                # Beside averages of the gradient there are numbers, such as the count of updates.
                if (
                    isinstance(value, torch.Tensor)
                    and value.dim()
                    and value.shape != (parameter.shape)
                ):
                    raise CheckpointError(
                        f"{source}: its optimizer trained other tensors: '{name}' of a tensor in "
                        f"{group.get('name')} is {tuple(value.shape)}, and the tensor is "
                        f"{tuple(parameter.shape)} now; resume with the model of that run"
                    )


def _in_words(groups: list[tuple[str | None, int]]) -> str:
    return " and ".join(f"{count} of {name}" for name, count in groups) or "none"


def _comparable(plain: dict[str, Any]) -> dict[str, Any]:
    """``plain`` with one name for decoders that give the same pixels."""
    decoder = plain["data"]["decoder"]
    return {**plain, "data": {**plain["data"], "decoder": _SAME_PIXELS.get(decoder, decoder)}}


def _differing_data(
    content: Mapping[str, Any], data: Mapping[str, Mapping[str, Any] | None], source: str
) -> dict[str, str]:
    """By key, in words, which splits are of other data than the checkpoint's."""
    saved = content.get("metadata", {}).get("data")
    if not saved:
        logger.warning(
            "%s: does not say which data it was trained on, so that they are not compared with "
            "those of this run",
            source,
        )
        return {}
    differing: dict[str, str] = {}
    for split, now in data.items():
        then = saved.get(split)
        key = f"data.{split}_annotations"
        if then is None or now is None:
            if then is not now:
                differing[key] = f"{key} was {_data_in_words(then)}, is {_data_in_words(now)}"
        elif then["hash"] != now["hash"]:
            differing[key] = (
                f"{key}: content differs: {_data_in_words(then)} then, {_data_in_words(now)} now"
            )
    return differing


def _usable_in_words(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How many videos and frames there were and are, and which videos make the difference."""
    counts = [
        f"{one['num_videos'] - len(one['left_out'])} of {one['num_videos']} videos with "
        f"{one['num_frames']} frames {word}"
        for one, word in ((then, "then"), (now, "now"))
    ]
    parts = [", ".join(counts)]
    for one, other, word in ((now, then, "now"), (then, now, "then")):
        names = [name for name in one["left_out"] if name not in other["left_out"]]
        if names:
            more = len(names) - _MOST_VIDEOS_NAMED
            named = ", ".join(names[:_MOST_VIDEOS_NAMED])
            parts.append(
                f"left out {word} alone: {named}" + (f" and {more} more" if more > 0 else "")
            )
    return f"{parts[0]} ({'; '.join(parts[1:])})" if parts[1:] else parts[0]


def _data_in_words(identity: Mapping[str, Any] | None) -> str:
    if identity is None:
        return "null"
    videos, events = (
        f"{identity[f'num_{word}s']} {word}{'' if identity[f'num_{word}s'] == 1 else 's'}"
        for word in ("video", "event")
    )
    return f"{videos} with {events} ({identity['hash'][:8]})"


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
    if old == new:
        return {}
    because = f" ({_BECAUSE[prefix]})" if prefix in _BECAUSE else ""
    return {prefix: f"{prefix} was {old!r}, is {new!r}{because}"}
