"""A pass over factors that every time step multiplies by: the weights can be multiplied by them, once."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import Array
from .order import in_order_of
from .program import Line, Program, Value
from .weights import is_transpose, products_with

_EXPONENT = 4
_CALL = 3000  # elements that are multiplied in the time that a call takes by itself
_SMALL = 2**16  # elements


def fold(program: Program) -> None:
    """(h W + z) s as h (W s) + z s, where s holds a power of two for each column, and h alone recurs.

    So the halves of sigmoid(z) = tanh(z / 2) / 2 + 1 / 2 cost a step nothing. Such a factor changes no other bits than
    those of numbers next to the smallest that there are.
    """
    readers = program.uses()
    rows = {x: _row(x) for x in readers if x.constant is not None}
    products: dict[Value, dict[Value, Value]] = defaultdict(dict)  # by their factor: each with what is multiplied
    for line in program.lines:
        if line.function is np.multiply and len(line.reads) == 2:
            for x, s in (line.reads, line.reads[::-1]):
                carried = rows.get(s) is not None and s.shape == line.result.shape and _carriers(x.line, s)
                if carried and readers[x] == [line] and x not in program.results:
                    products[s][line.result] = x
    for s, found in products.items():
        _Folding(program, readers, s, found).run(rows[s])


def _row(x: Value) -> Array | None:
    """What each row of a constant is, if all are alike and hold powers of two."""
    c = x.constant
    if not isinstance(c, np.ndarray) or c.dtype.kind != "f" or not c.size or not c.ndim:
        return None
    row = c.reshape(-1, c.shape[-1])[0]
    mantissas, exponents = np.frexp(row)
    small = abs(exponents).max() <= _EXPONENT  # so that no weight overflows
    return row if small and (c == row).all() and (abs(mantissas) == 0.5).all() else None


def _carriers(line: Line | None, s: Value) -> Sequence[int]:
    """The inputs of a line, by number, that can be multiplied in place of its result; none if that cannot be."""
    inputs: Sequence[int] = ()
    if line is None:
        return ()
    if line.function in (np.add, np.subtract):
        inputs = (0, 1)
    elif line.kind == "dot":
        inputs = (1,)
    elif line.name == "reshape" or (line.name == "getitem" and type(line.attributes["key"]) is int):
        inputs = (0,)
    carried = [line.result, *(line.inputs[k] for k in inputs)]
    fit = (isinstance(x, Value) and (x.shape[-1:], x.dtype) == (s.shape[-1:], s.dtype) for x in carried)
    return inputs if all(fit) else ()


class _Folding:
    """What it takes to leave products with a factor out."""

    def __init__(
        self, program: Program, readers: dict[Value, list[Line]], s: Value, products: dict[Value, Value]
    ) -> None:
        self.program, self.readers, self.products = program, readers, products
        # Matrices that are copied in any case, so that to multiply them on the way costs nothing.
        self.copied = {x.result for x in program.lines if is_transpose(x) and products_with(x.result, readers)}
        self.serves = Counter(products.values())  # how many products each value is a part of
        self.carriers: dict[Line | None, Sequence[int]] = {result.line: () for result in products}
        for line in reversed(program.lines):
            x = line.result
            if x in self.serves and x not in program.results and self.carriers.keys() >= set(readers[x]):
                self.carriers[line] = _carriers(line, s)
                for k in self.carriers[line]:
                    self.serves[line.inputs[k]] += self.serves[x]
        # One product's share of the work by which a value comes to be multiplied: by itself, and at least.
        self.own = {x: 0.0 if x in self.copied else self._work(x) / n for x, n in self.serves.items()}
        self.share = dict(self.own)
        for carrier, inputs in reversed(self.carriers.items()):
            if carrier is not None and inputs:
                deeper = sum(self.share[carrier.inputs[k]] for k in inputs)
                self.share[carrier.result] = min(deeper, self.own[carrier.result])

    def _work(self, x: Value) -> float:
        """What it takes to multiply x. A large weight is not kept twice while pieces are made again."""
        is_kept = x.size > _SMALL and len({line.run for line in self.readers[x]}) > 1
        return math.inf if is_kept else x.size + _CALL

    def run(self, row: Any) -> None:
        """Do it, if it is much less work than the products are."""
        if 2 * sum(self.share[x] for x in self.products.values()) > sum(x.size + _CALL for x in self.products):
            return
        places: dict[Value, list[tuple[Line, int]]] = defaultdict(list)  # of what is to be multiplied, where it is read
        values, changed = deque(self.products.values()), dict.fromkeys(self.products)
        while values:
            x = values.popleft()
            line = x.line
            if x in changed or line is None:
                continue
            changed[x] = None
            for k in self.carriers[line]:
                part = line.inputs[k]
                if self.share[part] < self.own[part]:
                    values.append(part)
                else:
                    places[part].append((line, k))
        if any(line.result not in changed for x in changed if x not in self.products for line in self.readers[x]):
            return  # somebody else wants it as it was
        position = {line: i for i, line in enumerate(self.program.lines)}
        for x, found in places.items():
            first = min((line for line, _ in found), key=position.__getitem__)
            made = self._multiplied(x, row, first)
            position |= dict.fromkeys(made, position[first])
            for line, k in found:
                line.read((*line.inputs[:k], made[-1].result, *line.inputs[k + 1 :]))
        self.program.lines = in_order_of(position)
        self.program.replace(self.products)

    def _multiplied(self, x: Value, row: Any, like: Line) -> list[Line]:
        """Lines for x times the row."""
        line = x.line
        turned = line is not None and is_transpose(line)
        row = row[:, None] if turned else row  # quickest in the order in which the numbers lie in memory
        base = line.inputs[0] if turned else x  # type: ignore[union-attr]
        factor = Value(row.shape, row.dtype, "each_gate", row)
        made = [Line("ufunc", "multiply", np.multiply, (base, factor), {}, Value(base.shape, base.dtype), like)]
        if turned and line is not None:
            result = Value(x.shape, x.dtype)
            made.append(Line("op", line.name, line.function, (made[0].result,), line.attributes, result, like))
        for new in made:
            new.step = None
        return made
