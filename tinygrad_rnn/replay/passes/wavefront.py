"""A pass for stacked layers: they run side by side, each some steps behind the one that it depends on.

A computation on all time steps at once, such as an input projection, waits for the last step of the layer below. Split
into blocks of steps, it lets the upper layer begin after the lower one's first block, and vice versa in the backward
pass (Appleyard, Kocisky and Blunsom 2016, "Optimizing Performance of Recurrent Neural Networks on GPUs").
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any

from ..joins import concatenate_line, gather_line, in_order, is_join
from ..program import Line, Program, Value
from ..views import getitem, reshape, reshape_line, slice_line
from .order import in_order_of

_BLOCKS = 16  # of steps, at most: each costs launches
_ROWS = 64  # of a product, at least: fewer are no faster


def wavefront(program: Program) -> None:
    """Split row-wise computations on the results of all steps into blocks of steps, if they are read step by step."""
    index = _Index(program)
    for join in list(program.lines):
        if is_join(join) and len(steps := in_order(join)) > 2 and len({step.shape for step in steps}) == 1:
            region = _Region(program, index, join, steps)
            if len(region.blocks) > 1 and _recur(steps):
                region.cut()
                index = _Index(program)


class _Index:
    """The positions of lines and the readers of values in a program, valid until it changes."""

    def __init__(self, program: Program) -> None:
        self.position = {line: k for k, line in enumerate(program.lines)}
        self.readers = program.uses()


def _recur(steps: list[Value]) -> bool:
    """Whether values depend on each other: the last one on others, or, in the backward pass, the first."""
    ahead, seen, others = [steps[0].line, steps[-1].line], set[Line](), set(steps)
    while ahead:
        line = ahead.pop()
        if line is not None and line not in seen:
            if not others.isdisjoint(line.reads):
                return True
            seen.add(line)
            ahead += [x.line for x in line.reads]
    return False


class _Region:
    """A join of one value for each time step, and the lines that process it row by row."""

    def __init__(self, program: Program, index: _Index, join: Line, steps: list[Value]) -> None:
        self.program = program
        self.index = index
        self.join = join
        self.steps = steps
        self.wholes = {join.result}  # values whose rows are divided evenly among the steps
        self.takes: dict[Line, range] = {}  # lines that take the rows of some steps from a whole
        self.lines = self._lines()
        self.blocks = list(self._blocks())

    def cut(self) -> None:
        """Replace the lines by others that do the same for a block of steps each."""
        position = self.index.position

        def done(block: range) -> int:
            """The position where all its steps are computed: in the backward pass, the first block comes last."""
            return max((position[line] for k in block if (line := self.steps[k].line) is not None), default=0)

        made: list[Line] = []
        parts: dict[range, dict[Value, Value]] = {}
        for block in sorted(self.blocks, key=done):
            parts[block] = self._block(block, made)
        for line, steps in list(self.takes.items()):
            for block in self.blocks:
                if steps[0] in block and steps[-1] in block:
                    self._take(line, block, parts[block])
                    break
            else:
                del self.takes[line]
        made += self._needed([parts[block] for block in self.blocks])
        place = position[self.lines[0]]
        for line in self.lines:
            del position[line]
        self.program.lines = in_order_of(position | dict.fromkeys(made, place))

    def _needed(self, parts: list[dict[Value, Value]]) -> Iterator[Line]:
        """Lines for wholes that others read: reshapes stay as they were, other wholes are concatenated from parts."""
        own = {*self.lines, *self.takes}
        needed = set[Value]()
        for line in reversed(self.lines):
            for value in line.results:
                if value in needed or not own.issuperset(self.index.readers.get(value, ())):
                    if line.function is reshape:
                        needed.update(line.reads)
                        yield line
                    else:
                        yield concatenate_line([part[value] for part in parts], value, self.join)

    def _lines(self) -> list[Line]:
        """The row-wise lines on the join that lead to lines which take the rows of some steps."""
        found: list[Line] = []
        seen = set[Line]()
        ahead = self._read(self.join)  # sorted, so it is a heap
        while ahead:
            line = self.program.lines[heappop(ahead)]
            if line not in seen:
                seen.add(line)
                if self._is_by_row(line):
                    self.wholes.update(line.results)
                    found.append(line)
                    for k in self._read(line):
                        heappush(ahead, k)
                elif line.function is getitem and line.inputs[0] in self.wholes and (steps := self._taken(line)):
                    self.takes[line] = steps
        wanted = {line.inputs[0] for line in self.takes}
        kept = []
        for line in reversed(found):
            if not wanted.isdisjoint(line.results):
                wanted.update(line.reads)
                kept.append(line)
        return kept[::-1]

    def _read(self, line: Line) -> list[int]:
        """The positions of the lines that read a line's results, in order."""
        readers = {reader for value in line.results for reader in self.index.readers.get(value, ())}
        return sorted(self.index.position[reader] for reader in readers - {self.program.end})

    def _is_by_row(self, line: Line) -> bool:
        """Whether each row of a line's result depends on wholes only through the same rows of these."""
        shape = line.result.shape
        if not line.result.size or not shape or shape[0] % len(self.steps):
            return False
        if line.function is reshape:
            return line.inputs[0] in self.wholes
        if line.kind == "dot":
            return line.inputs[0] in self.wholes and line.inputs[1] not in self.wholes
        read = self.wholes.intersection(line.reads)
        return line.elementwise and bool(read) and all(_is_aligned(x, line) for x in read)

    def _taken(self, line: Line) -> range:
        """The steps whose rows a line takes, if it takes all their rows and changes nothing else; else none."""
        key, each = line.attributes["key"], self._each(line.inputs[0])
        if isinstance(key, tuple) and len(key) == 1:
            (key,) = key
        if isinstance(key, slice) and key.step in (None, 1):
            start, stop, _ = key.indices(line.inputs[0].shape[0])
            return range(0) if start % each or stop % each else range(start // each, stop // each)
        if type(key) is int and each == 1:
            return range(len(self.steps))[key : key + 1 or None]
        return range(0)

    def _take(self, line: Line, block: range, part: dict[Value, Value]) -> None:
        """Let a line take the rows of its steps from the part for their block."""
        steps, each = self.takes[line], self._each(line.inputs[0])
        start, stop = each * (steps.start - block.start), each * (steps.stop - block.start)
        is_slice = len(line.result.shape) == len(line.inputs[0].shape)
        line.attributes = {"key": slice(start, stop) if is_slice else start}
        line.read((part[line.inputs[0]],))

    def _blocks(self) -> Iterator[range]:
        """The blocks of steps that are computed together."""
        count = len(self.steps)
        rows = [self._each(line.result) for line in self.lines if line.kind == "dot"]
        if rows:
            size = max(-(-count // _BLOCKS), -(-_ROWS // min(rows)))
            yield from (range(k, min(k + size, count)) for k in range(0, count, size))

    def _block(self, block: range, made: list[Line]) -> dict[Value, Value]:
        """The parts that replace the wholes for a block of steps; appends the lines that compute them to ``made``."""
        gathered = gather_line(self.steps[block.start : block.stop], self.join)
        first = reshape_line(gathered.result, self._shape(self.join.result, block), self.join)
        made += [gathered, first]
        new = {self.join.result: first.result}
        for line in self.lines:
            inputs: list[Any] = []
            for x in line.inputs:
                if x in new:
                    x = new[x]
                elif line.elementwise and _is_aligned(x, line):
                    each = self._each(x)
                    part = slice_line(x, slice(each * block.start, each * block.stop), self._shape(x, block), line)
                    made.append(part)
                    x = part.result
                inputs.append(x)
            results = [Value(self._shape(value, block), value.dtype) for value in line.results]
            attributes = {"shape": results[0].shape} if line.function is reshape else line.attributes
            made.append(line.again(tuple(inputs), results[0], attributes, more=tuple(results[1:])))
            new.update(zip(line.results, results, strict=True))
        return new

    def _each(self, value: Value) -> int:
        """How many rows a step has."""
        return value.shape[0] // len(self.steps)

    def _shape(self, value: Value, block: range) -> tuple[int, ...]:
        return self._each(value) * len(block), *value.shape[1:]


def _is_aligned(x: Any, line: Line) -> bool:
    """Whether an elementwise line reads the same row of a value as it writes."""
    return isinstance(x, Value) and len(x.shape) == len(line.result.shape) and x.shape[:1] == line.result.shape[:1]
