"""The norm of the gradient for each state: ||dL/dh_t|| over t."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from ..clip import norms
from ..grad import grad
from ..nn.states import innermost, named
from ..nn.unrolling import Recorded
from ..tape import GraphError, Leaf, Node, host_array
from ..tensor import Tensor
from ..tree import tree_items
from .pictures import finish, ribbons, slide


@dataclass(frozen=True, eq=False)
class GradientNorms:
    """The norm of the gradient for each of the given states.

    As an array, it is the norms (T,) of whole states, such as h and c of an LSTM together: ``found[t]``,
    ``len(found)``, ``np.asarray(found)``. Its repr has a character for each step.
    """

    norms: dict[str, np.ndarray]  # by name of the state, such as "h" and "c": (T,), in units of loss / unit of state
    gradients: dict[str, np.ndarray] | None = None  # dL/dh_t itself, (T, B, H), if kept

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(reduce(np.hypot, self.norms.values()), dtype)

    def __len__(self) -> int:
        return len(np.asarray(self))

    def __getitem__(self, t: Any) -> Any:
        return np.asarray(self)[t]

    def __repr__(self) -> str:
        return ribbons(f"GradientNorms of {len(self)} steps", self.norms)

    def plot(self, ax: Any = None, label: str = "") -> Any:
        """Plot the norms over the time steps on a logarithmic scale; returns the figure.

        label: a prefix for the names, such as "LSTM", to tell several plots on the same axes apart.
        """
        ax = slide(ax, "Gradient on its way back through time", "time step t", "‖∂L/∂state$_t$‖", log=True)
        for name, values in self.norms.items():
            ax.plot(np.arange(len(values)), values, linewidth=2.5, label=f"{label} {name}".strip())
        return finish(ax)


def gradient_norms(loss: Tensor, states: Any, *, keep: bool = False) -> GradientNorms:
    """The L2 norm, over batch and units, of the gradient of a loss for the state of each time step, ||dL/dh_t||.

    states: the states kept while unrolling, a list of Tensors or of nested states such as ``LSTMState``; or the result
        of ``unroll(..., record=True)``; or a part of its record, even gates: ``{"f": run.record["f"]}``. They must be
        the Tensors that the loss was computed from: copies and ``detach``-ed ones have no part in it.
    keep: whether to keep each gradient dL/dh_t, not only its norm: as ``gradients["h"]``, (T, B, H).

    The gradient is the total one, along all paths: for an LSTM's c_t also through h_t. Where none arrives, it is 0; if
    none arrives anywhere, there is a warning.
    After ``unroll`` with a mask, a state is the one passed to the next step. The gradient from the output of its own
    step does not go through it. What a record has of a part without any history, which the cell detaches, is left out.
    No ``.grad`` is touched, and the graph is kept for a later ``loss.backward()``.

    Raises GraphError for a state without history, such as an initial state of zeros, and for a freed graph.
    (Bengio, Simard and Frasconi 1994; Pascanu, Mikolov and Bengio 2013)

    >>> from tinygrad_rnn import nn, ones
    >>> run = nn.unroll(nn.LSTMCell(3, 5), ones(7, 2, 3), record=True)
    >>> found = gradient_norms(run.outputs[-1].sum(), run)
    >>> found.norms["c"].shape, found.norms["h"][-1].round(4)  # ten elements, each with a gradient of 1
    ((7,), np.float64(3.1623))
    """
    steps = by_step("gradient_norms", states)
    leaves = [leaf for step in steps for leaf in step.values()]
    found = grad(loss, leaves, retain_graph=True, allow_unused=True)
    arrived = [g.array for g in found if g is not None]
    if not arrived:
        warnings.warn(
            "gradient_norms: no gradient reaches any of the states; slices of stacked outputs are new Tensors, which "
            "the loss was not made of: give what unroll(..., record=True) returns, or keep the states themselves",
            stacklevel=2,
        )
    sizes = iter(norms(*arrived, dtype="float64").tolist() if arrived else [])
    lengths = [0.0 if g is None else next(sizes) for g in found]
    if not keep:
        return GradientNorms(_in_columns(steps, lengths))
    kept = [np.zeros(x.shape) if g is None else host_array(g) for x, g in zip(leaves, found, strict=True)]
    return GradientNorms(_in_columns(steps, lengths), _in_columns(steps, kept))


def _in_columns(steps: list[dict[str, Tensor]], values: list[Any]) -> dict[str, np.ndarray]:
    """Values for each step and name, stacked by name."""
    columns: dict[str, list[Any]] = {}
    for name, value in zip((name for step in steps for name in step), values, strict=True):
        columns.setdefault(name, []).append(value)
    return {name: np.array(column) for name, column in columns.items()}


def by_step(who: str, states: Any) -> list[dict[str, Tensor]]:
    """The Tensors of each time step's state, by name; a state that is a single Tensor is called h."""
    if isinstance(states, Recorded):
        names, states = named(innermost(states.state)), states.record
        if isinstance(states, Mapping):
            columns = {name: states[name] for name in names}
            states = {name: x for name, x in columns.items() if x.requires_grad} or columns
    if _of_layers(states):
        raise TypeError(f"{who}: layers, and directions, each have a record; give one, such as run.record[0]")
    if isinstance(states, Mapping):
        leaves = {name: _unstacked(who, name, stacked) for name, stacked in states.items()}
        return [dict(zip(leaves, row, strict=True)) for row in zip(*leaves.values(), strict=True)]
    if not isinstance(states, Sequence) or hasattr(states, "_fields") or not states:
        given = "an empty one" if isinstance(states, Sequence) and not states else f"a {type(states).__name__}"
        raise TypeError(
            f"{who}: the states must be a list with the state of each time step, or what unroll(..., record=True) "
            f"returned, not {given}"
        )
    steps = [{name or "h": leaf for name, leaf in tree_items(state)} for state in states]
    for t, step in enumerate(steps):
        for name, leaf in step.items():
            if not isinstance(leaf, Tensor) or leaf.node is None:
                raise GraphError(f"{who}: the state {name} of step {t} of the list is a constant; leave that step out")
    return steps


def _of_layers(record: Any) -> bool:
    """Whether this is a tuple of records, as layers and directions return."""
    return isinstance(record, tuple) and any(isinstance(part, Mapping) or _of_layers(part) for part in record)


def _unstacked(who: str, name: str, stacked: Any) -> list[Tensor]:
    """The Tensors that ``unroll`` stacked; slices of the stack would be new Tensors, unknown to the loss."""
    if isinstance(stacked, Tensor) and stacked.node is None:
        raise GraphError(f"{who}: {name!r} is a constant: no weight, input or state behind it requires a gradient")
    node = stacked.node if isinstance(stacked, Tensor) else None
    if isinstance(node, Node) and node and node.plan.op.name == "where":  # 0 at padding, as gates after a mask
        node = node.parents[1]
    if not isinstance(node, Node) or not node or node.plan.op.name != "stack" or node.saved["axis"] != 0:
        raise GraphError(
            f"{who}: {name!r} is no stack of states with history, as unroll(..., record=True) makes them; keep the "
            "states in a list while unrolling, and give that"
        )
    parents: list[Node | Leaf | None] = node.parents
    return [Tensor.wrap(stacked.array[t], parent) for t, parent in enumerate(parents)]
