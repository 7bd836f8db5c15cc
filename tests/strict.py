"""An array module that refuses what CuPy refuses, so that code for a GPU can be tested where there is none.

``xp`` stands in for ``cupy``, and ``StrictArray`` for ``cupy.ndarray``. Both have only names and parameters that CuPy
14 has, and fewer of them. What CuPy does in a way of its own is done in that way: a reduction returns a 0-d array, an
index that is out of range wraps round, ``einsum`` and ``min`` take no ``out``. Where CuPy copies a NumPy array to the
device unasked, as an index for one, this refuses. What makes the host wait is counted in ``tally.host_copies``, and
copies to the device in ``tally.uploads``. Memory is counted, and may be limited to ``tally.limit`` bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import columns
import generated
import numpy as np
from strict_array import StrictArray, Ufunc, call, numbers_of, operand, ufuncs, wrap
from strict_memory import tally, used_bytes

from tinygrad_rnn import backend
from tinygrad_rnn.backend import CupyBackend


class Add(Ufunc):
    """``cupy.add``, which has ``at``."""

    def at(self, a: StrictArray, indices: Any, b: Any) -> None:
        if numbers_of(a).dtype.name not in ("int32", "float16", "float32", "float64", "uint32", "uint64"):
            raise TypeError("scatter_add only supports int32, float16, float32, float64, uint32, uint64, as data type")
        for part in indices if isinstance(indices, tuple) else (indices,):
            if getattr(part, "dtype", None) in (np.int8, np.int16):  # CuPy wraps in this type, and writes elsewhere
                raise OverflowError("a negative index and the length of its axis may not fit together")
        self.ufunc.at(a._numbers, a._key(indices), operand(b))


class Generator:
    """What ``cupy.random.default_rng`` returns, with NumPy's numbers."""

    def __init__(self, seed: int | None = None) -> None:
        self._generator = np.random.default_rng(seed)

    def random(self, size: Any = None, dtype: Any = np.float64) -> StrictArray:
        return wrap(self._generator.random(size, dtype=dtype))


def _allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> StrictArray:
    return call(np.allclose, operand(a), operand(b), rtol, atol, equal_nan)


def _array_of(obj: Any, dtype: Any = None, copy: bool = True) -> StrictArray:
    tally.uploads += not isinstance(obj, StrictArray)
    return wrap(np.array(obj._numbers if isinstance(obj, StrictArray) else obj, dtype=dtype))


def _asarray(a: Any, dtype: Any = None) -> StrictArray:
    return a if isinstance(a, StrictArray) and dtype in (None, a.dtype) else _array_of(a, dtype)


def _concatenate(tup: Any, axis: int = 0, out: StrictArray | None = None) -> StrictArray:
    if not all(isinstance(x, StrictArray) for x in tup):
        raise TypeError("Only cupy arrays can be concatenated")
    return call(np.concatenate, [x._numbers for x in tup], axis, out=out)


def _einsum(subscripts: str, *operands: Any, optimize: Any = False, **unknown: Any) -> StrictArray:
    if unknown:
        raise TypeError(f"Did not understand the following kwargs: {list(unknown)}")
    return call(np.einsum, subscripts, *map(numbers_of, operands), optimize=optimize)


def _empty(shape: Any, dtype: Any = float) -> StrictArray:
    array = np.empty(shape, dtype)
    if array.nbytes < 2**24:  # else it is the workspace of a product, which would take long
        array.fill(np.nan if array.dtype.kind == "f" else 1)  # poison
    return wrap(array)


def _expand_dims(a: StrictArray, axis: Any) -> StrictArray:
    return wrap(np.expand_dims(numbers_of(a), axis))


def _stack(tup: Any, axis: int = 0, out: StrictArray | None = None) -> StrictArray:
    return _concatenate([_expand_dims(x, axis) for x in tup], axis, out)


def _take_along_axis(a: StrictArray, indices: StrictArray, axis: int) -> StrictArray:
    if numbers_of(indices).dtype.kind not in "iu":
        raise IndexError("`indices` must be an integer array")
    wrapped = indices._numbers.astype(np.int64) % max(1, numbers_of(a).shape[axis])
    return wrap(np.take_along_axis(a._numbers, wrapped, axis))


def _where(condition: Any, x: Any, y: Any) -> StrictArray:
    return call(np.where, operand(condition.astype("?")), operand(x), operand(y))


xp = SimpleNamespace(
    ndarray=StrictArray,
    **ufuncs | {"abs": Ufunc("absolute"), "add": Add("add")},
    allclose=_allclose,
    arange=lambda *args, dtype=None: wrap(np.arange(*args, dtype=dtype)),
    array=_array_of,
    asarray=_asarray,
    ascontiguousarray=lambda a, dtype=None: wrap(np.ascontiguousarray(numbers_of(a), dtype)),
    asnumpy=lambda a: a.get(),
    broadcast_to=lambda array, shape: wrap(np.broadcast_to(numbers_of(array), shape)),
    argsort=lambda a, axis=-1, kind=None: wrap(np.argsort(numbers_of(a), axis, kind=kind)),
    clip=lambda a, a_min, a_max, out=None: a.clip(a_min, a_max, out=out),
    concatenate=_concatenate,
    cuda=SimpleNamespace(
        get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None, ptr=7),
        runtime=SimpleNamespace(getDevice=lambda: 0),
    ),
    cumsum=lambda a, axis=None, dtype=None, out=None: a.cumsum(axis, dtype, out),
    dot=lambda a, b, out=None: StrictArray.dot(a, b, out),
    einsum=_einsum,
    ElementwiseKernel=generated.ElementwiseKernel,
    empty=_empty,
    expand_dims=_expand_dims,
    flip=lambda a, axis=None: wrap(np.flip(numbers_of(a), axis)),
    full=lambda shape, fill_value, dtype=None: wrap(np.full(shape, operand(fill_value), dtype)),
    full_like=lambda a, fill_value, dtype=None: wrap(np.full_like(numbers_of(a), operand(fill_value), dtype)),
    get_default_memory_pool=lambda: SimpleNamespace(used_bytes=used_bytes),
    lib=SimpleNamespace(
        stride_tricks=SimpleNamespace(
            as_strided=lambda x, shape=None, strides=None: wrap(
                np.lib.stride_tricks.as_strided(numbers_of(x), shape, strides)
            )
        )
    ),
    moveaxis=lambda a, source, destination: wrap(np.moveaxis(numbers_of(a), source, destination)),
    ones=lambda shape, dtype=float: wrap(np.ones(shape, dtype)),
    ones_like=lambda a, dtype=None: wrap(np.ones_like(numbers_of(a), dtype)),
    random=SimpleNamespace(default_rng=Generator),
    round=lambda a, decimals=0, out=None: call(np.round, numbers_of(a), decimals, out=out),
    squeeze=lambda a, axis=None: a.squeeze(axis),
    stack=_stack,
    take_along_axis=_take_along_axis,
    where=_where,
    zeros=lambda shape, dtype=float: wrap(np.zeros(shape, dtype)),
    zeros_like=lambda a, dtype=None: wrap(np.zeros_like(numbers_of(a), dtype)),
)


class StrictBackend(CupyBackend):
    """What the engine does on CuPy, done to strict arrays."""

    name = "strict"
    load_cublas = staticmethod(columns.library)


@contextmanager
def registered(module: Any = xp) -> Iterator[CupyBackend]:
    """Makes the backend "strict" known while the block runs."""
    with patch.dict(backend._backends), patch.dict(backend._by_type), patch.dict(backend.modules):
        yield backend.register(StrictBackend(module))
