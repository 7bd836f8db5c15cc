"""Blocks of memory, and where values lie in them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from .. import backend
from ..backend import Array
from .program import Value

_ALIGNMENT = 64  # bytes, of a cache line

address = backend.host.address  # layouts are made in NumPy's memory, for any device


class Block:
    """Memory for one value, or for several that lie within it or take its place one after another.

    While the layout is made, a block has memory of its own that is never touched: views of it only show where values
    will lie. In the end the block is a part of the arena.
    """

    def __init__(self, like: Value | Array, outside: Array = None) -> None:
        self.outside = outside  # an existing array; None for a part of the arena
        self.owned = outside is None  # whether it is a part of the arena
        if isinstance(like, Value):
            self.nbytes = like.nbytes
            self.memory = np.empty(max(1, self.nbytes), np.uint8)
            self.whole = np.ndarray(like.shape, like.dtype, buffer=self.memory)
        else:
            self.nbytes, self.memory, self.whole = like.nbytes, like, like
        self.address = address(self.memory)
        self.uses: list[tuple[int, int, int, int]] = []  # first and end byte, first and last line
        self.offset = 0  # in the arena

    def used(self, extent: Extent, lines: tuple[int, int]) -> None:
        """Note that these bytes are in use from one line to another."""
        self.uses.append((extent.low - self.address, extent.high - self.address, *lines))

    @property
    def lines(self) -> tuple[int, int]:
        """The first and the last line that use it."""
        return min(use[2] for use in self.uses), max(use[3] for use in self.uses)

    def parts(self, size: int) -> np.ndarray:
        """Parts of ``size`` bytes, as 4 rows: first byte, end byte, first and last line that use the part.

        Adjacent parts that are in use between the same lines are merged.
        """
        count = -(-max(1, self.nbytes) // size)
        first, last = np.full(count, np.iinfo(int).max), np.full(count, -1)
        low, high, start, stop = np.array(self.uses).T
        counts = -(-high // size) - low // size  # how many parts each use touches, all adjacent
        part = np.repeat(low // size - counts.cumsum() + counts, counts) + np.arange(counts.sum())
        np.minimum.at(first, part, np.repeat(start, counts))
        np.maximum.at(last, part, np.repeat(stop, counts))
        begin = np.flatnonzero(np.concatenate([[True], (first[1:] != first[:-1]) | (last[1:] != last[:-1])]))
        end = np.minimum(np.append(begin[1:], count) * size, aligned(self.nbytes))
        return np.stack([begin * size, end, first[begin], last[begin]])[:, last[begin] >= 0]


class Extent(NamedTuple):
    """The addresses of an array: of its first element, its lowest byte, and the end of the highest."""

    begin: int
    low: int
    high: int

    @classmethod
    def of(cls, array: Array) -> Extent:
        """The extent of an array in NumPy's memory."""
        return cls(address(array), *byte_bounds(array))


class Region:
    """Values sorted by address, to find those that may overlap a range."""

    def __init__(self, values: list[Value], extents: dict[Value, Extent]) -> None:
        self._values = sorted(values, key=lambda value: extents[value].low)
        self._lows = [extents[value].low for value in self._values]
        self._highs = list(accumulate((extents[value].high for value in self._values), max))  # running maximum

    def near(self, low: int, high: int) -> list[Value]:
        """The values that may overlap the bytes between two addresses."""
        return self._values[bisect_right(self._highs, low) : bisect_left(self._lows, high)]


def outside(array: Array, stand_ins: dict[int, np.ndarray]) -> Block:
    """The block of an array that exists already.

    While the layout is made, host arrays with the same relative positions stand in for device arrays.
    stand_ins: those so far, by address on the device.
    """
    if isinstance(array, np.ndarray):
        return Block(array, outside=array)
    home = backend.of(array)
    start, nbytes = home.extent(array)
    memory = stand_ins.setdefault(start, np.empty(max(1, nbytes), np.uint8))
    offset = home.address(array) - start if array.size else 0
    return Block(np.ndarray(array.shape, array.dtype, memory, offset, array.strides), outside=array)


def aligned(nbytes: int) -> int:
    """A size rounded up to whole cache lines, so that the next block begins with one."""
    return -(-max(1, nbytes) // _ALIGNMENT) * _ALIGNMENT
