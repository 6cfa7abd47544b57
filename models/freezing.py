"""Freezing by component name: weights stay, and so do batch-norm statistics and dropout's silence.

The names are those of the config section ``freezing`` and of ``training.learning_rates``. Of the
backbone, the last stages can learn alone; `FreezePlan` says what is frozen in which epoch.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from models.backbones.stages import Stage
from utils.config.schema import FreezingConfig, UnfreezeConfig
from utils.errors import ConfigError, UsageError
from utils.registry import suggestion

if TYPE_CHECKING:
    from models.video_trigger_model import VideoTriggerModel

logger = logging.getLogger(__name__)

COMPONENTS = ("visual_backbone", "trigger_detector", "time_aware_encoder")
_BACKBONE = COMPONENTS[0]


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """What is frozen at one time.

    Attributes:
        components: Names of those that do not learn at all.
        learning_stages: Of a backbone that is none of them: how many of its last stages learn.
            None: all.
    """

    components: frozenset[str] = frozenset()
    learning_stages: int | None = None


def component(model: VideoTriggerModel, name: str) -> nn.Module:
    """The part of ``model`` that ``name`` means.

    Raises:
        UsageError: Not one of `COMPONENTS`.
    """
    if name == _BACKBONE:
        return model.visual_encoder.backbone
    if name in COMPONENTS:
        part: nn.Module = getattr(model, name)
        return part
    raise UsageError(
        f"unknown component '{name}'; known: {', '.join(COMPONENTS)}{suggestion(name, COMPONENTS)}"
    )


def set_frozen(
    model: VideoTriggerModel, names: Iterable[str], *, learning_stages: int | None = None
) -> None:
    """Freeze exactly the components ``names``; the others learn.

    What is frozen needs no gradients and stays in evaluation mode when the model is put into
    training mode, so that its batch-norm statistics do not drift.

    Args:
        model: Whose components they are.
        names: Of `COMPONENTS`.
        learning_stages: See `Freeze`.

    Raises:
        UsageError: A name is unknown, or the backbone has fewer stages.
    """
    freeze = Freeze(components=frozenset(names), learning_stages=learning_stages)
    for name in freeze.components:
        component(model, name)
    learning = _learning(model, freeze)
    for name in COMPONENTS:
        for parameter in component(model, name).parameters():
            parameter.requires_grad_(id(parameter) in learning)
    model.freeze = freeze
    model.train(model.training)


def frozen_parts(model: VideoTriggerModel) -> Iterator[nn.Module | Stage]:
    """What is frozen now, in parts that can be put into evaluation mode."""
    for name in COMPONENTS:
        if name in model.freeze.components:
            yield component(model, name)
    yield from _stages(model, model.freeze)[0]


def parameter_groups(
    model: VideoTriggerModel, plan: FreezePlan | None = None
) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """Parameters that learn by component; those of none (the projection) come under ``other``.

    Args:
        model: Whose parameters they are.
        plan: Those that it will unfreeze are in their groups from the start: an optimizer cannot be
            resumed with other parameters than it was saved with. Until then they get no gradient,
            which an optimizer leaves alone. By default, what learns now.

    Raises:
        ConfigError: The backbone has fewer stages than the plan wants.
    """
    if plan is not None:
        plan.check(model)
    learning = _learning(model, model.freeze if plan is None else plan.final)
    seen: set[int] = set()
    for name in COMPONENTS:
        parameters = list(component(model, name).parameters())
        seen.update(id(p) for p in parameters)
        parameters = [p for p in parameters if id(p) in learning]
        if parameters:
            yield name, parameters
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in seen]
    if others:
        yield "other", others


class FreezePlan:
    """What is frozen in each epoch: a function of its number alone, so that it survives a stop.

    Args:
        config: Section ``freezing``. The steps of ``unfreeze`` may stand in any order.

    Raises:
        ConfigError: A step unfreezes what is not frozen by then.
    """

    def __init__(self, config: FreezingConfig) -> None:
        self._frozen = frozenset(name for name in COMPONENTS if getattr(config, name))
        self._steps = config.unfreeze
        for name in COMPONENTS:
            self._check_steps_of(name)

    @property
    def final(self) -> Freeze:
        """What stays frozen in the end; whatever else ever learns learns then."""
        return self.at_epoch(max((step.from_epoch for step in self._steps), default=1))

    def at_epoch(self, epoch: int) -> Freeze:
        """What is frozen in ``epoch``, from 1."""
        if epoch < 1:
            raise ValueError(f"epochs count from 1, got {epoch}")
        taken = [step for step in self._steps if step.from_epoch <= epoch]
        backbone = [step for step in taken if step.component == _BACKBONE]
        return Freeze(
            components=self._frozen - {step.component for step in taken},
            learning_stages=max(backbone, key=_width).last_stages if backbone else None,
        )

    def check(self, model: VideoTriggerModel) -> None:
        """Whether the backbone has so many stages.

        Raises:
            ConfigError: It has fewer.
        """
        stages = model.visual_encoder.backbone.stages()
        for number, step in enumerate(self._steps):
            if step.last_stages is not None and step.last_stages > len(stages):
                raise ConfigError(
                    f"freezing.unfreeze[{number}].last_stages is {step.last_stages}, but "
                    f"{_stages_of(model)}"
                )

    def apply(self, model: VideoTriggerModel, epoch: int) -> None:
        """Freeze what is to be frozen in ``epoch``, from 1; says so where that is something new.

        Raises:
            ConfigError: The backbone has fewer stages than a step wants.
        """
        self.check(model)
        freeze = self.at_epoch(epoch)
        if freeze != model.freeze:
            logger.info("epoch %d, frozen: %s", epoch, _wording(model, freeze))
        set_frozen(model, freeze.components, learning_stages=freeze.learning_stages)

    def _check_steps_of(self, name: str) -> None:
        steps = [(number, s) for number, s in enumerate(self._steps) if s.component == name]
        if steps and name not in self._frozen:
            raise ConfigError(
                f"freezing.unfreeze[{steps[0][0]}] names {name}, which learns from the start: set "
                f"freezing.{name}: true, or leave the step out"
            )
        steps.sort(key=lambda numbered: numbered[1].from_epoch)
        for (number, step), (next_number, following) in itertools.pairwise(steps):
            if following.from_epoch == step.from_epoch or _width(following) <= _width(step):
                raise ConfigError(
                    f"freezing.unfreeze[{next_number}] lets {_share(following)} of {name} learn "
                    f"from epoch {following.from_epoch} on, but freezing.unfreeze[{number}] lets "
                    f"{_share(step)} learn from epoch {step.from_epoch} on: a later step must let "
                    "more learn"
                )


def _width(step: UnfreezeConfig) -> float:
    return math.inf if step.last_stages is None else step.last_stages


def _share(step: UnfreezeConfig) -> str:
    return "all" if step.last_stages is None else f"the last {step.last_stages} stages"


def _learning(model: VideoTriggerModel, freeze: Freeze) -> set[int]:
    """Ids of the components' parameters that learn under ``freeze``."""
    learning = {
        id(parameter)
        for name in COMPONENTS
        if name not in freeze.components
        for parameter in component(model, name).parameters()
    }
    frozen_stages, _ = _stages(model, freeze)
    # One that layers of several stages share is frozen with the first.
    return learning - {id(p) for stage in frozen_stages for p in stage.parameters()}


def _stages(model: VideoTriggerModel, freeze: Freeze) -> tuple[list[Stage], list[Stage]]:
    """The backbone's frozen and learning stages, where ``freeze`` tells them apart.

    Raises:
        UsageError: There are fewer than are to learn.
    """
    if _BACKBONE in freeze.components or freeze.learning_stages is None:
        return [], []
    stages = model.visual_encoder.backbone.stages()
    if not 1 <= freeze.learning_stages <= len(stages):
        raise UsageError(f"learning_stages is {freeze.learning_stages}, but {_stages_of(model)}")
    first = len(stages) - freeze.learning_stages
    return stages[:first], stages[first:]


def _stages_of(model: VideoTriggerModel) -> str:
    names = [stage.name for stage in model.visual_encoder.backbone.stages()]
    encoder = model.config.visual_encoder.type
    return f"the backbone '{encoder}' has {len(names)} stages: {', '.join(names)}"


def _wording(model: VideoTriggerModel, freeze: Freeze) -> str:
    parts = [name for name in COMPONENTS if name in freeze.components]
    frozen, learning = _stages(model, freeze)
    if frozen:
        names = ", ".join(stage.name for stage in learning)
        parts.append(f"{_BACKBONE} but for {names}")
    return ", ".join(parts) or "nothing"
