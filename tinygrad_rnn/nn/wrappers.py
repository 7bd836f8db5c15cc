"""Wrappers: cells around a cell. Each adds one thing; the rest, gates included, comes from the inner cell.

Wrappers are cells themselves, so they nest, ``Zoneout(Residual(LSTMCell(5, 5)))``, and ``unroll`` takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple

import numpy as np

from ..ops import linear, sigmoid
from ..tensor import Tensor
from . import init
from .cells import Cell, Gates, WeightedCell
from .checks import initial_state
from .states import wrapped
from .unrolling import is_cell, step_and_gates


class Wrapper(Cell):
    """The base class of wrappers, with the inner cell's projection and initial state. Subclasses add ``full_step``."""

    told: tuple[str, ...] = ()  # the settings that repr shows

    def __init__(self, cell: Any):
        if not is_cell(cell):
            raise TypeError(
                f"{type(self).__name__}: it goes round a cell, with input_projection and step, not round a {cell!r}"
            )
        self.cell = cell
        for size in ("input_size", "hidden_size", "output_size"):
            if hasattr(cell, size):
                setattr(self, size, getattr(cell, size))

    def input_projection(self, x: Any) -> Any:
        """The inner cell's projection."""
        return self.cell.input_projection(x)

    def initial_state(self, z: Any) -> Any:
        """The inner cell's initial state."""
        return initial_state(self.cell, z)

    def inner_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        """The inner cell's step, with its gates if it has any."""
        return step_and_gates(self.cell, z, state)

    def __repr__(self) -> str:
        settings = [f", {name}={getattr(self, name)}" for name in self.told]
        return f"{type(self).__name__}({self.cell!r}{''.join(settings)})"


class SideBySide(Wrapper):
    """The base class of wrappers in which inputs also bypass the cell: z is a tuple, the cell's own z, x, and more."""

    def __init__(self, cell: Any):
        super().__init__(cell)
        sizes = getattr(cell, "input_size", None), getattr(cell, "output_size", None)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{type(self).__name__}: inputs and outputs must have one size, but {type(cell).__name__} has "
                f"input_size {sizes[0]} and output_size {sizes[1]}"
            )

    def input_projection(self, x: Any) -> Any:
        """The inner cell's projection, and x."""
        return self.cell.input_projection(x), x

    def initial_state(self, z: Any) -> Any:
        """The inner cell's initial state."""
        return initial_state(self.cell, z[0])


class Residual(SideBySide):
    """Add the input to the output, y_t = x_t + cell(x_t) (He et al. 2016), so that the lowest layers learn too.

    >>> from tinygrad_rnn import nn, ones
    >>> y, state = nn.Residual(nn.LSTMCell(5, 5))(ones(2, 5))
    >>> y.shape, state.h.shape
    ((2, 5), (2, 5))
    """

    def full_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        z, x = z
        output, state, gates = self.inner_step(z, state)
        return output + x, state, gates


class Highway(SideBySide):
    """Mix input and output by a gate, y_t = t * cell(x_t) + (1 - t) * x_t (Srivastava et al. 2015).

    t = sigmoid(W_t x_t + b_t)

    W_t and b_t are ``weight_t`` and ``bias_t``.
    transform_bias: the initial value of b_t; below 0, most of the input passes through at first.

    >>> from tinygrad_rnn import nn, ones
    >>> y, h = nn.Highway(nn.GRUCell(5, 5))(ones(2, 5))
    >>> y.shape
    (2, 5)
    """

    def __init__(self, cell: Any, transform_bias: float = -1.0):
        super().__init__(cell)
        size = cell.input_size
        self.weight_t = self.filled(init.fan_in_uniform((size, size), size))
        self.bias_t = self.filled(init.constant((size,), transform_bias))

    def input_projection(self, x: Any) -> Any:
        """The inner cell's projection, x, and t for all steps."""
        return self.cell.input_projection(x), x, sigmoid(linear(x, self.weight_t, self.bias_t))

    def full_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        z, x, t = z
        output, state, gates = self.inner_step(z, state)
        return x + t * (output - x), state, gates | {"t": t}


class ResidualRecurrence(Wrapper):
    """Add the old state to the cell's new one, h_t = h_{t-1} + cell(x_t, h_{t-1}): an identity path through time.

    For cells whose state is their output, such as ``RNNCell`` (Wang and Tian 2016).

    >>> from tinygrad_rnn import nn, ones
    >>> h, state = nn.ResidualRecurrence(nn.RNNCell(3, 5))(ones(2, 3))
    >>> h is state
    True
    """

    def full_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        output, after, gates = self.inner_step(z, state)
        if output is not after:
            raise TypeError(
                f"ResidualRecurrence: it goes round a cell whose output is its state, which {self.cell!r} is not"
            )
        h = state + after
        return h, h, gates


class SkipState(NamedTuple):
    """The inner cell's state, and the last outputs, newest first."""

    state: Any
    past: tuple[Any, ...]


wrapped.add(SkipState)


class SkipThroughTime(Wrapper):
    """Let gates also see the output of d steps ago (Lin et al. 1996): gradients then take T / d steps instead of T.

    taps: the past outputs to use: (-1, -4) is the cell's own recurrence and a new one over four steps. Each tap -d
        other than -1 adds W_d h_{t-d} to W_hh h_{t-1}, wherever the cell uses it.

    The W_d are ``weights``, each shaped like the cell's W_hh. Outputs before the first step are 0.

    >>> from tinygrad_rnn import nn, ones
    >>> h, state = nn.SkipThroughTime(nn.RNNCell(3, 5), taps=(-1, -4))(ones(2, 3))
    >>> len(state.past)
    4
    """

    told = ("taps",)

    def __init__(self, cell: WeightedCell, taps: tuple[int, ...] = (-1, -4)):
        super().__init__(need_weights(self, cell))
        whole = all(isinstance(tap, (int, np.integer)) and tap < 0 for tap in taps)
        if -1 not in taps or len(set(taps)) < len(taps) or not whole:
            raise ValueError(f"SkipThroughTime: taps are -1 and other negative integers, each once, not {taps!r}")
        self.taps = tuple(map(int, taps))
        self.skips = [tap for tap in self.taps if tap != -1]
        self.weights = [cell.drawn((cell.weight_ih.shape[0], cell.output_size)) for _ in self.skips]

    def initial_state(self, z: Any) -> SkipState:
        """The inner cell's initial state, and zeros for the past outputs."""
        zeros = Cell.initial_state(self, z)
        return SkipState(self.cell.initial_state(z), (zeros,) * -min(self.skips, default=0))

    def full_step(self, z: Any, state: Any) -> tuple[Any, SkipState, Gates]:
        inner, past = state

        def recur(h: Any, z: Any = None, rows: slice | None = None, **layer: int) -> Tensor:
            for tap, weight in zip(self.skips, () if layer.get("layer") else self.weights, strict=False):
                z = linear(past[-tap - 1], weight if rows is None else weight[rows], z)
            return self.cell.recur(h, z, rows, **layer)  # type: ignore[no-any-return]

        output, inner, gates = altered_step(self, z, inner, recur=recur)
        return output, SkipState(inner, (output, *past)[: len(past)]), gates


def need_weights(wrapper: Wrapper, cell: Any) -> WeightedCell:
    """The cell, if it has weights of its own; TypeError for any other, such as a wrapper."""
    if isinstance(cell, WeightedCell):
        return cell
    raise TypeError(
        f"{type(wrapper).__name__}: it goes round a cell with weights of its own, such as LSTMCell, not round a "
        f"{type(cell).__name__}; other wrappers go outside of it"
    )


_SPELLED = {
    "recur": "self.recur(h, z) for linear(h, self.weight_hh, z)",
    "activation": "self.activation(g) for tanh(g)",
}


def altered_step(wrapper: Wrapper, z: Any, state: Any, **methods: Any) -> tuple[Any, Any, Gates]:
    """Run the inner cell's step with some methods replaced; TypeError if it does not use all of them."""
    used = set()

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            used.add(name)
            return method(*args, **kwargs)

        return call

    other = copy(wrapper.cell)  # shares the parameters
    vars(other).update({name: noting(name, method) for name, method in methods.items()})
    taken = step_and_gates(other, z, state)
    for name in methods.keys() - used:
        cell = type(wrapper.cell).__name__
        raise TypeError(
            f"{type(wrapper).__name__}: the step of {cell} makes no use of self.{name}, so this wrapper would change "
            f"nothing; write {_SPELLED[name]} there"
        )
    return taken


class RecurrenceDetached(Wrapper):
    """A cell in which no gradient flows through the recurrent weights to the previous step; forward is unchanged."""

    def full_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        return altered_step(self, z, state, recur=lambda h, *rest, **how: self.cell.recur(h.detach(), *rest, **how))
