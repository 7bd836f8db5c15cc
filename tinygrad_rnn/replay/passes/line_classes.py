"""Classes of lines that play the same part in different time steps, and their inputs as arrays over time."""

from __future__ import annotations

from collections import defaultdict
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

from ..joins import gather_line
from ..program import Line, Program, Value, key_of
from ..views import getitem, slice_line


class LineClasses:
    """The class of each line that belongs to a time step, and the classes that each value depends on."""

    def __init__(self, program: Program) -> None:
        self.of: dict[Line, int] = {}
        self.members: list[list[Line]] = []
        self.behind: dict[Value, int] = defaultdict(int)  # a bit for each class that a value depends on, and its own
        kinds: dict[Any, int] = {}
        numbers: dict[tuple[int, int], int] = {}
        seen: dict[tuple[int, int], int] = {}  # by step and kind: lines so far
        for line in program.lines:
            mask = 0
            for value in line.reads:
                mask |= self.behind[value]
            if line.step is not None:
                kind = kinds.setdefault(self._role(line), len(kinds))
                place = seen[line.step, kind] = seen.get((line.step, kind), 0) + 1
                number = numbers.setdefault((kind, place), len(numbers))
                if number == len(self.members):
                    self.members.append([])
                self.of[line] = number
                self.members[number].append(line)
                mask |= 1 << number
            self.behind[line.result] = mask

    def _role(self, line: Line) -> Any:
        """What a line does, and to what: inputs from its own step count by class, others by shape."""
        inputs: list[Any] = []
        for x in line.inputs:
            if type(x) is not Value:
                inputs.append(key_of(x))
            elif x.line is None or x.line.step != line.step:
                inputs.append((x.shape, x.dtype))
            else:
                inputs.append(self.of[x.line])
        return line.phase, line.rerun, line.function, _attributes(line), line.result.shape, line.result.dtype, *inputs

    def recurs(self, number: int) -> bool:
        """Whether a member of a class depends on another one."""
        bit = 1 << number
        return any(self.behind[value] & bit for line in self.members[number] for value in line.reads)


def _attributes(line: Line) -> Any:
    """A line's attributes, to tell classes apart; which item of a stack it takes does not count."""
    if line.function is getitem and type(line.attributes["key"]) is int:
        return "item"
    return key_of(line.attributes)


class Item(NamedTuple):
    """Where one value of many comes from: it is an item of an existing stack, or one of a class's results.

    Lines can be joined if they read items k, k + 1, ... of one source. Results of a class have to be gathered first.
    """

    source: Value | int  # the stack, or the number of the class
    cut: Any  # the part of the item, such as one gate of four; None for all of it
    position: int


class Columns:
    """The inputs of a class's members: for each input, one array over all time steps."""

    def __init__(self, classes: LineClasses) -> None:
        self.classes = classes
        self.lines: list[Line] = []
        self.whole: dict[tuple[int, int, int], Value] = {}  # by class, start, count: its results as one array
        self.sorted: dict[int, dict[Value, int]] = {}  # by class: the position of each result

    def in_time(self, number: int) -> dict[Value, int]:
        """The results of a class in the order of time, with their positions."""
        if number not in self.sorted:
            members = sorted(self.classes.members[number], key=lambda line: line.step or 0)
            self.sorted[number] = {line.result: k for k, line in enumerate(members)}
        return self.sorted[number]

    def _split(self, members: list[Line]) -> list[bool]:
        """For each input, whether it differs between members."""
        return [
            isinstance(column[0], Value) and any(x is not column[0] for x in column)
            for column in zip(*(line.inputs for line in members), strict=True)
        ]

    def differing(self, members: list[Line]) -> list[Value]:
        """The inputs of the first member that are not shared by all."""
        return [x for x, differs in zip(members[0].inputs, self._split(members), strict=True) if differs]

    def runs(self, members: list[Line]) -> list[list[Line]]:
        """Runs of two or more members, in the order of time, whose inputs are consecutive items too."""
        members = sorted(members, key=lambda line: line.step or 0)
        own = self._split(members)
        runs: list[list[Line]] = []
        expected: Any = None
        for line in members:
            items = [self._item(x) for x, differs in zip(line.inputs, own, strict=True) if differs]
            if None in items:
                expected = None
                continue
            if items == expected:
                runs[-1].append(line)
            else:
                runs.append([line])
            expected = [item._replace(position=item.position + 1) for item in items if item]
        return [run for run in runs if len(run) > 1]

    def _item(self, x: Any) -> Item | None:
        """The item that a value is, if it is one."""
        if not isinstance(x, Value) or x.line is None:
            return None
        line, cut = x.line, None
        if line.function is getitem and isinstance(line.attributes["key"], tuple):
            inner, key = line.inputs[0].line, line.attributes["key"]
            if inner is not None and _is_item(inner) and all(isinstance(part, slice) for part in key):
                line, cut = inner, key
        if _is_item(line):
            return Item(line.inputs[0], cut, line.attributes["key"])
        number = self.classes.of.get(x.line)
        return None if number is None else Item(number, None, self.in_time(number)[x])

    def behind(self, members: list[Line]) -> int:
        """The classes that must come first, as bits. Inputs count with all steps, as they are read as one array."""
        read = {x for line in members for x in line.reads}
        classes = {item.source for x in read if (item := self._item(x)) is not None and isinstance(item.source, int)}
        read.update(*map(self.in_time, classes))
        return reduce(or_, (self.classes.behind[x] for x in read), 0)

    def gather(self, members: list[Line]) -> tuple[list[Any], list[Line]]:
        """The inputs of a joined line, and the lines that make them."""
        inputs: list[Any] = []
        lines: list[Line] = []
        for k, differs in enumerate(self._split(members)):
            first = members[0].inputs[k]
            if not differs:
                inputs.append(first)
                continue
            item = self._item(first)
            assert item is not None  # the members are a run
            source, cut, start = item
            if isinstance(source, int):
                whole, start = self._whole(source, start, len(members)), 0
            else:
                whole = source
            if whole.shape[0] > len(members) or cut is not None:
                key = (slice(start, start + len(members)), *(cut or ()))
                shape = (len(members), *first.shape)
                part = slice_line(whole, key, shape, members[0])
                lines.append(part)
                whole = part.result
            inputs.append(whole)
        return inputs, lines

    def _whole(self, number: int, start: int, count: int) -> Value:
        if (number, start, count) not in self.whole:
            values = tuple(self.in_time(number))[start : start + count]
            line = gather_line(values, self.classes.members[number][0])
            self.whole[number, start, count] = line.result
            self.lines.append(line)
        return self.whole[number, start, count]


def _is_item(line: Line) -> bool:
    """Whether a line takes one item of a stack."""
    return line.function is getitem and type(line.attributes["key"]) is int and line.attributes["key"] >= 0
