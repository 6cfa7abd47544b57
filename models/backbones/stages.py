"""`Stage`: a piece of a backbone between stem and head, so that the last ones can learn alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn


@dataclass(eq=False)
class Stage:
    """Layers of a backbone that stand one behind the other.

    Attributes:
        modules: The layers, none inside another.
        loose_parameters: What stands on the network itself, such as a class token.
        layer_names: Paths of those layers that have weights.
    """

    modules: list[nn.Module] = field(default_factory=list)
    loose_parameters: list[nn.Parameter] = field(default_factory=list)
    layer_names: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """First and last of the layers that have weights: ``layer4``, ``conv1-bn1``."""
        return "-".join(self.layer_names[:1] + self.layer_names[1:][-1:])

    def parameters(self) -> Iterator[nn.Parameter]:
        """All of them; one that layers share can be in several stages."""
        yield from self.loose_parameters
        yield from itertools.chain.from_iterable(module.parameters() for module in self.modules)

    def eval(self) -> None:
        """As `nn.Module.eval`, for each layer."""
        for module in self.modules:
            module.eval()

    @property
    def has_parameters(self) -> bool:
        return any(True for _ in self.parameters())

    def extend(self, following: Stage) -> None:
        """Take in what stands behind."""
        self.modules += following.modules
        self.loose_parameters += following.loose_parameters
        self.layer_names += following.layer_names


def split_stages(network: nn.Module, ends: Sequence[str]) -> list[Stage]:
    """Cut ``network`` behind each of ``ends``; what comes behind the last one belongs to it.

    The layers are taken in the order in which they were registered, which libraries of models keep
    to that of the forward. A stage without parameters is joined to the next one.

    Args:
        network: All its parameters come out.
        ends: Paths of layers, from stem to head.

    Returns:
        At least one stage, or none where the network has no parameters.

    Raises:
        ValueError: ``network`` has no such layers, or has them in another order.
    """
    # The last one is of what stands behind the last end.
    pieces = [Stage() for _ in range(len(ends) + 1)]
    num_ended = 0

    def visit(module: nn.Module, path: str) -> None:
        nonlocal num_ended
        pieces[num_ended].loose_parameters += module.parameters(recurse=False)
        for name, child in module.named_children():
            child_path = f"{path}.{name}" if path else name
            if any(end.startswith(f"{child_path}.") for end in ends[num_ended:]):
                visit(child, child_path)
                continue
            piece = pieces[num_ended]
            piece.modules.append(child)
            if any(True for _ in child.parameters()):
                piece.layer_names.append(child_path)
            if child_path in ends[num_ended : num_ended + 1]:
                num_ended += 1

    visit(network, "")
    if num_ended < len(ends):
        raise ValueError(
            f"the network has no layer '{ends[num_ended]}', or has it before another stage's end"
        )
    *pieces, behind = pieces
    stages = _joined(pieces) or [Stage()]
    stages[-1].extend(behind)
    return [stage for stage in stages if stage.has_parameters]


def _joined(pieces: Sequence[Stage]) -> list[Stage]:
    """``pieces``, those without parameters joined to the next one, or at the end to the last."""
    stages: list[Stage] = []
    waiting = Stage()
    for piece in pieces:
        waiting.extend(piece)
        if waiting.has_parameters:
            stages.append(waiting)
            waiting = Stage()
    if stages:
        stages[-1].extend(waiting)
    return stages
