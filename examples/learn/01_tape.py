"""A tape by hand: reverse-mode differentiation of any program of numbers, and then the same by the package.

    python examples/learn/01_tape.py

A tape is a list of what was computed, in order. Everything on it comes after what it was made from. So a walk from the
end to the beginning meets a number only after everything made from it has sent back its part of the gradient.
"""

from __future__ import annotations

import math
from typing import Any

from ladder import Options, check, climb

import tinygrad_rnn as tg


class Number:
    """A number that knows which numbers it was made from, and its slope in each of them."""

    tape: list[Number] = []

    def __init__(self, value: float, *parents: tuple[Number, float]) -> None:
        self.value, self.parents, self.grad = value, parents, 0.0
        Number.tape.append(self)

    def __add__(self, other: Number) -> Number:
        return Number(self.value + other.value, (self, 1.0), (other, 1.0))

    def __mul__(self, other: Number) -> Number:
        return Number(self.value * other.value, (self, other.value), (other, self.value))

    def tanh(self) -> Number:
        """The hyperbolic tangent, whose slope is 1 - tanh^2."""
        y = math.tanh(self.value)
        return Number(y, (self, 1 - y * y))

    def backward(self) -> None:
        """The chain rule: each number, newest first, hands its gradient times its slope to its parents."""
        self.grad = 1.0
        for number in reversed(Number.tape):
            for parent, slope in number.parents:
                parent.grad += number.grad * slope


def memory(steps: int, w: Any, h: Any, x: Any) -> Any:
    """A recurrent network of one unit, h_t = tanh(w h_{t-1} + x): ordinary code, for numbers of any kind."""
    for _ in range(steps):
        h = (w * h + x).tanh()
    return h


def main(options: Options) -> None:
    """Differentiate the memory by the tape above, by finite differences, and by the package."""
    names, values, steps = ("w", "h_0", "x"), (0.9, 0.5, 0.1), 5

    numbers = [Number(v) for v in values]
    memory(steps, *numbers).backward()
    print(f"{len(Number.tape)} numbers on the tape after {steps} steps")

    tensors = [tg.tensor(v, dtype="float64", requires_grad=True) for v in values]
    gradients = tg.grad(memory(steps, *tensors), tensors)

    for name, number, g in zip(names, numbers, gradients, strict=True):
        print(f"d h_{steps} / d {name:<4} {number.grad:.15f} by hand, {g.item():.15f} by the package")
        check("the two tapes agree to 14 digits", math.isclose(number.grad, g.item(), rel_tol=1e-14))

    little = 1e-6
    up, down = (memory(steps, Number(values[0] + e), *numbers[1:]) for e in (little, -little))
    slope = (up.value - down.value) / (2 * little)
    check("so do finite differences, to 9 digits", math.isclose(numbers[0].grad, slope, rel_tol=1e-9))


if __name__ == "__main__":
    climb(main)
