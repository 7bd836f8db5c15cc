"""Elementwise operations without a gradient: rounding, comparisons, and boolean logic."""

from __future__ import annotations

from typing import Any

from ..backend import Array
from ..op import Operation, op


def _flat(kernel: Any, name: str, told: str) -> Operation:
    """Make an operation from a kernel that calls the array module's function of this name; ``told`` documents it."""
    kernel.__name__, kernel.__doc__ = name, f"{told}, element by element."
    made = op(kernel)
    return made.vjp(**dict.fromkeys(made.op.inputs))


def _of_one(name: str, told: str) -> Operation:
    def kernel(xp: Any, x: Array, *, out: Array = None) -> Array:
        return getattr(xp, name)(x, out=out)

    return _flat(kernel, name, told)


def _of_two(name: str, told: str) -> Operation:
    def kernel(xp: Any, a: Array, b: Array, *, out: Array = None) -> Array:
        return getattr(xp, name)(a, b, out=out)

    return _flat(kernel, name, told)


@op
def round(xp: Any, x: Array, *, decimals: int = 0, out: Array = None) -> Array:
    """x rounded to ``decimals`` places, halves to even; no gradient."""
    if decimals or x.dtype.kind != "f":
        return xp.round(x, decimals, out=out)
    return xp.rint(x, out=out)  # the same, by a function that generated kernels support


round.vjp(x=None)

sign = _of_one("sign", "-1, 0 or 1")
floor = _of_one("floor", "The largest whole number that is not above x")
ceil = _of_one("ceil", "The smallest whole number that is not below x")
floor_divide = _of_two("floor_divide", "floor(a / b)")
isnan = _of_one("isnan", "Whether x is not a number")
isinf = _of_one("isinf", "Whether x is infinite")
isfinite = _of_one("isfinite", "Whether x is a number, and not infinite")
equal = _of_two("equal", "Whether a == b")
not_equal = _of_two("not_equal", "Whether a != b")
less = _of_two("less", "Whether a < b")
less_equal = _of_two("less_equal", "Whether a <= b")
greater = _of_two("greater", "Whether a > b")
greater_equal = _of_two("greater_equal", "Whether a >= b")
bitwise_and = _of_two("bitwise_and", "a & b of booleans or integers: both")
bitwise_or = _of_two("bitwise_or", "a | b of booleans or integers: one or both")
bitwise_xor = _of_two("bitwise_xor", "a ^ b of booleans or integers: one and not both")
invert = _of_one("invert", "~x of booleans or integers: not")
