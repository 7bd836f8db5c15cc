"""What the tests of cells round cells share: inputs, states, and how close is close."""

from __future__ import annotations

from typing import Any

import numpy as np
from cell_equations import D

import tinygrad_rnn as tg
from tinygrad_rnn.tree import tree_map

T, B = 6, 2


def inputs(size: int = D) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((T, B, size))


def random_state(cell: Any, size: int = D) -> Any:
    """A random state, with the masks that a wrapper may have drawn."""
    random = np.random.default_rng(2)
    needed = cell.initial_state(cell.input_projection(np.zeros((B, size))))
    return tree_map(lambda x: tg.tensor(random.standard_normal(x.shape)) if x.dtype.kind == "f" else x, needed)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found.numpy() if isinstance(found, tg.Tensor) else found, expected, rtol=0, atol=1e-12)


def inner(cell: Any) -> dict[str, np.ndarray]:
    """The inner cell's parameters."""
    return cell.cell.state_dict()
