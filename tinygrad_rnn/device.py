"""What CuPy does in its own way: arrays on a GPU, kernels made of text, and nothing that would make the host wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np

from . import cublas
from .formula import PREAMBLE, Pointwise, copies
from .seams import Array, Backend, row

_AT_ONCE = 24  # numbers that a launch takes: all arguments of a kernel must fit into 4096 bytes


class CupyBackend(Backend):
    """CuPy, on the current CUDA device, with cuBLAS called directly for products of matrices where it can be."""

    name = "cupy"
    cuda = True
    wraps = True
    load_cublas = staticmethod(cublas.load)

    def __init__(self, cupy: ModuleType) -> None:
        self.xp, self.array_type = cupy, cupy.ndarray
        self._kernels: dict[Pointwise, Callable[..., Any]] = {}
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
        return xp.sqrt(row(xp, [xp.multiply(x, x, dtype=np.float64).sum() for x in arrays]))

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

    def setter(self, arrays: Sequence[Array]) -> Callable[..., None]:
        parts = [arrays[k : k + _AT_ONCE] for k in range(0, len(arrays), _AT_ONCE)]
        kernels = [self.pointwise(copies([x.dtype.name for x in part])) for part in parts]

        def put(*numbers: float) -> None:
            left = iter(numbers)
            for kernel, part in zip(kernels, parts, strict=True):  # a launch for many, in place of one for each
                kernel(*islice(left, len(part)), *part)

        return put

    def pointwise(self, kernel: Pointwise) -> Callable[..., Any]:
        if kernel not in self._kernels:
            self._kernels[kernel] = self.xp.ElementwiseKernel(
                *kernel.parameters, kernel.body, name="pointwise", preamble=PREAMBLE, options=("-fmad=false",)
            )
        return self._kernels[kernel]


def _replaced(module: Any, **functions: Any) -> ModuleType:
    """A module like this one, but for some functions."""
    copy = ModuleType(getattr(module, "__name__", "cupy"))
    copy.__dict__.update(vars(module) | functions)
    return copy


def _widened(index: Any) -> Any:
    """An array of integers as int64: CuPy compares and wraps indices in their own type, which a length may overflow."""
    return index.astype(np.int64, copy=False) if getattr(index, "dtype", np.bool_) != np.bool_ else index
