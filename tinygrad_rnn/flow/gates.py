"""Gate saturation: which gates are open, and which are shut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..nn.unrolling import Recorded
from ..tape import host_array
from .pictures import finish, slide


class Saturation(NamedTuple):
    """The share of the batch in which a gate is saturated, for each time step and unit."""

    left: dict[str, np.ndarray]  # by gate, (T, H): the share of rows within the edge of 0: shut
    right: dict[str, np.ndarray]  # the share of rows within the edge of 1: open
    rows: np.ndarray  # (T,): the number of real rows; without any, the share is NaN

    def by_step(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each gate, the shares over all units: (left, right), each (T,)."""
        return {name: (self.left[name].mean(axis=1), self.right[name].mean(axis=1)) for name in self.left}

    def by_unit(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each gate, the shares of time in which each unit is saturated: (left, right), each (H,)."""
        real = self.rows > 0
        weights = self.rows[real] / self.rows.sum()
        return {name: (weights @ self.left[name][real], weights @ self.right[name][real]) for name in self.left}

    def plot(self, ax: Any = None) -> Any:
        """Plot the left-saturated against the right-saturated share of time of each unit; returns the figure."""
        ax = slide(
            ax, "Saturated gates, one point per unit", "share of time right-saturated (open)", "left-saturated (shut)"
        )
        for name, (left, right) in self.by_unit().items():
            ax.scatter(right, left, s=45, alpha=0.6, label=name)
        ax.plot([0, 1], [1, 0], color="0.7", linewidth=1)  # no point lies beyond this line
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        return finish(ax)


def saturation(record: Any, gates: Sequence[str] | None = None, edge: float = 0.05, mask: Any = None) -> Saturation:
    """How often gates are left-saturated, below ``edge``, or right-saturated, above 1 - edge (Karpathy et al. 2015).

    A forget gate that is nearly always right-saturated remembers; an unsaturated gate does something in between.

    record: the result of ``unroll(..., record=True)``, or its record: arrays (T, B, H), or (T, H), by name.
    gates: names, such as "f"; by default all entries with values from 0 to 1.
    mask: (T, B), which steps are real; the others do not count. A step without a real row has the share NaN.

    Raises ValueError if there is no such gate, if its values are not all in [0, 1], or if the edge is not in (0, 0.5).

    >>> from tinygrad_rnn import nn, ones
    >>> found = saturation(nn.unroll(nn.LSTMCell(3, 5), ones(7, 2, 3), record=True), gates=["i", "f", "o"])
    >>> found.left["f"].shape, found.by_step()["f"][0].shape
    ((7, 5), (7,))
    """
    named: Mapping[str, Any] = record.record if isinstance(record, Recorded) else record
    if not isinstance(named, Mapping):
        raise TypeError(
            "saturation: the record of one cell (of layers, run.record[0]) is needed, as unroll(..., record=True) "
            f"returns it; this is of type {type(named).__name__}"
        )
    if not 0 < edge < 0.5:
        raise ValueError(f"saturation: the edge must be above 0 and below 0.5, not {edge}")
    values = {name: host_array(named[name]) for name in (named if gates is None else gates) if name in named}
    values = {name: x.reshape(len(x), -1, x.shape[-1]) for name, x in values.items()}
    within = {name: x for name, x in values.items() if 0 <= x.min() <= x.max() <= 1}
    if gates is None:
        values = within
    if not values or (gates is not None and len(values) < len(gates)):
        wanted = "values within 0 and 1" if gates is None else ", ".join(gates)
        raise ValueError(f"saturation: no record of {wanted}; there are {', '.join(named)}")
    if beyond := values.keys() - within.keys():
        raise ValueError(
            f"saturation: the values of {', '.join(sorted(beyond))} are not all in [0, 1], as those of a gate are"
        )
    steps, batch, _ = next(iter(values.values())).shape
    real = np.ones((steps, batch), bool) if mask is None else host_array(mask).astype(bool)
    return Saturation(
        {name: _share(x < edge, real) for name, x in values.items()},
        {name: _share(x > 1 - edge, real) for name, x in values.items()},
        real.sum(axis=1),
    )


def _share(hit: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The mean over the real rows."""
    rows = real.sum(axis=1)[:, None]
    return np.where(rows > 0, (hit & real[:, :, None]).sum(axis=1) / np.maximum(rows, 1), np.nan)
