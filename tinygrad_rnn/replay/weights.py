"""A pass over what is read many times in an order that is slow to read."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ..backend import Array
from .program import Line, Program, Value


def lay_out_weights(program: Program) -> None:
    """Copy a matrix that many products read transposed, once, so that each of them reads it along its rows."""
    readers: dict[Any, list[Line]] = defaultdict(list)  # the products that have a value on their right
    for line in program.lines:
        if line.kind == "dot":
            readers[line.inputs[1]].append(line)
    lines: list[Line] = []
    for line in program.lines:
        lines.append(line)
        if line.name != "transpose" or len(line.result.shape) != 2:
            continue
        products = readers[line.result]
        if len(products) < 4:
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
