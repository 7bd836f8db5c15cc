"""Gated cells reduced to the least: one gate, or gates that do not see the state."""

from __future__ import annotations

from typing import Any

from ..ops import sigmoid, split
from ..tensor import Tensor
from .cells import Gates, WeightedCell


class MGUCell(WeightedCell):
    """Minimal gated unit: a GRU with one gate for both reset and update (Zhou et al. 2016).

    f = sigmoid(W_if x_t + W_hf h_{t-1} + b_f), the first of two blocks of rows: f, n
    n = tanh(W_in x_t + W_hn (f * h_{t-1}) + b_n)
    h_t = (1 - f) * h_{t-1} + f * n

    >>> from tinygrad_rnn import nn, ones
    >>> output, h = nn.MGUCell(3, 5)(ones(2, 3))
    >>> h.shape
    (2, 5)
    """

    blocks = 2
    gate_names = ("f", "n")
    keeps = {"f": -1}

    def input_projection(self, x: Any) -> tuple[Tensor, ...]:
        """W_ih x + b, for one step (B, F) or all steps (T, B, F), split into f and n."""
        return split(super().input_projection(x), 2, axis=-1)

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, Tensor, Gates]:
        h, (gate, new), one = state, z, self.hidden_size
        f = sigmoid(self.recur(h, gate, slice(one)))
        n = self.activation(self.recur(f * h, new, slice(one, None)))
        h = h + f * (n - h)
        return h, h, {"f": f, "n": n}


class MinGRUCell(WeightedCell):
    """Minimal GRU, whose gates do not see the state, so that it is linear in it (Feng et al. 2024).

    z = sigmoid(W_iz x_t + b_z), the first of two blocks of rows: z, n
    n = W_in x_t + b_n
    h_t = (1 - z) * h_{t-1} + z * n

    ``bptt.scanned`` computes all time steps at once.

    >>> from tinygrad_rnn import bptt, nn, ones
    >>> layer = nn.Recurrent(nn.MinGRUCell(3, 5)).unrolled_by(bptt.scanned)
    >>> layer(ones(7, 2, 3)).outputs.shape
    (7, 2, 5)
    """

    blocks = 2
    gate_names = ("z", "n")
    keeps = {"z": -1}
    activation = staticmethod(lambda n: n)

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **options: Any):
        super().__init__(input_size, hidden_size, bias, **options)
        del self.weight_hh

    def gated(self, z: Any) -> tuple[Tensor, Tensor]:
        """The gate z and the candidate n, for one step or all steps."""
        z, n = split(z, 2, axis=-1)
        return sigmoid(z), self.activation(n)

    def linear(self, z: Any) -> tuple[Tensor, Tensor]:
        """a and b in h_t = a * h_{t-1} + b, for one step or all steps."""
        z, n = self.gated(z)
        return 1 - z, z * n

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, Tensor, Gates]:
        z, n = self.gated(z)
        h = (1 - z) * state + z * n
        return h, h, {"z": z, "n": n}
