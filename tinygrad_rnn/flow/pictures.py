"""The look of the plots: one pair of axes, readable from the back of the room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..extras import import_extra

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # distinguishable by the colour-blind

SHADES = " .:-=+*#%@"
WIDTH = 72  # characters in a line of text


def ribbon(values: np.ndarray, top: float) -> str:
    """Values over time as a line of text: @ within a tenth of the top, the next shade within a hundredth, and so on.

    ! is what is not finite. Of a long time, a character is the largest of several values.

    >>> ribbon(np.array([0, 2e-9, 2e-4, 2e-3, 0.5, 1, np.inf]), 1.0)
    ' .*#@@!'
    """
    parts = [part.max() for part in np.array_split(values, min(len(values), WIDTH))]
    levels = 9 + np.ceil(np.log10(np.clip(np.array(parts) / (top or 1), 1e-9, 1)))
    return "".join(SHADES[int(level)] if np.isfinite(part) else "!" for part, level in zip(parts, levels, strict=True))


def ribbons(title: str, rows: Mapping[str, np.ndarray]) -> str:
    """Several such lines with their names, and the first and the last value of each."""
    top = max(values[np.isfinite(values)].max(initial=0) for values in rows.values())
    wide = max(map(len, rows))
    lines = [f"{name:<{wide}} |{ribbon(v, top)}| {v[0]:.2g} to {v[-1]:.2g}" for name, v in rows.items()]
    return "\n".join([f"{title}, a shade for each power of ten", *lines])


def slide(ax: Any, title: str, across: str, up: str, log: bool = False) -> Any:
    """The given axes, or those of a new figure, with a title, axis labels and large type.

    The figure belongs to the caller alone: no window opens, and pyplot does not keep it.
    """
    if ax is None:
        figure = import_extra("matplotlib.figure", "a picture of the flow").Figure(
            figsize=(8, 4.5), layout="constrained"
        )
        ax = figure.subplots()
        ax.set_prop_cycle(color=COLORS)
    ax.set_title(title, fontsize=17)
    ax.set_xlabel(across, fontsize=15)
    ax.set_ylabel(up, fontsize=15)
    ax.tick_params(labelsize=13)
    ax.grid(color="0.9")
    ax.spines[:].set_color("0.7")
    if log:
        ax.set_yscale("log")
    return ax


def finish(ax: Any) -> Any:
    """The figure of the axes, with a legend for everything that has a label."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=13, frameon=False)
    return ax.figure
