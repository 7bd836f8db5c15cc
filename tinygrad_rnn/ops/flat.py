"""Elementwise operations without a gradient: rounding, comparisons, and boolean logic."""

from __future__ import annotations

from typing import Any

from ..backend import Array
from ..op import Operation, op
from .ufunc import ufunc


def _flat(name: str, told: str) -> Operation:
    made = ufunc(__name__, name, f"{told}, element by element.")
    return made.vjp(**dict.fromkeys(made.op.inputs))


@op
def round(xp: Any, x: Array, *, decimals: int = 0) -> Array:  # not out=, where NumPy would round integers to tens
    """x rounded to ``decimals`` places, halves to even; no gradient."""
    if decimals or x.dtype.kind != "f":
        return xp.round(x, decimals)
    return xp.rint(x)  # the same, by a function that generated kernels support


round.vjp(x=None)

sign = _flat("sign", "-1, 0 or 1")
floor = _flat("floor", "The largest whole number that is not above x")
ceil = _flat("ceil", "The smallest whole number that is not below x")
floor_divide = _flat("floor_divide", "floor(a / b)")
isnan = _flat("isnan", "Whether x is not a number")
isinf = _flat("isinf", "Whether x is infinite")
isfinite = _flat("isfinite", "Whether x is a number, and not infinite")
equal = _flat("equal", "Whether a == b")
not_equal = _flat("not_equal", "Whether a != b")
less = _flat("less", "Whether a < b")
less_equal = _flat("less_equal", "Whether a <= b")
greater = _flat("greater", "Whether a > b")
greater_equal = _flat("greater_equal", "Whether a >= b")
bitwise_and = _flat("bitwise_and", "a & b of booleans or integers: both")
bitwise_or = _flat("bitwise_or", "a | b of booleans or integers: one or both")
bitwise_xor = _flat("bitwise_xor", "a ^ b of booleans or integers: one and not both")
invert = _flat("invert", "~x of booleans or integers: not")
