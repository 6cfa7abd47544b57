"""`checkpointed`: a forward whose layers are run again in the backward, to save memory.

Serves `models.visual_encoder` in training. Only what goes into a layer is kept until the backward,
so layers should be many and small: one that spans the whole network would save nothing, since the
backward would hold all of it at once.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def checkpointed(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Around one forward: drop what ``layers`` compute inside, and compute it again when needed.

    Gradients, batch-norm statistics and random numbers are those of a plain forward.

    Args:
        layers: None inside another.
    """
    changed = list(layers)
    for layer in changed:
        # On the instance, for this forward alone: a layer around it would rename its weights.
        layer.forward = functools.partial(_run, layer, layer.forward)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward


def _run(layer: nn.Module, forward: Callable[..., Tensor], *inputs: Any) -> Tensor:
    # The backward may run in another thread, and behind what was set around this forward.
    context = contextvars.copy_context()
    output: Tensor = checkpoint(
        functools.partial(context.run, forward),
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _batch_norm_statistics_kept(layer)),
    )
    return output


@contextlib.contextmanager
def _batch_norm_statistics_kept(module: nn.Module) -> Iterator[None]:
    """The forward is run twice; the second time must not count in the averages."""
    layers = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        # A new tensor: the forward counts up in place.
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked = layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked = tracked
