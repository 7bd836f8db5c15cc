"""The tape: nodes in order of creation.

Ids only grow, so creation order is topological order: a walk from high to low ids meets every node after all of its
users, without sorting. Ids are also a clock: "how far back in time" and "written since" compare ids.
"""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from array import array as int_array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from . import backend
from .backend import Array

if TYPE_CHECKING:
    from typing_extensions import Self

    from .plan import Plan

_ids = itertools.count(1)
clock = _ids.__next__  # the next id; calling it is atomic


class GraphError(RuntimeError):
    """A derivative is not available: there is no graph, it was freed or overwritten, or one of its rules failed."""


class CaptureError(RuntimeError):
    """A step under capture does something that a recorded program cannot repeat."""


class Node(list[Any]):
    """One executed operation. Its items: blanks for g and k, the values that its rules need, then its parents.

    It holds arrays and nodes, never Tensors, so there are no reference cycles and a dropped graph is freed at once.
    It is a list, not an object with two tuples, because Python's cyclic collector keeps visiting all live objects: this
    way there is one per operation instead of three. An empty node was freed by a backward pass, or is hollow: then
    ``again()`` recomputes it with its neighbours and returns all by id. Two nodes with the same id are the same
    operation with the same values; a walk treats them as one.
    """

    __slots__ = ("again", "dtype", "id", "plan", "shape")
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    id: int
    plan: Plan
    shape: tuple[int, ...]
    dtype: Any
    again: Callable[[], dict[int, Node]]  # only for hollow nodes

    def hollow(self) -> Node:
        """An empty stand-in for this node; the caller must set ``again``."""
        node = Node()
        node.id, node.plan, node.shape, node.dtype = self.id, self.plan, self.shape, self.dtype
        return node

    @property
    def saved(self) -> dict[str, Any]:
        """The saved values that the rules need, by name."""
        return dict(zip(self.plan.names, self[2 : self.plan.base], strict=True)) if self else {}

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """The arrays among the saved values, each with its name; those of ``*xs`` one by one."""
        for name, value in self.saved.items():
            for x in value if isinstance(value, tuple) else (value,):
                if backend.is_array(x):
                    yield name, x

    @property
    def parents(self) -> list[Node | Leaf | None]:
        """The nodes of the inputs, None for inputs without one."""
        return self[self.plan.base :]

    def __repr__(self) -> str:
        return f"{self.plan.op.name}#{self.id}"

    @property
    def origin(self) -> str:
        """The operation, its shape and its time step, for messages."""
        return f"{self!r} {list(self.shape)}{at_step(step_of(self.id))}"


class Leaf:
    """The end of the graph at a tensor that requires a gradient; the gradient accumulates here."""

    __slots__ = ("converted", "dtype", "frozen", "grad", "id", "shape")
    plan = None  # distinguishes a leaf from a node

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.id = clock()
        self.shape = shape
        self.dtype = dtype
        self.grad: Any = None  # a Tensor
        self.frozen = False  # whether gradients that arrive are dropped
        self.converted = False  # whether its tensor has changed dtype or backend, and has another leaf since

    def __repr__(self) -> str:
        return f"leaf#{self.id}"


class Taped:
    """An array and the node that made it: all that the tape needs to know of a Tensor."""

    __slots__ = ("array", "node")
    array: Array
    node: Node | Leaf | None

    def __repr__(self) -> str:
        node = "" if self.node is None else f", {self.node!r}"
        return f"{type(self).__name__}({backend.signature(self.array)} {backend.of(self.array).name}{node})"

    @classmethod
    def wrap(cls, array: Array, node: Node | Leaf | None = None) -> Self:
        """Wrap an array without copying or checking anything."""
        self = cls.__new__(cls)
        self.array = array
        self.node = node
        return self


def bare_array(x: Any) -> Any:
    """The array of a Tensor; anything else unchanged."""
    return x.array if isinstance(x, Taped) else x


def host_array(x: Any) -> np.ndarray:
    """A Tensor's array, or a bare array, as a NumPy array; on a device, this waits for it."""
    array = bare_array(x)
    return np.asarray(backend.of(array).to_host(array))


class _State(threading.local):
    """The state of one thread: whether operations are recorded, who watches them, and where time steps began."""

    def __init__(self) -> None:
        self.enabled = True
        self.keep: Callable[[Array], Array] | None = None  # for capture: what graphs save of a bare array
        self.watchers: tuple[Any, ...] = ()
        self.marks = int_array("q")  # ids, growing
        self.steps = int_array("q")  # the time step that began at each mark, -1 for "outside of any"


state = _State()


_MARKS_KEPT = 1 << 20  # time steps that are remembered per thread (16 MB); older ones are forgotten


def mark(step: int = -1) -> int:
    """Mark this moment and return it, for ``backward(horizon=...)``; takes constant time.

    Nodes that are made from now until the next mark belong to time step ``step``; -1 means none.
    """
    now = clock()
    if len(state.marks) >= _MARKS_KEPT:
        del state.marks[: _MARKS_KEPT // 2], state.steps[: _MARKS_KEPT // 2]
    state.marks.append(now)
    state.steps.append(step)
    return now


def step_of(node_id: int) -> int | None:
    """The time step in which a node was made, or None."""
    position = bisect_right(state.marks, node_id) - 1
    step = state.steps[position] if position >= 0 else -1
    return None if step < 0 else step


def present_step() -> int | None:
    """The current time step, or None."""
    return step_of(sys.maxsize)  # later than every node


def at_step(step: int | None) -> str:
    """A time step for the end of a message, as ``, time step 3``; "" for None."""
    return "" if step is None else f", time step {step}"


def unmark(since: int, before: int) -> None:
    """Forget time steps that began between two moments, once none of their nodes is left: streams may be endless."""
    first, last = bisect_left(state.marks, since), bisect_left(state.marks, before)
    del state.marks[first:last], state.steps[first:last]


@contextmanager
def collector_resting() -> Iterator[None]:
    """Pause Python's cyclic collector: a graph has no cycles, so visiting it while it grows would be in vain."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def timeline() -> Iterator[Callable[[int], int]]:
    """Wrap a loop over time steps: yields ``mark``, to be called with each step's number, and ends the last step."""
    outer = present_step()
    with collector_resting():
        try:
            yield mark
        finally:
            mark(-1 if outer is None else outer)


@contextmanager
def watching(watcher: Any) -> Iterator[Any]:
    """Tell a watcher of every operation, forward and backward, inside this block (see ``record.Watcher``)."""
    state.watchers += (watcher,)
    try:
        yield watcher
    finally:
        state.watchers = tuple(w for w in state.watchers if w is not watcher)
