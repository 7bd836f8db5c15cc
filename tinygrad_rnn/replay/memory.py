"""Blocks of memory, and how those that are never in use together share it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from .. import backend
from ..backend import Array
from .program import Value

_ALIGNMENT = 64  # bytes, of a cache line
_FEW = 8  # values that are looked at one by one sooner than put in order

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
        self.start = self.stop = -1  # the lines between which it is in use
        self.offset = 0  # in the arena

    def used(self, line: int) -> None:
        """It is in use at this line, which comes after those that it was in use at before."""
        if self.start < 0:
            self.start = line
        self.stop = line


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


def pack(blocks: list[Block]) -> int:
    """Give each block its offset in the arena: the smallest gap that holds it, at the moment when it is needed."""
    events: list[tuple[int, int, int]] = []
    for number, block in enumerate(blocks):
        events += [(2 * block.start, 1, number), (2 * block.stop + 1, 0, number)]
    free: list[tuple[int, int]] = []  # (offset, bytes), by offset
    top = 0
    for _, begins, number in sorted(events):
        block = blocks[number]
        size = -(-max(1, block.nbytes) // _ALIGNMENT) * _ALIGNMENT
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
