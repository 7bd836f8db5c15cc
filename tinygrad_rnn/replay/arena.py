"""The arena, in which blocks that are never in use at the same time share memory."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence

import numpy as np

from ..backend import Array
from .blocks import Block, aligned
from .layout import Layout
from .program import Line, Value

_PARTS = 64  # of the largest block, each with a lifetime of its own
_MANY = 4096  # blocks that are placed one by one, which takes quadratic time


class Arena:
    """Memory for the blocks of a layout, each of which gets an offset.

    Blocks that are used by different lanes share no memory, or one lane would have to wait for the other.
    """

    def __init__(self, layout: Layout, order: Sequence[Line], lane: Mapping[Line, int]) -> None:
        self._layout = layout
        lanes: dict[Block, set[int]] = {block: set() for block in layout.blocks}
        for value, lines in _lifetimes(order, layout).items():
            if (block := layout.block.get(value)) in lanes:
                block.used(layout.extent[value], lines)
        for line, number in lane.items():
            for value in (*line.reads, *line.results):
                if (block := layout.block[value]) in lanes:
                    lanes[block].add(number)
        apart: dict[frozenset[int], list[Block]] = {}
        for block, numbers in lanes.items():
            apart.setdefault(frozenset(numbers), []).append(block)
        self.size = 0
        for blocks in apart.values():
            size = pack(blocks)
            for block in blocks:
                block.offset += self.size
            self.size += aligned(size)
        self._memory = np.empty(self.size, np.uint8)

    def place(self, value: Value) -> Array:
        """Where a value lies, as an array in memory that is never touched."""
        place = self._layout.place[value]
        if not self._layout.block[value].owned or not place.size:
            return place
        return np.ndarray(place.shape, place.dtype, self._memory, self._layout.offset(value), place.strides)


def _lifetimes(lines: Sequence[Line], layout: Layout) -> dict[Value, tuple[int, int]]:
    """The first and the last line that use each value. Taking a view does not count."""
    found: dict[Value, tuple[int, int]] = {}
    for i, line in enumerate([*lines, layout.program.end]):
        if line.result not in layout.base:
            for value in (*line.reads, *line.results):
                first, _ = found.get(value, (i, i))
                found[value] = first, i
    return found


def part_size(blocks: list[Block]) -> int:
    """The size in bytes of the parts of large blocks."""
    return aligned(max((block.nbytes for block in blocks), default=0) // _PARTS)


def pack(blocks: list[Block]) -> int:
    """Give each block its offset in the arena, and return the arena's size.

    Large blocks come first, in order of size, each where the arena grows least, clear of all that is in use at the same
    time. This is checked part by part: when a stack is used up from its end, as the gates are in the backward pass,
    another one can grow into its place. Small blocks share the memory behind, by a sweep over the lines: there are
    thousands of them, and checking their parts too would take seconds and save 2 %.
    """
    blocks = sorted(blocks, key=lambda block: (-block.nbytes, block.lines))
    size = part_size(blocks)
    large = [block for block in blocks[:_MANY] if block.nbytes > size]
    taken = np.empty((4, sum(-(-block.nbytes // size) for block in large)), int)
    count = bottom = top = 0
    for block in large:
        parts = block.parts(size)
        block.offset = _free_offset(parts, taken[:, :count], bottom, top)
        parts[:2] += block.offset
        taken[:, count : (count := count + parts.shape[1])] = parts
        bottom, top = min(bottom, block.offset), max(top, int(parts[1, -1]))
    for block in large:
        block.offset -= bottom
    return _sweep(blocks[len(large) :], top - bottom)


def _free_offset(parts: np.ndarray, taken: np.ndarray, bottom: int, top: int) -> int:
    """The conflict-free offset that takes the least new memory; of several, the one next to the first block.

    The first block is the largest one, and lies at 0.
    """
    taken = taken[:, (parts[2].min() <= taken[3]) & (taken[2] <= parts[3].max())]
    low, high, first, last = parts[:, :, None]
    clash = (first <= taken[3]) & (taken[2] <= last)
    starts, stops = (taken[0] - high)[clash], (taken[1] - low)[clash]  # offsets between these conflict
    if not len(starts):
        return 0
    order = starts.argsort()
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    gaps = np.flatnonzero(starts[1:] >= stops[:-1])
    end = parts[1, -1]
    gap = (
        np.array([min(starts[0], bottom), *stops[gaps], stops[-1]]),
        np.array([starts[0], *starts[gaps + 1], top + end]),
    )
    found = np.concatenate([np.clip(0, *gap), np.clip(-end, *gap)])
    new = np.maximum(found + end - top, 0) + np.maximum(bottom - found, 0)
    return int(found[np.lexsort((np.minimum(abs(found), abs(found + end)), new))[0]])


def _sweep(blocks: list[Block], top: int) -> int:
    """Give each block, when it is first needed, the smallest gap behind ``top`` that holds it; returns the new top."""
    events: list[tuple[int, int, int]] = []
    for number, block in enumerate(blocks):
        start, stop = block.lines
        events += [(2 * start, 1, number), (2 * stop + 1, 0, number)]
    free: list[tuple[int, int]] = []  # (offset, bytes), by offset
    for _, begins, number in sorted(events):
        block = blocks[number]
        size = aligned(block.nbytes)
        if not begins:
            _release(free, block.offset, size)
            continue
        fits = [(length, offset) for offset, length in free if length >= size]
        if fits:
            length, block.offset = min(fits)
            free.remove((block.offset, length))
            if length > size:
                insort(free, (block.offset + size, length - size))
        elif free and free[-1][0] + free[-1][1] == top:
            block.offset = free.pop()[0]
            top = block.offset + size
        else:
            block.offset, top = top, top + size
    return top


def _release(free: list[tuple[int, int]], offset: int, size: int) -> None:
    """Add a gap to the others, in one with those that it touches."""
    touched = [gap for gap in free if sum(gap) == offset or gap[0] == offset + size]
    for gap in touched:
        free.remove(gap)
    insort(free, (min([offset, *(start for start, _ in touched)]), size + sum(length for _, length in touched)))
