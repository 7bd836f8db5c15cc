"""NumPy's side of everything in which NumPy and CuPy differ for the engine; for CuPy see ``cupy_backend.py``.

Everywhere else, a kernel receives its array module as ``xp`` and calls functions that both modules share.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from .formula import Pointwise

Array = Any  # a numpy.ndarray, a cupy.ndarray, or whatever a registered backend calls an array


class Backend:
    """An array library, and the few things that are specific to it. This one is NumPy."""

    name = "numpy"
    xp: ModuleType | Any = np
    array_type: type = np.ndarray
    cuda = False  # whether kernels can be generated, and graphs captured
    host: Any = None  # NumPy's backend

    def __init__(self) -> None:
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Seed this backend's random generator."""
        self._seed = seed
        self._generator: Any = None

    @property
    def generator(self) -> Any:
        """The generator, made on first use: importing ``numpy.random`` would double the package's import time."""
        if self._generator is None:
            self._generator = self.xp.random.default_rng(self._seed)
        return self._generator

    def random_state(self) -> Any:
        """The generator's state, for ``set_random_state``."""
        return self.generator.bit_generator.state

    def set_random_state(self, state: Any) -> None:
        """Restore a state that ``random_state`` returned."""
        self.generator.bit_generator.state = state

    def at_border(self) -> None:
        """Called where a checkpointed segment starts; a recorder overrides it, to fuse nothing across that border."""

    def reading(self, array: Array) -> None:
        """Called when an operation makes constants of an array; a recorder overrides it, to see whether it changes."""

    def uniform(self, shape: tuple[int, ...]) -> Array:
        """Draw float32 numbers from [0, 1) on this backend."""
        return self.generator.random(shape, dtype=np.float32)

    def numbers(self, method: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Draw with a method of the host's generator, so that CPU and GPU get the same numbers."""
        return self.from_host(getattr(self.host.generator, method)(shape).astype(dtype, copy=False))

    def from_host(self, array: np.ndarray) -> Array:
        """Convert a NumPy array to this backend."""
        return array

    def to_host(self, array: Array) -> np.ndarray:
        """Convert an array of this backend to NumPy; on a device, this waits for the result."""
        return np.asarray(array)

    def checksum(self, array: Array) -> Any:
        """A number that changes with an array's content."""
        if not hasattr(array, "dtype"):
            return array
        if array.dtype.kind in "mM":  # which have no buffer
            array = array.view("i8")
        return zlib.crc32(np.ascontiguousarray(array).data)

    def add_at(self, target: Array, index: Any, values: Array) -> None:
        """``target[index] += values``, where repeated indices add up."""
        np.add.at(target, index, values)

    def add_rows(self, target: Array, rows: Array, values: Array) -> None:
        """``target[rows] += values`` for a 2-D target and integer rows, which may repeat."""
        if not rows.size:
            return
        if len(target) <= 2**8 and len(target) * len(rows) <= 2**14 and math.isfinite(np.vdot(values, values)):
            one_hot = np.zeros((len(target), len(rows)), values.dtype)
            one_hot[rows, np.arange(len(rows))] = 1
            target += one_hot.dot(values)  # finite values only: NaN times 0 would reach every row
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
        """Sums of a * b along the last axis, kept with length 1; b may be one vector for all rows of a."""
        if a.size == a.shape[-1]:  # a scalar for a single row makes all that follows faster
            return np.dot(a.reshape(-1), b.reshape(-1))
        return (a.dot(b) if b.ndim == 1 else np.vecdot(a, b))[..., None]

    def linear_scan(self, a: Array, b: Array, y: Array) -> None:
        """Write y_0 = b_0 and y_t = a_t * y_{t-1} + b_t into y, along the first axis; a begins at 1."""
        a, b, y = a[..., None], b[..., None], y[..., None]  # or a step of a single axis would be no view
        y[0] = b[0]
        for factor, before, more, now in zip(a, y[:-1], b[1:], y[1:], strict=True):
            np.multiply(factor, before, now)
            np.add(now, more, now)

    def is_moderate(self, x: Array) -> bool:
        """Whether sums of e^x can neither overflow nor underflow; False if the host cannot tell cheaply."""
        moderate = x.size > 2**12 and x.dtype.itemsize > 2  # 2**12 ordinary terms overflow in float16
        return moderate and max(x.max(), -x.min()) < math.log(np.finfo(x.dtype).max) / 2

    def exponentials(self, x: Array, axis: Any, out: Array = None) -> tuple[Array, Array | float]:
        """e^(x - top), and top: 0 or the maximum, so that sums along an axis neither overflow nor underflow."""
        if self.is_moderate(x):
            return self.xp.exp(x, out=out), 0.0
        top = largest(x, axis)
        return self.xp.exp(self.xp.subtract(x, top, out=out), out=out), top

    def mean(self, x: Array, axis: Any, keepdims: bool) -> Array:
        """The mean. For a small array, NumPy's own method has more overhead than the sum takes."""
        if x.dtype.kind != "f" or x.dtype.itemsize < 4:
            return x.mean(axis=axis, keepdims=keepdims)  # summed in a wider dtype
        total = x.sum(axis=axis, keepdims=keepdims)
        return total / (x.size // max(1, total.size))

    def row_sums(self, a: Array) -> Array:
        """Sums along the last axis, kept with length 1."""
        return a.dot(np.ones(a.shape[-1], a.dtype))[..., None]  # for short rows, a fifth of the time of ``sum``

    def norms(self, arrays: Sequence[Array]) -> Array:
        """L2 norms of arrays, (n,) in float64, without overflow or underflow of squares."""
        # On the host, checking the squares is free, and nearly always they are well within range. (vdot does not warn.)
        squares = [float(np.vdot(x, x)) for x in arrays]
        if min(squares) > 1e-30 and max(squares) < 1e30:
            return np.array([math.sqrt(square) for square in squares])
        return self.scaled_norms(arrays)

    def scaled_norms(self, arrays: Sequence[Array]) -> Array:
        """The same without reading values on the host: each array is first divided by its largest element."""
        xp = self.xp
        flat = [x.reshape(-1).astype(np.float64) if x.size else xp.zeros(1) for x in arrays]
        unit = self.run(_unit, row(xp, [xp.abs(x).max() for x in flat]))
        flat = [x / unit[k] for k, x in enumerate(flat)]
        return unit * xp.sqrt(row(xp, [x.dot(x) for x in flat]))

    def check_indices(self, indices: Array, size: int, what: str) -> None:
        """Raise IndexError unless all indices lie in [0, size). Devices, which would stall, use ``mark_invalid``."""
        if indices.size and (indices.min() < 0 or indices.max() >= size):
            wrong = indices[(indices < 0) | (indices >= size)].flat[0]
            raise IndexError(f"{what} {wrong} is out of range: they run from 0 to {size - 1}")

    def mark_invalid(
        self, values: Array, indices: Array, size: int, lowest: int = 0, everywhere: bool = False
    ) -> Array:
        """Values looked up by indices; a device, which cannot raise without a wait, marks wrong ones with NaN.

        These have an index outside [lowest, size). With ``everywhere``, one such index makes all values NaN.
        """
        return values

    def synchronize(self) -> None:
        """Wait until all work queued on the device is done."""

    def pool(self) -> Any:
        """A separate memory pool, for work that is repeated at the same addresses."""
        raise NotImplementedError

    def forget(self, streams: Sequence[int], pool: Any) -> None:
        """Release what work on these destroyed streams needed, and the memory of their pool."""

    def memory_in_use(self) -> int | None:
        """Bytes that the library's allocator has handed out, or None if it does not count them."""
        return None

    def address(self, array: Array) -> int:
        """The address of an array's first element."""
        return int(array.__array_interface__["data"][0])

    def extent(self, array: Array) -> tuple[int, int]:
        """Address and size in bytes of the whole memory that an array is a view of."""
        while getattr(array, "base", None) is not None:
            array = array.base
        return self.address(array), array.nbytes

    def at(self, owner: Array, address: int, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
        """A view that begins at an address in the memory that ``owner`` owns, in whatever order."""
        told = {"version": 3, "data": (address, False), "typestr": dtype.str, "shape": shape, "strides": strides}
        return np.asarray(SimpleNamespace(__array_interface__=told))

    def view(self, memory: Array, offset: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...]) -> Array:
        """A view of ``memory`` that begins at a byte offset."""
        return np.ndarray(shape, dtype, memory, offset, strides)

    def setter(self, arrays: Sequence[Array]) -> Callable[..., None]:
        """A function that writes numbers into 0-d arrays, one into each."""

        def put(*numbers: float) -> None:
            for array, number in zip(arrays, numbers, strict=True):
                array[()] = number

        return put

    def run(self, kernel: Callable[..., Array], *arrays: Any, **attributes: Any) -> Array:
        """Run an operation's kernel; a device fuses several elementwise functions in it into one launch."""
        return kernel(self.xp, *arrays, **attributes)

    def contributions(self, plan: Any, node: Sequence[Any]) -> dict[int, Array] | None:
        """The gradients for a node's parents by place, if computing all at once saves launches; else None."""
        return None

    def put(self, target: Array, keys: Sequence[Any], values: Sequence[Array]) -> None:
        """Write each value at its key."""
        for key, value in zip(keys, values, strict=True):
            target[key] = value

    def pointwise(self, kernel: Pointwise) -> Callable[..., Any]:
        """Compile a kernel; the result is called with its inputs, then its outputs."""
        raise NotImplementedError


def _unit(xp: Any, largest: Array) -> Array:
    """The divisor for an array with this largest element: the element itself, or 1 if it is 0 or not finite."""
    return xp.where((largest > 0) & (largest < np.inf), largest, 1.0)


def largest(x: Array, axis: Any) -> Array:
    """The largest element along an axis, kept with length 1; -inf if there is none."""
    return x.max(axis=axis, keepdims=True) if x.size else x.sum(axis=axis, keepdims=True) - math.inf


def row(xp: Any, numbers: Sequence[Array]) -> Array:
    """Join 0-d arrays to a vector, eight at a time: for more, CuPy copies a host table, which breaks graph capture."""
    parts = [x.reshape(1) for x in numbers]
    while len(parts) > 1:
        parts = [xp.concatenate(parts[k : k + 8]) for k in range(0, len(parts), 8)]
    return parts[0]


def _keep_freed_memory() -> None:
    """Have the C library keep the memory that one training step frees for the next one.

    glibc gives it back to the system beyond a threshold, and the next step pays for it in page faults, a quarter of its
    time in the worst case. The threshold is twice the largest block that was mapped and freed so far, if that is at
    most 32 MiB (mallopt(3)); so one such block is allocated, never touched, and freed. Elsewhere this does nothing.
    """
    with suppress(MemoryError):
        np.empty(2**25 - 2**16, np.uint8)


_keep_freed_memory()
