"""Stand-ins for arrays while a step is recorded.

A ``Symbol`` holds its array in this run and its place in the program. Kernels never see one: an operation on symbols
runs on their arrays and adds a line. What a program cannot express, such as a branch on a value, is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import backend, ops
from ..backend import Array
from ..op import registry
from ..operators import Operators
from ..whereabouts import whereabouts
from .program import Value
from .refusal import MissingError, refuse, refused
from .views import VIEWS


def _shows_port(value: Value) -> bool:
    """Whether a value is a view of an array that existed before the step."""
    root = value
    while root.line is not None and root.line.function in VIEWS:
        root = root.line.reads[0]
    return root is not value and root.line is None


class Symbol(Operators):
    """An array in a step that is being recorded."""

    __slots__ = ("__weakref__", "array", "value")

    def __init__(self, array: Array, value: Value) -> None:
        self.array = array  # its array in this run
        self.value = value  # its place in the program

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)
    size = property(lambda self: self.array.size)
    nbytes = property(lambda self: self.array.nbytes)

    def __repr__(self) -> str:
        return f"Symbol({backend.signature(self.array)})"

    def __getattr__(self, name: str) -> Any:
        if callable(getattr(np.ndarray, name, None)) and not name.startswith("__"):
            refuse(f"calls {name} of an array, which is no operation", MissingError)
        raise MissingError(f"capture: while a step is recorded, arrays have no {name!r}{whereabouts()}")

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def copy(self) -> Symbol:
        """Another symbol for the present value."""
        return type(self)(self.array, self.value)

    __pos__ = __copy__ = copy

    def __deepcopy__(self, memo: Any) -> Symbol:
        return self.copy()

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        """In another dtype."""
        return (self.copy() if copy else self) if np.dtype(dtype) == self.dtype else ops.astype(self, dtype)

    def ravel(self) -> Any:
        """Flattened to one axis."""
        return self.reshape(-1)

    def cumsum(self, axis: int | None = None) -> Any:  # type: ignore[override]
        """As NumPy's, over all elements if no axis is given."""
        return ops.cumsum(self.ravel(), 0) if axis is None else ops.cumsum(self, axis)

    def dot(self, other: Any) -> Any:
        """Product of vectors or matrices."""
        return ops.matmul(self, other)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """NumPy calls this for a ufunc with a symbol among its operands: run the engine's operation of that name."""
        if kwargs.pop("out", None) is not None:
            refuse(f"writes into an array by numpy.{ufunc.__name__}")
        if method != "__call__" or kwargs or ufunc.__name__ not in registry:
            refuse(f"calls numpy.{ufunc.__name__} on an array, which the engine cannot see; use an operation of tg")
        return registry[ufunc.__name__].function(*inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """NumPy calls this for its other functions: some only call a method of the array."""
        try:
            return function._implementation(*args, **kwargs)
        except (TypeError, AttributeError):
            refuse(f"calls numpy.{function.__name__} on an array, which the engine cannot see; use an operation of tg")

    def become(self, result: Symbol) -> Symbol:
        """Stand for another value from now on, wherever this symbol is held: what ``x += y`` does to an array."""
        if result.shape != self.shape or _shows_port(self.value):
            refuse("writes into a part of an array")
        if backend.of(self).shows_elsewhere(self):  # type: ignore[attr-defined]
            refuse("writes into an array of which it holds a view, or another tensor: x.data = x.data - step does not")
        result = result.astype(self.dtype)
        self.array, self.value = result.array, result.value
        return self

    __bool__ = refused("asks whether an array is true")
    __float__ = __int__ = __index__ = refused("makes a Python number of an array")
    item = tolist = refused("reads an array's numbers")
    __array__ = refused("hands an array to NumPy")
    __setitem__ = fill = sort = refused("writes into an array")
    argsort = refused("sorts an array as NumPy does, in any order of equal elements")  # type: ignore[assignment]


class DeviceSymbol(Symbol):
    """A symbol for a device array, whose operators leave the work to the symbol's if ``__array_ufunc__`` is None."""

    __slots__ = ()
    __array_ufunc__ = None  # type: ignore[assignment]


def _in_place(function: Callable[..., Any]) -> Callable[..., Symbol]:
    return lambda self, other: self.become(function(self, other))


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    setattr(Symbol, f"__i{_name}__", _in_place(getattr(operator, f"__{_name}__")))
