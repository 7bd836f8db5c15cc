"""All in which NumPy and CuPy differ, as far as the engine meets it.

Everywhere else a kernel receives its array module as ``xp`` and calls functions that both modules share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from . import cublas

Array = Any  # a numpy.ndarray, a cupy.ndarray, or whatever a registered backend calls an array


class Backend:
    """An array library, and the few things that it does in a way of its own. This one is NumPy."""

    name = "numpy"
    xp: ModuleType | Any = np
    array_type: type = np.ndarray
    cuda = False  # whether kernels can be generated, and graphs captured
    wraps = False  # whether an index that is out of range counts from the other end, instead of raising IndexError

    def __init__(self) -> None:
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Restart the generator that random masks are drawn from."""
        self._seed = seed
        self._generator: Any = None

    @property
    def generator(self) -> Any:
        """The generator, made when it is first wanted: ``numpy.random`` alone would double the time to import this."""
        if self._generator is None:
            self._generator = self.xp.random.default_rng(self._seed)
        return self._generator

    def random_state(self) -> Any:
        """What ``set_random_state`` needs for the generator to give once more what it gives from now on."""
        return self.generator.bit_generator.state

    def set_random_state(self, state: Any) -> None:
        """Continue from where ``random_state`` was read."""
        self.generator.bit_generator.state = state

    def apart(self) -> None:
        """Said where a part of a graph begins that is to be forgotten as one: a recording joins it with no other."""

    def uniform(self, shape: tuple[int, ...]) -> Array:
        """Draw float32 numbers from [0, 1) where this backend's arrays live."""
        return self.generator.random(shape, dtype=np.float32)

    def from_host(self, array: np.ndarray) -> Array:
        """Bring a NumPy array here."""
        return array

    def to_host(self, array: Array) -> np.ndarray:
        """Bring an array of this backend to NumPy; on a device this waits for the result."""
        return np.asarray(array)

    def checksum(self, array: Array) -> Any:
        """A number that changes with any bit of an array."""
        if hasattr(array, "dtype") and array.dtype.itemsize > 8:  # there are no integers as wide as a long double
            array = array.astype(np.float64)
        return array.view(f"u{array.dtype.itemsize}").sum(dtype=np.uint64) if hasattr(array, "dtype") else array

    def add_at(self, target: Array, index: Any, values: Array) -> None:
        """``target[index] += values`` in which repeated indices add up."""
        np.add.at(target, index, values)

    def add_rows(self, target: Array, rows: Array, values: Array) -> None:
        """``target[rows] += values`` for a 2-D target and integer rows, which may repeat."""
        if not rows.size:
            return
        if len(target) <= 2**8 and len(target) * len(rows) <= 2**14 and math.isfinite(np.vdot(values, values)):
            one_hot = np.zeros((len(target), len(rows)), values.dtype)
            one_hot[rows, np.arange(len(rows))] = 1
            target += one_hot.dot(values)  # NaN times 0 would be everyone's NaN
            return
        order = rows.astype(np.uint16 if len(target) <= 2**16 else np.int64).argsort(kind="stable")  # 16 bits: by radix
        rows, values = rows[order], values[order]
        starts = np.concatenate(([0], (rows[1:] != rows[:-1]).nonzero()[0] + 1))
        counts = np.diff(starts, append=len(rows))
        alone = starts[counts == 1]
        target[rows[alone]] += values[alone]
        several = counts > 1
        for start, count in zip(starts[several].tolist(), counts[several].tolist(), strict=True):
            target[rows[start]] += values[start : start + count].sum(axis=0)

    def row_dots(self, a: Array, b: Array) -> Array:
        """Sums of a times b along the last axis, which stays, of length 1; b may be one vector for all rows of a."""
        if a.size == a.shape[-1]:  # of a single row a scalar, with which all that follows is quicker
            return np.dot(a.reshape(-1), b.reshape(-1))
        return (a.dot(b) if b.ndim == 1 else np.vecdot(a, b))[..., None]

    def is_moderate(self, x: Array) -> bool:
        """Whether sums of e^x can neither overflow nor vanish, where the host can tell at little cost."""
        return x.size > 2**12 and max(x.max(), -x.min()) < math.log(np.finfo(x.dtype).max) / 2

    def exponentials(self, x: Array, axis: Any, out: Array = None) -> tuple[Array, Array | float]:
        """e^(x - top), of which sums along an axis neither overflow nor vanish, and the top: the maximum, or 0."""
        if self.is_moderate(x):
            return self.xp.exp(x, out=out), 0.0
        top = x.max(axis=axis, keepdims=True)
        return self.xp.exp(self.xp.subtract(x, top, out=out), out=out), top

    def mean(self, x: Array, axis: Any, keepdims: bool) -> Array:
        """The mean. NumPy's own method thinks longer than it takes to sum a small array up."""
        if x.dtype.kind != "f" or x.dtype.itemsize < 4:
            return x.mean(axis=axis, keepdims=keepdims)  # by way of a wider type
        total = x.sum(axis=axis, keepdims=keepdims)
        return total / (x.size // max(1, total.size))

    def row_sums(self, a: Array) -> Array:
        """Sums along the last axis, which stays, of length 1."""
        return a.dot(np.ones(a.shape[-1], a.dtype))[..., None]  # short rows are summed in a fifth of the time

    def norms(self, arrays: Sequence[Array]) -> Array:
        """L2 norms of arrays, (n,) in float64, also where squares would overflow or vanish."""
        # On the host a look at the squares is free, and nearly always they are well within range. (vdot does not warn.)
        squares = [float(np.vdot(x, x)) for x in arrays]
        if min(squares) > 1e-30 and max(squares) < 1e30:
            return np.array([math.sqrt(square) for square in squares])
        return self.scaled_norms(arrays)

    def scaled_norms(self, arrays: Sequence[Array]) -> Array:
        """The same without a look at any value: each array is divided by its largest element first."""
        xp = self.xp
        flat = [x.reshape(-1).astype(np.float64) if x.size else xp.zeros(1) for x in arrays]
        largest = _row(xp, [xp.abs(x).max() for x in flat])
        unit = xp.where((largest > 0) & (largest < np.inf), largest, 1.0)
        flat = [x / unit[k] for k, x in enumerate(flat)]
        return unit * xp.sqrt(_row(xp, [x.dot(x) for x in flat]))

    def scaled(self, x: Array, factor: Array, out: Array = None) -> Array:
        """x times a 0-d factor, in the dtype of x; on the host x itself if the factor is 1 and ``out`` nothing else."""
        number = float(factor)
        return x if number == 1.0 and (out is None or out is x) else np.multiply(x, number, out=out)

    def check_indices(self, indices: Array, size: int, what: str) -> None:
        """Raise IndexError unless all indices lie in [0, size). A device, which would stall, has the next one."""
        if indices.size and (indices.min() < 0 or indices.max() >= size):
            wrong = indices[(indices < 0) | (indices >= size)].flat[0]
            raise IndexError(f"{what} {wrong} is out of range: they run from 0 to {size - 1}")

    def mark_invalid(
        self, values: Array, indices: Array, size: int, lowest: int = 0, everywhere: bool = False
    ) -> Array:
        """Values looked up with indices. On a device, NaN where these are not in [lowest, size), or everywhere."""
        return values

    def synchronize(self) -> None:
        """Wait until all work that was handed to the device is done."""

    def forget(self, streams: Sequence[int]) -> None:
        """Give back what work on these streams, which are no more, has needed."""

    def memory_in_use(self) -> int | None:
        """Bytes that the library's allocator has handed out, or None where it does not count them."""
        return None

    def address(self, array: Array) -> int:
        """Where an array begins."""
        return int(array.__array_interface__["data"][0])

    def extent(self, array: Array) -> tuple[int, int]:
        """Address and bytes of the memory of which an array shows a part."""
        while getattr(array, "base", None) is not None:
            array = array.base
        return self.address(array), array.nbytes

    def view(self, memory: Array, offset: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...]) -> Array:
        """The array that begins so many bytes after ``memory`` does, in the same memory."""
        return np.ndarray(shape, dtype, memory, offset, strides)

    def pointwise(self, inputs: str, outputs: str, body: str, preamble: str) -> Callable[..., Any]:
        """A kernel that computes each element of its outputs by a body in C++."""
        raise NotImplementedError


class CupyBackend(Backend):
    """CuPy, on the current CUDA device, with cuBLAS called directly for products of matrices where it can be."""

    name = "cupy"
    cuda = True
    wraps = True
    load_cublas = staticmethod(cublas.load)

    def __init__(self, cupy: ModuleType) -> None:
        self.xp, self.array_type = cupy, cupy.ndarray
        self._kernels: dict[tuple[str, str, str], Callable[..., Any]] = {}
        self.cublas = self._cublas_or_reason()
        if isinstance(self.cublas, cublas.Cublas):
            self.xp = _replaced(cupy, dot=self.cublas.dot)
        super().__init__()

    def _cublas_or_reason(self) -> cublas.Cublas | str:
        """cuBLAS, if it gives what CuPy gives for a small product; else why CuPy's own products are used."""
        xp = self.xp
        try:
            found = cublas.Cublas(self.load_cublas(), xp)
            a, b = xp.arange(6, dtype=np.float32).reshape(2, 3), xp.arange(12, dtype=np.float32).reshape(4, 3).T
            out = xp.zeros((2, 4), dtype=np.float32)
            call = found.product(a, b, out)
            correct = call is not None and call() == 0 and bool((out == xp.dot(a, b)).all())
            return found if correct else "it computes wrong numbers"
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def random_state(self) -> int:
        # CuPy's generators keep their state to themselves: what can be repeated is a stream that begins here.
        if self._generator is not None:
            self.seed(int(self.generator.random((1,)).item() * 2**53))
        return self._seed

    def set_random_state(self, state: int) -> None:
        self.seed(state)

    def uniform(self, shape: tuple[int, ...]) -> Array:
        return self.generator.random(shape, dtype=np.float32)

    def from_host(self, array: np.ndarray) -> Array:
        return self.xp.asarray(array)

    def to_host(self, array: Array) -> np.ndarray:
        return self.xp.asnumpy(array)

    def add_at(self, target: Array, index: Any, values: Array) -> None:
        index = tuple(map(_widened, index)) if isinstance(index, tuple) else _widened(index)
        self.xp.add.at(target, index, values)

    def add_rows(self, target: Array, rows: Array, values: Array) -> None:
        self.add_at(target, rows, values)

    def row_dots(self, a: Array, b: Array) -> Array:
        return (a * b).sum(axis=-1, keepdims=True)

    def mean(self, x: Array, axis: Any, keepdims: bool) -> Array:
        return x.mean(axis=axis, keepdims=keepdims)

    def row_sums(self, a: Array) -> Array:
        return a.sum(axis=-1, keepdims=True)

    def is_moderate(self, x: Array) -> bool:
        return False

    def norms(self, arrays: Sequence[Array]) -> Array:
        if any(x.dtype == np.float64 for x in arrays):
            return self.scaled_norms(arrays)
        xp = self.xp  # squares of shorter numbers can neither overflow nor vanish in float64
        return xp.sqrt(_row(xp, [xp.multiply(x, x, dtype=np.float64).sum() for x in arrays]))

    def scaled(self, x: Array, factor: Array, out: Array = None) -> Array:
        return self.xp.multiply(x, factor.astype(x.dtype, copy=False), out=out)

    def check_indices(self, indices: Array, size: int, what: str) -> None:
        pass

    def mark_invalid(
        self, values: Array, indices: Array, size: int, lowest: int = 0, everywhere: bool = False
    ) -> Array:
        # CuPy wraps an index that is out of range: without a mark, the wrong row would pass for the right one.
        if values.dtype.kind != "f":
            return values
        indices = _widened(indices)
        valid = (indices >= lowest) & (indices < size)
        valid = valid.all() if everywhere else valid
        valid = valid.reshape(valid.shape + (1,) * (values.ndim - valid.ndim))
        return self.xp.where(valid, values, values.dtype.type(np.nan))

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def memory_in_use(self) -> int:
        return int(self.xp.get_default_memory_pool().used_bytes())

    def forget(self, streams: Sequence[int]) -> None:
        if isinstance(self.cublas, cublas.Cublas):
            self.cublas.forget(streams)

    def address(self, array: Array) -> int:
        return int(array.data.ptr)

    def extent(self, array: Array) -> tuple[int, int]:
        return int(array.data.mem.ptr), int(array.data.mem.size)

    def view(self, memory: Array, offset: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...]) -> Array:
        return self.xp.ndarray(shape, dtype, memory.data + offset, strides)

    def pointwise(self, inputs: str, outputs: str, body: str, preamble: str) -> Callable[..., Any]:
        text = inputs, outputs, body
        if text not in self._kernels:
            self._kernels[text] = self.xp.ElementwiseKernel(
                *text, name="pointwise", preamble=preamble, options=("-fmad=false",), no_return=True
            )
        return self._kernels[text]


def _replaced(module: Any, **functions: Any) -> ModuleType:
    """A module like this one, but for some functions."""
    copy = ModuleType(getattr(module, "__name__", "cupy"))
    copy.__dict__.update(vars(module) | functions)
    return copy


def _row(xp: Any, numbers: Sequence[Array]) -> Array:
    """0-d arrays as one vector: eight at a time, or CuPy copies a table from the host, which no CUDA graph can hold."""
    parts = [x.reshape(1) for x in numbers]
    while len(parts) > 1:
        parts = [xp.concatenate(parts[k : k + 8]) for k in range(0, len(parts), 8)]
    return parts[0]


def _widened(index: Any) -> Any:
    """An array of integers as int64: CuPy compares and wraps indices in their own type, which a length may overflow."""
    return index.astype(np.int64, copy=False) if getattr(index, "dtype", np.bool_) != np.bool_ else index
