"""By which path the gradient goes back: along the memory alone, or through the recurrent weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..nn.cells import WeightedCell
from ..nn.unrolling import check_cell, unroll
from ..nn.wrappers import RecurrenceDetached
from ..tensor import Tensor
from .gradients import gradient_norms
from .pictures import finish, ribbons, slide


@dataclass(frozen=True, eq=False)
class GradientPaths:
    """The gradient for a cell's memory at each time step, in two parts, whose sum it is.

    Its repr has a character for each step, and shows the norms over batch and units.
    """

    state: str  # the name of the memory: "c", or "h" in a cell without a c
    direct: np.ndarray  # (T, B, H): along all paths that pass through no recurrent weight
    recurrent: np.ndarray  # (T, B, H): along all others

    @property
    def norms(self) -> dict[str, np.ndarray]:
        """The norms of both parts and of their sum, each (T,)."""
        parts = {"direct": self.direct, "recurrent": self.recurrent, "total": self.direct + self.recurrent}
        return {name: np.sqrt((part**2).sum(axis=tuple(range(1, part.ndim)))) for name, part in parts.items()}

    def __repr__(self) -> str:
        return ribbons(f"GradientPaths to {self.state} of {len(self.direct)} steps", self.norms)

    def plot(self, ax: Any = None) -> Any:
        """Plot the norms over the time steps on a logarithmic scale; returns the figure."""
        up = f"‖∂L/∂{self.state}$_t$‖ along these paths"
        ax = slide(ax, "Paths of the gradient back through time", "time step t", up, log=True)
        for (name, values), line in zip(self.norms.items(), ("-", "-", "--"), strict=True):
            ax.plot(np.where(values > 0, values, np.nan), line, linewidth=2.5, label=name)
        return finish(ax)


def gradient_paths(loss: Callable[[Any], Tensor], cell: Any, xs: Any, state: Any = None) -> GradientPaths:
    """How much of the gradient comes back along the memory alone, and how much through the recurrent weights.

    LSTM: c_{t+1} = f * c_t + i * g, GRU: h_{t+1} = z * h_t + (1 - z) * n. Back to c_t, or h_t, without any recurrent
    weight on the way leads only the carousel, which multiplies the gradient by f, or z, in each step. All other paths
    go through gates or candidates, once or more often.

    loss: a function of the outputs (T, B, ...) that gives one number, and always the same for the same outputs.
    cell, xs, state: as in ``unroll``; the cell is one with weights of its own, such as ``nn.GRUCell``.

    Their sum is dL/dc_t, or dL/dh_t in a cell without a c. What the loss makes of a step's own output is direct, and
    peepholes are no recurrent weights. The cell runs twice, once with its recurrent products detached from the states.

    Raises TypeError for a wrapper, a cell whose step makes no use of ``self.recur``, and a state without c or h.
    (Hochreiter and Schmidhuber 1997)

    >>> from tinygrad_rnn import nn, ones
    >>> found = gradient_paths(lambda outputs: outputs[-1].sum(), nn.LSTMCell(3, 5), ones(7, 2, 3))
    >>> found.state, found.direct.shape
    ('c', (7, 2, 5))
    """
    check_cell("gradient_paths", cell)
    if not isinstance(cell, WeightedCell):
        raise TypeError(f"gradient_paths: a cell with weights of its own is needed, not a {type(cell).__name__}")
    parts = []
    for each in (cell, RecurrenceDetached(cell)):
        run = unroll(each, xs, state, record=True)
        found = gradient_norms(loss(run.outputs), run, keep=True).gradients
        assert found is not None
        parts.append(found)
    total, direct = parts
    name = "c" if "c" in total else "h"
    if name not in total:
        raise TypeError(f"gradient_paths: a state c or h is needed, a field of a NamedTuple, not {', '.join(total)}")
    return GradientPaths(name, direct[name], total[name] - direct[name])
