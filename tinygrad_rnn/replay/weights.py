"""A pass over what is read many times in an order that is slow to read."""

from __future__ import annotations

from typing import Any

from ..backend import Array
from .program import Line, Program, Value

_FEWEST = 4  # products for which it is worth while to copy a matrix
_ROWS = 128  # of a product: with more, how the matrix lies hardly counts


def is_transpose(line: Line) -> bool:
    """Whether a line is a matrix, read by columns."""
    axes = line.attributes.get("axes") or (1, 0)
    return line.name == "transpose" and len(line.result.shape) == 2 and axes[0] % 2 == 1


def products_with(x: Value, readers: dict[Value, list[Line]]) -> list[Line]:
    """The products of few rows with a matrix x, if these are so many that it is worth while to copy it for them."""
    products = [line for line in readers.get(x, ()) if line.kind == "dot" and line.inputs[1] is x]
    products = [line for line in products if line.result.shape[0] <= _ROWS]
    return products if len(products) >= _FEWEST else []


def lay_out_weights(program: Program) -> None:
    """Copy a matrix that many products read transposed, once, so that each of them reads it along its rows."""
    readers = Program([line for line in program.lines if line.kind == "dot"], []).uses()
    lines: list[Line] = []
    for line in program.lines:
        lines.append(line)
        products = products_with(line.result, readers) if is_transpose(line) else []
        if not products:
            continue
        result = Value(line.result.shape, line.result.dtype)
        lines.append(Line("op", "contiguous", contiguous, (line.result,), {}, result, line))
        for product in products:
            product.read((product.inputs[0], result))
    program.lines = lines


def contiguous(xp: Any, x: Array, *, out: Array = None) -> Array:
    """A copy in which rows lie one behind the other."""
    if out is None:
        return xp.ascontiguousarray(x)
    out[...] = x
    return out
