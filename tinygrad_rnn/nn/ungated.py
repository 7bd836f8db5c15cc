"""More cells without gates: leaky integrator units, and units that see only their own past."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..tensor import Tensor, tensor
from . import init
from .cells import Gates, RNNCell


class LeakyRNNCell(RNNCell):
    """Leaky integrator units: each moves a fraction a of the way to its simple-RNN value (Jaeger et al. 2007).

    h_t = (1 - a) * h_{t-1} + a * f(W_ih x_t + W_hh h_{t-1} + b)

    leak: a in (0, 1], one for all units or (hidden_size,) of them. A unit remembers for about 1 / a steps.

    >>> from tinygrad_rnn import nn, ones
    >>> output, h = nn.LeakyRNNCell(3, 5, leak=0.1)(ones(2, 3))
    >>> h.shape
    (2, 5)
    """

    usual = RNNCell.usual | {"leak": None}

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, leak: Any = 0.5, **options: Any):
        super().__init__(input_size, hidden_size, bias, **options)
        rates = leak.numpy() if isinstance(leak, Tensor) else np.asarray(leak)
        if rates.shape not in ((), (hidden_size,)) or not ((rates > 0) & (rates <= 1)).all():
            raise ValueError(f"LeakyRNNCell: leak is above 0 and up to 1, one or ({hidden_size},) of them, not {leak}")
        self.leak = tensor(rates, self.weight_hh.dtype, self.weight_hh.backend) if rates.ndim else float(rates)

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, Tensor, Gates]:
        n = self.activation(self.recur(state, z))
        h = state + self.leak * (n - state)
        return h, h, {"n": n}


class IndRNNCell(RNNCell):
    """Independently recurrent network: each unit sees only its own past (Li et al. 2018).

    h_t = f(W_ih x_t + u * h_{t-1} + b)

    u is the parameter ``weight_hh``, (hidden_size,), initially uniform in [-1, 1). Units mix only in the next layer.
    nonlinearity: f: "relu" as in the paper, "tanh", "sigmoid", or any function of a Tensor.

    >>> from tinygrad_rnn import nn, ones
    >>> output, h = nn.IndRNNCell(3, 5)(ones(2, 3))
    >>> h.shape
    (2, 5)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str | Callable[[Any], Any] = "relu",
        **options: Any,
    ):
        super().__init__(input_size, hidden_size, bias, nonlinearity, **options)
        self.weight_hh = self.filled(init.uniform((hidden_size,), 1.0))

    def recur(self, h: Any, z: Any = None, rows: slice | None = None) -> Tensor:
        """u * h + z, or only the given units of it."""
        y = self.weight_hh * h if rows is None else self.weight_hh[rows] * h[..., rows]
        return y if z is None else y + z
