"""The workloads of the training-step benchmark: one character-level model in four shapes, with a choice of cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Parameters = dict[str, np.ndarray]
Step = Callable[[], float]  # does a training step, and returns the loss before the update

VOCABULARY = 65
LR, MAX_NORM = 0.1, 5.0  # of SGD and of clipping, in every engine


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


CELLS = {  # gates, then parameters beside their weights and bias, in units of hidden_size
    "rnn": (1, {}),
    "lstm": (4, {}),
    "gru": (3, {"bias_hn": 1}),
    "peephole": (4, {"peephole_i": 1, "peephole_f": 1, "peephole_o": 1}),
    "layernorm": (4, {"gain_ih": 4, "gain_hh": 4, "gain_c": 1, "bias_c": 1}),
}


def cell_of(params: Parameters) -> str:
    """Return the name of the cell that has these parameters."""
    names = {name.rpartition(".")[2] for name in params}
    rows, columns = params["cells.0.weight_hh"].shape
    fitting = [name for name, (gates, extras) in CELLS.items() if rows == gates * columns and names >= extras.keys()]
    return fitting[-1]


def count_layers(params: Parameters) -> int:
    """Return the number of recurrent layers."""
    return sum(name.endswith("weight_hh") for name in params)


def parameter_shapes(workload: Workload, cell: str = "lstm") -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by name, in PyTorch's orientation and with one bias."""
    hidden = workload.hidden_size
    gates, extras = CELLS[cell]
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (VOCABULARY, hidden)}
    for layer in range(workload.layers):
        shapes[f"cells.{layer}.weight_ih"] = (gates * hidden, hidden)
        shapes[f"cells.{layer}.weight_hh"] = (gates * hidden, hidden)
        shapes[f"cells.{layer}.bias"] = (gates * hidden,)
        shapes |= {f"cells.{layer}.{name}": (count * hidden,) for name, count in extras.items()}
    shapes["head.weight"] = (VOCABULARY, hidden)
    shapes["head.bias"] = (VOCABULARY,)
    return shapes


def make(
    name: str, dtype: Any = np.float32, seed: int = 0, cell: str = "lstm"
) -> tuple[Parameters, np.ndarray, np.ndarray]:
    """Return parameters, tokens (T, B) and targets (T, B) of a workload, the same for the same seed.

    Parameters are uniform in +-1/sqrt(hidden_size), PyTorch's initialisation of an LSTM; gains are 1.
    """
    workload = WORKLOADS[name]
    rng = np.random.default_rng(seed)
    bound = workload.hidden_size**-0.5
    params = {
        key: np.ones(shape, dtype) if ".gain" in key else rng.uniform(-bound, bound, shape).astype(dtype)
        for key, shape in parameter_shapes(workload, cell).items()
    }
    text = rng.integers(VOCABULARY, size=(workload.steps + 1, workload.batch))
    return params, text[:-1], text[1:]
