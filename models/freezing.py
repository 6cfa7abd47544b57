"""Freezing by component name: weights stay, and so do batch-norm statistics and dropout's silence.

The names are those of the config section ``freezing`` and of ``training.learning_rates``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from torch import nn

from utils.errors import UsageError
from utils.registry import suggestion

if TYPE_CHECKING:
    from models.video_trigger_model import VideoTriggerModel

COMPONENTS = ("visual_backbone", "trigger_detector", "time_aware_encoder")


def component(model: VideoTriggerModel, name: str) -> nn.Module:
    """The part of ``model`` that ``name`` means.

    Raises:
        UsageError: Not one of `COMPONENTS`.
    """
    if name == "visual_backbone":
        return model.visual_encoder.backbone
    if name in COMPONENTS:
        part: nn.Module = getattr(model, name)
        return part
    raise UsageError(
        f"unknown component '{name}'; known: {', '.join(COMPONENTS)}{suggestion(name, COMPONENTS)}"
    )


def set_frozen(model: VideoTriggerModel, names: Iterable[str]) -> None:
    """Freeze exactly the components ``names``; the others learn.

    A frozen component needs no gradients and stays in evaluation mode when the model is put into
    training mode, so that its batch-norm statistics do not drift.

    Raises:
        UsageError: A name is unknown.
    """
    frozen = frozenset(names)
    for name in frozen:
        component(model, name)
    for name in COMPONENTS:
        component(model, name).requires_grad_(name not in frozen)
    model.frozen_components = frozen
    model.train(model.training)


def parameter_groups(model: VideoTriggerModel) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """Trainable parameters by component; those of none (the projection) come under ``other``."""
    seen: set[int] = set()
    for name in COMPONENTS:
        parameters = [p for p in component(model, name).parameters() if p.requires_grad]
        seen.update(id(p) for p in parameters)
        if parameters:
            yield name, parameters
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in seen]
    if others:
        yield "other", others
