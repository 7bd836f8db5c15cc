"""The arguments and the output of a recorded step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..tape import CaptureError, Node, Taped
from ..tensor import Tensor
from ..tree import rebuild, tree_leaves, tree_map
from .iterators import closed
from .program import Value, key_of
from .recorder import Recorder, bare
from .scalar import Scalar
from .symbol import Symbol

_BY_VALUE = (int, float, complex, str, bytes, type, type(None), np.generic, np.dtype, range, slice)


def signature_of(tree: Any, arrays: dict[int, tuple[int, Array]], floats: list[float]) -> Any:
    """A signature that tells calls apart: structure, shapes, dtypes, plain values, and which tensors are the same.

    Adds the arrays and floats that it finds, in the order of ``Arguments``; arrays numbered, by the id of their holder.
    """
    if isinstance(tree, Tensor):
        number, array = arrays.setdefault(id(tree), (len(arrays), tree.array))
        return "tensor", array.shape, array.dtype, tree.node is None, number
    if isinstance(tree, (tuple, list)):
        return type(tree), *[signature_of(child, arrays, floats) for child in tree]
    if isinstance(tree, dict):
        return type(tree), *[(key, signature_of(child, arrays, floats)) for key, child in tree.items()]
    plain = backend.plain(tree)
    if backend.is_array(plain):
        number, array = arrays.setdefault(id(tree), (len(arrays), plain))
        return "array", array.shape, array.dtype, number
    if type(tree) is float:
        floats.append(tree)
        return float
    if isinstance(tree, (set, frozenset)):
        return type(tree), frozenset(map(key_of, tree))
    return key_of(tree) if isinstance(tree, _BY_VALUE) else (type(tree), id(tree))  # the recording keeps it alive


class Arguments:
    """The arguments of a call, with Symbols in place of arrays and Scalars in place of floats."""

    def __init__(self, recorder: Recorder, args: Any, kwargs: Any, floats_change: bool) -> None:
        self.inputs: list[tuple[Symbol, Value]] = []
        self.floats: list[float] = []
        self._recorder, self._floats_change = recorder, floats_change
        self._given: list[tuple[Any, list[Any]]] = []  # objects that a step could change, with their parts
        self._made: dict[int, Any] = {}  # what takes the place of a tensor or an array, which may be given twice, by id
        self.args, self.kwargs = self._noted((args, kwargs))

    def _noted(self, tree: Any) -> Any:
        if id(tree) in self._made:
            return self._made[id(tree)]
        made = self._replaced(tree)
        if isinstance(made, (list, dict, Tensor)):
            self._given.append((made, _parts(made)))
        if isinstance(made, (Symbol, Tensor)):
            self._made[id(tree)] = made
        return made

    def _replaced(self, tree: Any) -> Any:
        if isinstance(tree, (tuple, list, dict)):
            return rebuild(tree, list(map(self._noted, tree.values() if isinstance(tree, dict) else tree)))
        if isinstance(tree, Tensor):
            if tree.node is not None:
                what = "has a history" if isinstance(tree.node, Node) else "requires a gradient"
                raise CaptureError(f"capture: the argument {tree!r} {what}; give the step x.detach()")
            return Tensor.wrap(self._replaced(tree.array))
        if type(tree) is float and self._floats_change:
            number, floats = len(self.floats), self.floats
            floats.append(tree)
            return Scalar(tree, lambda: floats[number])
        tree = backend.plain(tree)
        if backend.is_array(tree):
            symbol = self._recorder.port(tree, f"argument_{len(self.inputs)}")
            self.inputs.append((symbol, symbol.value))
            return symbol
        return closed(tree, "an argument")

    def close(self) -> None:
        """Release the arguments; raise if the step has changed one, which a replay would not repeat."""
        del self.args, self.kwargs
        given, self._given, self._made = self._given, [], {}
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
    """The parts of an argument that a step could change."""
    if isinstance(x, Tensor):
        return [x.array, x.grad]
    return [*x, *x.values()] if isinstance(x, dict) else list(x)


def _is_report(x: Any) -> bool:
    """Whether x is a report on ``x.tensors``, such as clipping's; ``x.of(tensors)`` makes one on others."""
    return hasattr(x, "tensors") and hasattr(x, "of")


def in_output(function: Callable[[Any], Any], output: Any) -> Any:
    """A step's output with a function applied to each leaf; reports are made anew."""
    return tree_map(lambda x: x.of(map(function, x.tensors)) if _is_report(x) else function(x), output)


def leaves(output: Any) -> list[Any]:
    """The leaves of a step's output; a report counts as its tensors."""
    return [leaf for x in tree_leaves(output) for leaf in (x.tensors if _is_report(x) else [x])]


def check_output(output: Any) -> None:
    """Raise if the output holds something that a replay could not make anew."""
    for x in leaves(output):
        if not isinstance(x, (Taped, Symbol, Scalar, np.generic, str, int, float)) and not backend.is_array(x):
            raise CaptureError(
                f"capture: the step returns a {type(x).__name__}, which would stay that of the recording; "
                "return tensors, in tuples, lists or dictionaries"
            )


def apart(x: Any) -> Any:
    """A separate tensor for the symbol of x, as the step may later put another array into x."""
    return Taped.wrap(x.array) if isinstance(x, Tensor) and isinstance(x.array, Symbol) else x


def without_symbols(x: Any) -> Any:
    """A copy, without history, of a leaf of the output: a replay may overwrite the original."""
    if isinstance(x, Taped):
        return Tensor.wrap(copied(x.array))
    return copied(x) if isinstance(x, Symbol) or backend.is_array(x) else bare(x)


def copied(x: Any) -> Any:
    """A copy of an array, or of a symbol's array in this run."""
    return bare(x).copy("K")  # in the same memory order, which affects how products round
