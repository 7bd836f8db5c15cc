"""Parity: is the number of ones odd? Learnt from strings of up to 50 bits, asked of strings ten times as long.

    python examples/reference/long_parity.py

Two states and one rule are all it takes, for any length; what a network has found shows in strings that are longer than
those it learnt from. An LSTM reads strings of 1 to 50 bits, all of a batch as long as one another, and is told the
parity at their ends only; a long string tells it nothing before it masters the short ones, so the longest grow from 2
bits on, whenever the batch before was right. The minimal problem of its kind (Minsky and Papert 1969; Hochreiter and
Schmidhuber 1997 note that guessing weights solves it); no figure is published for this set-up.
"""

from __future__ import annotations

import numpy as np
from harness import Bar, Outcome, Reader, descend, measured, progress, put

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim, tasks


def right(model: Reader, steps: int, count: int, rng: np.random.Generator) -> float:
    """The share of fresh strings whose parity is told at the end."""
    bits, odd = tasks.parity(steps, count, rng)
    with tg.no_grad():
        said = model(put(tasks.one_hot(bits, 2)), end=True)[:, 0].numpy() > 0
    return float((said == odd[-1]).mean())


def trial(rng: np.random.Generator, quick: bool) -> Outcome:
    """Train until 1000 strings of the full length are all right, and go on as long again."""
    full, batch, most = (10 if quick else 50), 50, (3000 if quick else 10_000)
    model = Reader(nn.LSTMCell(2, 16), 1)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    longest, mastered = 2, 0
    for update in progress(most, "parity"):
        bits, odd = tasks.parity(int(rng.integers(1, longest + 1)), batch, rng)
        logits = model(put(tasks.one_hot(bits, 2)), end=True)[:, 0]
        descend(model, optimizer, nn.binary_cross_entropy_with_logits(logits, put(odd[-1])))
        if ((logits.numpy() > 0) == odd[-1]).all():
            longest = min(longest + 1, full)
        if not mastered and update % 50 == 0 and longest == full and right(model, full, 1000, rng) == 1:
            mastered = update
        if mastered and update >= 2 * mastered:
            break
    shares = [right(model, factor * full, 2000, rng) for factor in (1, 2, 10)]
    said = ", ".join(f"{share:.2%} at {factor}x" for share, factor in zip(shares, (1, 2, 10), strict=True))
    return Outcome(shares[0] == 1, f"{(update + 1) * batch:,} strings of 1 to {full} bits; right: {said}")


BARS = (Bar("parity", "LSTM: 100 % at 50 bits; 100 and 500 bits are shown", trial, seeds=5),)


if __name__ == "__main__":
    measured(__doc__, BARS)
