"""A pass that makes one call on a wide array instead of several on its slices, such as the gates of a cell."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from ..program import Line, Program, Value, runs
from ..scalar import Scalar
from ..views import Slice, column_slices, columns, columns_line, getitem
from .order import in_order_of

# Operands that leave every number unchanged, bit for bit: so a call can include a slice that it is not meant for.
_NEUTRAL: dict[Any, float] = {np.multiply: 1.0, np.add: -0.0}


def widen(program: Program) -> None:
    """Join lines that do the same to adjacent slices, also across slices that a neutral operand leaves unchanged."""
    _Widening(program).run()


class _Widening:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.readers = program.uses()
        self.position = {line: i for i, line in enumerate(program.lines)}
        self.constants: dict[Any, Value] = {}

    def run(self) -> None:
        bases = deque(value for value in self.readers if value.line is not None)
        while bases:
            bases.extend(self._widened(bases.popleft()))
        self.program.lines = in_order_of(self.position)

    def _widened(self, base: Value) -> list[Value]:
        """Join the lines on a base's slices that can be joined; returns their wide results."""
        slices = column_slices(base, self.readers.get(base, []))
        if not slices:
            return []
        groups: dict[Any, dict[Slice, Line]] = {}
        for part in slices:
            for line in self.readers.get(part.line.result, ()):
                signature = self._signature(line, part, base)
                if signature is not None:
                    groups.setdefault(signature, {}).setdefault(part, line)
        whole = sum(part.stop - part.start for part in slices) == base.shape[-1]  # they do not overlap
        made = []
        for (function, dtype, *operands), lines in groups.items():
            most = len(lines) > 1 and 2 * sum(part.stop - part.start for part in lines) > base.shape[-1]
            if (
                whole
                and most
                and function in _NEUTRAL
                and dtype == base.dtype
                and operands in (["self", "scalar"], ["scalar", "self"])
            ):
                made.append(self._joined(base, slices, lines))
                break  # the slices are now slices of the result
            adjacent = runs(lines, lambda run, part: run[-1].stop == part.start)
            made += [self._joined(base, run, lines) for run in adjacent if len(run) > 1]
        return made

    def _signature(self, line: Line, part: Slice, base: Value) -> Any:
        """What lines must have in common to be joined: the function, and where its operands come from."""
        if line.kind != "ufunc" or line.result.shape != part.line.result.shape:
            return None
        signature: list[Any] = [line.function, line.result.dtype]
        for x in line.inputs:
            if x is part.line.result:
                signature.append("self")
            elif isinstance(x, Value):
                of = x.line.inputs[0] if x.line is not None and x.line.function is getitem else None
                if of is None or of is base or x.line is None or columns(x.line, of) != (part.start, part.stop):
                    return None
                signature.append(of)
            elif (
                base.dtype.kind == "f"
                and np.ndim(x) == 0
                and not isinstance(x, Scalar)
                and np.result_type(base.dtype, x) == base.dtype
            ):
                signature.append("scalar")
            else:
                return None
        return tuple(signature)

    def _joined(self, base: Value, slices: list[Slice], lines: dict[Slice, Line]) -> Value:
        """Join the lines on adjacent slices; slices without such a line become slices of the result as well."""
        first = min((lines[part] for part in slices if part in lines), key=self.position.__getitem__)
        start, stop = slices[0].start, slices[-1].stop
        shape = (*base.shape[:-1], stop - start)
        inputs: list[Any] = []
        for k, x in enumerate(first.inputs):
            if isinstance(x, Value):
                inputs.append(self._part(x.line.inputs[0], start, stop, first))  # type: ignore[union-attr]
            else:
                numbers = [lines[part].inputs[k] if part in lines else _NEUTRAL[first.function] for part in slices]
                inputs.append(self._constant(shape, base.dtype, slices, numbers))
        result = Value(shape, first.result.dtype)
        wide = first.again(tuple(inputs), result)
        self.position[wide] = self.position[first]
        self.readers[result] = [lines.get(part, part.line) for part in slices]
        for part, line in zip(slices, self.readers[result], strict=True):
            self._become_slice(line, result, part.start - start, part.stop - start)
        return result

    def _part(self, base: Value, start: int, stop: int, first: Line) -> Value:
        """Columns of a base, which exists before the first line that reads any of them."""
        if (start, stop) == (0, base.shape[-1]):
            return base
        line = columns_line(base, start, stop, first)
        self.position[line] = self.position[first]
        self.readers.setdefault(base, []).append(line)
        return line.result

    def _become_slice(self, line: Line, base: Value, start: int, stop: int) -> None:
        """Turn a line into a slice of a wider result."""
        for x in line.reads:
            self.readers[x] = [reader for reader in self.readers[x] if reader is not line]
        line.become(columns_line(base, start, stop, line))

    def _constant(self, shape: tuple[int, ...], dtype: Any, slices: list[Slice], numbers: list[Any]) -> Any:
        """One number if all slices have the same, else an array with each slice's number in its columns."""
        each = np.array(numbers, dtype)
        if len({number.tobytes() for number in each}) == 1:  # 0.0 and -0.0 differ
            return numbers[0]
        row = np.repeat(each, [part.stop - part.start for part in slices])
        key = shape, dtype, row.tobytes()
        if key not in self.constants:
            array = np.ascontiguousarray(np.broadcast_to(row, shape))
            self.constants[key] = Value(shape, dtype, "each_gate", array)
        return self.constants[key]
