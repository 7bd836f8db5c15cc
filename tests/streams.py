"""A stand-in for CUDA's streams, memory pools and graphs, over the strict array module.

Between begin and end of a capture, calls of the array module are noted with their arguments, and with the calls that
must come before: those of the same stream, and those of other streams up to an event that it waited for. What they
wrote meanwhile is taken back when the capture ends, as nothing was to be done yet; what they returned keeps its
address. A launch makes the same calls on the same arrays, in any order that what was noted allows, another one each
time, and puts their results to the same addresses. What CUDA or CuPy refuses is refused: host copies, cuBLAS through
CuPy, joining more than eight arrays, memory from outside of a graph's own pool, streams that are not joined in the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import generated
import numpy as np
import strict
from strict import StrictArray

from tinygrad_rnn.tree import tree_leaves


class Graph:
    """Calls that were captured."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self.after: list[set[int]] = []  # for each call, those that must come before it
        self.written: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}  # memory, and what was there
        self.launches = 0

    def launch(self, stream: Any = None) -> None:
        self.launches += 1
        for k in self.order(Random(self.launches)):
            function, args, kwargs, result = self.calls[k]
            again = function(*args, **kwargs)
            moved = isinstance(again, StrictArray) and not np.shares_memory(again._numbers, result._numbers)
            if moved and again.size:
                result._numbers[...] = again._numbers

    def order(self, random: Random) -> Iterator[int]:
        """Some order in which a device may make the calls."""
        left = [len(after) for after in self.after]
        behind: list[list[int]] = [[] for _ in self.after]
        for k, after in enumerate(self.after):
            for other in after:
                behind[other].append(k)
        ready = [k for k, count in enumerate(left) if not count]
        while ready:
            k = ready.pop(random.randrange(len(ready)))
            yield k
            for other in behind[k]:
                left[other] -= 1
                if not left[other]:
                    ready.append(other)

    @property
    def longest_chain(self) -> int:
        """Calls of which each must wait for the one before it."""
        depth: list[int] = []
        for after in self.after:
            depth.append(1 + max((depth[k] for k in after), default=0))
        return max(depth, default=0)


class Event:
    """What a stream had been given when it was recorded."""

    def __init__(self, disable_timing: bool = False) -> None:
        self.ptr, self.graph, self.last = 0, None, frozenset[int]()


class Stream:
    def __init__(self, device: Device, ptr: int) -> None:
        self.device, self.ptr = device, ptr
        self.graph: Graph | None = None  # while it captures
        self.last: frozenset[int] = frozenset()  # calls of the graph that come before the next one

    def __enter__(self) -> Stream:
        self.device.streams.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        assert self.device.streams.pop() is self

    def synchronize(self) -> None:
        if self.graph is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported")

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.ptr, event.graph, event.last = self.ptr, self.graph, self.last
        return event

    def wait_event(self, event: Event) -> None:
        if event.graph is None and self.graph is not None:
            raise RuntimeError("cudaErrorStreamCaptureIsolation")
        if event.graph is not None and self.graph is None:
            self.device.forked.append(self)
        self.graph = event.graph
        self.last |= event.last
        self.device.order.append((self.ptr, event.ptr))

    def begin_capture(self) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.graph, self.last = Graph(), frozenset()

    def end_capture(self) -> Graph:
        graph, last = self.graph, self.last
        streams, self.device.forked = [self, *self.device.forked], []
        for stream in streams:
            stream.graph, stream.last = None, frozenset()
        for *_, result in graph.calls:
            if isinstance(result, StrictArray) and result.dtype.kind == "f" and result._numbers.base is None:
                result._numbers.fill(np.nan)
        for memory, was in graph.written.values():
            memory[...] = was
        joined, ahead = set[int](), list(last)
        while ahead:
            k = ahead.pop()
            if k not in joined:
                joined.add(k)
                ahead += graph.after[k]
        if len(joined) < len(graph.calls):
            raise RuntimeError("cudaErrorStreamCaptureUnjoined")
        self.device.graphs.append(graph)
        return graph


class Device:
    """What ``cupy.cuda`` knows."""

    def __init__(self) -> None:
        self.streams = [Stream(self, 0)]
        self.forked: list[Stream] = []  # that were drawn into a capture by an event
        self.allocators: list[Any] = [None]
        self.graphs: list[Graph] = []
        self.order: list[tuple[int, int]] = []  # which stream waited for which
        self.freed: list[bool] = []  # by pools
        self.made = 0
        self.depth = 0

    @property
    def capturing(self) -> Stream | None:
        return self.streams[-1] if self.streams[-1].graph is not None else None

    def stream(self, non_blocking: bool) -> Stream:
        self.made += 1
        return Stream(self, self.made)

    def module(self) -> SimpleNamespace:
        return SimpleNamespace(
            Stream=self.stream,
            Event=Event,
            Graph=Graph,
            MemoryPool=lambda: SimpleNamespace(
                malloc=object(), free_all_blocks=lambda: self.freed.append(True), total_bytes=lambda: 1 << 20
            ),
            using_allocator=self.using_allocator,
            get_current_stream=lambda: self.streams[-1],
            runtime=SimpleNamespace(getDevice=lambda: 0),
        )

    @contextmanager
    def using_allocator(self, allocator: Any) -> Iterator[None]:
        self.allocators.append(allocator)
        try:
            yield
        finally:
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
                    stream.graph.written.setdefault((memory.ptr, memory.size), (memory.bytes, memory.bytes.copy()))
            self.depth += 1
            try:
                result = function(*args, **kwargs)
            finally:
                self.depth -= 1
            if self.allocators[-1] is None:
                raise RuntimeError("memory from outside of the graph's pool")
            graph = stream.graph
            graph.after.append(set(stream.last))
            stream.last = frozenset({len(graph.calls)})
            graph.calls.append((function, args, kwargs, result))
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
    with patch.multiple(StrictArray, **methods), strict.registered(module) as home:
        home.xp.dot, home.xp.matmul = map(device.launching, (home.xp.dot, home.xp.matmul))
        home.uniform = device.launching(home.uniform, "random numbers")
        yield device
