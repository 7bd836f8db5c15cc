"""Models with states of many kinds, as step functions for streams, and what they should come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from closeness import drawn

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

Step = Callable[[Any, Any], tuple[Tensor, Any]]


class Memory(NamedTuple):
    """A state of many kinds of parts."""

    h: Any
    rest: Any


class Nested(nn.Module):
    """A user's own model: a weight that is used twice in a step, a delay line, a counter, None and a list as state."""

    def __init__(self) -> None:
        self.weight = nn.parameter(drawn(3, 3) / 2)
        self.weight_in = nn.parameter(drawn(3, 2, seed=1))

    def forward(self, x: Any, state: Any) -> tuple[Tensor, Any]:
        if state is None:
            zeros = tg.zeros(1, 3, dtype="float64")
            state = Memory(zeros, {"late": [zeros, zeros], "count": 0, "none": None})
        older, last = state.rest["late"]
        h = tg.tanh(tg.linear(state.h, self.weight) + tg.linear(older, self.weight) + tg.linear(x, self.weight_in))
        rest = {"late": [last, state.h], "count": state.rest["count"] + 1, "none": None}
        return h, Memory(h, rest)


CELLS: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: nn.RNNCell(2, 3, dtype="float64"),
    "lstm": lambda: nn.LSTMCell(2, 3, dtype="float64"),
    "gru": lambda: nn.GRUCell(2, 3, dtype="float64"),
    "peephole": lambda: nn.PeepholeLSTMCell(2, 3, dtype="float64"),
    "zoneout": lambda: nn.Residual(nn.GRUCell(2, 2, dtype="float64")),
    "own": Nested,
}


def model(cell: nn.Module) -> tuple[nn.Module, Step]:
    """A cell with a head that has parameters too, and its step with a loss that depends on x_t."""
    head = nn.parameter(drawn(getattr(cell, "output_size", 3), seed=2))

    def step(x: Any, state: Any) -> tuple[Tensor, Any]:
        y, state = cell(x[None], state)
        return ((y @ head).sum() - x[0]) ** 2 / 10, state

    both = nn.Module()
    both.cell, both.head = cell, head
    return both, step


def gradients(module: nn.Module) -> dict[str, np.ndarray]:
    """The gradients of all parameters, which are then forgotten."""
    found = {name: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for name, p in module.named_parameters()}
    module.zero_grad()
    return found


def reached(steps: int, k1: int, k2: int | None) -> Iterator[tuple[int, int, np.ndarray]]:
    """By window: start, stop, and what it reaches by [t, s], as factors. Written from the definition, step by step."""
    for start in range(0, steps, k1):
        stop = min(start + k1, steps)
        factors = np.zeros((steps, steps))
        for t, s in product(range(start, stop), range(steps)):
            if (start if k2 is None else stop - k2) <= s <= t:
                factors[t, s] = 1 / (stop - start)
        yield start, stop, factors


def moving_rnn() -> tuple[Tensor, Step, np.ndarray]:
    w = nn.parameter(drawn(3, 3) / 2)

    def step(x: Any, h: Any) -> tuple[Tensor, Any]:
        h = tg.tanh(w @ h + x)
        return (h * h).sum(), h

    return w, step, drawn(9, 3)
