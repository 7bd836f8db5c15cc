"""Schedules the lines that a pass has made: each at a given position, but after everything that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush

from ..program import Line

AT_ONCE = -1  # the position of a line that comes as soon as its inputs are computed


def in_order_of(position: Mapping[Line, int]) -> list[Line]:
    """Sort lines topologically, and otherwise by their positions."""
    lines = sorted(position, key=position.__getitem__)
    rank = {line: i for i, line in enumerate(lines)}
    readers: list[list[int]] = [[] for _ in lines]
    waits = [0] * len(lines)  # how many values each line waits for
    for i, line in enumerate(lines):
        for value in line.reads:
            if value.line in rank:
                readers[rank[value.line]].append(i)
                waits[i] += 1
    ready = [i for i, count in enumerate(waits) if not count]  # sorted, so it is a heap
    done = []
    while ready:
        now = heappop(ready)
        done.append(lines[now])
        for reader in readers[now]:
            waits[reader] -= 1
            if not waits[reader]:
                heappush(ready, reader)
    assert len(done) == len(lines), "a joined line depends on itself"
    return done
