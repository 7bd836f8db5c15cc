"""Puts independent lines into parallel lanes, which a GPU works on at the same time.

Dependencies follow from memory: a line comes after those that wrote what it reads, and after those that read or wrote
where it writes. They are derived twice: before blocks share memory, to find what can run in parallel, and afterwards,
to find what must not.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

import numpy as np

from ..backend import Array
from .arena import Arena
from .blocks import Extent
from .joins import is_join
from .layout import Layout
from .program import Line, Value

MOST = 6  # at most: each lane with products takes a workspace of 32 MiB
# Costs in microseconds. Only their ratios matter for the lanes.
_LAUNCH, _HOP = 2.0, 1.0  # a kernel; a wait for another lane
_FLOPS, _BYTES = 2e7, 2e6  # operations and bytes per microsecond
_WORTH_WHILE = 0.95  # share of the time in one lane that several may take


class Lanes:
    """A program in lanes: its lines in the order in which they begin, and their memory.

    Each line that is a call has a lane, and a list of the lines in other lanes that it waits for.
    """

    def __init__(self, layout: Layout, most: int = 1) -> None:
        self.layout = layout
        self.lines = layout.program.lines
        calls = [line for line in self.lines if not layout.is_there(line)]
        self.of = dict.fromkeys(calls, 0)
        if most > 1 and (start := spread(hazards(calls, layout.place.__getitem__), most)):
            self.of = {line: lane for line, (_, lane) in start.items()}
            self.lines = _in_order(self.lines, {line: time for line, (time, _) in start.items()})
        self.count = max(self.of.values(), default=0) + 1
        self.arena = Arena(layout, self.lines, self.of)
        self.waits: dict[Line, list[Line]] = {}
        if self.count > 1:
            calls = [line for line in self.lines if line in self.of]
            self.waits = waits(hazards(calls, self.arena.place), self.of)


def hazards(lines: Sequence[Line], place: Callable[[Value], Array]) -> dict[Line, set[Line]]:
    """For each line, the earlier lines that wrote what it reads, or that read or wrote where it writes.

    Some that later ones wait for anyway are left out. A line that needs the host is a barrier: it waits for all earlier
    lines, and all later ones wait for it.
    """
    arrays = {value: place(value) for line in lines for value in (*line.reads, *line.results)}
    extents = {value: Extent.of(array) for value, array in arrays.items() if array.size}
    bounds = sorted({bound for _, *part in extents.values() for bound in part})
    index = {bound: k for k, bound in enumerate(bounds)}
    spans = {value: range(index[low], index[high]) for value, (_, low, high) in extents.items()}
    written: list[list[tuple[Line, Array]]] = [[] for _ in bounds]  # between each bound and the next
    read: list[list[tuple[Line, Array]]] = [[] for _ in bounds]
    before: dict[Line, set[Line]] = {}
    barrier: set[Line] = set()
    for line in lines:
        found = before[line] = set(before) if line.needs_host else barrier.copy()
        if line.needs_host:
            barrier = {line}
        for value in line.reads:
            array = arrays[value]
            for k in spans.get(value, ()):
                found.update(other for other, where in written[k] if _meet(where, array))
                read[k].append((line, array))
        for value in line.results:
            array = arrays[value]
            for k in spans.get(value, ()):
                found.update(other for other, where in (*written[k], *read[k]) if _meet(where, array))
                if array.flags.c_contiguous:  # then a wait for this line includes the others
                    written[k], read[k] = [], []
                written[k].append((line, array))
        found.discard(line)
    return before


def _meet(a: Array, b: Array) -> bool:
    """Whether two arrays whose extents overlap have an element in common."""
    return (a.flags.c_contiguous and b.flags.c_contiguous) or np.shares_memory(a, b)


def spread(before: Mapping[Line, set[Line]], most: int) -> dict[Line, tuple[float, int]]:
    """For each line its start time and its lane: where it can begin first, and then where the lane idles least.

    Nothing, if one lane is hardly slower.
    """
    cost = {line: _cost(line) for line in before}
    begin: dict[Line, tuple[float, int]] = {}
    busy: list[list[tuple[float, float]]] = [[] for _ in range(most)]
    for line, others in before.items():
        latest = [0.0] * most  # by lane: when all that this line waits for is done
        for other in others:
            start, lane = begin[other]
            latest[lane] = max(latest[lane], start + cost[other])
        arrival = [time + _HOP if time else 0.0 for time in latest]
        ready = [max(latest[k], *arrival[:k], *arrival[k + 1 :]) for k in range(most)]
        start, _, best = min((*_gap(busy[k], ready[k], cost[line]), k) for k in range(most))
        begin[line] = start, best
        insort(busy[best], (start, start + cost[line]))
    total = max((lane[-1][1] for lane in busy if lane), default=0.0)
    return begin if total < _WORTH_WHILE * sum(cost.values()) else {}


def _gap(busy: list[tuple[float, float]], ready: float, time: float) -> tuple[float, float]:
    """When a lane can begin work that takes ``time``, and, negated, when its work before that ends.

    The smaller of two such pairs begins earlier, or at the same time after less idling.
    """
    k = bisect_right(busy, ready, key=itemgetter(1))
    while k < len(busy) and busy[k][0] - ready < time:
        ready = max(ready, busy[k][1])
        k += 1
    return ready, -busy[k - 1][1] if k else 0.0


def _in_order(lines: Sequence[Line], start: Mapping[Line, float]) -> list[Line]:
    """Lines in the order in which they begin; lines without a call follow what they read."""
    key: dict[Line, float] = {}
    for line in lines:
        key[line] = start.get(line, max((key[x.line] for x in line.reads if x.line in key), default=0.0))
    return sorted(lines, key=key.__getitem__)


def _cost(line: Line) -> float:
    launches = len(line.inputs) if is_join(line) else 1
    return launches * _LAUNCH + line.flops / _FLOPS + line.nbytes / _BYTES


def waits(before: Mapping[Line, set[Line]], lane: Mapping[Line, int]) -> dict[Line, list[Line]]:
    """For each line, the lines in other lanes that it must wait for, unless earlier waits imply that."""
    position = {line: k for k, line in enumerate(before)}
    done = {k: dict.fromkeys(lane.values(), -1) for k in set(lane.values())}  # vector clocks of the lanes
    after: dict[Line, dict[int, int]] = {}
    found: dict[Line, list[Line]] = {}
    for line, others in before.items():
        clock = done[lane[line]]
        for other in sorted(others, key=position.__getitem__, reverse=True):
            if position[other] > clock[lane[other]]:
                found.setdefault(line, []).append(other)
                clock = {k: max(time, clock[k]) for k, time in after[other].items()}
        clock = clock | {lane[line]: position[line]}
        done[lane[line]] = after[line] = clock
    return found
