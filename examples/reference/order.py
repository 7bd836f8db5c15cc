"""Temporal order 6a: which of two symbols came first, with forty steps and more of others between and after them.

    python examples/reference/order.py

Of 100 to 110 symbols, the one at step 10 to 20 is X or Y, and so is the one at 50 to 60: four classes. An LSTM of two
blocks with two cells each learned this in 31,390 sequences, and got 1 of 2560 wrong (Hochreiter and Schmidhuber 1997,
experiment 6a), where right means that no output is off by 0.3; training stopped when the last 2000 were right and the
mean error was below 0.1. Here the last 6000 must be, with a mean error below 0.01; outputs are a softmax, and Adam
learns from batches of 20, of which every sequence counts.
"""

from __future__ import annotations

import numpy as np
from harness import BATCH, Bar, Outcome, Reader, as_in_1997, keep_for, measured, put

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, tasks


def experiment_6a(rng: np.random.Generator, quick: bool) -> Outcome:
    """Sequences until the last 6000 were right, and then how many of 2560 fresh ones are wrong."""
    steps = 20 if quick else 100
    model = Reader(nn.LSTMCell(8, 8), 4)
    keep_for(model.cell, steps, rng)

    def judged() -> tuple[Tensor, np.ndarray]:
        symbols, classes = tasks.temporal_order(steps, BATCH, rng)
        logits = model(put(tasks.one_hot(symbols, 8)), end=True)
        errors = abs(tg.softmax(logits.detach(), axis=-1).numpy() - tasks.one_hot(classes, 4))
        return nn.cross_entropy(logits, put(classes)), errors.max(axis=1)

    return as_in_1997(model, judged, wrong_from=0.3, mean_below=0.01, most=40_000, quick=quick)


BARS = (Bar("6a", "LSTM, T = 100 to 110: within 40,000 sequences, at most 3 wrong in 2560", experiment_6a, seeds=5),)


if __name__ == "__main__":
    measured(__doc__, BARS)
