"""Copy memory: ten symbols are shown, and are to be repeated when the signal comes, T steps later.

    python examples/reference/copy_memory.py

Of 8 kinds of symbols, 10 are shown; T - 1 blanks, the signal, and 10 more blanks follow, in which the ten are to be
said in their order. The loss is the mean cross entropy over all T + 20 steps: who remembers nothing can say the blanks
for certain and must guess the symbols, which costs 10 ln 8 / (T + 20) (Arjovsky, Shah and Bengio 2016; first in
Hochreiter and Schmidhuber 1997). Solved means here that 99.9 % of the symbols of 1000 fresh sequences are right.

A network with an orthogonal W_hh and no nonlinearity on its state keeps the length of state and gradient over any time,
and learns this in some 40,000 sequences (Henaff, Szlam and LeCun 2016); gates need many more. Adam, batches of 50.
"""

from __future__ import annotations

import math

import numpy as np
from harness import Bar, Outcome, Reader, descend, measured, progress, put

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim, tasks


def examine(model: Reader, rng: np.random.Generator, delay: int, items: int) -> tuple[float, float]:
    """The loss, and the share of the symbols that are right, on 1000 fresh sequences."""
    symbols, targets = tasks.copy_memory(delay, 1000, rng, items)
    with tg.no_grad():
        logits = model(put(tasks.one_hot(symbols, 10)))
        loss = nn.cross_entropy(logits, put(targets)).item()
    return loss, float((logits.numpy().argmax(axis=2) == targets)[-items:].mean())


def trial(rng: np.random.Generator, quick: bool) -> Outcome:
    """Sequences until a linear recurrence that begins orthogonal remembers all."""
    delay, items, hidden, most = (5, 3, 32, 1000) if quick else (50, 10, 128, 4000)
    baseline = items * math.log(8) / (delay + 2 * items)
    cell = nn.RNNCell(10, hidden, nonlinearity=lambda x: x)
    nn.init.orthogonal_(cell.weight_hh)
    model = Reader(cell, 10)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    schedule = optim.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=most)
    said = ""
    for update in progress(most, "copy memory"):
        symbols, targets = tasks.copy_memory(delay, 50, rng, items)
        descend(model, optimizer, nn.cross_entropy(model(put(tasks.one_hot(symbols, 10))), put(targets)))
        schedule.step()
        if (update + 1) % 100 == 0:
            loss, right = examine(model, rng, delay, items)
            said = f"{(update + 1) * 50:,} sequences, loss {loss:.4f} (memoryless {baseline:.4f}), {right:.2%} right"
            if right >= 0.999:
                return Outcome(True, said)
    return Outcome(False, said)


BARS = (Bar("copy", "linear RNN, T = 50: 99.9 % of the symbols right", trial, seeds=5),)


if __name__ == "__main__":
    measured(__doc__, BARS)
