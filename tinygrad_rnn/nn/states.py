"""The states that cells carry from step to step: nested tuples, lists and dictionaries of Tensors."""

from __future__ import annotations

from numbers import Number
from typing import Any

from .. import ops
from ..ops import where
from ..tensor import Tensor
from ..tree import Tree, tree_items, tree_map
from ..whereabouts import ShapeError
from .sequences import beside


def detach(state: Tree) -> Tree:
    """The same state without history: the cut at the end of a window of truncated BPTT.

    Raises TypeError for other kinds of objects in it, as Tensors in them would keep their history.

    >>> from tinygrad_rnn import bptt, nn, ones
    >>> outputs, state = bptt.unroll(nn.LSTMCell(3, 5), ones(7, 2, 3))
    >>> state.c.requires_grad, detach(state).c.requires_grad
    (True, False)
    """
    return tree_map(_without_history, state)


def _without_history(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.detach()
    if isinstance(x, (Number, str, bytes)) or hasattr(x, "dtype"):
        return x
    raise TypeError(
        f"detach: the state holds a {type(x).__name__}; a state is made of tuples, named tuples, lists and dicts, of "
        "Tensors, arrays and numbers, so that all of its history is found"
    )


def outlives_reset(leaf: Any, initial: Any) -> bool:
    """Whether ``reset`` leaves a leaf alone: a mask, if there is no state to begin from that holds another one."""
    return bool(leaf.dtype.kind == "b" and initial is None)


def reset(state: Tree, rows: Any, initial: Any = None) -> Tree:
    """Reset some rows of a carried state; the other rows go on, and so do their gradients.

    state: nested leaves (..., B, H), of a cell or a layer; None, for a state that has not begun, stays None.
    rows: (B,), True or 1 for rows to reset. initial: the state to reset them to, of the same structure; 0 if None.
        Without ``initial``, boolean leaves stay as they are: they are masks, as of ``VariationalDropout``, and 0 would
        drop all.

    Raises ShapeError if a leaf has a different number of rows.

    >>> from tinygrad_rnn import nn, ones
    >>> reset(nn.LSTMState(ones(2, 1), ones(2, 1)), [True, False]).c.tolist()
    [[0.0], [1.0]]
    """

    def begin_anew(leaf: Any, start: Any = 0) -> Any:
        anew = beside(rows, leaf)
        if anew.ndim != 1 or leaf.ndim < 2 or leaf.shape[-2] != anew.shape[0]:
            raise ShapeError(f"reset: rows of shape {anew.shape} do not fit a state of shape {leaf.shape}")
        return leaf if outlives_reset(leaf, initial) else where(anew[:, None], start, leaf)

    return tree_map(begin_anew, state) if initial is None else tree_map(begin_anew, state, initial)


def take_rows(state: Tree, rows: Any) -> Tree:
    """Select rows of a state, in this order; its leaves are (..., B, H) or (B,)."""
    return tree_map(lambda leaf: ops.index(leaf, rows if leaf.ndim == 1 else (..., rows, slice(None))), state)


def repeat_rows(state: Tree, times: int) -> Tree:
    """Repeat each row of a state, with the copies side by side; its leaves are (..., B, H) or (B,).

    >>> from tinygrad_rnn import tensor
    >>> repeat_rows(tensor([[1.0], [2.0]]), 2).tolist()
    [[1.0], [1.0], [2.0], [2.0]]
    """
    return tree_map(lambda leaf: ops.repeat(leaf, times, 0 if leaf.ndim == 1 else -2), state)


def innermost(state: Any) -> Any:
    """The cell's own state, without what wrappers have added."""
    while type(state) in wrapped:
        state = state.state
    return state


wrapped: set[type] = set()  # classes of states in which wrappers put something beside the cell's own, ``state``


def named(state: Any) -> dict[str, Any]:
    """The leaves of a state by name; a single leaf is called h, and leaves of a wrapped cell keep their names."""
    return {".".join(n for n in path.split(".") if n != "state") or "h": leaf for path, leaf in tree_items(state)}
