"""A pass for gradients to which each time step adds a sum over the batch: one sum over batch and time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from ... import ops
from ..joins import gather_line
from ..program import Line, Program, Value
from ..views import reshape, reshape_line
from .order import AT_ONCE, in_order_of

_FEWEST = 4  # steps, at least, to be worthwhile


def sum_over_time(program: Program) -> None:
    """Make sum(x_1) + ... + sum(x_T) one sum over all x, for parameters that every step adds or multiplies by."""
    readers = program.uses()
    made: list[Line] = []
    for line in program.lines:
        if _adds(line) and not _is_inner(line, readers):
            made += _summed(line, list(_terms(line, readers)), readers)
    if made:
        position = {line: i for i, line in enumerate(program.lines)}
        program.lines = in_order_of(position | dict.fromkeys(made, AT_ONCE))  # so that no x is kept for long


def _adds(line: Line) -> bool:
    shape = line.result.shape
    return line.function is np.add and all(isinstance(x, Value) and x.shape == shape for x in line.inputs)


def _is_inner(line: Line, readers: dict[Value, list[Line]]) -> bool:
    """Whether an addition is only read by one other addition."""
    read = readers.get(line.result, ())
    return len(read) == 1 and _adds(read[0]) and read[0].result.dtype == line.result.dtype


def _terms(line: Line, readers: dict[Value, list[Line]]) -> Iterator[Value]:
    """The terms of a tree of additions."""
    ahead = list(line.inputs)
    while ahead:
        x = ahead.pop()
        if x.line is not None and _adds(x.line) and _is_inner(x.line, readers):
            ahead += x.line.inputs
        else:
            yield x


def _summed(line: Line, terms: list[Value], readers: dict[Value, list[Line]]) -> list[Line]:
    """Lines that sum terms of one kind at once, and add these sums; ``line`` adds the last two."""
    kinds: dict[Any, list[Line]] = defaultdict(list)
    others = []
    for x in terms:
        part = _part(x) if len(readers[x]) == 1 and x.dtype == line.result.dtype else None
        if part is None:
            others.append(x)
        else:
            of = part.inputs[0]
            kinds[of.shape, of.dtype, str(part.attributes), part.rerun].append(part)
    if not any(len(parts) >= _FEWEST for parts in kinds.values()):
        return []
    made: list[Line] = []
    for parts in kinds.values():
        made += _at_once(parts, line)
        others.append(made[-1].result)
    while len(others) > 2:
        total = Value(line.result.shape, line.result.dtype)
        made.append(line.again((others.pop(), others.pop()), total))
        others.append(total)
    if len(others) == 1:
        line.become(made.pop())  # the reshape of the sum
    else:
        line.read(tuple(others))
    return made


def _part(x: Value) -> Line | None:
    """The sum that computes x, perhaps followed by a reshape; None if x is anything else."""
    line = x.line
    if line is not None and line.function is reshape:
        line = line.inputs[0].line
    return line if line is not None and line.function is ops.sum.op.kernel else None


def _at_once(parts: list[Line], like: Line) -> list[Line]:
    """One sum over the operands of several sums, in the order of time."""
    xs = [part.inputs[0] for part in sorted(parts, key=lambda part: part.step or 0)]
    gathered = gather_line(xs, like)
    whole = gathered.result
    axis = parts[0].attributes["axis"]
    axes = range(len(xs[0].shape)) if axis is None else [axis] if isinstance(axis, int) else axis
    over = (0, *(a % len(xs[0].shape) + 1 for a in axes))
    summed = Value(tuple(n for k, n in enumerate(whole.shape) if k not in over), parts[0].result.dtype)
    total = Line("op", "sum", parts[0].function, (whole,), {"axis": over, "keepdims": False}, summed, like)
    return [gathered, total, reshape_line(summed, like.result.shape, like)]
