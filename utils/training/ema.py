"""`ExponentialMovingAverage`: averaged weights, which validate and generalise better than the last.

Beside the trainer: it is updated after each optimizer update, validated, and saved for inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage:
    """A moving average of the parameters that learn; the model itself trains on as it is.

    ``average <- d * average + (1 - d) * parameter``, with a ``d`` that grows to ``decay``, so that
    the average of a young run is not mostly its first weights: after ``n`` updates it is
    ``min(decay, (1 + n) / (10 + n))``, as in TensorFlow's ``tf.train.ExponentialMovingAverage``
    with ``num_updates``. The average of a parameter begins with its first update: nothing is kept
    of frozen ones, which may be unfrozen later. Buffers are the model's own: batch-norm statistics
    are moving averages already.

    The arithmetic is torch's. Its ``AveragedModel`` is not used: that copies the whole model,
    frozen backbone included, knows no warm-up, and could only be validated as a second model.

    Args:
        model: Whose parameters are averaged, and swapped by `swapped_in`.
        decay: Above 0 and below 1.

    Raises:
        ValueError: ``decay`` is out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must be above 0 and below 1, got {decay}")
        self._model = model
        self._decay = decay
        self._num_updates = 0
        self._averages: dict[str, Tensor] = {}

    def update(self) -> None:
        """Take the model's parameters in; call it after each optimizer update."""
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        parameters = dict(self._model.named_parameters())
        for name, parameter in parameters.items():
            if parameter.requires_grad and name not in self._averages:
                self._averages[name] = parameter.detach().clone()
        if self._averages:
            current = [parameters[name].detach() for name in self._averages]
            average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            average(list(self._averages.values()), current, self._num_updates)
        self._num_updates += 1

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside the block the model has the averaged parameters, behind it its own, bit for bit.

        What is read from ``model.state_dict()`` inside is overwritten at the end of the block; to
        save the averages take `model_state_dict`.
        """
        parameters = dict(self._model.named_parameters())
        own = {name: parameters[name].detach().clone() for name in self._averages}
        try:
            self._put(self._averages)
            yield
        finally:
            self._put(own)

    def model_state_dict(self) -> dict[str, Tensor]:
        """``model.state_dict()`` with the averages as parameters; the tensors share memory."""
        names_of: dict[int, list[str]] = {}
        # A parameter that two modules share stands under both names.
        for name, parameter in self._model.named_parameters(remove_duplicate=False):
            names_of.setdefault(id(parameter), []).append(name)
        content: dict[str, Tensor] = dict(self._model.state_dict())
        parameters = dict(self._model.named_parameters())
        for name, average in self._averages.items():
            for alias in names_of[id(parameters[name])]:
                content[alias] = average
        return content

    def state_dict(self) -> dict[str, Any]:
        """``num_updates``, and ``averages``: tensors by parameter name, which share memory."""
        return {"num_updates": self._num_updates, "averages": dict(self._averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; ``decay`` stays that of this object.

        Raises:
            ValueError: An average is of no parameter of the model, or of another shape.
        """
        parameters = dict(self._model.named_parameters())
        averages: dict[str, Tensor] = {}
        for name, average in state["averages"].items():
            parameter = parameters.get(name)
            if parameter is None or parameter.shape != average.shape:
                has = "no such one" if parameter is None else f"one of {tuple(parameter.shape)}"
                raise ValueError(
                    f"an averaged parameter '{name}' of {tuple(average.shape)}: the model has {has}"
                )
            averages[name] = average.detach().to(parameter, copy=True)
        self._num_updates = int(state["num_updates"])
        # Of the saved ones alone: what was frozen then has no average yet.
        self._averages = averages

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        parameters = dict(self._model.named_parameters())
        for name, value in values.items():
            parameters[name].copy_(value)
