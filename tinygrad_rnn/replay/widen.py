"""One call on a wide array in place of several on its slices: the gates of a cell are slices of one array."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from math import copysign
from typing import Any, NamedTuple

import numpy as np

from .program import Line, Program, Value, getitem, slice_line

# What leaves every number as it is, bit for bit: with it a call can pass over a slice that it is not for.
_NEUTRAL = {np.multiply: 1.0, np.add: -0.0}


class _Slice(NamedTuple):
    """Columns start to stop of a base."""

    start: int
    stop: int
    line: Line


def widen(program: Program) -> None:
    """Join lines that do the same to slices beside each other, also across slices that can be multiplied by 1."""
    _Widening(program).run()


class _Widening:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.readers = program.uses()
        self.before: dict[Line, list[Line]] = {}  # lines to be put before another one
        self.after: dict[Line, list[Line]] = {}
        self.constants: dict[Any, Value] = {}
        self.dropped: set[Line] = set()
        self.position = {line: i for i, line in enumerate(program.lines)}

    def run(self) -> None:
        bases = deque(value for value in self.readers if value.line is not None)
        while bases:
            bases.extend(self._widened(bases.popleft()))
        lines: list[Line] = []
        for line in self.program.lines:
            self._emit(line, lines)
        self.program.lines = lines

    def _emit(self, line: Line, lines: list[Line]) -> None:
        for other in self.before.get(line, ()):
            self._emit(other, lines)
        if line not in self.dropped:
            lines.append(line)
        for other in self.after.get(line, ()):
            self._emit(other, lines)

    def _slices(self, base: Value) -> list[_Slice]:
        """The slices of a base's columns that do not overlap, in order."""
        readers = self.readers.get(base, ())
        if len(readers) < 2:  # nearly always
            return []
        found = [_Slice(*columns, line) for line in readers if (columns := _columns(line, base)) is not None]
        found.sort(key=lambda s: (s.start, s.stop))
        apart = all(a.stop <= b.start for a, b in pairwise(found))
        return found if len(found) > 1 and apart else []

    def _widened(self, base: Value) -> list[Value]:
        """Join what can be joined of what is done to a base's slices; returns what came of it."""
        slices = self._slices(base)
        if not slices:
            return []
        groups: dict[Any, dict[int, Line]] = {}
        for k, part in enumerate(slices):
            for line in self.readers.get(part.line.result, ()):
                signature = self._signature(line, part, base)
                if signature is not None:
                    groups.setdefault(signature, {}).setdefault(k, line)
        made = []
        for (function, *operands), lines in groups.items():
            if len(lines) < 2:
                continue
            scalars_only = all(x in ("self", "scalar") for x in operands)
            covered = sum(slices[k].stop - slices[k].start for k in lines)
            whole = slices[0].start == 0 and slices[-1].stop == base.shape[-1] and _touching(slices)
            if (
                scalars_only
                and whole
                and (len(lines) == len(slices) or (function in _NEUTRAL and 2 * covered > base.shape[-1]))
            ):
                made.append(self._over_all(base, slices, lines, function))
                break  # the slices are now those of the result
            made += [self._over_run(base, slices, lines, run) for run in _runs(sorted(lines), slices)]
        return made

    def _signature(self, line: Line, part: _Slice, base: Value) -> Any:
        """What lines have in common that can be joined: the function, and where its operands come from."""
        if line.kind != "ufunc" or line.result.shape != part.line.result.shape:
            return None
        signature: list[Any] = [line.function]
        for x in line.inputs:
            if x is part.line.result:
                signature.append("self")
            elif isinstance(x, Value):
                of = x.line.inputs[0] if x.line is not None and x.line.name == "getitem" else None
                if of is None or of is base or x.line is None or _columns(x.line, of) != (part.start, part.stop):
                    return None
                signature.append(of)
            elif np.ndim(x) == 0 and not hasattr(x, "run") and getattr(x, "dtype", base.dtype) == base.dtype:
                signature.append("scalar")
            else:
                return None
        return tuple(signature)

    def _over_all(self, base: Value, slices: list[_Slice], lines: dict[int, Line], function: Any) -> Value:
        first = next(iter(lines.values()))
        like = slices[0].line
        numbers = []
        for k, part in enumerate(slices):
            scalar = (
                next((x for x in lines[k].inputs if not isinstance(x, Value)), None)
                if k in lines
                else _NEUTRAL[function]
            )
            numbers.append((part.stop - part.start, scalar))
        inputs: list[Any] = []
        for x in first.inputs:
            inputs.append(base if isinstance(x, Value) else self._constant(base, numbers))
        result = Value(base.shape, first.result.dtype)
        wide = Line("ufunc", first.name, function, tuple(inputs), {}, result, like)
        assert base.line is not None
        self.after.setdefault(base.line, []).append(wide)
        new = []
        for k, part in enumerate(slices):
            if k in lines:
                self._become_slice(lines[k], result, part.start, part.stop)
                new.append(lines[k])
            else:  # the slice of the base becomes one of the result, which comes later
                again = slice_line(result, part.line.attributes["key"], part.line.result.shape, part.line)
                again.result = part.line.result
                again.result.line = again
                self.dropped.add(part.line)
                self.after.setdefault(wide, []).append(again)
                self.readers[base].remove(part.line)
                new.append(again)
        self.readers[base] = [x for x in self.readers[base] if x not in new] + [wide]
        self.readers[result] = new
        return result

    def _over_run(self, base: Value, slices: list[_Slice], lines: dict[int, Line], run: list[int]) -> Value:
        members = [lines[k] for k in run]
        first = min(members, key=lambda line: self.position.get(line, -1))
        start, stop = slices[run[0]].start, slices[run[-1]].stop
        new: list[Line] = []
        inputs: list[Any] = []
        for x in members[0].inputs:
            if not isinstance(x, Value):
                inputs.append(self._constant_run(members, slices, run))
                continue
            of = x.line.inputs[0]  # type: ignore[union-attr]
            part = self._part(of, start, stop, members[0])
            new += part[1]
            inputs.append(part[0])
        shape = (*base.shape[:-1], stop - start)
        result = Value(shape, members[0].result.dtype)
        new.append(Line("ufunc", members[0].name, members[0].function, tuple(inputs), {}, result, members[0]))
        self.before.setdefault(first, []).extend(new)
        for k, line in zip(run, members, strict=True):
            self._become_slice(line, result, slices[k].start - start, slices[k].stop - start)
        self.readers[result] = members
        return result

    def _part(self, base: Value, start: int, stop: int, like: Line) -> tuple[Value, list[Line]]:
        if (start, stop) == (0, base.shape[-1]):
            return base, []
        key = (*(slice(None),) * (len(base.shape) - 1), slice(start, stop))
        line = slice_line(base, key, (*base.shape[:-1], stop - start), like)
        self.readers.setdefault(base, []).append(line)
        return line.result, [line]

    def _become_slice(self, line: Line, base: Value, start: int, stop: int) -> None:
        """Let a line take its result from a wider one."""
        for x in line.reads:
            self.readers[x] = [reader for reader in self.readers[x] if reader is not line]
        line.kind, line.name, line.function = "op", "getitem", getitem
        line.attributes = {"key": (*(slice(None),) * (len(base.shape) - 1), slice(start, stop))}
        line.read((base,))

    def _constant_run(self, members: list[Line], slices: list[_Slice], run: list[int]) -> Any:
        numbers = []
        for k, line in zip(run, members, strict=True):
            numbers.append((slices[k].stop - slices[k].start, next(x for x in line.inputs if not isinstance(x, Value))))
        shape = (*members[0].result.shape[:-1], sum(n for n, _ in numbers))
        return self._constant(Value(shape, members[0].result.dtype), numbers)

    def _constant(self, like: Value, numbers: list[tuple[int, Any]]) -> Any:
        """One number if it is the same for all slices, else an array that has each slice's number in its columns."""
        first = numbers[0][1]
        if all(_equal(number, first) for _, number in numbers):
            return first
        key = like.shape, like.dtype, tuple((n, float(number)) for n, number in numbers)
        if key not in self.constants:
            row = np.concatenate([np.full(n, number, like.dtype) for n, number in numbers])
            array = np.ascontiguousarray(np.broadcast_to(row, like.shape))
            self.constants[key] = Value(like.shape, like.dtype, "each_gate", array)
        return self.constants[key]


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b) and copysign(1, a) == copysign(1, b)


def _columns(line: Line, base: Value) -> tuple[int, int] | None:
    """Start and stop, if a line takes a slice of a base's last axis and all of the others."""
    key = line.attributes.get("key") if line.name == "getitem" and line.inputs[0] is base else None
    if (
        not isinstance(key, tuple)
        or not key
        or len(key) != len(base.shape)
        or not all(isinstance(part, slice) for part in key)
    ):
        return None
    if any(part != slice(None) for part in key[:-1]) or key[-1].step not in (None, 1):
        return None
    start, stop, _ = key[-1].indices(base.shape[-1])
    return start, stop


def _touching(slices: list[_Slice]) -> bool:
    return all(a.stop == b.start for a, b in pairwise(slices))


def _runs(ks: list[int], slices: list[_Slice]) -> list[list[int]]:
    """Runs of slices that touch, two or more."""
    runs: list[list[int]] = []
    for k in ks:
        if runs and runs[-1][-1] == k - 1 and slices[k - 1].stop == slices[k].start:
            runs[-1].append(k)
        else:
            runs.append([k])
    return [run for run in runs if len(run) > 1]
