"""Deep recurrent layers with PyTorch's arguments, shapes and results, built from cells."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

from ..backend import DTypeLike
from ..ops import stack
from ..tree import tree_map
from ..whereabouts import ShapeError
from .cells import LSTMCell, RNNCell, WeightedCell
from .checks import check_sizes
from .gated import GRUCell
from .recurrent import Bidirectional, Recurrent, SequenceLayer, Stacked
from .unrolling import Recorded


class DeepLayer(Stacked):
    """The base class of RNN, LSTM and GRU: ``num_layers`` layers of one kind of cell, in one direction or both.

    It is called like any ``SequenceLayer``, but its state has PyTorch's form: each leaf stacks all cells in one array
    (num_layers * directions, B, H), from the bottom layer up, with the forward cell of each layer first.
    """

    def __init__(
        self,
        make_cell: Callable[[int], WeightedCell],
        input_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        batch_first: bool,
        h0: str,
    ):
        name = type(self).__name__
        check_sizes(self, 1, num_layers=num_layers)
        if dropout and num_layers == 1:
            warnings.warn(f"{name}: dropout={dropout} acts between layers, and there is only one", stacklevel=3)
        layers: list[SequenceLayer] = []
        size = input_size
        for _ in range(num_layers):
            cell = make_cell(size)
            layers.append(Bidirectional(cell, make_cell(size), h0) if bidirectional else Recurrent(cell, h0))
            size = cell.output_size * (2 if bidirectional else 1)
        super().__init__(layers, dropout, batch_first)
        self.num_layers, self.bidirectional = num_layers, bidirectional
        self.hidden_size, self.output_size = cell.hidden_size, size

    def cells(self) -> Iterator[tuple[str, WeightedCell]]:
        """All cells in the order of the state, each with the suffix of its parameter names in PyTorch."""
        for k, layer in enumerate(self.layers):
            directions: Any = layer.directions if isinstance(layer, Bidirectional) else (layer,)
            for direction, suffix in zip(directions, ("", "_reverse"), strict=False):
                yield f"_l{k}{suffix}", direction.cell

    def initial_state(self, xs: Any) -> Any:
        """Zeros, or the learned initial state, in PyTorch's form."""
        return self._joined(super().initial_state(xs))

    def run(self, xs: Any, state: Any, mask: Any, record: bool) -> Recorded:
        """Run all layers from the bottom up, converting the state from and to PyTorch's form."""
        if xs.ndim not in (2, 3):
            raise ShapeError(f"{type(self).__name__}: x of shape {xs.shape} must be (T, B, F), or (T, F)")
        done = super().run(xs, None if state is None else self._apart(state), mask, record)
        return done._replace(state=self._joined(done.state))

    def _joined(self, states: Any) -> Any:
        cells = [state for pair in states for state in pair] if self.bidirectional else states
        return tree_map(lambda *leaves: stack(leaves), *cells)

    def _apart(self, state: Any) -> Any:
        cells = [tree_map(itemgetter(k), state) for k in range(len(list(self.cells())))]
        return list(zip(cells[::2], cells[1::2], strict=True)) if self.bidirectional else cells

    def __repr__(self) -> str:
        options = {"num_layers": (self.num_layers, 1), "dropout": (self.dropout.p, 0)}
        options |= {"bidirectional": (self.bidirectional, False), "batch_first": (self.batch_first, False)}
        told = "".join(f", {name}={value}" for name, (value, usual) in options.items() if value != usual)
        _, cell = next(self.cells())
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}{told}{cell.unusual})"


class RNN(DeepLayer):
    """Simple recurrent layers; see ``RNNCell`` for the equations and ``DeepLayer`` for the shapes.

    input_size, hidden_size: the features of an input step and of the state. num_layers: the number of stacked layers.
    bias: whether cells have biases. batch_first: x and outputs are (B, T, F); the state stays as it is.
    dropout: between layers, while training. bidirectional: also read backwards; outputs have 2 H features.
    nonlinearity: "tanh", "relu", "sigmoid" or a function. h0: "zeros" or "learned". dtype, backend: of the parameters.

    >>> from tinygrad_rnn import nn, ones
    >>> outputs, h = nn.RNN(3, 5, num_layers=2)(ones(7, 2, 3))
    >>> outputs.shape, h.shape
    ((7, 2, 5), (2, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        nonlinearity: str | Callable[[Any], Any] = "tanh",
        h0: str = "zeros",
        dtype: DTypeLike = None,
        backend: str | None = None,
    ):
        def make_cell(size: int) -> WeightedCell:
            return RNNCell(size, hidden_size, bias, nonlinearity, dtype, backend)

        super().__init__(make_cell, input_size, num_layers, bidirectional, dropout, batch_first, h0)


class LSTM(DeepLayer):
    """Layers of long short-term memory; see ``LSTMCell`` for the equations and ``DeepLayer`` for the shapes.

    Arguments are those of ``RNN``, without nonlinearity, and from ``LSTMCell`` forget_bias and proj_size, the size of h
    if not 0. The state is LSTMState(h, c).

    >>> from tinygrad_rnn import nn, ones
    >>> outputs, state = nn.LSTM(3, 5, num_layers=2, bidirectional=True)(ones(7, 2, 3), lengths=[7, 4])
    >>> outputs.shape, state.c.shape
    ((7, 2, 10), (4, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        forget_bias: float = 0.0,
        h0: str = "zeros",
        dtype: DTypeLike = None,
        backend: str | None = None,
    ):
        def make_cell(size: int) -> WeightedCell:
            return LSTMCell(size, hidden_size, bias, dtype, backend, forget_bias=forget_bias, proj_size=proj_size)

        super().__init__(make_cell, input_size, num_layers, bidirectional, dropout, batch_first, h0)


class GRU(DeepLayer):
    """Layers of gated recurrent units; see ``GRUCell`` for the equations and ``DeepLayer`` for the shapes.

    Arguments are those of ``RNN``, without nonlinearity, and reset: "after" the recurrent product, as in PyTorch, or
    "before" it.

    >>> from tinygrad_rnn import nn, ones
    >>> outputs, h = nn.GRU(3, 5, batch_first=True)(ones(2, 7, 3))
    >>> outputs.shape, h.shape
    ((2, 7, 5), (1, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset: str = "after",
        h0: str = "zeros",
        dtype: DTypeLike = None,
        backend: str | None = None,
    ):
        def make_cell(size: int) -> WeightedCell:
            return GRUCell(size, hidden_size, bias, dtype, backend, reset=reset)

        super().__init__(make_cell, input_size, num_layers, bidirectional, dropout, batch_first, h0)
