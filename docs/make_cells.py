"""Write docs/cells.md from the cells' docstrings, parameters and a measurement.

python docs/make_cells.py
"""

from __future__ import annotations

import inspect
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import time
from pathlib import Path
from typing import Any

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.nn.wrappers import Wrapper
from tinygrad_rnn.tree import tree_leaves

FEATURES, HIDDEN = 7, 11  # primes, so that a length tells what it is a multiple of
HEAD = """# Cells

Made by `python docs/make_cells.py` from the docstrings; a test holds the two together. F is the number of input
features, H the hidden size; `N` is `normalize`, and `*` is element by element. Blocks of rows, and gates, are in order
as they are named. The time of one step, forward and backward, is relative to the LSTM's, for a batch of 32 and a
hidden size of 128, medians on one thread.

| cell | equations | parameters | gates | time |
| --- | --- | --- | --- | ---: |
"""
WRAPPERS = """
## Wrappers

Each is a cell round a cell, so they nest.

| wrapper | what it does |
| --- | --- |
"""


def cells() -> list[type[nn.Cell]]:
    """The cells that have weights of their own, the simple ones first."""
    found = [c for c in vars(nn).values() if inspect.isclass(c) and issubclass(c, nn.WeightedCell)]
    return sorted((c for c in found if c is not nn.WeightedCell), key=lambda c: (len(c.__mro__), c.__name__))


def wrappers() -> list[type[nn.Cell]]:
    """The cells that are built round another."""
    found = [c for c in vars(nn).values() if inspect.isclass(c) and issubclass(c, Wrapper) and c is not Wrapper]
    return sorted(found, key=lambda c: c.__name__)


def paragraphs(cls: type) -> list[str]:
    """What a docstring says, less its doctest, for a cell of a table."""
    text = (inspect.getdoc(cls) or "").partition(">>>")[0].replace("|", "\\|")
    return [paragraph for paragraph in text.strip().split("\n\n") if paragraph]


def symbolic(shape: tuple[int, ...]) -> str:
    """(44, 7) as (4H, F)."""

    def name(n: int) -> str:
        if n % HIDDEN == 0:
            return "H" if n == HIDDEN else f"{n // HIDDEN}H"
        return "F" if n == FEATURES else str(n)

    return "(" + ", ".join(map(name, shape)) + ")"


def describe(cls: Any) -> list[str]:
    """The columns of a cell that do not change from run to run."""
    cell = cls(FEATURES, HIDDEN)
    z = cell.input_projection(tg.zeros(1, FEATURES))
    gates = cell.full_step(z, cell.initial_state(z))[2]
    summary, *rest = paragraphs(cls)
    has_equations = rest and "=" in rest[0].splitlines()[0]
    equations = f"{summary}<br>" + (rest[0].replace("\n", "<br>") if has_equations else "")
    parameters = "<br>".join(f"`{name}` {symbolic(p.shape)}" for name, p in cell.named_parameters())
    return [f"`{cls.__name__}`", equations.removesuffix("<br>"), parameters, ", ".join(gates) or "none"]


def relative_time(cls: Any) -> float:
    """One step, forward and backward, as a multiple of the LSTM's; the two take turns, as the machine may be shared."""
    x = tg.randn(32, 128)
    contenders: list[Any] = [nn.LSTMCell(128, 128), cls(128, 128)]
    times: list[list[float]] = [[], []]
    for _ in range(200):
        for cell, taken in zip(contenders, times, strict=True):
            start = time.perf_counter()
            output, state = cell(x)
            (output.sum() + sum(leaf.sum() for leaf in tree_leaves(state))).backward()
            taken.append(time.perf_counter() - start)
    lstm, other = (statistics.median(taken[10:]) for taken in times)
    return other / lstm


def row(columns: list[str]) -> str:
    """One line of a table."""
    return "| " + " | ".join(columns) + " |\n"


def main() -> None:
    """Measure, and write the file beside this one."""
    table = "".join(row([*describe(cls), f"{relative_time(cls):.2f}"]) for cls in cells())
    around = "".join(row([f"`{cls.__name__}`", " ".join(paragraphs(cls)[:2]).replace("\n", " ")]) for cls in wrappers())
    Path(__file__).with_name("cells.md").write_text(HEAD + table + WRAPPERS + around, encoding="utf-8")


if __name__ == "__main__":
    main()
