"""The embedded Reber grammar: what may come next, when the last but one symbol repeats the second.

    python examples/reference/reber.py

Reber's grammar (1967) is a small automaton; embedded, each of its strings stands between two T or two P. At each step
the network is to say which symbols may follow, one or two. Of 256 strings to learn from and 256 to test on, all must be
right at every step: the symbols that may follow must be those with the highest outputs. An LSTM came to that in 8,440
presentations at best, real-time recurrent learning and Elman nets, in most trials, did not (Smith and Zipser 1989;
Fahlman 1991; Hochreiter and Schmidhuber 1997, experiment 1). Here the targets are the next symbols that did come,
as in the papers, the loss is softmax cross entropy, and Adam learns after each string: one string, one presentation.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from harness import Bar, Outcome, Reader, columns, descend, measured, progress, put

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn, optim, tasks

SYMBOLS = tasks.REBER


def encode(string: str) -> np.ndarray:
    """The numbers of a string's symbols, (T,)."""
    return np.array([SYMBOLS.index(symbol) for symbol in string])


def all_right(model: Reader, strings: list[str]) -> int:
    """How many strings are predicted right at every step."""
    inputs = columns(encode(string[:-1]) for string in strings)  # what stands behind a string's end is not looked at
    with tg.no_grad():
        said = model(put(tasks.one_hot(inputs, 7))).numpy()
    right = 0
    for row, string in enumerate(strings):
        legal = tasks.multi_hot(tasks.embedded_reber_successors(string), SYMBOLS) > 0
        scores = said[: len(string) - 1, row]
        worst_legal = np.where(legal, scores, np.inf).min(axis=1)
        right += bool((worst_legal > np.where(legal, -np.inf, scores).max(axis=1)).all())
    return right


def presentations(cell: nn.Cell, rng: np.random.Generator, most: int) -> tuple[int, str]:
    """Present strings until all are right; returns how many are, of 256 learnt from or of 256 others, and a line."""
    learnt, others = ([tasks.embedded_reber(rng) for _ in range(256)] for _ in range(2))
    model = Reader(cell, 7)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    counts, seen = (0, 0), 0
    for seen in progress(most, "Reber"):
        if seen % 250 == 0:
            counts = all_right(model, learnt), all_right(model, others)
            if counts == (256, 256):
                break
        string = encode(learnt[rng.integers(256)])[:, None]
        descend(model, optimizer, nn.cross_entropy(model(put(tasks.one_hot(string[:-1], 7))), put(string[1:])))
        optimizer.lr = 0.01 * (1 - 0.9 * seen / most)
    return min(counts), f"{seen:,} presentations, {counts[0]} of 256 learnt and {counts[1]} of 256 others"


def lstm(rng: np.random.Generator, quick: bool) -> Outcome:
    """An LSTM within 25,000 presentations."""
    right, said = presentations(nn.LSTMCell(7, 12), rng, 751 if quick else 25_001)
    return Outcome(right >= (100 if quick else 256), said)


class ElmanCell(nn.RNNCell):
    """A simple network that learns as Elman's (1990) did: the last state is one more input, with no gradient."""

    def full_step(self, z: Any, state: Any) -> tuple[Any, Any, Any]:
        return super().full_step(z, bptt.detach(state))


def simple(kind: type[nn.RNNCell], rng: np.random.Generator, quick: bool) -> Outcome:
    """A simple network of 15 tanh units."""
    right, said = presentations(kind(7, 15), rng, 251 if quick else 25_001)
    return Outcome((right < 256) == (kind is ElmanCell or quick), said)


BARS = (
    Bar("LSTM", "all of 256 + 256 strings right within 25,000 presentations", lstm, seeds=5),
    Bar("Elman", "not all right after 25,000 presentations, as published", partial(simple, ElmanCell), seeds=5),
    Bar("RNN with whole BPTT", "all right within 25,000 presentations", partial(simple, nn.RNNCell), seeds=5),
)


if __name__ == "__main__":
    measured(__doc__, BARS)
