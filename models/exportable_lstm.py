"""An LSTM whose exported graph takes sequences of any length.

`torch.export` unrolls `nn.LSTM` to the length of its example. While exporting, the same weights go
through a scan instead; otherwise through the fused kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ExportableLstm(nn.LSTM):
    """`nn.LSTM` over ``(B, T, D)``, one direction, zero initial state."""

    def __init__(self, width: int, *, num_layers: int, dropout: float) -> None:
        super().__init__(
            width,
            width,
            num_layers=num_layers,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,
        )

    def outputs(self, inputs: Tensor) -> Tensor:
        """``(B, T, width)``: the last layer's hidden state after each frame."""
        if not torch.compiler.is_exporting():
            outputs: Tensor = self(inputs)[0]
            return outputs
        # An inference graph: the dropout between layers is silent.
        for layer in range(self.num_layers):
            inputs = self._scan_layer(inputs, layer)
        return inputs

    def _scan_layer(self, inputs: Tensor, layer: int) -> Tensor:
        from torch._higher_order_ops.scan import scan

        weights = {
            name: getattr(self, f"{name}_l{layer}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        recurrent = weights["weight_hh"].T
        from_input = functional.linear(
            inputs, weights["weight_ih"], weights["bias_ih"] + weights["bias_hh"]
        )

        def step(
            state: tuple[Tensor, Tensor], gates: Tensor
        ) -> tuple[tuple[Tensor, Tensor], Tensor]:
            hidden, cell = state
            update, forget, candidate, output = (gates + hidden @ recurrent).chunk(4, dim=-1)
            cell = forget.sigmoid() * cell + update.sigmoid() * candidate.tanh()
            hidden = output.sigmoid() * cell.tanh()
            return (hidden, cell), hidden.clone()

        # Two tensors: a scan's carried values must not alias each other.
        start = (
            inputs.new_zeros(inputs.shape[0], self.hidden_size),
            inputs.new_zeros(inputs.shape[0], self.hidden_size),
        )
        hidden: Tensor = scan(step, start, from_input.transpose(0, 1))[1]
        return hidden.transpose(0, 1)
