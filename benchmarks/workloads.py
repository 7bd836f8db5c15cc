"""The workloads of the training-step benchmark: one character-level LSTM in four shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

VOCABULARY = 65


class Workload(NamedTuple):
    """The shape of one training step."""

    batch: int
    steps: int
    hidden_size: int
    layers: int


WORKLOADS = {
    "S": Workload(batch=1, steps=25, hidden_size=100, layers=1),  # small: call overhead
    "M": Workload(batch=50, steps=50, hidden_size=128, layers=2),  # medium: the usual character model
    "D": Workload(batch=16, steps=400, hidden_size=64, layers=1),  # deep in time: many small steps
    "L": Workload(batch=32, steps=100, hidden_size=512, layers=1),  # large: matrix products
}


def parameter_shapes(workload: Workload) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by name, in PyTorch's orientation and with one LSTM bias."""
    hidden = workload.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (VOCABULARY, hidden)}
    for layer in range(workload.layers):
        shapes[f"cells.{layer}.weight_ih"] = (4 * hidden, hidden)
        shapes[f"cells.{layer}.weight_hh"] = (4 * hidden, hidden)
        shapes[f"cells.{layer}.bias"] = (4 * hidden,)
    shapes["head.weight"] = (VOCABULARY, hidden)
    shapes["head.bias"] = (VOCABULARY,)
    return shapes


def make(name: str, dtype: Any = np.float32, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return parameters, tokens (T, B) and targets (T, B) of a workload, the same for the same seed.

    Parameters are uniform in +-1/sqrt(hidden_size), PyTorch's initialisation of an LSTM.
    """
    workload = WORKLOADS[name]
    rng = np.random.default_rng(seed)
    bound = workload.hidden_size**-0.5
    params = {key: rng.uniform(-bound, bound, shape).astype(dtype) for key, shape in parameter_shapes(workload).items()}
    text = rng.integers(VOCABULARY, size=(workload.steps + 1, workload.batch))
    return params, text[:-1], text[1:]
