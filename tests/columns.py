"""A stand-in for the library cuBLAS: C functions that read raw memory by columns, as cuBLAS is documented to.

They are called through ctypes with the types of NVIDIA's header, so that a pointer that is cut to 32 bits, or an
argument at the wrong place, is found here as it would be on a GPU.
"""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_float, c_int, c_longlong, c_size_t, c_void_p
from types import SimpleNamespace
from typing import Any

import numpy as np

SUCCESS, NOT_INITIALIZED, INVALID_VALUE, NOT_SUPPORTED = 0, 1, 7, 15
NONE, TRANSPOSED = 0, 1
TYPES = {(0, 68): c_float, (0, 77): c_float, (1, 70): c_double}  # CUDA's type of the matrices, type to compute in

CREATE = ctypes.CFUNCTYPE(c_int, c_void_p)
SET_STREAM = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)
SET_WORKSPACE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
GEMM_EX = ctypes.CFUNCTYPE(
    c_int,
    c_void_p,  # handle
    *(c_int, c_int),  # whether A and B are transposed
    *(c_int, c_int, c_int),  # m, n, k
    c_void_p,  # alpha, on the host
    *(c_void_p, c_int, c_int),  # A, its type, its leading dimension
    *(c_void_p, c_int, c_int),  # B
    c_void_p,  # beta
    *(c_void_p, c_int, c_int),  # C
    *(c_int, c_int),  # the type to compute in, the algorithm
)
GEMM_STRIDED_BATCHED_EX = ctypes.CFUNCTYPE(
    c_int,
    c_void_p,
    *(c_int, c_int),
    *(c_int, c_int, c_int),
    c_void_p,
    *(c_void_p, c_int, c_int, c_longlong),  # A, its type, its leading dimension, elements to the next A
    *(c_void_p, c_int, c_int, c_longlong),
    c_void_p,
    *(c_void_p, c_int, c_int, c_longlong),
    c_int,  # how many
    *(c_int, c_int),
)


def matrix(address: int, kind: Any, rows: int, columns: int, leading: int) -> np.ndarray:
    """The matrix that begins at an address, of which each column begins ``leading`` elements after the one before."""
    size = ctypes.sizeof(kind)
    memory = (kind * (leading * (columns - 1) + rows)).from_address(address)
    return np.ndarray((rows, columns), kind, buffer=memory, strides=(size, size * leading))


def library() -> SimpleNamespace:
    """A library as it is after loading. ``calls`` lists the compute type of each product."""
    streams: dict[int, int | None] = {}
    workspaces: dict[int, int] = {}
    calls: list[int] = []

    def create(handle: int) -> int:
        number = 4096 + len(streams)
        streams[number] = None
        c_void_p.from_address(handle).value = number
        return SUCCESS

    def set_stream(handle: int, stream: int) -> int:
        if handle not in streams:
            return NOT_INITIALIZED
        workspaces.pop(handle, None)  # as documented: setting a stream drops the workspace
        streams[handle] = stream
        return SUCCESS

    def set_workspace(handle: int, address: int, size: int) -> int:
        if handle not in streams or not address:
            return INVALID_VALUE
        workspaces[handle] = size
        return SUCCESS

    def gemm_ex(*arguments: Any) -> int:
        handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute, _ = arguments
        if handle not in workspaces:
            return NOT_INITIALIZED  # the engine sets a workspace before it asks for products
        kind = TYPES.get((c_type, compute))
        if kind is None or not a_type == b_type == c_type:
            return NOT_SUPPORTED
        shape_a, shape_b = ((k, m) if op_a else (m, k)), ((n, k) if op_b else (k, n))
        if min(m, n, k) < 0 or lda < max(1, shape_a[0]) or ldb < max(1, shape_b[0]) or ldc < max(1, m):
            return INVALID_VALUE
        left, right = matrix(a, kind, *shape_a, lda), matrix(b, kind, *shape_b, ldb)
        target = matrix(c, kind, m, n, ldc)
        product = (left.T if op_a else left) @ (right.T if op_b else right)
        number = kind.from_address(beta).value
        before = number * target if number else 0  # as documented: with beta 0, what C holds does not matter
        target[...] = kind.from_address(alpha).value * product + before
        calls.append(compute)
        return SUCCESS

    def gemm_strided_batched_ex(*arguments: Any) -> int:
        start, beta, count, rest = arguments[:7], arguments[15], arguments[20], arguments[21:]
        (a, *in_a, jump_a), (b, *in_b, jump_b), (c, *in_c, jump_c) = (arguments[k : k + 4] for k in (7, 11, 16))
        if count < 1 or (count > 1 and jump_c == 0):
            return INVALID_VALUE  # products would be written over each other
        size = ctypes.sizeof(TYPES.get((in_c[0], rest[0]), c_float))
        for i in range(count):
            places = [address + i * jump * size for address, jump in ((a, jump_a), (b, jump_b), (c, jump_c))]
            own = places[0], *in_a, places[1], *in_b, beta, places[2], *in_c
            if status := gemm_ex(*start, *own, *rest):
                return status
        return SUCCESS

    return SimpleNamespace(
        cublasCreate_v2=CREATE(create),
        cublasSetStream_v2=SET_STREAM(set_stream),
        cublasSetWorkspace_v2=SET_WORKSPACE(set_workspace),
        cublasGemmEx=GEMM_EX(gemm_ex),
        cublasGemmStridedBatchedEx=GEMM_STRIDED_BATCHED_EX(gemm_strided_batched_ex),
        calls=calls,
        streams=streams,
    )
