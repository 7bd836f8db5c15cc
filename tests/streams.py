"""A stand-in for CUDA's streams, memory pools and graphs, over the strict array module.

Between begin and end of a capture, calls of the array module are noted with their arguments. What they wrote meanwhile
is taken back when the capture ends, as nothing was to be done yet; what they returned keeps its address. A launch makes
the same calls on the same arrays, and puts their results to the same addresses. What CUDA or CuPy refuses is refused:
host copies, cuBLAS through CuPy, joining more than eight arrays, memory from outside of a graph's own pool.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import generated
import numpy as np
import strict
from strict import StrictArray

from tinygrad_rnn import backend
from tinygrad_rnn.tree import tree_leaves


class Graph:
    """Calls that were captured."""

    def __init__(self, calls: list[tuple[Callable[..., Any], Any, Any, Any]]) -> None:
        self.calls = calls
        self.launches = 0

    def launch(self, stream: Any = None) -> None:
        self.launches += 1
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            moved = isinstance(again, StrictArray) and not np.shares_memory(again._numbers, result._numbers)
            if moved and again.size:
                result._numbers[...] = again._numbers


class Stream:
    def __init__(self, device: Device, ptr: int) -> None:
        self.device, self.ptr = device, ptr
        self.calls: list[Any] | None = None  # while it captures
        self.before: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}  # memory, and what was there

    def __enter__(self) -> Stream:
        self.device.streams.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        assert self.device.streams.pop() is self

    def synchronize(self) -> None:
        if self.calls is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported")

    def record(self) -> Any:
        return self.ptr

    def wait_event(self, event: int) -> None:
        self.device.order.append((self.ptr, event))

    def begin_capture(self) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.calls, self.before = [], {}

    def end_capture(self) -> Graph:
        assert self.calls is not None
        graph, self.calls = Graph(self.calls), None
        for *_, result in graph.calls:
            if isinstance(result, StrictArray) and result.dtype.kind == "f" and result._numbers.base is None:
                result._numbers.fill(np.nan)
        for memory, was in self.before.values():
            memory[...] = was
        self.device.graphs.append(graph)
        return graph


class Device:
    """What ``cupy.cuda`` knows."""

    def __init__(self) -> None:
        self.streams = [Stream(self, 0)]
        self.allocators: list[Any] = [None]
        self.graphs: list[Graph] = []
        self.order: list[tuple[int, int]] = []  # which stream waited for which
        self.freed: list[bool] = []  # by pools
        self.depth = 0

    @property
    def capturing(self) -> Stream | None:
        return self.streams[-1] if self.streams[-1].calls is not None else None

    def module(self) -> SimpleNamespace:
        return SimpleNamespace(
            Stream=lambda non_blocking: Stream(self, len(self.order) + 7),
            Graph=Graph,
            MemoryPool=lambda: SimpleNamespace(malloc=object(), free_all_blocks=lambda: self.freed.append(True)),
            using_allocator=self.using_allocator,
            get_current_stream=lambda: self.streams[-1],
            runtime=SimpleNamespace(getDevice=lambda: 0),
        )

    @contextmanager
    def using_allocator(self, allocator: Any) -> Iterator[None]:
        self.allocators.append(allocator)
        yield
        self.allocators.pop()

    def launching(self, function: Callable[..., Any], refusal: str = "") -> Any:
        """A function of the array module that is noted while a stream captures."""

        spares = _makes_no_product if refusal.startswith("cuBLAS") else lambda *_: False

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            stream = self.capturing
            if stream is not None and refusal and not spares(*args):
                raise NotImplementedError(refusal)
            if stream is None or self.depth:
                return function(*args, **kwargs)
            for x in tree_leaves([args, kwargs]):
                if isinstance(x, StrictArray) and x.nbytes:
                    memory = x.data.mem
                    stream.before.setdefault((memory.ptr, memory.size), (memory.bytes, memory.bytes.copy()))
            self.depth += 1
            try:
                result = function(*args, **kwargs)
            finally:
                self.depth -= 1
            if self.allocators[-1] is None:
                raise RuntimeError("memory from outside of the graph's pool")
            stream.calls.append((function, args, kwargs, result))  # type: ignore[union-attr]
            return result

        return call


def _makes_no_product(a: Any, b: Any, *_: Any) -> bool:
    """Whether CuPy leaves cuBLAS alone: of two vectors it makes a sum of their products, and of nothing zeros."""
    return not isinstance(a, str) and (a.ndim == b.ndim == 1 or not a.size or not b.size)


_QUIET = {"__init__", "__repr__", "__array__", "__array_ufunc__", "__array_function__", "__len__", "__iter__", "_key"}
_REFUSED = {
    "dot": "cuBLAS cannot be captured through CuPy",
    "matmul": "cuBLAS cannot be captured through CuPy",
    "einsum": "cuBLAS cannot be captured through CuPy",
    "array": "a host copy is not allowed during capture",
    "get": "a host copy is not allowed during capture",
}


@contextmanager
def registered() -> Iterator[Device]:
    """Makes a backend "strict" known that has streams and graphs."""
    device = Device()

    def few(name: str) -> Callable[..., Any]:
        def joined(tup: Any, axis: int = 0, out: Any = None) -> Any:
            if device.capturing and len(tup) > 8:
                raise RuntimeError("a table of pointers would be copied from the host")
            return getattr(strict.xp, name)(tup, axis, out)

        return joined

    class Kernel(generated.ElementwiseKernel):
        __call__ = device.launching(generated.ElementwiseKernel.__call__)

    methods = {
        name: device.launching(value, _REFUSED.get(name, ""))
        for name, value in vars(StrictArray).items()
        if callable(value) and name not in _QUIET
    }
    functions = {
        name: device.launching(value, _REFUSED.get(name, ""))
        for name, value in vars(strict.xp).items()
        if callable(value) and name != "ndarray" and not isinstance(value, type)
    }
    functions["add"].at = device.launching(strict.xp.add.at)
    functions |= {name: device.launching(few(name)) for name in ("stack", "concatenate")}
    module = SimpleNamespace(**(vars(strict.xp) | functions | {"ElementwiseKernel": Kernel, "cuda": device.module()}))
    with (
        patch.multiple(StrictArray, **methods),
        patch.dict(backend._backends),
        patch.dict(backend._by_type),
        patch.dict(backend.modules),
    ):
        home = backend.register(strict.StrictBackend(module))  # type: ignore[arg-type]
        home.xp.dot = device.launching(home.xp.dot)
        home.uniform = device.launching(home.uniform, "random numbers")  # type: ignore[method-assign]
        yield device
