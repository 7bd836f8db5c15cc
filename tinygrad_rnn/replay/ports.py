"""Where a program meets the world outside: arrays that it reads and writes, and gradients that it leaves."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

from .. import writes
from ..backend import Array
from ..tape import Leaf
from ..tensor import Tensor
from .places import Place
from .symbol import Symbol


class Port:
    """A place outside the program that it reads, writes, or both."""

    def __init__(self, place: Place, symbol: Symbol, later: Place) -> None:
        self.place = place
        self.later = later  # the place in replays: by then a leaf may hold another gradient
        self.value, self.array = symbol.value, symbol.array  # what it holds before
        self.after: Any = symbol.copy()  # what the step left there
        place.put(symbol)

    @property
    def updated(self) -> bool:
        """Whether the step put another array there, or wrote into the old one."""
        return not isinstance(self.after, Symbol) or self.after.value is not self.value


class Gradient(NamedTuple):
    """The gradient that a step left on a leaf."""

    leaf: Leaf
    tensor: Tensor | None
    array: Any  # the tensor's array, where each replay puts the gradient
    source: Any  # the symbol that the tensor held


def is_like(x: Any, array: Array) -> bool:
    """Whether x, an array or a symbol, has the dtype and shape of an array."""
    return bool((x.dtype, x.shape) == (array.dtype, array.shape))


_buffers: dict[int, Any] = {}  # arrays that belong to captured steps, by id; weak references


def committed(old: Array, new: Array, alone: bool) -> Array:
    """The array of a parameter after a recording: the old one, if captured steps share it and no other port does."""
    known = _buffers.get(id(old))
    if alone and known is not None and known() is old and is_like(new, old):
        old[...] = new
        writes.wrote(old)
        return old
    _buffers[id(new)] = weakref.ref(new)
    return new
