"""Matrix products on a GPU by cuBLAS itself, called through ctypes with our own handles and workspaces.

CuPy's own product cannot be captured in a CUDA graph (cupy#6290), and a captured step must match the eager one bit for
bit. cuBLAS stores matrices by columns and we by rows, so it sees each of our matrices transposed. We therefore ask for
C = A B as C^T = B^T A^T: the operands change places, and nothing is copied.
"""

from __future__ import annotations

import ctypes
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

Array = Any

_int, _pointer = ctypes.c_int, ctypes.c_void_p
_MATRIX = [_pointer, _int, _int]  # address, type, leading dimension
_STACK = [*_MATRIX, ctypes.c_longlong]  # and the stride between matrices, in elements
_SIGNATURES = {
    "cublasCreate_v2": [_pointer],
    "cublasSetStream_v2": [_pointer, _pointer],
    "cublasSetWorkspace_v2": [_pointer, _pointer, ctypes.c_size_t],
    # handle, transpose A and B, m, n, k, alpha, A, B, beta, C, compute type, algorithm
    "cublasGemmEx": [_pointer, *[_int] * 5, _pointer, *_MATRIX, *_MATRIX, _pointer, *_MATRIX, _int, _int],
    # the same for stacks, with the number of matrices before the compute type
    "cublasGemmStridedBatchedEx": [_pointer, *[_int] * 5, _pointer, *_STACK, *_STACK, _pointer, *_STACK, *[_int] * 3],
}
_TYPES: dict[str, tuple[int, int, Any]] = {  # by NumPy's dtype character: CUDA type, compute type, alpha's type
    "f": (0, 68, ctypes.c_float),  # CUDA_R_32F, CUBLAS_COMPUTE_32F
    "d": (1, 70, ctypes.c_double),  # CUDA_R_64F, CUBLAS_COMPUTE_64F
}
_FAST_TF32 = 77  # CUBLAS_COMPUTE_32F_FAST_TF32
_DEFAULT_ALGORITHM = -1
_WORKSPACE = 32 << 20  # bytes; NVIDIA's recommendation for Hopper, and enough for older GPUs
_LARGEST = 2**31 - 1


class CublasError(RuntimeError):
    """cuBLAS refused a call."""


def load() -> Any:
    """The cuBLAS library that CuPy loads; raises an error if there is none."""
    from cuda import pathfinder  # type: ignore[import-not-found,import-untyped,unused-ignore]  # comes with CuPy

    return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)


class Cublas:
    """cuBLAS for the arrays of an array module, on the current device and stream."""

    def __init__(self, library: Any, cupy: Any) -> None:
        self._cupy = cupy
        self._library = library
        self._handles: dict[tuple[int, int], tuple[Any, Array]] = {}  # by device and stream: handle, its workspace
        self._spare: dict[int, list[Any]] = defaultdict(list)  # by device: handles of destroyed streams
        self.tf32 = os.environ.get("CUPY_TF32", "0") not in ("", "0")  # CuPy's own products heed it too
        for name, types in _SIGNATURES.items():
            getattr(library, name).argtypes = types

    def handle(self) -> Any:
        """The handle of the current device and stream, created on first use, which a graph cannot capture."""
        device, stream = key = self._cupy.cuda.runtime.getDevice(), self._cupy.cuda.get_current_stream().ptr
        if key not in self._handles:
            workspace = self._cupy.empty(_WORKSPACE, dtype=np.uint8)
            handle = self._spare[device].pop() if self._spare[device] else self._created()
            self._do("cublasSetStream_v2", handle, stream)
            self._do("cublasSetWorkspace_v2", handle, workspace.data.ptr, _WORKSPACE)  # last: setting a stream drops it
            self._handles[key] = handle, workspace
        return self._handles[key][0]

    def forget(self, streams: Sequence[int]) -> None:
        """Free the workspaces of destroyed streams, and keep their handles for new ones."""
        for device, stream in [key for key in [*self._handles] if key[1] in streams]:
            handle, _ = self._handles.pop((device, stream))
            self._spare[device].append(handle)  # destroying it would wait for the device

    def _created(self) -> Any:
        handle = _pointer()
        self._do("cublasCreate_v2", ctypes.byref(handle))
        return handle

    def _do(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CublasError(f"{name} returned status {status}")

    def product(self, a: Array, b: Array, out: Array) -> Callable[[], int] | None:
        """A function that computes out = a b and returns cuBLAS's status, 0 on success.

        a, b: matrices, or stacks that broadcast. The function is bound to the arrays' present memory and the current
        stream. None if cuBLAS does not support the memory layouts or dtypes.
        """
        form = _form(*[(x.dtype, x.shape, x.strides) for x in (a, b, out)])
        if form is None:
            return None
        sizes, steps, count, by_columns = form
        first, second = (a, b) if by_columns else (b, a)
        kind, compute, _ = _TYPES[a.dtype.char]
        if self.tf32 and kind == 0:
            compute = _FAST_TF32
        return partial(
            self._library.cublasGemmStridedBatchedEx if count else self._library.cublasGemmEx,
            *(self.handle(), *sizes, _scalar(a.dtype.char, 1.0)),
            *(first.data.ptr, kind, *steps[0], second.data.ptr, kind, *steps[1]),
            *(_scalar(a.dtype.char, 0.0), out.data.ptr, kind, *steps[2], *count, compute, _DEFAULT_ALGORITHM),
        )

    def dot(self, a: Array, b: Array, out: Array = None) -> Array:
        """The array module's ``dot``, by cuBLAS directly where possible."""
        return self._multiplied(self._cupy.dot, a, b, out, a.ndim == b.ndim == 2)

    def matmul(self, a: Array, b: Array, out: Array = None) -> Array:
        """The array module's ``matmul``, by cuBLAS directly where possible."""
        return self._multiplied(self._cupy.matmul, a, b, out, a.ndim > 1 < b.ndim)

    def _multiplied(self, otherwise: Callable[..., Array], a: Array, b: Array, out: Array, of_matrices: bool) -> Array:
        """A product; operands in a layout that cuBLAS does not support, such as reversed rows, are copied first.

        CuPy would copy them too, but no CUDA graph can capture its products.
        """
        own = self._cupy.ndarray
        known = of_matrices and a.__class__ is b.__class__ is own and a.dtype == b.dtype and a.dtype.char in _TYPES
        if known and (out is None or _is_free(out, own, a, b)):
            stack = () if a.ndim == b.ndim == 2 else np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            target = own((*stack, a.shape[-2], b.shape[-1]), a.dtype) if out is None else out
            call = self.product(a, b, target)
            if call is None:
                a, b = (self._copied(x, stack) for x in (a, b))  # kept alive until the call is made
                call = self.product(a, b, target)
            if call is not None and call() == 0:
                return target
        return otherwise(a, b, out=out)  # also reports what is wrong with other operands

    def _copied(self, x: Array, stack: tuple[int, ...]) -> Array:
        """A matrix or a whole stack in a layout that cuBLAS can read, copied if necessary."""
        if x.ndim == 2 and _layout(x.shape, x.strides, x.itemsize):
            return x
        whole = self._cupy.broadcast_to(x, (*stack, *x.shape[-2:])) if stack else x
        return self._cupy.ascontiguousarray(whole)


Described = tuple[Any, tuple[int, ...], tuple[int, ...]]  # dtype, shape, strides
Form = tuple[tuple[int, ...], list[tuple[int, ...]], tuple[int, ...], bool]


@lru_cache(maxsize=1024)
def _form(a: Described, b: Described, out: Described) -> Form | None:
    """The layout arguments of cuBLAS for out = a b, or None if it does not support these layouts; cached.

    Transpositions and sizes; for each cuBLAS matrix the leading dimension and, in stacks, the stride to the next one;
    the number of matrices in a stack; and whether out is stored by columns, as cuBLAS expects.
    """
    (kind, (*_, m, k), _), (_, (*_, inner, n), _), (_, (*stack, rows, columns), _) = a, b, out
    if kind.char not in _TYPES or not kind == b[0] == out[0] or (m, n, k) != (rows, columns, inner):
        return None
    layouts = [_layout(shape[-2:], strides[-2:], kind.itemsize) for _, shape, strides in (a, b, out)]
    between = [_stride(shape[:-2], strides[:-2], tuple(stack), kind.itemsize) for _, shape, strides in (a, b, out)]
    if None in layouts or None in between or not (count := prod(stack)):
        return None
    (turned_a, step_a), (turned_b, step_b), (by_columns, step) = layouts  # type: ignore[misc]
    steps: Any = [pair if stack else pair[:1] for pair in zip((step_a, step_b, step), between, strict=True)]
    several = (count,) if stack else ()
    if by_columns:
        return (1 - turned_a, 1 - turned_b, m, n, k), steps, several, True
    return (turned_b, turned_a, n, m, k), [steps[1], steps[0], steps[2]], several, False


def _stride(shape: tuple[int, ...], strides: tuple[int, ...], stack: tuple[int, ...], size: int) -> int | None:
    """The stride between a stack's matrices in elements, 0 if all are the same one; None if it is not uniform."""
    missing = len(stack) - len(shape)
    if missing < 0 or any(n not in (1, m) for n, m in zip(shape, stack[missing:], strict=True)):
        return None
    steps = [*[0] * missing, *(0 if n == 1 else step for n, step in zip(shape, strides, strict=True))]
    along = [(n, step) for n, step in zip(stack, steps, strict=True) if n != 1] or [(1, 0)]
    if any(step != m * inner for (_, step), (m, inner) in pairwise(along)):
        return None
    last = along[-1][1]
    return last // size if last >= 0 and last % size == 0 else None


def _layout(shape: tuple[int, ...], strides: tuple[int, ...], size: int) -> tuple[int, int] | None:
    """A matrix's layout: 0 by rows or 1 by columns, and the leading dimension; None if cuBLAS does not support it."""
    (rows, columns), (down, along) = shape, strides
    if not rows or not columns:
        return None
    for transposed, count, length, step, unit in ((0, rows, columns, down, along), (1, columns, rows, along, down)):
        if length == 1 or unit == size:
            leading = step // size if count > 1 else length
            if length <= leading <= _LARGEST and (count == 1 or step % size == 0) and count <= _LARGEST:
                return transposed, leading
    return None


def _is_free(out: Array, own: Any, *operands: Array) -> bool:
    """Whether a product can be written to ``out``: contiguous, as CuPy requires, and no overlap with the operands."""
    if out.__class__ is not own or not out.flags.c_contiguous:
        return False
    start, end = out.data.ptr, out.data.ptr + _extent(out)
    return all(x.data.ptr > end or x.data.ptr + _extent(x) < start for x in operands)


def _extent(x: Array) -> int:
    return sum((n - 1) * abs(stride) for n, stride in zip(x.shape, x.strides, strict=True))


@lru_cache(maxsize=64)
def _scalar(char: str, value: float) -> Any:
    """A pointer to a number on the host, where cuBLAS reads alpha and beta."""
    return ctypes.byref(_TYPES[char][2](value))
