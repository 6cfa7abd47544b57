"""Temporal shift: blocks of an image backbone that look at neighbouring frames, almost for free.

Inside `models.visual_encoder`. Before the branch of each residual block, some channels of a frame
are exchanged for those of its neighbours: TSM (Lin et al., 2019, arXiv:1811.08383), or as far as a
learned gate lets through: GSM (Sudhakaran et al., 2020, arXiv:1912.00381; in every block, as in
E2E-Spot, Hong et al., 2022, arXiv:2207.10213). The shortcut keeps the frame's own.

A backbone knows pictures, no clips. Which pictures follow each other is said for one call at a
time, by `shifting` around it; without that, each picture is a clip of its own.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones.base import SHIFT_NAME, Backbone
from utils.config.schema import TemporalShiftConfig
from utils.errors import UsageError
from utils.registry import Registry

EncoderState = Mapping[str, Tensor]
"""What a stream must remember between chunks, by name; empty where no block looks back."""

TEMPORAL_SHIFTS = Registry(
    "temporal shift",
    {
        "none": "models.temporal_shift:NoShift",
        "tsm": "models.temporal_shift:TemporalShift",
        "gsm": "models.temporal_shift:GatedShift",
    },
)
"""An entry is a class of `ChannelShift`, or `NoShift`."""


class NoShift:
    """What ``none`` names: nothing is put into the backbone."""


class FrameOrder:
    """Which of N pictures are the frames of one clip; clips stand one behind the other.

    Args:
        clip: ``(N,)`` int64, number of the clip that each picture is of.
        num_clips: B, where all clips are of one length; None where they are not.

    Attributes:
        is_first: ``(N, 1, 1, 1)`` bool, True on the first frame of each clip.
        is_last: ``(N, 1, 1, 1)`` bool, likewise.
    """

    def __init__(self, clip: Tensor, *, num_clips: int | None) -> None:
        self.clip = clip
        self.num_clips = num_clips
        none = clip.new_full((1,), -1)
        self.is_first = (torch.diff(clip, prepend=none) != 0).view(-1, 1, 1, 1)
        self.is_last = (torch.diff(clip, append=none) != 0).view(-1, 1, 1, 1)

    @classmethod
    def of_clips(cls, num_clips: int, length: int, device: torch.device) -> FrameOrder:
        """B clips of T frames each."""
        clip = torch.arange(num_clips * length, device=device) // length
        return cls(clip, num_clips=num_clips)

    @classmethod
    def of_valid(cls, valid: Tensor) -> FrameOrder:
        """What is left of B clips, ``(B, T)``, where padding was taken out."""
        return cls(valid.nonzero()[:, 0], num_clips=None)


class ShiftPass:
    """One call of a backbone on frames whose order is known.

    Args:
        order: Of the frames.
        state: What the frames before these left, by name; empty or None where these come first.
        prefix: Of this call's names in the state.
        carries: Whether more frames may follow; then all clips are of one length.

    Attributes:
        carried: What the frames leave to those that follow, once the call is done.
    """

    def __init__(
        self,
        order: FrameOrder,
        state: EncoderState | None = None,
        *,
        prefix: str = "",
        carries: bool = False,
    ) -> None:
        self._order = order
        self._state = state or {}
        self._prefix = prefix
        self._carries = carries
        self.carried: dict[str, Tensor] = {}

    def before(self, values: Tensor, name: str) -> Tensor:
        """To each frame the ``values`` of the frame before it.

        Args:
            values: ``(N, C, H, W)``, at least one frame.
            name: Of these values in the state, behind the prefix.

        Returns:
            ``(N, C, H, W)``; on the first frames of clips what the state has under ``name``, or 0.
        """
        order, name = self._order, self._prefix + name
        if self._carries:
            assert order.num_clips is not None
            # Cloned: a view would keep the whole map alive.
            clips = values.reshape(order.num_clips, -1, *values.shape[1:])
            self.carried[name] = clips[:, -1].clone()
        earlier = values.new_zeros(())
        if self._state:
            earlier = self._carried_in(name).to(values.dtype).index_select(0, order.clip)
        others, last = torch.split_with_sizes(values, [values.shape[0] - 1, 1])
        # These two, and not a gather, keep the layout: convolutions are slow where it changes.
        return torch.where(order.is_first, earlier, torch.cat((last, others)))

    def after(self, values: Tensor) -> Tensor:
        """To each frame the ``values`` of the frame after it; 0 on the last frames of clips."""
        first, others = torch.split_with_sizes(values, [1, values.shape[0] - 1])
        return torch.where(self._order.is_last, values.new_zeros(()), torch.cat((others, first)))

    def _carried_in(self, name: str) -> Tensor:
        found = self._state.get(name)
        if found is None:
            raise ValueError(f"the state has no '{name}': it is of another encoder")
        # Not `len`, which `torch.export` takes for a constant.
        if found.shape[0] != self._order.num_clips:
            raise ValueError(
                f"the state is of {found.shape[0]} streams, and the frames are of "
                f"{self._order.num_clips}"
            )
        return found


_PASS: ContextVar[ShiftPass | None] = ContextVar("temporal_shift_pass", default=None)
"""Of the call under way in this thread. A backbone's layers take pictures and nothing else."""


@contextlib.contextmanager
def shifting(current: ShiftPass | None) -> Iterator[None]:
    """Around one call of a backbone; None: its pictures are no clips."""
    token = _PASS.set(current)
    try:
        yield
    finally:
        _PASS.reset(token)


class ChannelShift(nn.Module, abc.ABC):
    """What every entry of `TEMPORAL_SHIFTS` is: the shift of one residual block.

    The first ``num_shifted`` channels take part; half of them meet the frame before, the other half
    the frame after, or all the frame before where the shift is causal.

    Args:
        num_channels: Of the block's input.
        fraction: Share of the channels that take part, in (0, 1].
        causal: Whether to look back alone.

    Attributes:
        num_directions: 1 or 2.
        name: Of this shift in the state.
    """

    def __init__(self, num_channels: int, *, fraction: float, causal: bool) -> None:
        super().__init__()
        self.num_directions = 1 if causal else 2
        each = max(1, int(num_channels * fraction) // self.num_directions)
        self.num_shifted = each * self.num_directions
        self.name = ""

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(N, C, H, W)`` of N pictures, ordered by `shifting`, to the same shape."""
        current = _PASS.get()
        if current is None:
            current = ShiftPass(FrameOrder.of_clips(images.shape[0], 1, images.device))
        each = self.num_shifted // self.num_directions
        sizes = [each] * self.num_directions + [images.shape[1] - self.num_shifted]
        # Split, not sliced: the backward of each slice is a map of zeros of the whole size.
        *parts, rest = torch.split_with_sizes(images, sizes, dim=1)
        shifted = torch.cat((*self.mix(parts, current), rest), dim=1)
        return shifted.contiguous(memory_format=torch.channels_last)

    def before_branch(self, branch: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The hook of the block's branch (`nn.Module.register_forward_pre_hook`)."""
        images, *others = inputs
        return self(images), *others

    @abc.abstractmethod
    def mix(self, parts: Sequence[Tensor], current: ShiftPass) -> Sequence[Tensor]:
        """The channels that take part, mixed over time.

        Args:
            parts: ``(N, num_shifted / num_directions, H, W)`` for each direction.
            current: Gives frames their neighbours.

        Returns:
            Likewise.
        """

    def moved(self, parts: Sequence[Tensor], current: ShiftPass) -> Sequence[Tensor]:
        """``parts`` of the neighbouring frames, each in its direction."""
        forward, *backward = parts
        return (
            current.before(forward, f"{self.name}.shifted"),
            *(current.after(part) for part in backward),
        )

    def extra_repr(self) -> str:
        """For `print`."""
        return f"num_shifted={self.num_shifted}, causal={self.num_directions == 1}"


class TemporalShift(ChannelShift):
    """TSM: the channels are those of the neighbouring frame; there is nothing to learn."""

    def mix(self, parts: Sequence[Tensor], current: ShiftPass) -> Sequence[Tensor]:
        return self.moved(parts, current)


class GatedShift(ChannelShift):
    """GSM: a gate a pixel and direction, from what the neighbours show, says how much is moved.

    The gates begin closed and open as far as it helps. Other than in the paper's code, channels are
    not shuffled behind the shift, so a pretrained backbone begins as exactly what it was. A gate
    that looks back alone sees the frame and the one before it.
    """

    def __init__(self, num_channels: int, *, fraction: float, causal: bool) -> None:
        super().__init__(num_channels, fraction=fraction, causal=causal)
        groups = self.num_directions
        # The frame before, the frame, and where the shift looks ahead the frame after.
        self.num_places = groups + 1
        self.norm = nn.BatchNorm2d(self.num_shifted)
        # The paper's 3x3x3 convolution over time and space: since it is linear, it is done once on
        # each frame for every place in time, and the few channels that come out are moved.
        self.gate = nn.Conv2d(
            self.num_shifted, groups * self.num_places, 3, padding=1, groups=groups, bias=False
        )
        self.gate_bias = nn.Parameter(torch.zeros(groups))
        nn.init.zeros_(self.gate.weight)

    def mix(self, parts: Sequence[Tensor], current: ShiftPass) -> Sequence[Tensor]:
        gates = self._gates(torch.cat(tuple(parts), dim=1), current).chunk(len(parts), dim=1)
        gated = [part * gate for part, gate in zip(parts, gates, strict=True)]
        moved = self.moved(gated, current)
        return [
            part - leaves + comes for part, leaves, comes in zip(parts, gated, moved, strict=True)
        ]

    def _gates(self, values: Tensor, current: ShiftPass) -> Tensor:
        """``(N, num_directions, H, W)`` in (-1, 1)."""
        seen: Tensor = self.gate(self.norm(values).relu())
        # (N, directions, places in time, H, W)
        seen = seen.reshape(-1, self.num_directions, self.num_places, *seen.shape[2:])
        gates = current.before(seen[:, :, 0], f"{self.name}.gate") + seen[:, :, 1]
        if self.num_directions == 2:
            gates = gates + current.after(seen[:, :, 2])
        return (gates + self.gate_bias.view(-1, 1, 1)).tanh()


def add_temporal_shift(backbone: Backbone, config: TemporalShiftConfig, *, encoder: str) -> bool:
    """Put a shift before the branch of each residual block of ``backbone``.

    Names of the library's tensors stay; a shift that has tensors adds its own, as
    ``BLOCK.temporal_shift.NAME``.

    Args:
        backbone: In which nothing is shifted yet.
        config: ``model.visual_encoder.temporal_shift``.
        encoder: Name of the backbone, for messages.

    Returns:
        Whether there is a shift now.

    Raises:
        UnknownNameError: No such type.
        UsageError: The backbone has no blocks that can be shifted.
    """
    build: type[ChannelShift] | type[NoShift] = TEMPORAL_SHIFTS.resolve(config.type)
    if issubclass(build, NoShift):
        return False
    blocks = backbone.residual_blocks()
    if not blocks:
        raise UsageError(
            f"model.visual_encoder.temporal_shift.type is {config.type}, but '{encoder}' has no "
            "residual blocks that can be shifted; take another encoder, such as resnet18 or "
            "timm:regnety_002, or set it to none"
        )
    for path, block, branch, num_channels in blocks:
        shift = build(num_channels, fraction=config.fraction, causal=config.causal)
        shift.name = path
        block.add_module(SHIFT_NAME, shift)
        # A hook, and no layer around the branch: that would rename the branch's weights.
        branch.register_forward_pre_hook(shift.before_branch)
    return True
