"""Decides where each value of a program lies in memory.

A view lies in its base. Other values get their places in four rounds: existing arrays, and results that may be
computed right into them; joins (stacks, concatenations, gradients put together from slices), the largest first, whose
pieces are computed in place; elementwise results, which may overwrite an operand; and the rest, each in a block of its
own. Blocks that are never in use at the same time share memory later (``arena``).

A place is free for another value when no later line reads any element of it, be it through a view, a piece or a join.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..backend import Array
from .blocks import Block, Extent, Region, address, outside
from .joins import gather, in_order, is_join, joined_in_place, slots
from .program import Line, Program, Value
from .views import VIEWS, expand_dims, reshape


class Layout:
    """The places of all values of a program whose ports have arrays already."""

    def __init__(
        self,
        program: Program,
        ports: dict[Value, Array],
        kept: dict[Value, tuple[Array, Value | None]],
        overwritten: Collection[Value],
    ) -> None:
        self.program = program
        self._overwritten = overwritten  # ports: a join must not lie there, as it may outlive them
        self.place: dict[Value, Array] = {}  # views of blocks
        self.block: dict[Value, Block] = {}
        self.extent: dict[Value, Extent] = {}
        self.base: dict[Value, Value] = {}  # of each view
        self.views: dict[Value, list[Line]] = {}  # of each base
        self.pieces: dict[Value, list[Value]] = {}  # of each join, those that lie within it
        self.joins: dict[Value, list[Value]] = {}  # of each value, the joins that it lies within
        self._known: dict[Value, tuple[Region, int]] = {}  # results of ``_parts``
        self.index = {value: i for i, line in enumerate([*program.lines, program.end]) for value in line.results}
        self.readers: dict[Value, list[Line]] = program.uses()
        for line in program.lines:
            if line.function in VIEWS and line.reads == [*line.inputs]:  # and no index is an array
                self.base[line.result] = line.reads[0]
                self.views.setdefault(line.reads[0], []).append(line)
        constants = {x: x.constant for x in self.readers if x.constant is not None}
        stand_ins: dict[int, np.ndarray] = {}
        for value, array in [*ports.items(), *constants.items()]:
            self._put(value, outside(array, stand_ins))
        for value, (array, port) in kept.items():
            block = outside(array, stand_ins)
            if self._may_lie_in(value, block.whole) and (port is None or self._may_replace(value, port, block.whole)):
                self._put(value, block)
                if port is None:
                    self._lay_operand(value)
        joins = [line for line in reversed(program.lines) if is_join(line) and line.function is not gather]
        for line in sorted(joins, key=lambda line: -line.result.size):  # the larger may hold the smaller
            self._lay_join(line)
        for i, line in enumerate(program.lines):
            self._lay(i, line)
        self.naive = sum(value.nbytes for value in self.place if value in self.index and value not in self.base)
        self.blocks = list(dict.fromkeys(block for block in self.block.values() if block.owned))

    def is_there(self, line: Line) -> bool:
        """Whether a line needs no call: it is a view, or a join whose pieces are all in place."""
        return line.result in self.base or (is_join(line) and len(self.pieces.get(line.result, ())) == len(line.inputs))

    def _put(self, value: Value, block: Block, place: Array = None) -> None:
        """Put a value, and its views, into a block: at a place there, or all over it."""
        place = self.place[value] = block.whole if place is None else place
        self.block[value] = block
        self.extent[value] = Extent.of(place)
        for line in list(self.views.get(value, ())):
            view = line.function(np, place, *line.inputs[1:], **line.attributes)
            if np.may_share_memory(view, place) or not view.size:
                self._put(line.result, block, view)
            else:
                del self.base[line.result]  # it is a copy, not a view
                self.views[value].remove(line)

    def offset(self, value: Value) -> int:
        """Where a value begins in the arena, or in the memory of the existing array that holds it, in bytes."""
        block = self.block[value]
        return self.extent[value].begin - block.address + block.offset

    def root(self, value: Value) -> Value:
        """The base at the end of a chain of views."""
        while value in self.base:
            value = self.base[value]
        return value

    def _may_replace(self, value: Value, port: Value, place: Array) -> bool:
        """Whether a value can be written over a port, because nothing reads the port afterwards."""
        line = value.line
        if line is None or not line.elementwise or self._is_read_after(self.index[value], port):
            return False
        return self._reads_apart(line, place)

    def _reads_apart(self, line: Line, place: Array) -> bool:
        """Whether everything that a kernel reads and writes is exactly at this place, or does not overlap it.

        A kernel may write one element before it reads another; NumPy's own functions handle overlaps themselves.
        """
        if line.kind == "ufunc":
            return True
        others = [self.place[x] for x in {*line.reads, *line.results} if x in self.place]
        return all(
            not np.shares_memory(other, place)
            or (address(other) == address(place) and (other.shape, other.strides) == (place.shape, place.strides))
            for other in others
        )

    def _lay_operand(self, value: Value) -> None:
        """Let an operand that its result may overwrite, and that nothing reads later, lie where the result will."""
        line, place = value.line, self.place[value]
        operands = [x for x in line.over if isinstance(x, Value) and x in self.index] if line else []
        for x in sorted(operands, key=self.index.__getitem__):  # of a sum, the running total
            last = all(
                self.index[r.result] <= self.index[value] and r.result not in self.base and not is_join(r)
                for r in self.readers[x]
            )
            alone = x.line is not None and not is_join(x.line)  # the pieces of a join may be read later
            if last and alone and x.shape == value.shape and self._may_lie_in(x, place):
                self._put(x, self.block[value], place)
                return self._lay_operand(x)

    # ---- joins ----

    def _may_lie_in(self, value: Value, place: Array) -> bool:
        """Whether the line of a value can write to a place: only elementwise functions can if it has gaps."""
        line = value.line
        if value in self.place or line is None or value in self.base or place.dtype != value.dtype:
            return False
        return line.elementwise or (
            place.flags.c_contiguous and (line.kind in ("dot", "random") or line.writes_out or is_join(line))
        )

    def _lay_join(self, line: Line) -> None:
        joined = line.result
        if joined in self.pieces or (joined not in self.place and self._lie_joined(line)):
            return
        if joined not in self.place:
            self._put(joined, Block(joined))
        for source, slot in slots(line, self.place[joined]):
            if not isinstance(source, Value):  # a number, or a list of numbers
                continue
            while source in self.base and source.line is not None and source.line.function in (reshape, expand_dims):
                source = self.base[source]  # all of it, in another shape
            place = slot.reshape(source.shape)
            if np.may_share_memory(place, slot) and self._may_lie_in(source, place):
                self._put(source, self.block[joined], place)
                self._join(joined, source)
        for source in self.pieces.get(joined, ()):  # before another join of the same, which may find them in order
            if (inner := source.line) is not None and is_join(inner):
                self._lay_join(inner)

    def _lie_joined(self, line: Line) -> bool:
        """Let a join lie where its pieces are, if they are already evenly spaced in one block."""
        pieces = in_order(line)
        if not pieces or any(x not in self.place or self.block[x] is not self.block[pieces[0]] for x in pieces):
            return False
        if any(self.root(x) in self._overwritten for x in pieces):
            return False
        place = joined_in_place(line, [self.place[x] for x in pieces], [self.extent[x].begin for x in pieces])
        if place is None:
            return False
        self._put(line.result, self.block[pieces[0]], place)
        for piece in pieces:
            self._join(line.result, piece)
        return True

    def _join(self, joined: Value, piece: Value) -> None:
        self.pieces.setdefault(joined, []).append(piece)
        self.joins.setdefault(piece, []).append(joined)
        for value in (joined, piece):
            self._known.pop(value, None)

    # ---- everything else ----

    def _lay(self, i: int, line: Line) -> None:
        if line.function is gather and line.result not in self.place:
            self._lie_joined(line)
        for value in line.results:
            if value not in self.place:
                operand = self._dying(i, line, value)
                if operand is None:
                    self._put(value, Block(value))
                else:
                    self._put(value, self.block[operand], self.place[operand])

    def _dying(self, i: int, line: Line, result: Value) -> Value | None:
        """An operand that a result can overwrite; of several, the one in the largest block, which lives longest.

        Operands with gaps do not count: to write across gaps takes two or three times as long.
        """
        fitting = [
            x
            for x in line.over
            if isinstance(x, Value)
            and x in self.block
            and self.block[x].owned
            and x.shape == result.shape
            and x.dtype == result.dtype
            and self.place[x].flags.c_contiguous
        ]
        taken = {self.extent[x].begin for x in line.results if x in self.place}
        for x in sorted(fitting, key=lambda x: -self.block[x].nbytes):
            free = self.extent[x].begin not in taken and self._reads_apart(line, self.place[x])
            if free and not self._is_read_after(i, x):
                return x
        return None

    def _is_read_after(self, i: int, x: Value) -> bool:
        """Whether a line after the i-th one reads any element that now lies in a value's place."""
        region, (_, low, high) = self.place[x], self.extent[x]
        seen = set()
        ahead = [self.root(x)]
        while ahead:
            value = ahead.pop()
            _, start, stop = self.extent[value]
            if value in seen or stop <= low or start >= high or not np.shares_memory(self.place[value], region):
                continue
            seen.add(value)
            if value not in self._known:
                self._known[value] = self._parts(value)
            parts, last = self._known[value]
            if last > i:
                return True
            ahead += self.joins.get(value, ())
            ahead += parts.near(low, high)
        return False

    def _parts(self, value: Value) -> tuple[Region, int]:
        """Views and pieces of a value, and the last line that reads it for anything but a view or a join."""
        views = [line.result for line in self.views.get(value, ())]
        made = {*views, *self.joins.get(value, ())}
        read = [self.index[line.result] for line in self.readers.get(value, ()) if line.result not in made]
        return Region([*views, *map(self.root, self.pieces.get(value, ()))], self.extent), max(read, default=-1)
