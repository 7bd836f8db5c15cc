"""Blocks of memory, and what lies where in them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from .. import backend
from ..backend import Array
from .program import Value

_ALIGNMENT = 64  # bytes, of a cache line
_FEW = 8  # values that are looked at one by one sooner than put in order

address = backend.host.address  # a layout is made in NumPy's memory, whatever plays it


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
        end = np.minimum(np.append(begin[1:], count) * size, aligned(self.nbytes))
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


def aligned(nbytes: int) -> int:
    """So many bytes, and as many more as it takes for the next block to begin with a cache line."""
    return -(-max(1, nbytes) // _ALIGNMENT) * _ALIGNMENT
