"""Blocks of memory, and how those that are never in use together share it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from .. import backend
from ..backend import Array
from .program import Program, Value

_ALIGNMENT = 64  # bytes, of a cache line
_FEW = 8  # values that are looked at one by one sooner than put in order
_PARTS = 64  # of the largest block, each with lines of its own between which it is in use
_MANY = 4096  # blocks that are placed one by one, which takes time with the square of their number

address = backend.get("numpy").address  # a layout is made in NumPy's memory, whatever plays it


class Block:
    """Memory for one value, or for several that lie within it or follow each other there.

    While the layout is made, a block has memory of its own, of which not a byte is touched: views of it tell where
    things would lie. In the end it is a part of the arena.
    """

    def __init__(self, like: Value | Array, outside: Array = None) -> None:
        self.outside = outside  # the array that is there already; None for a part of the arena
        self.owned = outside is None  # whether it is a part of the arena
        if isinstance(like, Value):
            self.nbytes = like.nbytes
            self.memory = np.empty(max(1, self.nbytes), np.uint8)
            self.whole = np.ndarray(like.shape, like.dtype, buffer=self.memory)
        else:
            self.nbytes, self.memory, self.whole = like.nbytes, like, like
        self.address = address(self.memory)
        self.uses: list[tuple[int, int, int, int]] = []  # from byte to byte, from line to line
        self.offset = 0  # in the arena

    def used(self, extent: Extent, lines: tuple[int, int]) -> None:
        """These bytes are in use from one line to another."""
        self.uses.append((extent.low - self.address, extent.high - self.address, *lines))

    @property
    def lines(self) -> tuple[int, int]:
        """The first and the last line that use it."""
        return min(use[2] for use in self.uses), max(use[3] for use in self.uses)

    def parts(self, size: int) -> np.ndarray:
        """First byte, byte behind the last, first and last line in use of each part of so many bytes, in 4 rows.

        Parts beside each other that are in use from the same line to the same one are one part.
        """
        count = -(-max(1, self.nbytes) // size)
        first, last = np.full(count, np.iinfo(int).max), np.full(count, -1)
        low, high, start, stop = np.array(self.uses).T
        counts = -(-high // size) - low // size  # of the parts that each use touches, which follow each other
        part = np.repeat(low // size - counts.cumsum() + counts, counts) + np.arange(counts.sum())
        np.minimum.at(first, part, np.repeat(start, counts))
        np.maximum.at(last, part, np.repeat(stop, counts))
        begin = np.flatnonzero(np.concatenate([[True], (first[1:] != first[:-1]) | (last[1:] != last[:-1])]))
        end = np.minimum(np.append(begin[1:], count) * size, _aligned(self.nbytes))
        return np.stack([begin * size, end, first[begin], last[begin]])[:, last[begin] >= 0]


class Extent(NamedTuple):
    """The bytes of an array: where it begins, the first of them, and the one after the last."""

    begin: int
    low: int
    high: int

    @classmethod
    def of(cls, array: Array) -> Extent:
        """That of an array in NumPy's memory."""
        begin = low = high = address(array)
        if array.flags.c_contiguous:
            return cls(begin, low, high + array.nbytes)
        for n, stride in zip(array.shape, array.strides, strict=True):
            if stride < 0:
                low += (n - 1) * stride
            else:
                high += (n - 1) * stride
        return cls(begin, low, high + array.itemsize)


class Region:
    """Values by the bytes that they take up, to find those that may share some with others."""

    def __init__(self, values: list[Value], extents: dict[Value, Extent]) -> None:
        self._values = values
        self._lows: list[int] = []
        if len(values) > _FEW:
            self._values = sorted(values, key=lambda value: extents[value].low)
            self._lows = [extents[value].low for value in self._values]
            self._highs = list(accumulate((extents[value].high for value in self._values), max))  # of all so far

    def near(self, low: int, high: int) -> list[Value]:
        """All values that may lie between two addresses; simply all, if they are few."""
        if not self._lows:
            return self._values
        return self._values[bisect_right(self._highs, low) : bisect_left(self._lows, high)]


def lifetimes(program: Program, base: dict[Value, Value]) -> dict[Value, tuple[int, int]]:
    """The first and the last line that use each value. A view, which has a base, is as such no use."""
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for i, line in enumerate(program.lines):
        if line.result not in base:
            for value in (*line.reads, *line.results):
                first.setdefault(value, i)
                last[value] = i
    for value in program.results:
        first.setdefault(value, len(program))
        last[value] = len(program)
    return {value: (start, last[value]) for value, start in first.items()}


class Outside:
    """Blocks for arrays that are there already.

    For those on a device, arrays on the host that lie to each other as these do stand in, while the layout is made.
    """

    def __init__(self) -> None:
        self._memory: dict[int, np.ndarray] = {}  # by address on the device

    def block(self, array: Array) -> Block:
        """The block of an array."""
        if isinstance(array, np.ndarray):
            return Block(array, outside=array)
        home = backend.of(array)
        start, nbytes = home.extent(array)
        memory = self._memory.setdefault(start, np.empty(max(1, nbytes), np.uint8))
        offset = home.address(array) - start if array.size else 0
        return Block(np.ndarray(array.shape, array.dtype, memory, offset, array.strides), outside=array)


def _aligned(nbytes: int) -> int:
    return -(-max(1, nbytes) // _ALIGNMENT) * _ALIGNMENT


def part_size(blocks: list[Block]) -> int:
    """Bytes of the parts of large blocks."""
    return _aligned(max((block.nbytes for block in blocks), default=0) // _PARTS)


def pack(blocks: list[Block]) -> int:
    """Give each block its offset in the arena, and return the bytes of that.

    Large blocks come first, the largest before all, each where the arena grows least, and nothing else lies that is in
    use at the same time. That is asked of its parts one by one: where a stack dies from its end, as that of the gates
    on the way back, another one that grows from its end can follow it. Small blocks share the memory behind.
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
    """Of the offsets at which no part lies over one in use at the same time: least new memory, next to the first block.

    The first block is the largest one, and lies at 0.
    """
    taken = taken[:, (parts[2].min() <= taken[3]) & (taken[2] <= parts[3].max())]
    low, high, first, last = parts[:, :, None]
    clash = (first <= taken[3]) & (taken[2] <= last)
    starts, stops = (taken[0] - high)[clash], (taken[1] - low)[clash]  # no offset between these will do
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
    """Give each block the smallest gap behind an offset that holds it, at the moment when it is needed."""
    events: list[tuple[int, int, int]] = []
    for number, block in enumerate(blocks):
        start, stop = block.lines
        events += [(2 * start, 1, number), (2 * stop + 1, 0, number)]
    free: list[tuple[int, int]] = []  # (offset, bytes), by offset
    for _, begins, number in sorted(events):
        block = blocks[number]
        size = _aligned(block.nbytes)
        if not begins:
            insort(free, (block.offset, size))
            _merge(free, block.offset)
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


def _merge(free: list[tuple[int, int]], offset: int) -> None:
    """Join the gap at an offset with those that it touches."""
    i = next(k for k, gap in enumerate(free) if gap[0] == offset)
    if i + 1 < len(free) and sum(free[i]) == free[i + 1][0]:
        free[i : i + 2] = [(free[i][0], free[i][1] + free[i + 1][1])]
    if i and sum(free[i - 1]) == free[i][0]:
        free[i - 1 : i + 1] = [(free[i - 1][0], free[i - 1][1] + free[i][1])]
