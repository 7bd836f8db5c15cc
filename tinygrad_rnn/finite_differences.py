"""Derivatives by the rules and by finite differences, of a function whose inputs and outputs are flat lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

import numpy as np

from . import backend
from .backend import Array
from .grad import pull_back
from .grad_mode import enable_grad, no_grad
from .tensor import Tensor, tensor

TOLERANCE = 1e-6  # allowed distance from finite differences, relative to the larger of the two
STEPS = (1e-5, 1e-6, 1e-4, 1e-7)  # of finite differences; agreement at one suffices, as it does not happen by chance
NOISE = 1e-15  # relative rounding error of an output
FLOOR = 1e-10  # additional absolute error from rounding inside the function


@dataclass
class Problem:
    """A function from a flat list of inputs to a flat list of Tensors, with cotangents for its outputs."""

    run: Callable[[list[Any]], list[Tensor]]
    names: list[str]
    values: list[Any]
    positions: list[int]  # of the differentiated inputs
    cotangents: list[Array] = field(default_factory=list)

    def outputs(self, position: int = -1, value: Any = None) -> list[Array]:
        """The outputs, optionally with another value for one input."""
        values = [value if k == position else x for k, x in enumerate(self.values)]
        with no_grad():
            return [y.array for y in self.run(self._leaves(values))]

    def gradient(self, position: int, record: bool = False) -> Array:
        """The gradient for one input: by the rules on arrays or, with ``record``, on Tensors."""
        return _pull(self.run, self._leaves(self.values), position, [*map(Tensor.wrap, self.cotangents)], record).array

    def derivative(self, position: int) -> Problem:
        """The gradient for one input as a function of all inputs and cotangents."""
        n, m = len(self.values), len(self.cotangents)

        def run(leaves: list[Any]) -> list[Tensor]:
            record = any(isinstance(x, Tensor) and x.requires_grad for x in leaves)
            return [_pull(self.run, leaves[:n], position, leaves[n:], record)]

        names = [*self.names, *(["g"] if m == 1 else [f"g[{k}]" for k in range(m)])]
        return Problem(run, names, [*self.values, *self.cotangents], [*self.positions, *range(n, n + m)])

    def _leaves(self, values: list[Any]) -> list[Any]:
        return [Tensor.wrap(x) if k in self.positions else x for k, x in enumerate(values)]


def _pull(run: Callable[..., Any], leaves: list[Any], position: int, vs: list[Tensor], record: bool) -> Tensor:
    """The gradient for one of the leaves; zeros if no output depends on it."""
    if not leaves[position].requires_grad:
        leaves[position] = tensor(leaves[position], requires_grad=True)
    with enable_grad():
        (g,) = pull_back(run(leaves), [leaves[position]], vs, record)
    return g


def disagreement(problem: Problem, k: int, gradient: Array, u: Array) -> tuple[float, float] | None:
    """The derivative for input k along u, by finite differences and as gradient . u; None if they agree."""
    x, xp = problem.values[k], backend.of(gradient).xp
    found = []
    for h in STEPS:
        above, below = xp.asarray(x + h * u), xp.asarray(x - h * u)
        numeric = noise = 0.0
        for v, y, z in zip(problem.cotangents, problem.outputs(k, above), problem.outputs(k, below), strict=True):
            numeric += float((v * (y - z)).sum()) / (2 * h)
            noise += float((abs(v) * (abs(y) * NOISE / h + FLOOR)).sum())
        ruled = float((gradient * (above - below)).sum()) / (2 * h)  # with the step as rounded
        if abs(numeric - ruled) <= TOLERANCE * max(abs(numeric), abs(ruled)) + noise:
            return None
        found.append((numeric, ruled))
    return next((pair for pair in found if isfinite(pair[0])), found[0])


def worst(problem: Problem, k: int, gradient: Array) -> tuple[list[int], int]:
    """The index of the worst element of a gradient, found by changing one at a time, and how many are wrong."""
    errors = np.zeros(gradient.shape)
    for at in np.ndindex(errors.shape):
        unit = np.zeros(errors.shape)
        unit[at] = 1
        pair = disagreement(problem, k, gradient, backend.of(gradient).from_host(unit))
        errors[at] = np.nan_to_num(abs(pair[0] - pair[1]), nan=inf) if pair else 0
    return [int(i) for i in np.unravel_index(errors.argmax(), errors.shape)], int(np.count_nonzero(errors))
