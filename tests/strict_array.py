"""What ``cupy.ndarray`` is to CuPy: an array that refuses what CuPy's refuses, with its ufuncs and operators."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
from strict_memory import Memory, Pointer, owner_of, root, tally


def _method(name: str, *parameters: str) -> Callable[..., StrictArray]:
    """A method of NumPy's array, with just these parameters."""

    def method(self: StrictArray, *args: Any, **kwargs: Any) -> StrictArray:
        given = dict(zip(parameters, args, strict=False)) | kwargs
        if len(args) > len(parameters) or not given.keys() <= set(parameters):
            raise TypeError(f"{name}() takes only {', '.join(parameters)}")
        if not self.ndim and given.get("axis") not in (None, ()):
            raise np.exceptions.AxisError(f"{name}: an array of no axes has none to name, though NumPy allows 0 and -1")
        return call(getattr(self._numbers, name), **given)

    method.parameters = parameters
    return method


def _attribute(name: str) -> property:
    return property(attrgetter(f"_numbers.{name}"))


def _binary(name: str) -> Any:
    """x + y, y + x and x += y."""

    def forward(self: StrictArray, other: Any) -> Any:
        if getattr(type(other), "__array_ufunc__", other) is None:  # such as a Tensor, which then takes over
            return NotImplemented
        return ufuncs[name](self, other)

    def reflected(self: StrictArray, other: Any) -> Any:
        return ufuncs[name](other, self)

    def in_place(self: StrictArray, other: Any) -> Any:
        return ufuncs[name](self, other, out=self)

    return forward, reflected, in_place


_SHORT = {(int, 2): "square", (float, 2.0): "square", (float, 0.5): "sqrt", (float, -1.0): "reciprocal"}


def _power(self: StrictArray, other: Any) -> Any:
    """x ** y, for which CuPy calls something quicker if y is one of a few Python numbers. ``power`` itself does not."""
    if type(other) in (int, float) and (short := _SHORT.get((type(other), other))):
        floats = type(other) is int or self.dtype.kind == "f"
        return ufuncs[short](self if floats else self.astype(float))
    return _binary("power")[0](self, other)


class StrictArray:
    """An array whose numbers are out of NumPy's reach."""

    __slots__ = ("__weakref__", "_numbers", "base")
    __hash__ = None

    def __init__(self, shape: Any, dtype: Any = float, memptr: Pointer | None = None, strides: Any = None) -> None:
        if isinstance(shape, np.ndarray):  # the numbers themselves, which CuPy would not take
            self._numbers = shape
        else:
            memory, offset = (None, 0) if memptr is None else (memptr.mem.bytes, memptr.ptr - memptr.mem.ptr)
            self._numbers = np.ndarray(shape, dtype, memory, offset, strides)
        self.base = owner_of(self, self._numbers)

    def __repr__(self) -> str:
        return f"StrictArray({self._numbers!r})"

    # ---- NumPy is kept out ----

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        known = ufunc.__name__ in ufuncs and len(inputs) == 2
        if known and not all(isinstance(x, StrictArray) for x in inputs):
            left, right = inputs  # of an operator, with a NumPy scalar left: if it compares, NumPy makes that 0-d
            left = left.item() if isinstance(left, np.ndarray) and not left.ndim else left
            return ufuncs[ufunc.__name__](left, right, **kwargs)
        raise TypeError(f"numpy.{ufunc.__name__} was called with an array of the device")

    def __array_function__(self, function: Callable[..., Any], *_: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called with an array of the device")

    # ---- the host waits ----

    def get(self) -> np.ndarray:
        tally.host_copies += 1
        return self._numbers.copy()

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    # ---- indexing ----

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> StrictArray:
        return wrap(self._numbers[self._key(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._numbers[self._key(key)] = operand(value)

    def _key(self, key: Any) -> tuple[Any, ...]:
        """An index for NumPy, in which integers that are out of range are wrapped round."""
        parts = [_index(part) for part in (key if isinstance(key, tuple) else (key,))]
        if not [part for part in parts if part is Ellipsis]:
            parts.append(Ellipsis)  # then NumPy, too, gives a 0-d view, and no scalar
        widths = [_axes_taken(part) for part in parts]
        axis, shape = 0, self.shape
        for i, (part, width) in enumerate(zip(parts, widths, strict=True)):
            if isinstance(part, bool) or getattr(part, "dtype", None) == np.bool_:
                wrap(part).get()  # the host must know how many elements are picked
            elif isinstance(part, np.ndarray) and shape[axis]:
                parts[i] = part.astype(np.int64) % shape[axis]
            axis += len(shape) - sum(widths) if part is Ellipsis else width
        return tuple(parts)

    # ---- operators and methods, with the parameters that CuPy's have ----

    __add__, __radd__, __iadd__ = _binary("add")
    __sub__, __rsub__, __isub__ = _binary("subtract")
    __mul__, __rmul__, __imul__ = _binary("multiply")
    __truediv__, __rtruediv__, __itruediv__ = _binary("divide")
    __floordiv__, __rfloordiv__, __ifloordiv__ = _binary("floor_divide")
    __mod__, __rmod__, __imod__ = _binary("remainder")
    __pow__, __rpow__, __ipow__ = _power, *_binary("power")[1:]
    __and__, __rand__, __iand__ = _binary("bitwise_and")
    __or__, __ror__, __ior__ = _binary("bitwise_or")
    __xor__, __rxor__, __ixor__ = _binary("bitwise_xor")
    __matmul__, __rmatmul__ = _binary("matmul")[:2]  # CuPy has no @=
    __lt__, __gt__ = _binary("less")[0], _binary("greater")[0]
    __le__, __ge__ = _binary("less_equal")[0], _binary("greater_equal")[0]
    __eq__, __ne__ = _binary("equal")[0], _binary("not_equal")[0]

    def __neg__(self) -> StrictArray:
        return ufuncs["negative"](self)

    def __abs__(self) -> StrictArray:
        return ufuncs["absolute"](self)

    def __invert__(self) -> StrictArray:
        return ufuncs["invert"](self)

    shape, dtype, ndim, size = map(_attribute, ("shape", "dtype", "ndim", "size"))
    itemsize, nbytes, strides, flags = map(_attribute, ("itemsize", "nbytes", "strides", "flags"))
    data = property(lambda self: Pointer(Memory(root(self._numbers)), self._numbers.ctypes.data))
    T = property(lambda self: wrap(self._numbers.T))
    mT = property(lambda self: wrap(self._numbers.mT))

    all = _method("all", "axis", "out", "keepdims")
    any = _method("any", "axis", "out", "keepdims")
    argmax = _method("argmax", "axis", "out", "keepdims")
    argmin = _method("argmin", "axis", "out", "keepdims")
    clip = _method("clip", "min", "max", "out")
    cumsum = _method("cumsum", "axis", "dtype", "out")
    max = _method("max", "axis", "out", "keepdims")
    mean = _method("mean", "axis", "dtype", "out", "keepdims")
    min = _method("min", "axis", "keepdims")  # CuPy's fails when it is given out (cupy#9032)
    prod = _method("prod", "axis", "dtype", "out", "keepdims")
    squeeze = _method("squeeze", "axis")
    std = _method("std", "axis", "dtype", "out", "ddof", "keepdims")
    sum = _method("sum", "axis", "dtype", "out", "keepdims")
    var = _method("var", "axis", "dtype", "out", "ddof", "keepdims")

    def reshape(self, *shape: Any) -> StrictArray:
        return wrap(self._numbers.reshape(*shape))

    def transpose(self, *axes: Any) -> StrictArray:
        return wrap(self._numbers.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> StrictArray:
        return wrap(self._numbers.swapaxes(axis1, axis2))

    def astype(self, dtype: Any, copy: bool = True) -> StrictArray:
        return wrap(self._numbers.astype(dtype, copy=copy))

    def take(self, indices: StrictArray, axis: int) -> StrictArray:
        return wrap(self._numbers.take(indices._numbers, axis, mode="wrap"))

    def view(self, dtype: Any) -> StrictArray:
        return wrap(self._numbers.view(dtype))

    def copy(self, order: Any = "C") -> StrictArray:
        return wrap(self._numbers.copy(order))

    def ravel(self, order: Any = "C") -> StrictArray:
        return wrap(self._numbers.ravel(order))

    def fill(self, value: Any) -> None:
        self._numbers.fill(operand(value))

    def dot(self, b: StrictArray, out: StrictArray | None = None) -> StrictArray:
        if out is not None and np.result_type(numbers_of(self), numbers_of(b)) != out.dtype:
            raise ValueError("Not supported dtype combination.")
        if out is not None and not out.flags.c_contiguous:
            raise ValueError("Output array must be C-contiguous")
        return call(np.dot, numbers_of(self), numbers_of(b), out=out)


def wrap(numbers: Any) -> StrictArray:
    """NumPy's result; of a scalar, a 0-d array."""
    return StrictArray(np.asarray(numbers))


def numbers_of(x: Any) -> np.ndarray:
    """The numbers of what must be an array of the device."""
    if not isinstance(x, StrictArray):
        raise TypeError(f"Argument has incorrect type (expected StrictArray, got {type(x)})")
    return x._numbers


def operand(x: Any) -> Any:
    """The numbers of an array of the device, or a scalar."""
    if isinstance(x, StrictArray):
        return x._numbers
    if isinstance(x, (bool, int, float, np.generic)):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def _index(part: Any) -> Any:
    """One part of an index, for NumPy."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    return operand(part)  # no list, which CuPy would copy to the device each time


def _axes_taken(part: Any) -> int:
    """How many axes a part of an index picks from."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    return part.ndim if getattr(part, "dtype", None) == np.bool_ else 1


@np.errstate(all="ignore")
def call(function: Callable[..., Any], *args: Any, out: StrictArray | None = None, **kwargs: Any) -> StrictArray:
    """A function of NumPy, as silent about overflow as a GPU, which writes to ``out`` if there is one."""
    if out is None:
        return wrap(function(*args, **kwargs))
    function(*args, out=numbers_of(out), **kwargs)
    return out


class Ufunc:
    """A universal function: arrays and scalars broadcast; an int must fit the dtype of the integers that it meets."""

    def __init__(self, name: str) -> None:
        self.ufunc = getattr(np, name)

    def __call__(self, *inputs: Any, out: StrictArray | None = None, dtype: Any = None) -> StrictArray:
        operands = [operand(x) for x in inputs]
        for number in [x for x in operands if type(x) is int]:
            for array in [x for x in operands if isinstance(x, np.ndarray) and x.dtype.kind in "iu"]:
                np.array(number, dtype=array.dtype)  # OverflowError, which NumPy spares comparisons
        return call(self.ufunc, *operands, out=out, dtype=dtype)


class Power(Ufunc):
    """One without NumPy's short ways: the exponent is there for each element."""

    def __call__(self, *inputs: Any, out: StrictArray | None = None, dtype: Any = None) -> StrictArray:
        a, b = inputs
        if not isinstance(b, StrictArray):
            b = wrap(np.full(operand(a).shape, b, np.result_type(operand(a), b)))
        return super().__call__(a, b, out=out, dtype=dtype)


_UFUNCS = """
    absolute add bitwise_and bitwise_or bitwise_xor ceil cos divide equal exp expm1 floor floor_divide greater
    greater_equal hypot invert isfinite isinf isnan less less_equal log log1p log2 logaddexp logical_and logical_not
    logical_or matmul maximum minimum multiply negative not_equal power reciprocal remainder rint sign sin sqrt
    square subtract tan tanh
"""
ufuncs = {name: Ufunc(name) for name in _UFUNCS.split()} | {"power": Power("power")}
