"""Where CuPy differs: arrays on a GPU, kernels generated as text, and no checks that would make the host wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np

from . import cublas
from .formula import PREAMBLE, TYPES, Pointwise, copies, functions, write
from .numpy_backend import Array, Backend, row
from .surroundings import is_settled

_AT_ONCE = 24  # copies per launch: a kernel's arguments must fit into 4096 bytes
_PLAIN = {int, float, bool, str, type(None)}  # types that elementwise functions get beside arrays
_VARIANTS = 16  # kernels per function: Python numbers among its arguments are part of the text


class CupyBackend(Backend):
    """CuPy on the current CUDA device, with cuBLAS called directly for matrix products where possible.

    Each launch costs the host more than most operations cost the device. So an operation's elementwise kernel, or all
    rules of a node, become one generated kernel if they would otherwise take two launches or more.
    """

    name = "cupy"
    cuda = True
    load_cublas = staticmethod(cublas.load)

    def __init__(self, cupy: ModuleType) -> None:
        self.xp, self.array_type = cupy, cupy.ndarray
        self._pools: list[Any] = []
        self._kernels: dict[Pointwise, Callable[..., Any]] = {}
        self._written: dict[Any, Any] = {}  # by kernel or plan and its arguments: how to launch it
        self._variants: Counter[Any] = Counter()  # number of variants, by kernel or plan
        self._unfused: set[Any] = set()  # kernels and plans for which no launch can be saved
        blas = self.cublas = self._cublas_or_reason()
        products = {} if isinstance(blas, str) else {"dot": blas.dot, "matmul": blas.matmul}
        self.xp = _replaced(cupy, run=self.run, **products)
        super().__init__()

    def _cublas_or_reason(self) -> cublas.Cublas | str:
        """cuBLAS if it matches CuPy on a small product, else the reason to use CuPy's own products."""
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
        # CuPy's generators do not expose their state, so reseed: a stream that begins here can be repeated.
        if self._generator is not None:
            self.seed(int(self.generator.random((1,)).item() * 2**53))
        return self._seed

    def set_random_state(self, state: int) -> None:
        self.seed(state)

    def from_host(self, array: np.ndarray) -> Array:
        return self.xp.asarray(array)

    def to_host(self, array: Array) -> np.ndarray:
        return self.xp.asnumpy(array)

    def checksum(self, array: Array) -> Any:
        if array.dtype.itemsize > 8:  # no integers are as wide
            array = array.astype(np.float64)
        return array.view(f"u{array.dtype.itemsize}").sum(dtype=np.uint64)

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

    def linear_scan(self, a: Array, b: Array, y: Array) -> None:
        y[...] = b
        reach = 1  # up to here y is right; from here on, a holds products of the last ``reach`` factors
        while reach < len(y):
            y[reach:] += a * y[:-reach]
            a = a[reach:] * a[:-reach]
            reach *= 2

    def is_moderate(self, x: Array) -> bool:
        return False

    def norms(self, arrays: Sequence[Array]) -> Array:
        if any(x.dtype == np.float64 for x in arrays):
            return self.scaled_norms(arrays)
        xp = self.xp  # squares of narrower floats neither overflow nor underflow in float64
        return xp.sqrt(row(xp, [xp.multiply(x, x, dtype=np.float64).sum() for x in arrays]))

    def check_indices(self, indices: Array, size: int, what: str) -> None:
        pass

    def mark_invalid(
        self, values: Array, indices: Array, size: int, lowest: int = 0, everywhere: bool = False
    ) -> Array:
        # CuPy wraps out-of-range indices: without a mark, the wrong row would pass for the right one.
        if values.dtype.kind != "f":
            return values
        indices = _widened(indices)
        if everywhere:
            return self.xp.where(((indices >= lowest) & (indices < size)).all(), values, values.dtype.type(np.nan))
        indices = indices.reshape(indices.shape + (1,) * (values.ndim - indices.ndim))
        return self.run(_marked, values, indices, lowest=lowest, size=size)

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def memory_in_use(self) -> int:
        apart = [pool.total_bytes() for pool in self._pools]  # a graph needs all of it, though no array holds it
        return sum(apart, int(self.xp.get_default_memory_pool().used_bytes()))

    def pool(self) -> Any:
        self._pools.append(self.xp.cuda.MemoryPool())
        return self._pools[-1]

    def forget(self, streams: Sequence[int], pool: Any) -> None:
        if isinstance(self.cublas, cublas.Cublas):
            self.cublas.forget(streams)
        self._pools.remove(pool)
        pool.free_all_blocks()  # else CuPy 14 would leak the free blocks of a dropped pool

    def address(self, array: Array) -> int:
        return int(array.data.ptr)

    def extent(self, array: Array) -> tuple[int, int]:
        return int(array.data.mem.ptr), int(array.data.mem.size)

    def at(self, owner: Array, address: int, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
        return self.view(owner, address - self.address(owner), shape, dtype, strides)

    def view(self, memory: Array, offset: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...]) -> Array:
        return self.xp.ndarray(shape, dtype, memory.data + offset, strides)

    def setter(self, arrays: Sequence[Array]) -> Callable[..., None]:
        parts = [arrays[k : k + _AT_ONCE] for k in range(0, len(arrays), _AT_ONCE)]
        kernels = [self.pointwise(copies([x.dtype.name for x in part])) for part in parts]

        def put(*numbers: float) -> None:
            left = iter(numbers)
            for kernel, part in zip(kernels, parts, strict=True):  # one launch for many arrays, instead of one for each
                kernel(*islice(left, len(part)), *part)

        return put

    def run(self, kernel: Callable[..., Array], *arrays: Any, **attributes: Any) -> Array:
        if kernel not in self._unfused:
            call = partial(_called, kernel, len(arrays), tuple(attributes))
            if found := self._at_once(kernel, call, (*arrays, *attributes.values())):
                return found[0]
        return kernel(self.xp, *arrays, **attributes)

    def contributions(self, plan: Any, node: Sequence[Any]) -> dict[int, Array] | None:
        if plan in self._unfused:
            return None
        found = self._at_once(plan, plan.contributions, [node[0], *node[2 : plan.base]])
        if found is None:
            return None
        if any(x.shape != node[0].shape for x in found):
            self._unfused.add(plan)  # a rule gives another shape than g's, as for a sum times a factor
            return None
        return {place: x for (place, _), x in zip(plan.rules, found, strict=True)}

    def _at_once(self, owner: Any, call: Callable[..., Any], values: Sequence[Any]) -> list[Array] | None:
        """Run a call on values as one generated kernel; None if that is not possible."""
        own: Any = self.array_type
        key = owner, *[x.dtype if x.__class__ is own else _kind(x) for x in values]
        if key not in self._written:
            self._written[key] = self._launch(owner, call, values)
        if (known := self._written[key]) is None:
            return None
        launch, inputs, results = known
        made = launch(*[values[k] for k in inputs])
        found = (*values, *made) if made.__class__ is tuple else (*values, made)
        return [found[k] for k in results]

    def _launch(self, owner: Any, call: Callable[..., Any], values: Sequence[Any]) -> Any:
        """A generated kernel, which values are its inputs, and where the results are among values and outputs."""
        own: Any = self.array_type
        self._variants[owner] += 1
        too_many = self._variants[owner] > _VARIANTS
        # A function that reads a global or closed-over number would freeze its present value in the text.
        behind = [rule.function for _, rule in owner.rules] if hasattr(owner, "rules") else [owner]
        settled = not too_many and all(map(is_settled, behind))
        if settled and all(type(x) is own or type(x) in _PLAIN for x in values):
            written = write(call, values, own)
            if written is not None:
                return self.pointwise(written.kernel), written.inputs, written.results
        if too_many or not any(map(self._matters, values)):
            self._unfused.add(owner)  # whatever its arguments
        return None

    def _matters(self, x: Any) -> bool:
        """Whether another value in this place might allow a kernel: this is a number, or of an unsupported dtype."""
        kind: Any = type(x)
        return kind in _PLAIN or (hasattr(x, "dtype") and not (kind is self.array_type and x.dtype.name in TYPES))

    def put(self, target: Array, keys: Sequence[Any], values: Sequence[Array]) -> None:
        places = [target[key] for key in keys]
        alike = all(x.shape == values[0].shape and x.dtype == target.dtype for x in (*places, *values))
        if len(values) == 1 or not alike or target.dtype.name not in TYPES:
            super().put(target, keys, values)
            return
        for k in range(0, len(values), _AT_ONCE):
            part = values[k : k + _AT_ONCE]
            self.pointwise(copies([target.dtype.name] * len(part)))(*part, *places[k : k + _AT_ONCE])

    def pointwise(self, kernel: Pointwise) -> Callable[..., Any]:
        if kernel not in self._kernels:
            self._kernels[kernel] = self.xp.ElementwiseKernel(
                *kernel.parameters, kernel.body, name="pointwise", preamble=PREAMBLE, options=("-fmad=false",)
            )
        return self._kernels[kernel]


def _marked(xp: Any, values: Array, indices: Array, *, lowest: int, size: int) -> Array:
    """The values, with NaN where an index is out of range."""
    return xp.where((indices >= lowest) & (indices < size), values, np.nan)


def _called(kernel: Callable[..., Array], count: int, names: tuple[str, ...], given: Sequence[Any]) -> list[Array]:
    """Call a kernel with ``count`` inputs and the rest as named attributes; return its result in a list."""
    return [kernel(functions, *given[:count], **dict(zip(names, given[count:], strict=True)))]


def _kind(x: Any) -> Any:
    """What a generated kernel depends on in a non-array argument: its type and, if plain, its value."""
    return x.__class__, repr(x) if x.__class__ in _PLAIN else ""


def _replaced(module: Any, **functions: Any) -> ModuleType:
    """A copy of a module with some functions replaced."""
    copy = ModuleType(getattr(module, "__name__", "cupy"))
    copy.__dict__.update(vars(module) | functions)
    return copy


def _widened(index: Any) -> Any:
    """Integer indices as int64: CuPy compares and wraps indices in their own dtype, which a length may overflow."""
    return index.astype(np.int64, copy=False) if getattr(index, "dtype", np.bool_) != np.bool_ else index
