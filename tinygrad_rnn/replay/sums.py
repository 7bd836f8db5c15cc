"""A pass over what a parameter gets from each step, where that is a sum over the batch: one sum over batch and time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .joins import gather_line
from .program import Line, Program, Value, reshape_line

_FEWEST = 4  # steps for which it is worth while


class _Part(NamedTuple):
    """``sum(x)``, perhaps in another shape: a part of a sum over time."""

    x: Value
    sum: Line


def sum_over_time(program: Program) -> None:
    """sum(x_1) + ... + sum(x_T) as one sum over all x, as they come from parameters that all steps add or multiply."""
    readers = program.uses()
    position = {line: i for i, line in enumerate(program.lines)}
    before: dict[Line, list[Line]] = {}
    after: dict[Line, list[Line]] = defaultdict(list)
    for line in program.lines:
        if _adds(line) and not _is_inner(line, readers, program):
            terms = list(_terms(line, readers, program))
            if len(terms) >= _FEWEST:
                before[line], sums = _summed(line, terms, readers, program)
                for parts, lines in sums:  # as soon as all is there, so that it need not be kept
                    after[max((part.sum for part in parts), key=position.__getitem__)] += lines
    if before:
        program.lines = [x for line in program.lines for x in (*before.get(line, ()), line, *after.get(line, ()))]


def _adds(line: Line) -> bool:
    shape = line.result.shape
    return line.function is np.add and all(isinstance(x, Value) and x.shape == shape for x in line.inputs)


def _is_inner(line: Line, readers: dict[Value, list[Line]], program: Program) -> bool:
    """Whether a sum of two is a term of another one, and nothing else."""
    read = readers.get(line.result, ())
    return len(read) == 1 and line.result not in program.results and _adds(read[0])


def _terms(line: Line, readers: dict[Value, list[Line]], program: Program) -> Iterator[Value]:
    """What a sum of sums of two adds up."""
    ahead = list(line.inputs)
    while ahead:
        x = ahead.pop()
        if x.line is not None and _adds(x.line) and _is_inner(x.line, readers, program):
            ahead += x.line.inputs
        else:
            yield x


def _summed(
    line: Line, terms: list[Value], readers: dict[Value, list[Line]], program: Program
) -> tuple[list[Line], list[tuple[list[_Part], list[Line]]]]:
    """Lines that add up sums, the line itself being the last, and those that sum up terms of one kind at once."""
    kinds: dict[Any, list[_Part]] = defaultdict(list)
    others = []
    for x in terms:
        alone = len(readers[x]) == 1 and x not in program.results
        part = _part(x) if alone and x.dtype == line.result.dtype else None
        if part is None:
            others.append(x)
        else:
            key = part.x.shape, part.x.dtype, str(part.sum.attributes), part.sum.run
            kinds[key].append(part)
    if not any(len(parts) >= _FEWEST for parts in kinds.values()):
        return [], []
    sums = [(parts, _at_once(parts, line)) for parts in kinds.values()]
    others += [lines[-1].result for _, lines in sums]
    adds: list[Line] = []
    while len(others) > 2:
        total = Value(line.result.shape, line.result.dtype)
        adds.append(Line("ufunc", "add", np.add, (others.pop(), others.pop()), {}, total, line))
        others.append(total)
    if len(others) == 1:  # the line itself becomes the one that gives the sum its shape
        last = sums[0][1].pop()
        line.kind, line.name, line.function, line.attributes = last.kind, last.name, last.function, last.attributes
        others = list(last.inputs)
    line.read(tuple(others))
    return adds, sums


def _part(x: Value) -> _Part | None:
    line = x.line
    if line is not None and line.name == "reshape":
        line = line.inputs[0].line
    return _Part(line.inputs[0], line) if line is not None and line.name == "sum" and line.kind == "op" else None


def _at_once(parts: list[_Part], like: Line) -> list[Line]:
    """One sum over what several are sums of, in the order of time."""
    xs = [part.x for part in sorted(parts, key=lambda part: part.sum.step or 0)]
    gathered = gather_line(xs, like)
    whole = gathered.result
    kernel, axis = parts[0].sum.function, parts[0].sum.attributes["axis"]
    axes = range(len(xs[0].shape)) if axis is None else [axis] if isinstance(axis, int) else axis
    over = (0, *(a % len(xs[0].shape) + 1 for a in axes))
    summed = Value(tuple(n for k, n in enumerate(whole.shape) if k not in over), whole.dtype)
    total = Line("op", "sum", kernel, (whole,), {"axis": over, "keepdims": False}, summed, like)
    return [gathered, total, reshape_line(summed, like.result.shape, like)]
