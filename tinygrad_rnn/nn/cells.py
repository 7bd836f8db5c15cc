"""Cells: pure functions of an input and a state, each built from a few ordinary operations.

A cell is any object with two methods. ``input_projection(x)`` is the non-recurrent part, computed for all time steps at
once. ``step(z, state)`` is the recurrent part; it returns an output and the next state.
Weights have PyTorch's layout and gate order, but one bias vector in place of the two that PyTorch adds together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..backend import DTypeLike
from ..create import zeros_beside
from ..ops import linear, sigmoid, split, tanh
from ..tensor import Tensor
from ..tree import tree_leaves
from . import init
from .checks import NoInitialState, begin, check_input, check_sizes
from .module import Module, first_tensor, parameter

Gates = dict[str, Tensor]


class LSTMState(NamedTuple):
    """The state of an LSTM: the output h and the memory cell c."""

    h: Tensor
    c: Tensor


class Cell(Module):
    """The base class of cells.

    A subclass defines ``input_projection``, sets ``output_size`` or defines ``initial_state``, and defines one of:

    ``step(z, state)``, which returns (output, next state), or
    ``full_step(z, state)``, which returns (output, next state, gates), where gates is a dict by name.

    To change a cell that has gates, override its ``full_step``; where ``step`` alone is overridden, no gates are known.
    """

    input_size: int
    hidden_size: int
    output_size: int

    def input_projection(self, x: Any) -> Any:
        """The contribution of the inputs, for one step (B, F) or all steps (T, B, F)."""
        raise NotImplementedError(f"{type(self).__name__} defines no input_projection(x); it may return x itself")

    def step(self, z: Any, state: Any) -> tuple[Any, Any]:
        """One step from a projected input and a state: (output, next state)."""
        output, state, _ = self.full_step(z, state)
        return output, state

    def full_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        """``step`` with a third result, a dict of the gates by name."""
        if type(self).step is Cell.step:
            raise NotImplementedError(f"{type(self).__name__} defines neither step nor full_step")
        return (*self.step(z, state), {})

    def initial_state(self, z: Any) -> Any:
        """Zeros, with the batch size of z, the projected input of one step."""
        if not hasattr(self, "output_size"):
            raise NoInitialState(
                f"{type(self).__name__}: nothing says what state to begin with; give one, set self.output_size for "
                "zeros of that size, or define initial_state(z)"
            )
        leaf = tree_leaves(z)[0]
        return zeros_beside(leaf, (*leaf.shape[:-1], self.output_size))

    def filled(self, values: np.ndarray) -> Tensor:
        """A new parameter with these initial values, and the dtype and backend of the cell's first Tensor."""
        first = first_tensor(self)
        return parameter(values) if first is None else parameter(values, first.dtype, first.backend)

    def forward(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        """One step: (output, next state)."""
        z = self.input_projection(x)
        return self.step(z, begin(self, z, state))

    def extra_repr(self) -> str:
        """input_size and hidden_size, where the cell has them."""
        return ", ".join(str(getattr(self, size)) for size in ("input_size", "hidden_size") if hasattr(self, size))


class WeightedCell(Cell):
    """The base class of cells with input and recurrent weights: ``blocks`` gates of hidden_size rows each, stacked.

    bias: whether the cell has biases. dtype, backend: those of the parameters.
    """

    blocks = 1
    gate_names: tuple[str, ...] = ()  # one for each block, if ``init.gate_bias_`` is to know them
    keeps: dict[str, int] = {}  # for ``init.chrono_``: gates that keep the state where they are 1, or, with -1, 0
    usual: dict[str, Any] = {}  # attributes that repr shows if they differ from this default, or always if it is None
    activation: Callable[[Any], Any] = staticmethod(tanh)  # applied to the candidate state

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        dtype: DTypeLike = None,
        backend: str | None = None,
        output_size: int | None = None,
    ):
        check_sizes(self, 0, input_size=input_size)
        check_sizes(self, 1, hidden_size=hidden_size)
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, output_size or hidden_size
        if bias not in (True, False):
            raise TypeError(f"{type(self).__name__}: bias is True or False, not {bias!r}; give what follows it by name")
        rows = self.blocks * hidden_size
        self.weight_ih = parameter(init.fan_in_uniform((rows, input_size), hidden_size), dtype, backend)
        self.weight_hh = self.drawn((rows, self.output_size))
        self.bias = self.drawn((rows,)) if bias else None

    def drawn(self, shape: tuple[int, ...]) -> Tensor:
        """A new parameter, initialised as in PyTorch: uniform within 1 / sqrt(hidden_size)."""
        return self.filled(init.fan_in_uniform(shape, self.hidden_size))

    def input_projection(self, x: Any) -> Any:
        """W_ih x + b, for one step (B, F) or all steps (T, B, F)."""
        check_input(self, x)
        return linear(x, self.weight_ih, self.bias)

    def bias_of(self, gate: str) -> tuple[Tensor | None, slice]:
        """The parameter that holds the bias of a gate, and its place in there."""
        start = self.gate_names.index(gate) * self.hidden_size
        return self.bias, slice(start, start + self.hidden_size)

    def recur(self, h: Any, z: Any = None, rows: slice | None = None) -> Tensor:
        """W_hh h + z, or only the given rows of W_hh: the only path from the previous output to the gates."""
        return linear(h, self.weight_hh if rows is None else self.weight_hh[rows], z)

    def extra_repr(self) -> str:
        """The sizes, and the settings that differ from the usual."""
        return super().extra_repr() + self.unusual

    @property
    def unusual(self) -> str:
        """Those settings, each after a comma."""
        held = {name: (getattr(self, name), usual) for name, usual in self.usual.items()}
        told = {name: value for name, (value, usual) in held.items() if usual is None or value != usual}
        told |= {"bias": False} if self.bias is None else {}
        told |= {"proj_size": self.output_size} if self.output_size != self.hidden_size else {}
        return "".join(f", {name}={value!r}" for name, value in told.items())


class RNNCell(WeightedCell):
    """The simple recurrent network (Elman 1990): h_t = f(W_ih x_t + W_hh h_{t-1} + b).

    nonlinearity: f: "tanh", "relu", "sigmoid", or any function of a Tensor.
    recurrent_init: "uniform", or "identity", which starts from W_hh = I and b = 0; with relu this is the IRNN (Le,
        Jaitly and Hinton 2015).

    >>> from tinygrad_rnn import nn, ones
    >>> output, h = nn.RNNCell(3, 5)(ones(2, 3))
    >>> h.shape
    (2, 5)
    """

    usual = {"nonlinearity": "tanh"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str | Callable[[Any], Any] = "tanh",
        dtype: DTypeLike = None,
        backend: str | None = None,
        *,
        recurrent_init: str = "uniform",
    ):
        super().__init__(input_size, hidden_size, bias, dtype, backend)
        if not callable(nonlinearity) and nonlinearity not in ("tanh", "relu", "sigmoid"):
            raise ValueError(
                f"RNNCell: the nonlinearity is 'tanh', 'relu', 'sigmoid' or a function, not {nonlinearity!r}"
            )
        if recurrent_init not in ("uniform", "identity"):
            raise ValueError(f"RNNCell: recurrent_init is 'uniform' or 'identity', not {recurrent_init!r}")
        self.nonlinearity = nonlinearity
        self.activation = nonlinearity if callable(nonlinearity) else getattr(ops, nonlinearity)
        if recurrent_init == "identity":
            self.weight_hh = self.filled(init.identity((hidden_size, hidden_size)))
            self.bias = self.filled(init.constant((hidden_size,), 0.0)) if bias else None

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, Tensor, Gates]:
        h = self.activation(self.recur(state, z))
        return h, h, {}


class LSTMCell(WeightedCell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    i, f, g, o = W_ih x_t + W_hh h_{t-1} + b, in four blocks of rows
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(c_t)

    forget_bias: added to the initial bias of the forget gate; 1 helps the cell to remember (Jozefowicz et al. 2015).
    proj_size: if not 0, h_t = W_hr (sigmoid(o) * tanh(c_t)) has this size (Sak et al. 2014).

    >>> from tinygrad_rnn import nn, ones
    >>> output, state = nn.LSTMCell(3, 5)(ones(2, 3))
    >>> output is state.h, state.c.shape
    (True, (2, 5))
    """

    blocks = 4
    gate_names: tuple[str, ...] = ("i", "f", "g", "o")
    keeps = {"f": 1, "i": -1}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        dtype: DTypeLike = None,
        backend: str | None = None,
        *,
        forget_bias: float = 0.0,
        proj_size: int = 0,
    ):
        check_sizes(self, 0, proj_size=proj_size)
        check_sizes(self, 1, hidden_size=hidden_size)
        if proj_size >= hidden_size:
            raise ValueError(f"LSTMCell: proj_size {proj_size} must be less than hidden_size {hidden_size}")
        super().__init__(input_size, hidden_size, bias, dtype, backend, output_size=proj_size or hidden_size)
        self.weight_hr = self.drawn((proj_size, hidden_size)) if proj_size else None
        if forget_bias:
            if self.bias is None:
                raise ValueError(f"LSTMCell: forget_bias={forget_bias} needs bias=True")
            self.bias.array[self.bias_of("f")[1]] += forget_bias

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, LSTMState, Gates]:
        h, c = state
        i, f, g, o = split(self.recur(h, z), 4, axis=-1)
        i, f, g, o = sigmoid(i), sigmoid(f), self.activation(g), sigmoid(o)
        c = f * c + i * g
        h = self.project(o * tanh(c))
        return h, LSTMState(h, c), {"i": i, "f": f, "g": g, "o": o}

    def project(self, h: Tensor) -> Tensor:
        """W_hr h, or h itself if there is no projection."""
        return h if self.weight_hr is None else linear(h, self.weight_hr)

    def initial_state(self, z: Tensor) -> LSTMState:
        """Zeros, with the batch size of z, the projected input of one step."""
        h = super().initial_state(z)
        return LSTMState(h, h if self.weight_hr is None else zeros_beside(z, (*z.shape[:-1], self.hidden_size)))
