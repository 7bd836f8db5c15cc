"""Schedules of recomputation: which states to keep in the forward pass, and again in the backward pass.

A schedule is a number of steps with their whole graph kept, or a tuple of schedules that run one after another. In a
tuple, the last part follows its own schedule, as backward needs it first; of each earlier part only the initial state
is kept. When backward is done with a part, it runs the one before it again from its state, by that part's schedule.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

Schedule: TypeAlias = "int | tuple[Any, ...]"  # of schedules

_UNITS = 512  # plan in at most this many units, or planning would take longer than the training step


def even(steps: int, parts: int) -> Schedule:
    """Parts of equal length; if steps do not divide evenly, the first parts are one step longer."""
    size, longer = divmod(steps, parts)
    return (size + 1,) * longer + (size,) * (parts - longer) if parts > 1 else steps


def each_segment(schedule: Any) -> Iterator[tuple[Any, int, int]]:
    """The segments with a whole graph in order of time, the number of states kept before each, and how often it is run.

    Schedules may be hundreds of tuples deep, which is near Python's limit of recursion.
    """
    ahead = [(schedule, 0, 1)]
    while ahead:
        part, states, runs = ahead.pop()
        if isinstance(part, tuple):
            last = len(part) - 1
            ahead += [(part[i], states + i, runs + (i < last)) for i in range(last, -1, -1)]
        else:
            yield part, states, runs


def lengths(schedule: Schedule) -> Iterator[int]:
    """The lengths of the segments with a whole graph, from the first step to the last."""
    return (steps for steps, _, _ in each_segment(schedule))


def work(schedule: Schedule) -> int:
    """The total number of steps run forward, including the first time.

    >>> work(4), work((2, 2)), work(((2, 2), 4))
    (4, 6, 14)
    """
    return sum(steps * runs for steps, _, runs in each_segment(schedule))


def held(schedule: Schedule, step_bytes: int, state_bytes: int) -> int:
    """The most bytes kept at a time: the graph of one segment, and the states kept before it."""
    return max(states * state_bytes + steps * step_bytes for steps, states, _ in each_segment(schedule))


def smallest_budget(steps: int, step_bytes: int, state_bytes: int) -> int:
    """The smallest budget of any schedule: one state and the graph of one unit of steps, or the whole graph."""
    return min(steps * step_bytes, -(-steps // _UNITS) * step_bytes + state_bytes)


@lru_cache(maxsize=64)
def best(steps: int, step_bytes: int, state_bytes: int, budget: int) -> Schedule:
    """The schedule with the least work within a budget in bytes.

    It is found by the dynamic programme of Gruslys et al. (2016, "Memory-Efficient Backpropagation Through Time") over
    where to keep the next hidden state, with costs in bytes. C(t, k) is the least work for t steps while k states are
    kept for other steps:

        C(t, k) = t                                                 if k state_bytes + t step_bytes <= budget, else
        C(t, k) = min over 0 < y < t of y + C(t - y, k + 1) + C(y, k)

    That is: run y steps to reach the next state, handle the steps after it with one more state kept, then those before
    it. With room for the graph of a single step this is their BPTT-HSM, and the binomial schedule of Griewank and
    Walther (2000, "revolve"). More than 512 steps are planned in up to 512 units of equal length.

    Raises ValueError, naming the smallest budget that would do, if there is none.

    >>> best(12, step_bytes=10, state_bytes=2, budget=1000), best(12, step_bytes=10, state_bytes=2, budget=50)
    (12, (5, 3, 4))
    """
    smallest = smallest_budget(steps, step_bytes, state_bytes)
    if not budget >= smallest:  # NaN too
        raise ValueError(
            f"budget: {budget:,} bytes are too few for {steps} steps, of which each keeps {step_bytes:,} bytes "
            f"and each state {state_bytes:,}; the smallest budget that would do is {smallest:,} bytes"
        )
    if budget >= steps * step_bytes:  # which may be infinite
        return steps
    unit = -(-steps // _UNITS)
    count = -(-steps // unit)
    room = [(budget - k * state_bytes) // (unit * step_bytes) if step_bytes else count for k in range(count)]
    cuts = _cuts(count, [r for r in room if r > 0])
    sizes = [unit] * (count - 1) + [steps - unit * (count - 1)]
    return _laid_out(sizes, cuts, 0)


def _cuts(count: int, room: list[int]) -> Any:
    """Where to keep the next state, with k states kept and t units to go; 0 where all t can be kept whole."""
    cost = np.full((len(room) + 1, count + 1), np.inf)
    cuts = np.zeros((len(room), count + 1), dtype=int)
    for t in range(1, count + 1):
        if t > 1:
            totals = np.arange(1, t) + cost[1:, t - 1 : 0 : -1] + cost[:-1, 1:t]
            cuts[:, t] = t - 1 - totals[:, ::-1].argmin(axis=1)  # the latest on ties: fewer parts
            cost[:-1, t] = totals.min(axis=1)
        whole = np.array(room) >= t
        cost[:-1, t][whole], cuts[whole, t] = t, 0
    return cuts


def _laid_out(sizes: list[int], cuts: Any, k: int) -> Schedule:
    """The schedule for units of these sizes, while k states are kept."""
    parts: list[Schedule] = []
    while y := int(cuts[k, len(sizes)]):
        parts.append(_laid_out(sizes[:y], cuts, k))
        sizes, k = sizes[y:], k + 1
    return (*parts, sum(sizes)) if parts else sum(sizes)
