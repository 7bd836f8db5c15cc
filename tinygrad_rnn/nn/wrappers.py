"""Cells round a cell: what they add is theirs, all else is the inner cell's, gates included.

``Zoneout(Residual(LSTMCell(5, 5)))`` and the like are cells themselves, and ``unroll`` takes them as it takes any.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple

import numpy as np

from ..create import zeros_beside
from ..ops import concatenate, expand_dims, linear, sigmoid, softmax, sum, tanh, where
from ..tensor import Tensor
from ..tree import tree_leaves
from ..whereabouts import ShapeError
from . import init
from .cells import Cell, Gates, WeightedCell
from .fit import initial_state
from .module import first_tensor, parameter
from .recurrent import step_and_gates
from .sequences import over, time_major


class Wrapper(Cell):
    """The base of cells round a cell: the inner cell's projection and initial state, for ``full_step`` to build on."""

    def __init__(self, cell: Any):
        if not (hasattr(cell, "input_projection") and hasattr(cell, "step")):
            raise TypeError(
                f"{type(self).__name__}: it goes round a cell, with input_projection and step, "
                f"not round a {type(cell).__name__}"
            )
        self.cell = cell
        for size in ("input_size", "hidden_size", "output_size"):
            if hasattr(cell, size):
                setattr(self, size, getattr(cell, size))

    def input_projection(self, x: Any) -> Any:
        """The inner cell's."""
        return self.cell.input_projection(x)

    def initial_state(self, z: Any) -> Any:
        """The inner cell's."""
        return initial_state(self.cell, z)

    def inner_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        """The inner cell's step, with its gates if it has any."""
        return step_and_gates(self.cell, z, state)

    def filled(self, values: np.ndarray) -> Tensor:
        """A parameter that begins with these values, of the dtype and backend of the cell's first."""
        first = first_tensor(self)
        return parameter(values) if first is None else parameter(values, first.dtype, first.backend)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.cell!r})"


class SideBySide(Wrapper):
    """The base of wrappers in which the inputs also go past the cell: z is a pair, the cell's own z and x's part."""

    def __init__(self, cell: Any):
        super().__init__(cell)
        sizes = getattr(cell, "input_size", None), getattr(cell, "output_size", None)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{type(self).__name__}: inputs and outputs must have one size, but {type(cell).__name__} has "
                f"input_size {sizes[0]} and output_size {sizes[1]}"
            )

    def input_projection(self, x: Any) -> Any:
        """The inner cell's, and x."""
        return self.cell.input_projection(x), x

    def initial_state(self, z: Any) -> Any:
        """The inner cell's."""
        return initial_state(self.cell, z[0])


class Residual(SideBySide):
    """The input is added to the output, y_t = x_t + cell(x_t) (He et al. 2016): deep stacks learn from their bottom up.

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
    """A gate between input and output, y_t = t * cell(x_t) + (1 - t) * x_t (Srivastava et al. 2015).

    t = sigmoid(W_t x_t + b_t)

    W_t and b_t are ``weight_t`` and ``bias_t``.
    transform_bias: what b_t begins at; below 0, most of the input passes at first.

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
        """The inner cell's, x, and t for all steps."""
        return self.cell.input_projection(x), x, sigmoid(linear(x, self.weight_t, self.bias_t))

    def full_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        z, x, t = z
        output, state, gates = self.inner_step(z, state)
        return x + t * (output - x), state, gates | {"t": t}


class ResidualRecurrence(Wrapper):
    """The state is added to what the cell makes of it, h_t = h_{t-1} + cell(x_t, h_{t-1}): the identity through time.

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
    """The inner cell's state, and the last outputs, the newest first."""

    state: Any
    past: tuple[Any, ...]


class SkipThroughTime(Wrapper):
    """Gates that also see outputs of d steps ago (Lin et al. 1996), so that the gradient takes T / d steps, not T.

    taps: which steps: (-1, -4) is the recurrence that the cell has, and a new one, over four steps. For each tap -d
        beyond -1, W_d h_{t-d} is added to W_hh h_{t-1}, wherever the cell has that.

    The W_d are ``weights``, each like the cell's W_hh. Outputs before the first step are 0.

    >>> from tinygrad_rnn import nn, ones
    >>> h, state = nn.SkipThroughTime(nn.RNNCell(3, 5), taps=(-1, -4))(ones(2, 3))
    >>> len(state.past)
    4
    """

    def __init__(self, cell: WeightedCell, taps: tuple[int, ...] = (-1, -4)):
        super().__init__(need_weights(self, cell))
        if -1 not in taps or len(set(taps)) < len(taps) or not all(isinstance(tap, int) and tap < 0 for tap in taps):
            raise ValueError(f"SkipThroughTime: taps are -1 and other negative integers, each once, not {taps!r}")
        self.taps = tuple(taps)
        self.skips = [tap for tap in taps if tap != -1]
        self.weights = [cell.drawn((cell.weight_ih.shape[0], cell.output_size)) for _ in self.skips]

    def initial_state(self, z: Any) -> SkipState:
        """The inner cell's, and zeros for the past."""
        leaf = tree_leaves(z)[0]  # a GRU's z is a pair
        zeros = zeros_beside(leaf, (*leaf.shape[:-1], self.output_size))
        return SkipState(self.cell.initial_state(z), (zeros,) * -min(self.skips, default=0))

    def full_step(self, z: Any, state: Any) -> tuple[Any, SkipState, Gates]:
        inner, past = state

        def recur(h: Any, z: Any = None, rows: slice | None = None, **layer: int) -> Tensor:
            for tap, weight in zip(self.skips, () if layer.get("layer") else self.weights, strict=False):
                z = linear(past[-tap - 1], weight if rows is None else weight[rows], z)
            return self.cell.recur(h, z, rows, **layer)  # type: ignore[no-any-return]

        output, inner, gates = altered_step(self, z, inner, recur=recur)
        return output, SkipState(inner, (output, *past)[: len(past)]), gates

    def __repr__(self) -> str:
        return f"SkipThroughTime({self.cell!r}, taps={self.taps})"


class Attention(Wrapper):
    """Attention of each step's output over given vectors, such as an encoder's outputs (Luong et al. 2015, "general").

    a = softmax over s of (h_t . W_a m_s)
    y_t = tanh(W_c [sum_s a_s m_s, h_t])

    W_a and W_c are ``weight_a`` and ``weight_c``; h_t is the inner cell's output, and y_t has its size. What to attend
    to belongs to a sequence: ``over`` gives the cell that does. The weights a are its gate "attention".
    memory_size: the length of each m_s.

    >>> from tinygrad_rnn import nn, ones
    >>> attention = nn.Attention(nn.GRUCell(3, 5), memory_size=4)
    >>> outputs, h = nn.unroll(attention.over(ones(7, 2, 4)), ones(6, 2, 3))
    >>> outputs.shape
    (6, 2, 5)
    """

    def __init__(self, cell: Any, memory_size: int):
        super().__init__(cell)
        size, self.memory_size = cell.output_size, memory_size
        self.weight_a = self.filled(init.fan_in_uniform((size, memory_size), memory_size))
        self.weight_c = self.filled(init.fan_in_uniform((size, memory_size + size), memory_size + size))

    def over(self, memory: Any, lengths: Any = None, mask: Any = None) -> Cell:
        """The cell that attends to memory (S, B, memory_size); lengths (B,) or a mask (S, B) say what of it is real."""
        if memory.ndim != 3 or memory.shape[-1] != self.memory_size:
            raise ShapeError(
                f"Attention: the memory must have shape (S, B, {self.memory_size}), not {tuple(memory.shape)}"
            )
        memory, real = time_major("Attention", memory, lengths, mask)
        memory = memory if real is None else where(over(real, memory), memory, 0)
        keys = linear(memory, self.weight_a)

        def look(h: Any) -> tuple[Any, Any]:
            scores = sum(keys * h, axis=-1)
            if real is not None:
                scores = where(real, scores, float(np.finfo(scores.dtype).min) / 2)  # not -inf: perhaps none is real
            a = softmax(scores, axis=0)
            return sum(expand_dims(a, axis=-1) * memory, axis=0), a

        return _Attending(self, look)

    def full_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        raise TypeError("Attention: what to attend to is not given; call attention.over(memory), which is the cell")


class _Attending(Wrapper):
    """Attention over one memory, in which ``look`` finds h's context and the weights."""

    def __init__(self, attention: Attention, look: Callable[[Any], tuple[Any, Any]]):
        super().__init__(attention.cell)
        self.attention, self.look = attention, look

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, Any, Gates]:
        h, state, gates = self.inner_step(z, state)
        context, a = self.look(h)
        y = tanh(linear(concatenate([context, h], axis=-1), self.attention.weight_c))
        return y, state, gates | {"attention": a}


def need_weights(wrapper: Wrapper, cell: Any) -> WeightedCell:
    """The cell, if it is one with weights of its own, and no wrapper round one."""
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
    """The inner cell's ``full_step``, done with other methods than its own; TypeError if it does not use them."""
    used = set()

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            used.add(name)
            return method(*args, **kwargs)

        return call

    other = copy(wrapper.cell)  # its parameters are shared
    vars(other).update({name: noting(name, method) for name, method in methods.items()})
    taken: tuple[Any, Any, Gates] = other.full_step(z, state)
    for name in methods.keys() - used:
        cell = type(wrapper.cell).__name__
        raise TypeError(
            f"{type(wrapper).__name__}: the step of {cell} makes no use of self.{name}, so this wrapper would change "
            f"nothing; write {_SPELLED[name]} there"
        )
    return taken
