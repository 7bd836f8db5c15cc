"""A cell over a sequence as a function of one vector, which holds all that its results depend on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.tree import tree_leaves, tree_map


def vector_and_loss(cell: Any, xs: np.ndarray, first: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The vector (inputs, first state, parameters), and a loss of it that all outputs and the last state enter."""
    layer = nn.Recurrent(cell)
    names = [name for name, _ in layer.named_parameters()]
    floats = [part for part in tree_leaves(first) if part.dtype.kind == "f"]
    values = [xs, *[part.data for part in floats], *[p.data for p in cell.parameters()]]
    weights = np.random.default_rng(3).standard_normal((*xs.shape[:-1], cell.output_size))

    def loss(vector: Tensor) -> Tensor:
        parts, start = [], 0
        for value in values:
            parts.append(vector[start : start + value.size].reshape(value.shape))
            start += value.size
        given = iter(parts[1 : 1 + len(floats)])
        state = tree_map(lambda part: next(given) if part.dtype.kind == "f" else part, first)
        weights_of = dict(zip(names, parts[1 + len(floats) :], strict=True))
        outputs, after = nn.functional_call(layer, weights_of, parts[0], state)
        total = (outputs * weights).sum()
        for part in tree_leaves(after):
            if part.dtype.kind == "f":
                total = total + part.sin().sum()
        return total

    return tg.tensor(np.concatenate([value.ravel() for value in values]), requires_grad=True), loss


def assert_gradient(vector: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
    """The engine's gradient equals finite differences of the loss, along random directions."""
    gradient = tg.grad(loss(vector), vector).data
    random, h = np.random.default_rng(4), 1e-6
    for _ in range(4):
        u = random.standard_normal(vector.size)
        above, below = (loss(tg.tensor(vector.data + sign * h * u)).item() for sign in (1, -1))
        np.testing.assert_allclose((above - below) / (2 * h), gradient @ u, rtol=1e-6, atol=1e-6)
    assert np.count_nonzero(gradient) > 0.6 * gradient.size  # units of a relu, or dropped ones, are off


def assert_hessian(vector: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
    """Hessian-vector products equal finite differences of the gradient."""
    random, h = np.random.default_rng(5), 1e-5
    for _ in range(2):
        v = random.standard_normal(vector.size)
        leaves = [tg.tensor(vector.data + sign * h * v, requires_grad=True) for sign in (1, -1)]
        above, below = (tg.grad(loss(leaf), leaf).data for leaf in leaves)
        np.testing.assert_allclose(tg.hvp(loss, vector, v).data, (above - below) / (2 * h), rtol=1e-5, atol=1e-6)
