"""Functions that create tensors without given data."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import backend as backends
from .backend import Array, DTypeLike
from .operators import one_tuple
from .tape import bare_array
from .tensor import Tensor, as_tensor


def zeros(*shape: Any, dtype: DTypeLike = None, backend: str | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros, float32 by default; the shape is given as numbers or as a tuple.

    >>> zeros(2, 3)
    Tensor(f32[2,3] numpy)
    """
    return full(one_tuple(shape), 0, dtype, backend, requires_grad)


def ones(*shape: Any, dtype: DTypeLike = None, backend: str | None = None, requires_grad: bool = False) -> Tensor:
    """Ones, float32 by default; the shape is given as numbers or as a tuple."""
    return full(one_tuple(shape), 1, dtype, backend, requires_grad)


def full(
    shape: Any, fill_value: float, dtype: DTypeLike = None, backend: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor filled with one value, float32 by default."""
    backends.refuse_complex(fill_value)
    return _placed(np.full(shape, fill_value, dtype or np.float32), dtype, backend, requires_grad)


def zeros_like(x: Any, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """Zeros with x's shape and backend, and by default its dtype."""
    return full_like(x, 0, dtype, requires_grad)


def ones_like(x: Any, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """Ones with x's shape and backend, and by default its dtype."""
    return full_like(x, 1, dtype, requires_grad)


def full_like(x: Any, fill_value: float, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """A tensor filled with one value, with x's shape and backend, and by default its dtype."""
    backends.refuse_complex(fill_value)
    array = as_tensor(x).array
    return _made(backends.of(array).xp.full_like(array, fill_value, dtype=dtype), requires_grad)


def zeros_beside(x: Any, shape: tuple[int, ...]) -> Tensor:
    """Zeros of another shape, with x's dtype and backend."""
    array = bare_array(x)
    return Tensor.wrap(backends.of(array).xp.zeros(shape, dtype=array.dtype))


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    dtype: DTypeLike = None,
    backend: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from start up to but excluding stop; integers if all arguments are, else float32.

    >>> arange(3).numpy()
    array([0, 1, 2])
    """
    start, stop = (0, start) if stop is None else (start, stop)
    numbers = np.arange(start, stop, step)
    dtype = dtype or (np.float32 if numbers.dtype.kind == "f" else numbers.dtype)
    return _placed(numbers, dtype, backend, requires_grad)


def linspace(
    start: float,
    stop: float,
    num: int,
    dtype: DTypeLike = None,
    backend: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """``num`` evenly spaced numbers from start to stop, both included; float32 by default.

    >>> linspace(0, 1, 5).numpy()
    array([0.  , 0.25, 0.5 , 0.75, 1.  ], dtype=float32)
    """
    return _placed(np.linspace(start, stop, num, dtype=dtype or np.float32), dtype, backend, requires_grad)


def eye(
    n: int, m: int | None = None, dtype: DTypeLike = None, backend: str | None = None, requires_grad: bool = False
) -> Tensor:
    """The identity matrix, float32 by default."""
    return _placed(np.eye(n, m), dtype, backend, requires_grad)


def randn(*shape: Any, dtype: DTypeLike = None, backend: str | None = None, requires_grad: bool = False) -> Tensor:
    """Standard normal numbers, drawn on the host for every backend."""
    return _drawn("standard_normal", one_tuple(shape), dtype, backend, requires_grad)


def rand(*shape: Any, dtype: DTypeLike = None, backend: str | None = None, requires_grad: bool = False) -> Tensor:
    """Uniform numbers from [0, 1), drawn on the host for every backend."""
    return _drawn("random", one_tuple(shape), dtype, backend, requires_grad)


def _drawn(method: str, shape: Any, dtype: DTypeLike, backend: str | None, requires_grad: bool) -> Tensor:
    dtype = np.dtype(dtype or np.float32)
    if dtype.kind != "f":
        raise TypeError(f"randn, rand: numbers are drawn in floating point, not {dtype}; convert them afterwards")
    return _made(backends.chosen(backend).numbers(method, shape, dtype), requires_grad)


def _placed(numbers: np.ndarray, dtype: DTypeLike, backend: str | None, requires_grad: bool) -> Tensor:
    """A Tensor from new host numbers; by default float32 and on the default backend."""
    numbers = numbers.astype(dtype or np.float32, copy=False)
    return _made(backends.chosen(backend).from_host(numbers), requires_grad)


def _made(array: Array, requires_grad: bool) -> Tensor:
    """A Tensor of an array that nothing else references."""
    backends.refuse_unreal("tensor", array.dtype)
    made = Tensor.wrap(array)
    made.requires_grad = requires_grad
    return made
