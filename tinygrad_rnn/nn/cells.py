"""Cells: pure functions of an input and a state, a few ordinary operations each.

A cell is any object with two methods: ``input_projection(x)``, the part that does not recur and is done for all time
steps at once, and ``step(z, state)``, the part that recurs and returns an output and the next state.
Weights are PyTorch's in layout and order of gates, with one bias vector where PyTorch has two that only ever add up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import ops
from ..backend import DTypeLike
from ..create import zeros_beside
from ..ops import linear, sigmoid, split, tanh
from ..tensor import Tensor
from . import init
from .module import Module, parameter


class LSTMState(NamedTuple):
    """What an LSTM carries from step to step: the output h and the memory c."""

    h: Tensor
    c: Tensor


class Cell(Module):
    """The base of cells with weights for input and state, stacked for ``gates`` blocks of hidden_size rows each."""

    gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, dtype: DTypeLike = None, backend: str | None = None
    ):
        if input_size < 0 or hidden_size < 1:
            raise ValueError(
                f"{type(self).__name__}: input_size {input_size} and hidden_size {hidden_size} must be positive"
            )
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = self.gates * hidden_size
        self.weight_ih = parameter(init.fan_in_uniform((rows, input_size), hidden_size), dtype, backend)
        self.weight_hh = parameter(init.fan_in_uniform((rows, hidden_size), hidden_size), dtype, backend)
        self.bias = parameter(init.fan_in_uniform((rows,), hidden_size), dtype, backend) if bias else None

    def input_projection(self, x: Any) -> Tensor:
        """W_ih x + b, for one step (B, F) or for all of them (T, B, F)."""
        return linear(x, self.weight_ih, self.bias)

    def step(self, z: Any, state: Any) -> tuple[Any, Any]:
        """From the projected input and the state to the output and the next state."""
        raise NotImplementedError

    def initial_state(self, z: Tensor) -> Any:
        """Zeros for the batch of one step's projected input z."""
        return zeros_beside(z, (*z.shape[:-1], self.hidden_size))

    def forward(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        """One step: (output, next state)."""
        z = self.input_projection(x)
        return self.step(z, self.initial_state(z) if state is None else state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size})"


class RNNCell(Cell):
    """The simple recurrent network (Elman 1990): h_t = f(W_ih x_t + W_hh h_{t-1} + b), with f tanh or relu.

    >>> from tinygrad_rnn import nn, ones
    >>> output, h = nn.RNNCell(3, 5)(ones(2, 3))
    >>> h.shape
    (2, 5)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        dtype: DTypeLike = None,
        backend: str | None = None,
    ):
        super().__init__(input_size, hidden_size, bias, dtype, backend)
        if nonlinearity not in ("tanh", "relu", "sigmoid"):
            raise ValueError(f"RNNCell: the nonlinearity is 'tanh', 'relu' or 'sigmoid', not {nonlinearity!r}")
        self.nonlinearity = nonlinearity

    def step(self, z: Any, state: Any) -> tuple[Tensor, Tensor]:
        h = getattr(ops, self.nonlinearity)(linear(state, self.weight_hh, z))
        return h, h


class LSTMCell(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    i, f, g, o = W_ih x_t + W_hh h_{t-1} + b, in four blocks of rows
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(c_t)

    >>> from tinygrad_rnn import nn, ones
    >>> output, state = nn.LSTMCell(3, 5)(ones(2, 3))
    >>> output is state.h, state.c.shape
    (True, (2, 5))
    """

    gates = 4

    def step(self, z: Any, state: Any) -> tuple[Tensor, LSTMState]:
        h, c = state
        i, f, g, o = split(linear(h, self.weight_hh, z), 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return h, LSTMState(h, c)

    def initial_state(self, z: Tensor) -> LSTMState:
        zeros = super().initial_state(z)
        return LSTMState(zeros, zeros)
