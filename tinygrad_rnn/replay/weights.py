"""A pass over what is read many times in an order that is slow to read."""

from __future__ import annotations

from typing import Any

from ..backend import Array
from .program import Line, Program, Value

_CACHED = 2**16  # elements
_FEWEST = 4, 12  # products after which a copy has paid: of a matrix in the cache, and of a larger one


def lay_out_weights(program: Program) -> None:
    """Copy a matrix that many products read transposed, once, so that each of them reads it along its rows."""
    readers = program.uses()
    lines: list[Line] = []
    for line in program.lines:
        lines.append(line)
        if line.name != "transpose" or len(line.result.shape) != 2:
            continue
        products = [r for r in readers.get(line.result, ()) if r.kind == "dot" and r.inputs[1] is line.result]
        if len(products) < _FEWEST[line.result.size > _CACHED]:
            continue
        copied = Line(
            "op", "contiguous", contiguous, (line.result,), {}, Value(line.result.shape, line.result.dtype), line
        )
        lines.append(copied)
        for product in products:
            product.read((product.inputs[0], copied.result))
    program.lines = lines


def contiguous(xp: Any, x: Array, *, out: Array = None) -> Array:
    """A copy in which rows lie one behind the other."""
    if out is None:
        return xp.ascontiguousarray(x)
    out[...] = x
    return out
