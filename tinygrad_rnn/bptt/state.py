"""The states that cells carry: nested tuples, lists and dictionaries of Tensors."""

from __future__ import annotations

from numbers import Number
from typing import Any

from ..nn.checks import outline
from ..tensor import Tensor
from ..tree import Tree, tree_map
from ..whereabouts import ShapeError


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


def check_successor(before: Any, after: Any, time: int) -> None:
    """Raise unless a step returned a state with the structure and shapes of the one it was given, or was given None."""
    if before is None:
        return
    old, new = _form(before), _form(after)
    if old != new:
        kind = ShapeError if _form(before, shapes=False) == _form(after, shapes=False) else TypeError
        raise kind(
            f"truncated: step {time} was given the state {outline(before)} and returned {outline(after)}; "
            "a state keeps its structure and its shapes"
        )


def _form(tree: Any, shapes: bool = True) -> Any:
    """A state's structure, with shapes or without; types of tuples and lists do not matter."""
    if isinstance(tree, dict):
        return {name: _form(part, shapes) for name, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        return [_form(part, shapes) for part in tree]
    shape = getattr(tree, "shape", None)
    return tree if tree is None else tuple(shape) if shapes and shape is not None else ()
