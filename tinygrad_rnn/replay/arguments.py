"""What goes into a step that is recorded, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..tape import CaptureError, Node, Taped
from ..tensor import Tensor
from ..tree import rebuild, tree_leaves, tree_map
from .program import Value, alike
from .recorder import Recorder, bare
from .symbol import Scalar, Symbol

_BY_VALUE = (int, float, complex, str, bytes, type, type(None), np.generic, np.dtype, range, slice)


def signature_of(tree: Any, arrays: list[Array], floats: list[float]) -> Any:
    """What tells calls apart: structure, shapes, dtypes, plain values.

    Gathers arrays and floats on the way, in the order in which ``Arguments`` has them.
    """
    if isinstance(tree, Tensor):
        arrays.append(tree.array)
        return "tensor", tree.array.shape, tree.array.dtype, tree.node is None
    if isinstance(tree, (tuple, list)):
        return type(tree), *[signature_of(child, arrays, floats) for child in tree]
    if isinstance(tree, dict):
        return dict, *[(key, signature_of(child, arrays, floats)) for key, child in tree.items()]
    if backend.is_array(tree):
        arrays.append(tree)
        return "array", tree.shape, tree.dtype
    if type(tree) is float:
        floats.append(tree)
        return float
    if isinstance(tree, (set, frozenset)):
        return type(tree), frozenset(map(alike, tree))
    return alike(tree) if isinstance(tree, _BY_VALUE) else (type(tree), id(tree))  # the recording keeps it alive


class Arguments:
    """The arguments of a call, with symbols in place of arrays, and numbers that may change in place of floats."""

    def __init__(self, recorder: Recorder, args: Any, kwargs: Any, floats_change: bool) -> None:
        self.inputs: list[tuple[Symbol, Value]] = []
        self.floats: list[float] = []
        self._recorder, self._floats_change = recorder, floats_change
        self._given: list[tuple[Any, list[Any]]] = []  # what a step can change, with what is there
        self.args, self.kwargs = self._noted((args, kwargs))

    def _noted(self, tree: Any) -> Any:
        made = self._replaced(tree)
        if isinstance(made, (list, dict, Tensor)):
            self._given.append((made, _parts(made)))
        return made

    def _replaced(self, tree: Any) -> Any:
        if isinstance(tree, (tuple, list, dict)):
            return rebuild(tree, list(map(self._noted, tree.values() if isinstance(tree, dict) else tree)))
        if isinstance(tree, Tensor):
            if tree.node is not None:
                what = "has a history" if isinstance(tree.node, Node) else "requires a gradient"
                raise CaptureError(f"capture: the argument {tree!r} {what}; give the step x.detach()")
            return Tensor.wrap(self._noted(tree.array))
        if type(tree) is float and self._floats_change:
            number, floats = len(self.floats), self.floats
            floats.append(tree)
            return Scalar(tree, lambda: floats[number])
        if backend.is_array(tree):
            symbol = self._recorder.port(tree, f"argument_{len(self.inputs)}")
            self.inputs.append((symbol, symbol.value))
            return symbol
        return tree

    def close(self) -> None:
        """Let go of what the step was given; raise if it has changed that, as a replay would change nobody's."""
        del self.args, self.kwargs
        given, self._given = self._given, []
        for x, before in given:
            now = _parts(x)
            if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
                raise CaptureError(
                    f"capture: the step changes an argument, a {type(x).__name__}, which a replay would not do; return "
                    "the new value and pass it in the next time"
                )
        if any(symbol.value is not value for symbol, value in self.inputs):
            raise CaptureError("capture: the step writes into an argument; copy it first")


def _parts(x: Any) -> list[Any]:
    """What can be changed about an argument."""
    if isinstance(x, Tensor):
        return [x.array, x.grad]
    return [*x, *x.values()] if isinstance(x, dict) else list(x)


def _is_report(x: Any) -> bool:
    """Whether something measures ``x.tensors`` when looked at, and ``x.of(tensors)`` others, as clipping's report."""
    return hasattr(x, "tensors") and hasattr(x, "of")


def in_output(function: Callable[[Any], Any], output: Any) -> Any:
    """What a step returns, with something else in place of each leaf; reports are made anew."""
    return tree_map(lambda x: x.of(map(function, x.tensors)) if _is_report(x) else function(x), output)


def leaves(output: Any) -> list[Any]:
    """What a step returns, with the tensors that a report is about in its place."""
    return [leaf for x in tree_leaves(output) for leaf in (x.tensors if _is_report(x) else [x])]


def check_output(output: Any) -> None:
    """Raise if a replay could not return anew what the step returns."""
    for x in leaves(output):
        if not isinstance(x, (Taped, Symbol, Scalar, np.generic, str, int, float)) and not backend.is_array(x):
            raise CaptureError(
                f"capture: the step returns a {type(x).__name__}, which would stay that of the recording; "
                "return tensors, in tuples, lists or dictionaries"
            )


def apart(x: Any) -> Any:
    """A tensor of a symbol apart from that of the step, which may come to hold something else."""
    return Taped.wrap(x.array) if isinstance(x, Tensor) and isinstance(x.array, Symbol) else x


def without_symbols(x: Any) -> Any:
    """A copy, without history, of a part of what the step returned: a replay may write over what that was."""
    if isinstance(x, Taped):
        return Tensor.wrap(copied(x.array))
    return copied(x) if isinstance(x, Symbol) or backend.is_array(x) else bare(x)


def copied(x: Any) -> Any:
    """A copy of what an array is in this run."""
    return None if x is None else bare(x).copy("K")  # in its order: products of other orders round otherwise
