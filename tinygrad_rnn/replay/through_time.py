"""Passes that look at the same line in all time steps: what does not recur is done for many steps at once.

Lines that play the same part in different steps form a class. If no member of a class depends on another one, the class
does not recur: its T small calls can become a few large ones, on inputs that lie one behind the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from ..ops import stack as _stack
from .program import Line, Program, Value, getitem, reshape_line, slice_line

BLOCK = 2**15  # elements of a block of steps, which stays in the cache while several lines pass over it


class Classes:
    """The class of each line that belongs to a time step, and the classes that each value depends on."""

    def __init__(self, program: Program) -> None:
        self.of: dict[Line, int] = {}
        self.members: list[list[Line]] = []
        self.behind: dict[Value, int] = {}  # a bit for each class that a value depends on, its own included
        numbers: dict[Any, int] = {}
        seen: Counter[Any] = Counter()
        for line in program.lines:
            mask = 0
            for value in line.reads:
                mask |= self.behind.get(value, 0)
            if line.step is not None:
                role = (
                    line.phase,
                    line.function,
                    _attributes(line),
                    line.result.shape,
                    *(self._role(x, line.step) for x in line.inputs),
                )
                seen[line.step, role] += 1
                number = numbers.setdefault((seen[line.step, role], role), len(numbers))
                if number == len(self.members):
                    self.members.append([])
                self.of[line] = number
                self.members[number].append(line)
                mask |= 1 << number
            self.behind[line.result] = mask

    def _role(self, x: Any, step: int) -> Any:
        """What an input is to a line: a class of its own step, or something from outside, of which the shape counts."""
        if not isinstance(x, Value):
            return id(x) if hasattr(x, "dtype") else str(x) if isinstance(x, (tuple, list)) else (type(x), x)
        if x.line is None or x.line.step != step:
            return x.shape
        return self.of[x.line]

    def recurs(self, number: int, members: list[Line] | None = None) -> bool:
        """Whether a member of a class depends on another one."""
        bit = 1 << number
        return any(self.behind.get(value, 0) & bit for line in members or self.members[number] for value in line.reads)


def _attributes(line: Line) -> Any:
    """A line's attributes as they tell classes apart: which item of a stack is taken does not count."""
    if line.name == "getitem" and type(line.attributes["key"]) is int:
        return "item"
    return str(line.attributes) if line.attributes else ""


def reassociate(program: Program) -> None:
    """(x a) b as x (a b), where x recurs and a and b do not: so a b can be done for many steps at once."""
    classes = Classes(program)
    readers = program.uses()
    lines: list[Line] = []
    for line in program.lines:
        found = _late_and_early(line, classes, readers, program)
        if found is not None:
            late, a, b = found
            product = Line(
                "ufunc", "multiply", np.multiply, (a, b), {}, Value(line.result.shape, line.result.dtype), line
            )
            lines.append(product)
            line.read((late, product.result))
        lines.append(line)
    program.lines = lines


def _late_and_early(
    line: Line, classes: Classes, readers: dict[Value, list[Line]], program: Program
) -> tuple[Value, Value, Value] | None:
    if line.function is not np.multiply or line not in classes.of:
        return None
    bit = 1 << classes.of[line]
    for inner, b in (line.inputs, line.inputs[::-1]):
        product = inner.line if isinstance(inner, Value) else None
        if product is None or product.function is not np.multiply or product.phase != line.phase:
            continue
        if len(readers[inner]) != 1 or inner in program.results:
            continue
        for late, a in (product.inputs, product.inputs[::-1]):
            same = all(isinstance(x, Value) and x.shape == line.result.shape for x in (late, a, b))
            if (
                same
                and classes.behind.get(late, 0) & bit
                and not (classes.behind.get(a, 0) | classes.behind.get(b, 0)) & bit
            ):
                return late, a, b
    return None


def batch(program: Program) -> None:
    """One call for many steps in place of one for each, for elementwise lines that do not recur."""
    _join_classes(program, _elementwise, _joined_elementwise)


def hoist(program: Program) -> None:
    """One product for all steps in place of one for each, where a product's input does not recur."""
    _join_classes(program, _products, _joined_product)


def _elementwise(line: Line) -> int:
    """How many lines of a class to join, at most: as many as stay in the cache together."""
    inputs = [x for x in line.inputs if isinstance(x, Value)]
    if line.kind != "ufunc" or any(x.shape not in ((), line.result.shape) for x in inputs):
        return 0
    return BLOCK // max(1, line.result.size)


def _products(line: Line) -> int:
    return 1 << 30 if line.kind == "dot" and len(line.result.shape) == 2 else 0


def _join_classes(program: Program, limit: Callable[[Line], int], join: Callable[..., list[Line]]) -> None:
    classes = Classes(program)
    position = {line: i for i, line in enumerate(program.lines)}
    after: dict[int, set[int]] = {}  # of the classes that were chosen: those that must come before
    columns = _Columns(classes)
    chosen: list[tuple[int, list[Line]]] = []
    for number, members in enumerate(classes.members):
        at_once = limit(members[0])
        runs = columns.runs(members) if at_once > 1 and not classes.recurs(number) else []
        if not runs:
            continue
        behind = columns.behind([line for run in runs for line in run])
        before = {other for other in after if behind >> other & 1}
        if behind >> number & 1 or any(_leads_to(after, other, number, classes) for other in before):
            continue
        after[number] = before
        chosen.append((at_once, [line for run in runs for line in run]))
    lines = dict.fromkeys(program.lines)
    for at_once, candidates in chosen:
        # What was joined before lies in blocks of steps by now, which the runs follow.
        for run in columns.runs(candidates):
            for members in (run[k : k + at_once] for k in range(0, len(run), at_once)):
                made = join(members, columns) if len(members) > 1 else []
                place = min(position[line] for line in members)
                for line in made:
                    position[line] = place
                    lines[line] = None
                for line in members if made else ():
                    del lines[line]
    for line in columns.lines:
        position[line] = -1  # as soon as all is there
        lines[line] = None
    program.lines = _sorted(list(lines), position)


class _Columns:
    """What the members of a class read, one behind the other: for each class that is read, one array of all its steps."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.lines: list[Line] = []
        self.whole: dict[int, Value] = {}  # by class: the results of all its members, in the order of time
        self.sorted: dict[int, dict[Value, int]] = {}  # by class: each member's place there

    def run(self, number: int) -> dict[Value, int]:
        """The results of a class in the order of time."""
        if number not in self.sorted:
            members = sorted(self.classes.members[number], key=lambda line: line.step or 0)
            self.sorted[number] = {line.result: k for k, line in enumerate(members)}
        return self.sorted[number]

    def _split(self, members: list[Line]) -> list[bool]:
        """For each input whether it is one value for all members, or one for each."""
        return [
            isinstance(column[0], Value) and any(x is not column[0] for x in column)
            for column in zip(*(line.inputs for line in members), strict=True)
        ]

    def runs(self, members: list[Line]) -> list[list[Line]]:
        """In the order of time, the members whose inputs follow each other as the members do: two or more at a time."""
        members = sorted(members, key=lambda line: line.step or 0)
        own = self._split(members)
        runs: list[list[Line]] = []
        expected: Any = None
        for line in members:
            places = [self._place(x) for x, differs in zip(line.inputs, own, strict=True) if differs]
            if None in places:
                expected = None
                continue
            if places == expected:
                runs[-1].append(line)
            else:
                runs.append([line])
            expected = [(source, cut, k + 1) for source, cut, k in places]  # type: ignore[misc]
        return [run for run in runs if len(run) > 1]

    def _place(self, x: Any) -> tuple[Any, Any, int] | None:
        """Of what a value is an item: of a stack that is there, or of its class; and which part of the item it is."""
        if not isinstance(x, Value) or x.line is None:
            return None
        item, cut = x.line, None
        if item.name == "getitem" and isinstance(item.attributes["key"], tuple):
            inner = item.inputs[0].line
            if (
                inner is not None
                and _is_item(inner)
                and all(isinstance(part, slice) for part in item.attributes["key"])
            ):
                item, cut = inner, item.attributes["key"]
        if _is_item(item):
            return item.inputs[0], None if cut is None else _Cut(cut), item.attributes["key"]
        number = self.classes.of.get(x.line)
        return None if number is None else (number, None, self.run(number)[x])

    def behind(self, members: list[Line]) -> int:
        """The classes that must be done before: of all steps of what is read, as they are read as one."""
        mask = 0
        for x in {x for line in members for x in line.reads}:
            mask |= self.classes.behind.get(x, 0)
            place = self._place(x)
            if place is not None and isinstance(place[0], int):
                for result in self.run(place[0]):
                    mask |= self.classes.behind[result]
        return mask

    def gather(self, members: list[Line]) -> tuple[list[Any], list[Line]]:
        """The inputs of a joined line, and the lines that make them."""
        inputs: list[Any] = []
        lines: list[Line] = []
        for k, differs in enumerate(self._split(members)):
            first = members[0].inputs[k]
            if not differs:
                inputs.append(first)
                continue
            source, cut, start = self._place(first)  # type: ignore[misc]
            whole = self._whole(source) if isinstance(source, int) else source
            if whole.shape[0] > len(members) or cut is not None:
                key = (slice(start, start + len(members)), *(cut.key if cut is not None else ()))
                shape = (len(members), *first.shape)
                part = slice_line(whole, key, shape, members[0])
                lines.append(part)
                whole = part.result
            inputs.append(whole)
        return inputs, lines

    def _whole(self, number: int) -> Value:
        if number not in self.whole:
            values = tuple(self.run(number))
            like = self.classes.members[number][0]
            line = Line(
                "op",
                "gather",
                _stack.op.kernel,
                values,
                {"axis": 0},
                Value((len(values), *values[0].shape), values[0].dtype),
                like,
            )
            line.step = None
            self.whole[number] = line.result
            self.lines.append(line)
        return self.whole[number]


def _leads_to(after: dict[int, set[int]], start: int, goal: int, classes: Classes) -> bool:
    """Whether a chosen class depends on another class, itself or through those chosen."""
    ahead, seen = [start], set()
    while ahead:
        number = ahead.pop()
        if number in seen:
            continue
        seen.add(number)
        if any(classes.behind.get(v, 0) >> goal & 1 for line in classes.members[number] for v in line.reads):
            return True
        ahead += after.get(number, ())
    return False


def _sorted(lines: list[Line], position: dict[Line, int]) -> list[Line]:
    """Lines after those that they read, and otherwise in the order of their positions."""
    waits: dict[Line, int] = {}
    readers: dict[Line, list[Line]] = {}
    present = set(lines)
    order = {line: (position[line], i) for i, line in enumerate(lines)}
    for line in lines:
        needs = {value.line for value in line.reads if value.line in present}
        waits[line] = len(needs)
        for need in needs:
            readers.setdefault(need, []).append(line)  # type: ignore[arg-type]
    ready = [(*order[line], line) for line in lines if not waits[line]]
    heap = [(p, i) for p, i, _ in ready]
    by_order = {order[line]: line for line in lines}
    heapify(heap)
    done = []
    while heap:
        line = by_order[heappop(heap)]
        done.append(line)
        for reader in readers.get(line, ()):
            waits[reader] -= 1
            if not waits[reader]:
                heappush(heap, order[reader])
    assert len(done) == len(lines), "a joined line depends on itself"
    return done


class _Cut:
    """A key that can be compared."""

    def __init__(self, key: tuple[slice, ...]) -> None:
        self.key = key
        self.bounds = [(part.start, part.stop, part.step) for part in key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Cut) and self.bounds == other.bounds

    __hash__ = None  # type: ignore[assignment]


def _is_item(line: Line) -> bool:
    """Whether a line takes one item of a stack."""
    return line.name == "getitem" and type(line.attributes["key"]) is int and line.attributes["key"] >= 0


def _items(whole: Value, members: list[Line]) -> Iterator[Line]:
    """Each member's line anew: it takes its item of the whole."""
    for k, line in enumerate(members):
        yield Line("op", "getitem", getitem, (whole,), {"key": k}, line.result, line)


def _joined_elementwise(members: list[Line], columns: _Columns) -> list[Line]:
    inputs, lines = columns.gather(members)
    first = members[0]
    whole = Value((len(members), *first.result.shape), first.result.dtype)
    lines.append(Line(first.kind, first.name, first.function, tuple(inputs), {}, whole, first))
    return lines + list(_items(whole, members))


def _joined_product(members: list[Line], columns: _Columns) -> list[Line]:
    """x_t W for all t as one product, if W is the same."""
    first = members[0]
    weight = first.inputs[1]
    if any(line.inputs[1] is not weight for line in members):
        return []
    (x, _), lines = columns.gather(members)
    steps, rows, size = x.shape
    columns_ = weight.shape[1]
    flat = reshape_line(x, (steps * rows, size), first)
    product = Line(
        "dot", "dot", np.dot, (flat.result, weight), {}, Value((steps * rows, columns_), first.result.dtype), first
    )
    whole = reshape_line(product.result, (steps, rows, columns_), first)
    return [*lines, flat, product, whole, *_items(whole.result, members)]
