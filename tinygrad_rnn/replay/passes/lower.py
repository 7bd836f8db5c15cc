"""Lowers kernels to the array module's own functions, which take ``out``, and can be moved and joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ... import ops
from ...backend import Array
from ...formula import ArrayOperators, dtypes_of
from ..program import Line, Program, Value, key_of
from ..views import reshape


class _Traced(ArrayOperators):
    """Stands in for an array inside a kernel. It notes the NumPy functions called on it, and supports little else."""

    def __init__(self, lowering: _Lowering, array: Array, value: Value, is_input: bool = False) -> None:
        self._lowering = lowering
        self._array = array
        self._value = value
        self._family = [self]  # aliases: an array and its views
        self._is_input, self._stale = is_input, False
        self.shape, self.dtype, self.ndim, self.size = array.shape, array.dtype, array.ndim, array.size

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs or ufunc.nout != 1:
            return self._unknown()
        if ufunc is np.matmul and all(x.ndim == 2 for x in inputs):
            return self._lowering.note("dot", np.dot, inputs)
        if ufunc.signature is not None:  # not elementwise
            return self._unknown()
        result = self._lowering.note("ufunc", ufunc, inputs)
        return result if out is None else out[0]._become(result)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.dot and all(x.ndim == 2 for x in args):
            return self._lowering.note("dot", np.dot, args)
        return self._unknown()

    def _unknown(self) -> Any:
        """Let the kernel stay whole, even if it catches the error."""
        self._lowering.whole = True
        return NotImplemented

    def _become(self, result: _Traced) -> Any:
        """Become a result that is written in place, in the same dtype. Aliases change too, and must not be used."""
        others = [x for x in self._family if x is not self]
        if any(x._is_input for x in others) or (self.shape, self.dtype) != (result.shape, result.dtype):
            return self._unknown()
        for x in others:
            x._stale = True
        self._value = result._value
        return self

    def _view(self, function: Callable[..., Any], **attributes: Any) -> _Traced:
        view = self._lowering.note("op", function, (self,), **attributes)
        view._family = self._family
        self._family.append(view)
        return view

    @property
    def T(self) -> Any:
        return self._view(ops.transpose.op.kernel)

    def reshape(self, *shape: Any) -> Any:
        return self._view(reshape, shape=shape if len(shape) > 1 else shape[0])

    __class__ = property(lambda self: np.ndarray)  # type: ignore[assignment]  # for isinstance

    def __getattr__(self, name: str) -> Any:
        self._lowering.whole = True
        raise AttributeError(name)

    def __bool__(self) -> bool:
        self._lowering.whole = True
        raise TypeError("a kernel that depends on values stays whole")


class _Lowering:
    """The lines that one kernel is lowered to."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.lines: list[Line] = []
        self.whole = False  # whether the kernel did what a _Traced cannot follow

    def trace(self, x: Any) -> Any:
        """The stand-in for an input of the kernel. Only shape and dtype count, so all elements are 0."""
        return _Traced(self, _zeros(x.shape, x.dtype), x, is_input=True) if isinstance(x, Value) else x

    def note(self, kind: str, function: Callable[..., Any], inputs: tuple[Any, ...], **attributes: Any) -> _Traced:
        """Note a call, and make a stand-in for its result."""
        if any(type(x) is _Traced and x._stale for x in inputs):
            raise TypeError("a kernel that uses what it has overwritten stays whole")
        arrays: list[Any] = [x._array if type(x) is _Traced else x for x in inputs]
        if kind == "op":
            array = function(np, *arrays, **attributes)
        elif kind == "dot":
            array = _zeros((arrays[0].shape[0], arrays[1].shape[1]), np.result_type(*arrays))
        else:
            array = _zeros(np.broadcast_shapes(*map(np.shape, arrays)), dtypes_of(function, arrays)[-1])
        values = tuple(x._value if type(x) is _Traced else x for x in inputs)
        result = Value(array.shape, array.dtype)
        line = Line(kind, function.__name__, function, values, attributes, result, like=self.line)
        self.lines.append(line)
        return _Traced(self, array, line.result)


def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def lower(program: Program) -> None:
    """Replace each kernel that only calls functions of the array module by these calls; other kernels stay.

    A kernel that returns its input, such as that of ``clip_message``, disappears.
    """
    lines: list[Line] = []
    known: dict[Any, tuple[list[Any], list[Line], Value] | None] = {}  # lowered kernels, by kind of inputs
    new: dict[Value, Value] = {}  # inputs to read in place of the results of kernels that disappear
    for line in program.lines:
        line.replace(new)
        if line.kind != "op" or Value in map(type, line.attributes.values()):
            lines.append(line)
            continue
        shapes = [(x.shape, x.dtype) if type(x) is Value else key_of(x) for x in line.inputs]
        key = line.function, key_of(line.attributes), *shapes
        if key not in known:
            known[key] = _lowered(line)
        template = known[key]
        if template is None:
            lines.append(line)
            continue
        given, made, last = template
        here = {stand_in: x for stand_in, x in zip(given, line.inputs, strict=True) if type(stand_in) is Value}
        for part in made:
            result = line.result if part.result is last else Value(part.result.shape, part.result.dtype)
            inputs = tuple([here.get(x, x) if type(x) is Value else x for x in part.inputs])
            lines.append(part.again(inputs, result, like=line))
            here[part.result] = result
        if not made:
            new[line.result] = here[last]
            line.let_go()
    program.lines = lines
    program.end.replace(new)


def _lowered(line: Line) -> tuple[list[Any], list[Line], Value] | None:
    """Stand-ins for a kernel's inputs, the lines that it is lowered to, and its result; None if it has to stay."""
    lowering = _Lowering(line)
    given = [Value(x.shape, x.dtype) if isinstance(x, Value) else x for x in line.inputs]
    try:
        result = line.function(np, *map(lowering.trace, given), **line.attributes)
    except Exception:  # it does more than a _Traced can follow
        return None
    if lowering.whole or type(result) is not _Traced or result._stale or result.shape != line.result.shape:
        return None
    made = Program(lowering.lines, [result._value])
    made.drop_dead()
    return (given, made.lines, result._value) if result.dtype == line.result.dtype else None
