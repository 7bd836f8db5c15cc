"""Synthetic benchmark tasks for recurrent networks, drawn from a ``numpy.random.Generator``.

Sequences are NumPy arrays, time first: numbers (T, B, F) in float32, or symbols (T, B), which ``one_hot`` turns into
numbers. Where a paper draws the length of a sequence, all sequences of one call share one drawn length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .nn.checks import check_generator

Generator = np.random.Generator


class Batch(NamedTuple):
    """Sequences and their targets."""

    inputs: np.ndarray  # (T, B, F) float32, or symbols (T, B) int64
    targets: np.ndarray  # (B,) for the end of each sequence, or (T, B) for each step


def one_hot(symbols: np.ndarray, size: int) -> np.ndarray:
    """Symbols (...) as vectors (..., size), 1 at the symbol's number and 0 elsewhere, float32.

    Raises ValueError for anything but whole numbers from 0 to size - 1.

    >>> one_hot(np.array([0, 2]), 3)
    array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    symbols = np.asarray(symbols)
    if symbols.dtype.kind not in "iu" or not ((symbols >= 0) & (symbols < size)).all():  # booleans would select rows
        raise ValueError(f"one_hot: the symbols must be whole numbers from 0 to {size - 1}")
    return np.eye(size, dtype=np.float32)[symbols]


def first_symbol(steps: int, batch: int, rng: Generator, distractors: int = 4) -> Batch:
    """Tell which of two symbols came first, X or Y; only random distractors follow it.

    inputs: (T, B), symbols: X 0, Y 1, distractors from 2 on. targets: (B,), 0 or 1.
    (Hochreiter and Schmidhuber 1997, experiment 2c, there with up to 1000 distractors and a marked end)

    >>> symbols, first = first_symbol(50, 4, np.random.default_rng(0))
    >>> (symbols[0] == first).all(), int(symbols[1:].min())
    (np.True_, 2)
    """
    _check("first_symbol", rng, steps, batch, at_least=1)
    symbols = rng.integers(2, 2 + distractors, size=(steps, batch))
    symbols[0] = rng.integers(2, size=batch)
    return Batch(symbols, symbols[0].copy())


def adding(steps: int, batch: int, rng: Generator, form: int = 2015) -> Batch:
    """Add the two marked numbers; all others are distractors.

    inputs: (T, B, 2), a number and its mark at each step. targets: (B,) float32.
    form 1997: numbers in [-1, 1), T drawn from steps to 1.1 steps. Two have the mark 1: X1, one of the first ten, and
        X2, another one of the first steps/2 - 1. The first and last mark are otherwise -1, and X1 is 0 if it comes
        first. The target is 0.5 + (X1 + X2) / 4 (Hochreiter and Schmidhuber 1997, experiment 4).
    form 2015: numbers in [0, 1), T = steps, any two have the mark 1, and the target is their sum (Le, Jaitly and Hinton
        2015). Always answering 1 has a mean squared error of 1/6.

    >>> xs, sums = adding(600, 4, np.random.default_rng(0))
    >>> np.allclose((xs[:, :, 0] * xs[:, :, 1]).sum(axis=0), sums)
    True
    """
    if form not in (1997, 2015):
        raise ValueError(f"adding: the form is 1997 or 2015, not {form!r}")
    _check("adding", rng, steps, batch, at_least=22 if form == 1997 else 2)
    return _adding_of_1997(steps, batch, rng) if form == 1997 else _adding_of_2015(steps, batch, rng)


def _adding_of_2015(steps: int, batch: int, rng: Generator) -> Batch:
    numbers, marks = rng.random((steps, batch)), np.zeros((steps, batch))
    for row in range(batch):
        marks[rng.choice(steps, 2, replace=False), row] = 1
    xs = np.stack([numbers, marks], axis=2).astype(np.float32)
    return Batch(xs, (xs[:, :, 0] * xs[:, :, 1]).sum(axis=0))


def _adding_of_1997(steps: int, batch: int, rng: Generator) -> Batch:
    length = int(rng.integers(steps, steps + steps // 10 + 1))
    numbers, marks = rng.uniform(-1, 1, (length, batch)), np.zeros((length, batch))
    rows, first = np.arange(batch), rng.integers(10, size=batch)
    second = rng.integers(steps // 2 - 2, size=batch)
    second += second >= first  # any other one
    numbers[0, first == 0] = 0
    marks[[0, -1]] = -1
    marks[first, rows] = marks[second, rows] = 1
    sums = numbers[first, rows] + numbers[second, rows]
    return Batch(np.stack([numbers, marks], axis=2).astype(np.float32), (0.5 + sums / 4).astype(np.float32))


def temporal_order(steps: int, batch: int, rng: Generator, form: int = 1997) -> Batch:
    """Classify the order of two symbols, X X, X Y, Y X or Y Y, as 0 to 3; all others are distractors.

    inputs: (T, B), symbols: X 0, Y 1, four distractors 2 to 5, and in form 1997 a start 6 and an end 7.
    targets: (B,), 0 to 3.
    form 1997: T drawn from steps to 1.1 steps. For 100 steps, one symbol is at 10 to 20 and one at 50 to 60, counted
        from 0 and inclusive; other lengths in proportion (Hochreiter and Schmidhuber 1997, experiment 6a).
    form 2013: T = steps; one symbol in [T/10, 2T/10] and one in [4T/10, 5T/10], without start and end (Pascanu,
        Mikolov and Bengio 2013).

    >>> symbols, classes = temporal_order(100, 4, np.random.default_rng(0))
    >>> [s for s in symbols[:, 0].tolist() if s < 2], int(classes[0])  # Y Y
    ([1, 1], 3)
    """
    if form not in (1997, 2013):
        raise ValueError(f"temporal_order: the form is 1997 or 2013, not {form!r}")
    _check("temporal_order", rng, steps, batch, at_least=10)
    tenth, rows = steps // 10, np.arange(batch)
    length = int(rng.integers(steps, steps + tenth + 1)) if form == 1997 else steps
    symbols = rng.integers(2, 6, size=(length, batch))
    classes = rng.integers(4, size=batch)
    middle = 5 if form == 1997 else 4
    for start, symbol in ((tenth, classes // 2), (middle * tenth, classes % 2)):
        symbols[rng.integers(start, start + tenth + 1, size=batch), rows] = symbol
    if form == 1997:
        symbols[0], symbols[-1] = 6, 7
    return Batch(symbols, classes)


def copy_memory(delay: int, batch: int, rng: Generator, items: int = 10, symbols: int = 8) -> Batch:
    """Repeat ``items`` symbols at a signal that comes ``delay`` steps after the last of them.

    inputs: (delay + 2 items, B): the items, numbers below ``symbols``; delay - 1 blanks, with the number ``symbols``;
        the signal, number symbols + 1; as many blanks as items. targets: of the same shape: blanks, then the items.
    Without memory, the lowest possible mean loss is items ln(symbols) / (delay + 2 items).
    (Hochreiter and Schmidhuber 1997; in this form Arjovsky, Shah and Bengio 2016)

    >>> xs, ys = copy_memory(3, 1, np.random.default_rng(0), items=2)
    >>> xs[:, 0].tolist(), ys[:, 0].tolist()
    ([6, 5, 8, 8, 9, 8, 8], [8, 8, 8, 8, 8, 6, 5])
    """
    _check("copy_memory", rng, delay, batch, at_least=1)
    kept = rng.integers(symbols, size=(items, batch))
    inputs = np.full((delay + 2 * items, batch), symbols)
    targets = inputs.copy()
    inputs[:items] = targets[-items:] = kept
    inputs[-items - 1] = symbols + 1
    return Batch(inputs, targets)


def parity(steps: int, batch: int, rng: Generator) -> Batch:
    """Whether the number of ones so far is odd, at each step. inputs: bits (T, B). targets: (T, B), 1 where it is odd.

    >>> bits, odd = parity(5, 2, np.random.default_rng(0))
    >>> bits[:, 0].tolist(), odd[:, 0].tolist()
    ([1, 1, 0, 0, 0], [1, 0, 0, 0, 0])
    """
    _check("parity", rng, steps, batch, at_least=1)
    bits = rng.integers(2, size=(steps, batch))
    return Batch(bits, bits.cumsum(axis=0) % 2)


def anbn(n: int) -> str:
    """A string of the language a^n b^n between its start S and its end T (Gers and Schmidhuber 2001).

    >>> anbn(3)
    'SaaabbbT'
    """
    return f"S{'a' * n}{'b' * n}T"


def anbn_successors(string: str) -> list[str]:
    """The symbols that may follow each symbol but the last of an a^n b^n string: a network's targets.

    >>> anbn_successors("SaabbT")
    ['a', 'ab', 'ab', 'b', 'T']
    """
    n = string.count("a")
    return ["a"] + ["ab"] * n + (["b"] * (n - 1) + ["T"] if n else [])


REBER = "BTPSXVE"
_ARCS = ({"B": 1}, {"T": 2, "P": 3}, {"S": 2, "X": 4}, {"T": 3, "V": 5}, {"X": 3, "S": 6}, {"P": 4, "V": 6}, {"E": 7})


def reber(rng: Generator) -> str:
    """A random string of Reber's grammar (1967); where two symbols may follow, both are equally likely.

    >>> reber(np.random.default_rng(0))
    'BPVVE'
    """
    check_generator("reber", rng)
    state, string = 0, ""
    while state < len(_ARCS):
        symbol = str(rng.choice(list(_ARCS[state])))
        state, string = _ARCS[state][symbol], string + symbol
    return string


def embedded_reber(rng: Generator) -> str:
    """A random string of the embedded grammar: B, T or P, a string of Reber's grammar, the same T or P again, and E.

    To predict the last but one symbol, a network must remember the second through all symbols in between (Smith and
    Zipser 1989; Hochreiter and Schmidhuber 1997, experiment 1).

    >>> embedded_reber(np.random.default_rng(0))
    'BPBPVPXTTTTVVEPE'
    """
    check_generator("embedded_reber", rng)
    arm = str(rng.choice(["T", "P"]))
    return f"B{arm}{reber(rng)}{arm}E"


def embedded_reber_successors(string: str) -> list[str]:
    """The symbols that may follow each symbol but the last of a string of the embedded grammar.

    Raises ValueError at the first symbol that the grammar does not allow in its place.

    >>> embedded_reber_successors("BTBPVVETE")
    ['TP', 'B', 'TP', 'TV', 'PV', 'E', 'T', 'E']
    """
    allowed, state = ["B", "TP"], 0
    for symbol in string[2:]:
        if state == len(_ARCS):
            break
        allowed.append("".join(_ARCS[state]))
        state = _ARCS[state].get(symbol, state)
    allowed += [string[1:2], "E"]
    for k, (symbol, right) in enumerate(zip(string, allowed, strict=False)):
        if symbol not in right:
            raise ValueError(f"{string!r} is no string of the embedded Reber grammar: at {k} is {symbol}, not {right}")
    if len(string) != len(allowed):
        raise ValueError(f"{string!r} is no string of the embedded Reber grammar: it ends too early or too late")
    return allowed[1:]


def multi_hot(sets: Iterable[str], symbols: str) -> np.ndarray:
    """Sets of symbols, each a string, as rows (n, len(symbols)) with a 1 for each member, float32.

    >>> multi_hot(["a", "ab"], "abT")
    array([[1., 0., 0.],
           [1., 1., 0.]], dtype=float32)
    """
    sets = list(sets)
    if foreign := set().union(*sets).difference(symbols):
        raise ValueError(f"multi_hot: {sorted(foreign)} are not among the symbols {symbols!r}")
    return np.array([[symbol in members for symbol in symbols] for members in sets], np.float32)


def _check(task: str, rng: Generator, steps: int, batch: int, at_least: int) -> None:
    check_generator(task, rng)
    if steps < at_least or batch < 1:
        raise ValueError(f"{task}: at least {at_least} steps and a batch of 1 are needed, not {steps} and {batch}")
