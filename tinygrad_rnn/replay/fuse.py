"""Passes that make generated kernels: elementwise lines that can be done in one go become one line of several results."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from .pointwise import is_pointwise, kernel
from .program import Line, Program, Value, slice_line
from .widen import _columns

_OPERANDS = 48  # of a kernel at most: all that it is told about its arrays must fit into 4096 bytes


def narrow(program: Program) -> None:
    """Compute slice by slice what is read in slices only, as gates are, so that it can go with what is done to them."""
    readers = program.uses()
    instead: dict[Line, list[Line]] = {}  # of a slice: the lines that compute it
    for line in reversed(program.lines):
        slices = readers.get(line.result, [])
        if is_pointwise(line) and line.result not in program.results and _are_apart(slices, line.result):
            for cut in slices:
                instead[cut] = _sliced(line, cut, readers)
    lines: list[Line] = []
    ahead = program.lines[::-1]
    while ahead:
        line = ahead.pop()
        if line in instead:
            ahead += instead.pop(line)[::-1]
        else:
            lines.append(line)
    program.lines = lines  # those that nobody reads any more are dropped after each pass


def _are_apart(slices: list[Line], base: Value) -> bool:
    """Whether lines are slices of a base's columns, two or more, that do not overlap."""
    bounds = [_columns(line, base) for line in slices]
    if len(bounds) < 2 or None in bounds:
        return False
    return all(a[1] <= b[0] for a, b in pairwise(sorted(bounds)))  # type: ignore[type-var, index]


def _sliced(line: Line, cut: Line, readers: dict[Value, list[Line]]) -> list[Line]:
    """A slice of a line's result, computed of slices of what it reads."""
    start, stop = _columns(cut, line.result)  # type: ignore[misc]
    lines: list[Line] = []
    inputs: list[Any] = []
    for x in line.inputs:
        if isinstance(x, Value) and x.shape and x.shape[-1] > 1:
            key = (*(slice(None),) * (len(x.shape) - 1), slice(start, stop))
            part = slice_line(x, key, (*x.shape[:-1], stop - start), line)
            readers[x] = [*(reader for reader in readers[x] if reader is not line), part]
            lines.append(part)
            x = part.result
        inputs.append(x)
    result = Line(line.kind, line.name, line.function, tuple(inputs), line.attributes, cut.result, like=cut)
    for part in lines:
        readers[part.result] = [result]
    return [*lines, result]


def fuse(program: Program) -> None:
    """Let elementwise lines of one shape wait for each other until something else needs them: then they are one kernel.

    A line that waits is read by none but those that wait with it, so nothing that comes later can be among what it needs.
    """
    readers = program.uses()
    results = set(program.results)
    waiting: dict[tuple[int, ...], list[Line]] = {}
    lines: list[Line] = []

    def go(shape: tuple[int, ...]) -> None:
        lines.extend(_fused(waiting.pop(shape), readers, results))

    for line in program.lines:
        shape = line.result.shape if is_pointwise(line) else None
        needed = {x.line for x in line.reads}
        for other in [other for other, group in waiting.items() if other != shape and not needed.isdisjoint(group)]:
            go(other)
        if shape is None:
            lines.append(line)
            continue
        group = waiting.setdefault(shape, [])
        group.append(line)
        if len(group) > _OPERANDS // 4 and _operands(group, readers) > _OPERANDS:
            go(shape)
    for shape in list(waiting):
        go(shape)
    program.lines = lines


def _operands(group: list[Line], readers: dict[Value, list[Line]]) -> int:
    """How many arrays a group reads from outside, or leaves to others."""
    inside = set(group)
    read = {x for line in group for x in line.reads if x.line not in inside}
    return len(read) + sum(not inside.issuperset(readers.get(line.result, ())) for line in group)


def _fused(group: list[Line], readers: dict[Value, list[Line]], results: set[Value]) -> list[Line]:
    """One line for a group, of which what others read are the results."""
    if len(group) == 1:
        return group
    inside = set(group)
    outputs = [
        line.result for line in group if line.result in results or not inside.issuperset(readers.get(line.result, ()))
    ]
    function, inputs = kernel(group, outputs)
    return [Line("fused", "pointwise", function, tuple(inputs), {}, outputs[0], group[-1], tuple(outputs[1:]))]
