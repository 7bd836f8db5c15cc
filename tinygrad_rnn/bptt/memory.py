"""Predicts how much memory BPTT takes for a cell, before anything long is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil, sqrt
from operator import itemgetter
from typing import Any, NamedTuple

from .. import backend
from ..create import zeros, zeros_beside
from ..graph import reachable
from ..nn.checks import begin
from ..nn.module import first_tensor
from ..nn.unrolling import advance, check_cell, project
from ..ops import broadcast_to
from ..out_of_memory import readable
from ..tape import Node, bare_array
from ..tensor import Tensor
from ..tree import tree_leaves, tree_map
from ..writes import owner_of
from .schedule import Schedule, best, even, held, lengths, smallest_budget, work

_HEADER = 112  # bytes of a NumPy array object, without its data


class Way(NamedTuple):
    """One way to do BPTT: its schedule, the most bytes it keeps at a time, and the number of steps it runs."""

    name: str
    schedule: Schedule
    bytes: int
    steps: int


class MemoryPlan(NamedTuple):
    """The result of ``memory_plan``. Try out budgets, in bytes, with ``scheduled(budget)`` and ``fit(budget)``."""

    title: str
    length: int
    step_bytes: int
    state_bytes: int
    budget: int | None

    @property
    def plain(self) -> Way:
        """Keep everything: ``unroll``."""
        return self._way("plain", self.length)

    @property
    def sqrt(self) -> Way:
        """ceil(sqrt(T)) segments: the default of ``checkpointed``."""
        return self._way("sqrt", even(self.length, ceil(sqrt(self.length))))

    @property
    def smallest_budget(self) -> int:
        """The smallest budget, in bytes, that ``checkpointed(budget=...)`` accepts."""
        return smallest_budget(self.length, self.step_bytes, self.state_bytes)

    def scheduled(self, budget: int) -> Way:
        """What ``checkpointed(budget=...)`` does; ValueError, naming the smallest budget, if this one is too small."""
        return self._way("scheduled", best(self.length, self.step_bytes, self.state_bytes, budget))

    def fit(self, budget: int) -> Way:
        """The one of the three that runs the fewest steps within a budget; ValueError as for ``scheduled``."""
        ways = [way for way in (self.plain, self.sqrt, self.scheduled(budget)) if way.bytes <= budget]
        return min(ways, key=lambda way: way.steps)

    def _way(self, name: str, schedule: Schedule) -> Way:
        return Way(name, schedule, held(schedule, self.step_bytes, self.state_bytes), work(schedule))

    def __repr__(self) -> str:
        budget = self.smallest_budget if self.budget is None else self.budget
        ways = [self.plain, self.sqrt, self.scheduled(budget)]
        rows = [
            f"{way.name:<10}{len(list(lengths(way.schedule))):>9}{readable(way.bytes):>12}"
            f"{way.bytes / max(1, self.plain.bytes):>10.1%}{way.steps:>11,}"
            for way in ways
        ]
        end = f"smallest budget: {readable(self.smallest_budget)}"
        if self.budget is not None:
            end = f"budget: {readable(budget)}, which {self.fit(budget).name} fits; {end}"
        each = f"{readable(self.step_bytes)} a step, {readable(self.state_bytes)} a state"
        head = "way        segments        kept  of plain  steps run"
        return "\n".join([f"{self.title}: {each}", head, *rows, end])


def memory_plan(cell: Any, T: int, B: int, budget: int | None = None, inputs: Any = None) -> MemoryPlan:
    """The bytes that plain, sqrt(T) and scheduled BPTT keep for backward, over T steps with a batch of B.

    plain: T step_bytes. sqrt: the states at the borders of the segments, and the graph of one segment.
    scheduled: what ``checkpointed(budget=...)`` does with this budget, or with the smallest possible one if None.

    The bytes of a step are measured on five steps of the cell: saved arrays, the projected input, and nodes. Inputs,
    outputs, their gradients, and arrays that wait for the merging of weight gradients are extra.
    inputs: those of one step, (B, ...), for cells without ``input_size``.

    Raises TypeError if a cell has no ``input_size`` and no inputs are given, ValueError for T below 1.

    >>> from tinygrad_rnn import nn
    >>> plan = memory_plan(nn.LSTMCell(64, 64), T=1000, B=16, budget=2**20)
    >>> plan.sqrt.bytes < plan.plain.bytes / 15, plan.scheduled(2**20).bytes <= 2**20, plan.fit(10**8).name
    (True, True, 'plain')
    """
    check_cell("memory_plan", cell)
    if T < 1:
        raise ValueError(f"memory_plan: T must be at least 1, not {T}")
    if inputs is None:
        if getattr(cell, "input_size", None) is None:
            raise TypeError(f"memory_plan: {type(cell).__name__} has no input_size; give one step's inputs, (B, ...)")
        first, shape = first_tensor(cell), (B, cell.input_size)
        inputs = zeros(shape) if first is None else zeros_beside(first, shape)
    with repeatable([backend.of(None), backend.of(bare_array(inputs))]):
        z = project(cell, inputs[None], None)
        step, state = costs(cell, inputs[None], begin(cell, tree_map(itemgetter(0), z)))
    return MemoryPlan(f"{cell!r}, T={T:,}, B={B:,}", T, step, state, budget)


def kept_bytes(tree: Any) -> int:
    """The bytes that the graph behind tensors keeps: its nodes and their saved arrays, each counted once."""
    roots = [leaf.node for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.node is not None]
    nodes = [node for node in reachable(roots) if isinstance(node, Node)]
    arrays = {id(array): array for node in nodes for _, array in node.arrays()}
    owners = {id(owner): owner for owner in map(owner_of, arrays.values())}
    return sum(map(sys.getsizeof, nodes)) + _HEADER * len(arrays) + sum(owner.nbytes for owner in owners.values())


def costs(cell: Any, x: Any, state: Any, real: Any = None) -> tuple[int, int]:
    """The bytes that the graph of one more step keeps, including its projected input, and the bytes of a state.

    x: the inputs of one step, (1, B, ...). Runs five steps.
    """
    kept = []
    for steps in (2, 3):
        xs = broadcast_to(x, shape=(steps, *x.shape[1:]))  # takes no memory, just as slices of inputs
        mask = None if real is None else broadcast_to(real[:1], shape=(steps, *real.shape[1:]))
        zs = project(cell, xs, mask)
        kept.append(kept_bytes(advance(cell, zs, state, mask)) + _bytes_of(zs))
    return kept[1] - kept[0], _bytes_of(state)


def _bytes_of(tree: Any) -> int:
    return sum(getattr(bare_array(leaf), "nbytes", 0) for leaf in tree_leaves(tree))


@contextmanager
def repeatable(homes: Sequence[Any], states: Sequence[Any] | None = None) -> Iterator[None]:
    """Restore the random generators on exit, so that draws are repeated later. states: what to start from inside."""
    now = [home.random_state() for home in homes]
    for home, state in zip(homes, now if states is None else states, strict=True):
        home.set_random_state(state)
    try:
        yield
    finally:
        for home, state in zip(homes, now, strict=True):
            home.set_random_state(state)
