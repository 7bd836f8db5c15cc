"""A pass over what is read many times in an order that is slow to read."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ..backend import Array
from .program import Line, Program, Value

_CACHED = 2**16  # elements
_FEW = 128  # rows of a product; with more, how the matrix lies hardly counts
_FEWEST = 4, 12  # products after which a copy has paid: of a matrix in the cache, and of a larger one


def lay_out_weights(program: Program) -> None:
    """Copy a matrix that many products read transposed, once, so that each of them reads it along its rows."""
    readers = program.uses()
    alike: dict[Any, list[Line]] = defaultdict(list)  # steps that are done once more have transposes of their own
    for line in program.lines:
        if line.name == "transpose" and len(line.result.shape) == 2:
            alike[line.inputs[0], str(line.attributes)].append(line)
    copies: dict[Line, Line] = {}
    for lines in alike.values():
        first = lines[0]
        products = [r for x in lines for r in readers.get(x.result, ()) if _is_product(r, x.result)]
        if len(products) < _FEWEST[first.result.size > _CACHED]:
            continue
        copied = Value(first.result.shape, first.result.dtype)
        copies[first] = Line("op", "contiguous", contiguous, (first.result,), {}, copied, first)
        for product in products:
            product.read((product.inputs[0], copied))
    program.lines = [x for line in program.lines for x in ((line, copies[line]) if line in copies else (line,))]


def _is_product(line: Line, matrix: Value) -> bool:
    """Whether a line is a product of few rows with a matrix."""
    return line.kind == "dot" and line.inputs[1] is matrix and line.inputs[0].shape[0] <= _FEW


def contiguous(xp: Any, x: Array, *, out: Array = None) -> Array:
    """A copy in which rows lie one behind the other."""
    if out is None:
        return xp.ascontiguousarray(x)
    out[...] = x
    return out
