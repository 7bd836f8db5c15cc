"""What CuPy does in its own way: arrays on a GPU, kernels made of text, and nothing that would make the host wait."""

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

_AT_ONCE = 24  # copies that a launch makes: all arguments of a kernel must fit into 4096 bytes
_PLAIN = {int, float, bool, str, type(None)}  # what an elementwise function is given beside arrays
_VARIANTS = 16  # kernels for one function: numbers of Python's that it is given are part of the text


class CupyBackend(Backend):
    """CuPy, on the current CUDA device, with cuBLAS called directly for products of matrices where it can be.

    Each launch costs the host more than most operations cost the device. So what a kernel does to each element, or all
    rules of a node together, is one generated kernel, as soon as it would otherwise be two launches.
    """

    name = "cupy"
    cuda = True
    load_cublas = staticmethod(cublas.load)

    def __init__(self, cupy: ModuleType) -> None:
        self.xp, self.array_type = cupy, cupy.ndarray
        self._pools: list[Any] = []
        self._kernels: dict[Pointwise, Callable[..., Any]] = {}
        self._written: dict[Any, Any] = {}  # by a kernel or plan, and what it is given: how it is launched
        self._variants: Counter[Any] = Counter()  # how many there are of each
        self._apart: set[Any] = set()  # kernels and plans of which no launch could be saved
        self.cublas = self._cublas_or_reason()
        blas = self.cublas
        products = {} if isinstance(blas, str) else {"dot": blas.dot, "matmul": blas.matmul}
        self.xp = _replaced(cupy, run=self.run, **products)
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

    def from_host(self, array: np.ndarray) -> Array:
        return self.xp.asarray(array)

    def to_host(self, array: Array) -> np.ndarray:
        return self.xp.asnumpy(array)

    def checksum(self, array: Array) -> Any:
        if array.dtype.itemsize > 8:  # there are no integers as wide
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
        if everywhere:
            return self.xp.where(((indices >= lowest) & (indices < size)).all(), values, values.dtype.type(np.nan))
        indices = indices.reshape(indices.shape + (1,) * (values.ndim - indices.ndim))
        return self.run(_marked, values, indices, lowest=lowest, size=size)

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def memory_in_use(self) -> int:
        apart = [pool.total_bytes() for pool in self._pools]  # a graph needs it all, though nobody holds it
        return sum(apart, int(self.xp.get_default_memory_pool().used_bytes()))

    def pool(self) -> Any:
        self._pools.append(self.xp.cuda.MemoryPool())
        return self._pools[-1]

    def forget(self, streams: Sequence[int], pool: Any) -> None:
        if isinstance(self.cublas, cublas.Cublas):
            self.cublas.forget(streams)
        self._pools.remove(pool)
        pool.free_all_blocks()  # a pool of CuPy 14 that is just dropped leaves its free blocks to nobody

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

    def run(self, kernel: Callable[..., Array], *arrays: Any, **attributes: Any) -> Array:
        if kernel not in self._apart:
            call = partial(_called, kernel, len(arrays), tuple(attributes))
            if found := self._at_once(kernel, call, (*arrays, *attributes.values())):
                return found[0]
        return kernel(self.xp, *arrays, **attributes)

    def contributions(self, plan: Any, node: Sequence[Any]) -> dict[int, Array] | None:
        if plan in self._apart:
            return None
        found = self._at_once(plan, plan.contributions, [node[0], *node[2 : plan.base]])
        if found is None:
            return None
        if any(x.shape != node[0].shape for x in found):
            self._apart.add(plan)  # its rules have shapes of their own, as those of a sum times a factor
            return None
        return {place: x for (place, _), x in zip(plan.rules, found, strict=True)}

    def _at_once(self, owner: Any, call: Callable[..., Any], values: Sequence[Any]) -> list[Array] | None:
        """What a call makes of values, by one generated kernel; None if it is not to be had so."""
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
        """A generated kernel, which values are its inputs, and where among these and its outputs the results are."""
        own: Any = self.array_type
        self._variants[owner] += 1
        if self._variants[owner] <= _VARIANTS and all(type(x) is own or type(x) in _PLAIN for x in values):
            # The text of one that reads a number out of its surroundings would keep the number that is there now.
            written = write(call, values, own) if all(map(is_settled, _functions(owner))) else None
            if written is not None:
                return self.pointwise(written.kernel), written.inputs, written.results
        if self._variants[owner] > _VARIANTS or not any(map(self._matters, values)):
            self._apart.add(owner)  # whatever it is given
        return None

    def _matters(self, x: Any) -> bool:
        """Whether another value here might yet have a kernel: this one is a number, or of a dtype that has none."""
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
    """Values, but NaN where an index is out of range."""
    return xp.where((indices >= lowest) & (indices < size), values, np.nan)


def _functions(owner: Any) -> list[Callable[..., Any]]:
    """A kernel, or the rules of a plan."""
    return [rule.function for _, rule in owner.rules] if hasattr(owner, "rules") else [owner]


def _called(kernel: Callable[..., Array], count: int, names: tuple[str, ...], given: Sequence[Any]) -> list[Array]:
    """What a kernel makes of so many formulas and of attributes with these names, as a list of one."""
    return [kernel(functions, *given[:count], **dict(zip(names, given[count:], strict=True)))]


def _kind(x: Any) -> Any:
    """What a generated kernel can depend on in an argument that is no array: its type and, if plain, its value."""
    return x.__class__, repr(x) if x.__class__ in _PLAIN else ""


def _replaced(module: Any, **functions: Any) -> ModuleType:
    """A module like this one, but for some functions."""
    copy = ModuleType(getattr(module, "__name__", "cupy"))
    copy.__dict__.update(vars(module) | functions)
    return copy


def _widened(index: Any) -> Any:
    """An array of integers as int64: CuPy compares and wraps indices in their own type, which a length may overflow."""
    return index.astype(np.int64, copy=False) if getattr(index, "dtype", np.bool_) != np.bool_ else index
