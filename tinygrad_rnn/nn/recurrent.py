"""Layers that run cells over whole sequences: in one direction, in both, and stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..create import zeros_beside
from ..ops import broadcast_to, concatenate, swapaxes
from ..tree import tree_map
from .checks import begin, initial_state
from .layers import Dropout
from .module import Module, first_tensor, parameter
from .sequences import time_major
from .unrolling import Recorded, Unrolled, check_cell, check_features, unroll

if TYPE_CHECKING:
    from typing_extensions import Self


class SequenceLayer(Module):
    """The base class of layers over time: ``layer(x, state=None, lengths=None, mask=None, record=False)``.

    x: (T, B, F), or (B, T, F) with ``batch_first``. (T, F) is a single sequence, with outputs without a batch axis.
    state: the state to start from, as returned by a call; None for the layer's initial state.
    lengths: (B,) integers from 0 to T, in any order; the steps from there on are padding.
    mask: instead of lengths, which steps are real; it has the shape of x's first two axes and any pattern.
    record: also return the gates and states of each cell at all steps, by name, nested like the layers.

    In the padding, outputs are 0, the state is held and x is never read. The returned state is the one after each
    row's last real step, or after its first real step if a layer reads backwards.

    Returns Unrolled(outputs, state), or Recorded(outputs, state, record). Raises TypeError, ValueError or ShapeError
    before anything is computed, but cannot check the inputs of cells without an ``input_size``.

    A subclass defines ``run``, for time-major inputs, ``initial_state`` and ``input_size``.
    """

    batch_first = False

    def unrolled_by(self, unroll: Callable[..., Any]) -> Self:
        """Have a function other than ``unroll`` run all cells of this layer over time; returns the layer.

        unroll: called like ``unroll``, such as ``bptt.checkpointed``, or a ``partial`` of it with options.

        Raises TypeError if it cannot be called.
        """
        if not callable(unroll):
            raise TypeError(f"unrolled_by: it takes a function with unroll's arguments, not {unroll!r}")
        for module in self.modules():
            if isinstance(module, Recurrent):
                module.unroll = unroll
        return self

    @property
    def input_size(self) -> int | None:
        """The number of input features, or None if a cell does not say."""
        raise NotImplementedError(f"{type(self).__name__} defines no input_size")

    def initial_state(self, xs: Any) -> Any:
        """The state to start from if none is given, for inputs (T, B, F)."""
        raise NotImplementedError(f"{type(self).__name__} defines no initial_state")

    def run(self, xs: Any, state: Any, mask: Any, record: bool) -> Recorded:
        """Run the layer on inputs (T, B, F), with a boolean mask (T, B) or None."""
        raise NotImplementedError(f"{type(self).__name__} defines no run")

    def forward(self, x: Any, state: Any = None, lengths: Any = None, mask: Any = None, record: bool = False) -> Any:
        """Unrolled(outputs, state), or with ``record`` Recorded(outputs, state, record)."""
        check_features(self, x, masked=lengths is not None or mask is not None)
        turned = self.batch_first and not (self.input_size is not None and x.ndim == 2)
        xs, real = time_major(type(self).__name__, x, lengths, mask, turned)
        if state is not None and self.input_size is not None:
            state = begin(self, xs, state)
        done = self.run(xs, state, real, record)
        if turned:
            outputs, seen = tree_map(lambda y: swapaxes(y, 0, 1), (done.outputs, done.record))
            done = Recorded(outputs, done.state, seen)
        return done if record else Unrolled(done.outputs, done.state)


class Recurrent(SequenceLayer):
    """A layer that runs a cell over time.

    cell: anything with ``input_projection`` and ``step``.
    h0: "zeros", or "learned": every row starts from the parameter ``h0``, which has the state's structure and is
        initially 0. Leaves that are not floating-point, such as the masks of ``VariationalDropout``, are not learned;
        the cell provides them.
    reverse: read from each row's end to its start.

    >>> from tinygrad_rnn import nn, ones
    >>> layer = nn.Recurrent(nn.LSTMCell(3, 5), h0="learned")
    >>> outputs, state = layer(ones(7, 2, 3), lengths=[7, 4])
    >>> outputs.shape, layer.h0.c.shape
    ((7, 2, 5), (5,))
    """

    unroll: Callable[..., Any] = staticmethod(unroll)

    def __init__(self, cell: Any, h0: str = "zeros", reverse: bool = False, batch_first: bool = False):
        if h0 not in ("zeros", "learned"):
            raise ValueError(f"{type(self).__name__}: h0 is 'zeros' or 'learned', not {h0!r}")
        check_cell(type(self).__name__, cell)
        self.cell, self.reverse, self.batch_first = cell, reverse, batch_first
        self.h0 = _learned_state(cell) if h0 == "learned" else None

    @property
    def input_size(self) -> int | None:
        """The cell's input_size."""
        return getattr(self.cell, "input_size", None)

    def initial_state(self, xs: Any) -> Any:
        """The learned state for every row, or else the cell's initial state."""
        one = xs[0] if self.input_size is None else zeros_beside(xs, (*xs.shape[1:-1], self.input_size))
        start = initial_state(self.cell, self.cell.input_projection(one))
        if self.h0 is None:
            return start
        return tree_map(lambda own, p: own if p is None else broadcast_to(p, own.shape), start, self.h0)

    def run(self, xs: Any, state: Any, mask: Any, record: bool) -> Recorded:
        """Run ``unroll``, or what ``unrolled_by`` has put in its place."""
        if state is None and self.h0 is not None:
            state = self.initial_state(xs)
        options = {"record": True} if record else {}  # which not all functions take
        done = self.unroll(self.cell, xs, state, mask=mask, reverse=self.reverse, **options)
        return done if record else Recorded(done.outputs, done.state, None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.cell!r}{', reverse=True' if self.reverse else ''})"


def _learned_state(cell: Any) -> Any:
    """A zero parameter, without a batch axis, for each floating-point leaf of a cell's state; None for others."""
    size = getattr(cell, "input_size", None)
    first = first_tensor(cell)
    if size is None or first is None:
        raise ValueError(f"{type(cell).__name__}: h0='learned' needs a cell with parameters and an input_size")
    like = cell.initial_state(cell.input_projection(zeros_beside(first, (0, size))))

    def learned(leaf: Any) -> Any:
        return parameter(np.zeros(leaf.shape[1:], leaf.dtype), backend=leaf.backend) if leaf.dtype.kind == "f" else None

    return tree_map(learned, like)


class Bidirectional(SequenceLayer):
    """Two cells over the same inputs: one forward, one backward from each row's own end (Schuster and Paliwal 1997).

    The outputs of the forward and the backward cell are concatenated along the last axis; the state is a pair.

    >>> from tinygrad_rnn import nn, ones
    >>> layer = nn.Bidirectional(nn.GRUCell(3, 5), nn.GRUCell(3, 5))
    >>> outputs, (onward, back) = layer(ones(7, 2, 3))
    >>> outputs.shape, back.shape
    ((7, 2, 10), (2, 5))
    """

    def __init__(self, forward_cell: Any, backward_cell: Any, h0: str = "zeros", batch_first: bool = False):
        self.directions = (Recurrent(forward_cell, h0), Recurrent(backward_cell, h0, reverse=True))
        self.batch_first = batch_first
        sizes = [layer.input_size for layer in self.directions]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{type(self).__name__}: the cells read the same inputs, but want {sizes[0]} and {sizes[1]}"
            )

    @property
    def input_size(self) -> int | None:
        """The input_size of both cells."""
        return self.directions[0].input_size

    def initial_state(self, xs: Any) -> tuple[Any, ...]:
        """The initial states of both cells."""
        return tuple([layer.initial_state(xs) for layer in self.directions])

    def run(self, xs: Any, state: Any, mask: Any, record: bool) -> Recorded:
        """Run both cells, one after the other."""
        states = (None, None) if state is None else state
        onward, back = [layer.run(xs, s, mask, record) for layer, s in zip(self.directions, states, strict=True)]
        outputs = concatenate([onward.outputs, back.outputs], axis=-1)
        return Recorded(outputs, (onward.state, back.state), (onward.record, back.record))


class Stacked(SequenceLayer):
    """Stacked layers: each reads the outputs of the one below it.

    layers: SequenceLayers, or cells, which are wrapped in ``Recurrent``. The stack's ``batch_first`` overrides theirs.
    dropout: the probability that an output is set to 0 before the next layer reads it, while training.

    The state is a tuple of the layers' states.

    >>> from tinygrad_rnn import nn, ones
    >>> deep = nn.Stacked([nn.LSTMCell(3, 5), nn.Bidirectional(nn.GRUCell(5, 4), nn.GRUCell(5, 4))], dropout=0.1)
    >>> outputs, states = deep(ones(7, 2, 3))
    >>> outputs.shape, len(states)
    ((7, 2, 8), 2)
    """

    def __init__(self, layers: Sequence[Any], dropout: float = 0.0, batch_first: bool = False):
        self.layers = [layer if isinstance(layer, SequenceLayer) else Recurrent(layer) for layer in layers]
        if not self.layers:
            raise ValueError(f"{type(self).__name__}: at least one layer is needed")
        self.dropout, self.batch_first = Dropout(dropout), batch_first

    @property
    def input_size(self) -> int | None:
        """The first layer's input_size, or None if any layer has none."""
        sizes = [layer.input_size for layer in self.layers]
        return None if None in sizes else sizes[0]

    def initial_state(self, xs: Any) -> tuple[Any, ...]:
        """The initial states of all layers."""
        return tuple([layer.initial_state(xs) for layer in self.layers])

    def run(self, xs: Any, state: Any, mask: Any, record: bool) -> Recorded:
        """Run all layers from the bottom up."""
        after: list[Any] = []
        seen = []
        for layer, s in zip(self.layers, [None] * len(self.layers) if state is None else state, strict=True):
            done = layer.run(self.dropout(xs) if after else xs, s, mask, record)
            xs = done.outputs
            after.append(done.state)
            seen.append(done.record)
        return Recorded(xs, tuple(after), tuple(seen))
