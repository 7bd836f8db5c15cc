"""Dropout within and around a cell, and zoneout, against overfitting. Random only while training.

Each step draws from the generator that ``manual_seed`` seeds, outside of any kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from .. import backend
from ..ops import dropout, where
from ..ops.nn import check_probability
from ..tape import bare_array
from ..tensor import Tensor
from ..tree import tree_leaves, tree_map
from .cells import Gates, WeightedCell
from .checks import asking, check_input
from .states import innermost, wrapped
from .wrappers import Wrapper, altered_step, need_weights


class Zoneout(Wrapper):
    """In each step, each element of the state keeps its old value with probability p (Krueger et al. 2017).

    h_t = m * h_{t-1} + (1 - m) * cell's h_t, with m 1 or 0 while training, and m = p otherwise.

    p: one probability for the whole state, or one for each part, such as (0.05, 0.5) for the h and c of an LSTM.

    Only the innermost cell's state is affected: masks that an inner wrapper carries stay as they are, and the past
    outputs of ``SkipThroughTime`` are those after zoneout. Outputs that an inner wrapper computes from h (``Residual``,
    dropout) use h_t before zoneout; put zoneout inside such a wrapper if they should use h_t after it.

    >>> from tinygrad_rnn import nn, ones
    >>> h, state = nn.Zoneout(nn.LSTMCell(3, 5), (0.05, 0.5))(ones(2, 3))
    >>> h is state.h
    True
    """

    told = ("p",)

    def __init__(self, cell: Any, p: float | Sequence[float] = 0.1):
        super().__init__(cell)
        p = p.tolist() if hasattr(p, "tolist") else p
        check = partial(check_probability, "Zoneout")
        self.p: Any = tuple(map(check, p)) if isinstance(p, Sequence) else check(p)

    def full_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        output, after, gates = self.inner_step(z, state)
        old, new = tree_leaves(innermost(state)), tree_leaves(innermost(after))
        ps = list(self.p) if isinstance(self.p, Sequence) else [self.p] * len(new)
        if len(ps) != len(new):
            raise ValueError(f"Zoneout: there are {len(ps)} probabilities for the {len(new)} parts of the state")
        pairs = [(part, self._mixed(before, part, p)) for before, part, p in zip(old, new, ps, strict=True)]

        def mixed(x: Any) -> Any:
            return next((kept for part, kept in pairs if x is part), x)

        return mixed(output), tree_map(mixed, after), gates

    def _mixed(self, old: Any, new: Any, p: float) -> Any:
        if not p or new.dtype.kind != "f":
            return new
        return where(_drawn_mask(new, 1 - p), new, old) if self.training else new + p * (old - new)


class CellDropout(Wrapper):
    """Dropout of inputs and outputs, drawn anew in each step; the state is left alone.

    y_t = dropout(cell(dropout(x_t))) (Zaremba et al. 2014)

    input, output: the probabilities that an element is set to 0.

    >>> from tinygrad_rnn import nn, ones
    >>> y, state = nn.CellDropout(nn.LSTMCell(3, 5), input=0.1, output=0.5)(ones(2, 3))
    >>> y.shape
    (2, 5)
    """

    told = ("input", "output")

    def __init__(self, cell: Any, input: float = 0.0, output: float = 0.0):
        super().__init__(cell)
        self.input, self.output = check_probability("CellDropout", input), check_probability("CellDropout", output)

    def input_projection(self, x: Any) -> Any:
        """The inner cell's projection, after dropout of the inputs."""
        return self.cell.input_projection(dropout(x, self.input, self.training))

    def full_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        output, state, gates = self.inner_step(z, state)
        return dropout(output, self.output, self.training), state, gates


class RecurrentDropout(Wrapper):
    """Dropout of the candidate state only, so that nothing remembered is lost (Semeniuta et al. 2016).

    In an LSTM, c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * dropout(tanh(g)); in a GRU, dropout(n). Drawn in each step.

    >>> from tinygrad_rnn import nn, ones
    >>> h, state = nn.RecurrentDropout(nn.LSTMCell(3, 5), 0.25)(ones(2, 3))
    >>> h.shape
    (2, 5)
    """

    told = ("p",)

    def __init__(self, cell: WeightedCell, p: float = 0.25):
        super().__init__(need_weights(self, cell))
        self.p = check_probability("RecurrentDropout", p)

    def full_step(self, z: Any, state: Any) -> tuple[Any, Any, Gates]:
        if not (self.training and self.p):
            return self.inner_step(z, state)
        return altered_step(self, z, state, activation=lambda a: dropout(self.cell.activation(a), self.p))


class VariationalState(NamedTuple):
    """The inner cell's state, and masks of the elements kept for this sequence; None if all are kept."""

    state: Any
    input: Any
    recurrent: Any
    output: Any


wrapped.add(VariationalState)


class VariationalDropout(Wrapper):
    """Dropout with masks that are drawn once per sequence and used in all of its steps (Gal and Ghahramani 2016).

    input, output: the probabilities for x_t and y_t. recurrent: the probability for h_{t-1} where W_hh multiplies it;
        the memory cell of an LSTM, and the part of h_{t-1} that a GRU keeps, are not dropped.

    A cell is a pure function, so the masks are part of the state: ``initial_state`` draws them, and they stay with the
    state, even into the next window of truncated BPTT. If a state is given, none are drawn. To start from a state of
    the inner cell, put it into an initial state: ``cell.initial_state(z)._replace(state=inner)``.

    >>> from tinygrad_rnn import nn, ones
    >>> outputs, state = nn.unroll(nn.VariationalDropout(nn.LSTMCell(3, 5), input=0.2, recurrent=0.2), ones(7, 2, 3))
    >>> state.state.h.shape, state.input.shape, state.output
    ((2, 5), (2, 3), None)
    """

    told = ("input", "recurrent", "output")

    def __init__(self, cell: WeightedCell, input: float = 0.0, recurrent: float = 0.0, output: float = 0.0):
        super().__init__(need_weights(self, cell))
        ps = [check_probability("VariationalDropout", p) for p in (input, recurrent, output)]
        self.input, self.recurrent, self.output = ps

    def input_projection(self, x: Any) -> Any:
        """The inner cell's projection; or x itself if a mask must come first, as each step then projects."""
        if not (self.training and self.input):
            return self.cell.input_projection(x)
        check_input(self.cell, x)
        return x

    def initial_state(self, z: Any) -> VariationalState:
        """The inner cell's initial state, with new masks while training."""
        inner = self.cell.initial_state(z)
        h = tree_leaves(inner)[0]

        def mask(like: Any, p: float) -> Tensor | None:
            if not (self.training and p):
                return None
            return like > 0 if asking.for_shapes else Tensor.wrap(_drawn_mask(like, 1 - p))

        return VariationalState(inner, mask(z, self.input), mask(h, self.recurrent), mask(h, self.output))

    def full_step(self, z: Any, state: Any) -> tuple[Any, VariationalState, Gates]:
        inner, *masks = state
        of_input, of_recurrent, of_output = masks if self.training else (None,) * 3

        def recur(h: Any, *rest: Any, **how: Any) -> Any:
            return self.cell.recur(_masked(h, of_recurrent, self.recurrent), *rest, **how)

        if self.training and self.input:
            z = self.cell.input_projection(_masked(z, of_input, self.input))
        output, inner, gates = altered_step(self, z, inner, **({} if of_recurrent is None else {"recur": recur}))
        return _masked(output, of_output, self.output), VariationalState(inner, *masks), gates


def _drawn_mask(x: Any, p: float) -> Any:
    """Booleans of x's shape, on its backend, each True with probability p."""
    array = bare_array(x)
    return backend.of(array).uniform(array.shape) < p


def _masked(x: Any, keep: Any, p: float) -> Any:
    """x divided by 1 - p where it is kept, and 0 elsewhere; x itself without a mask."""
    return x if keep is None else where(keep, x * (1 / (1 - p)), 0)
