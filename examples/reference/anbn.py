"""a^n b^n: learnt from n = 1 to 10, and asked up to n = 100 and beyond: does it count, or did it learn ten strings?

    python examples/reference/anbn.py

At each step of S a^n b^n T the network says which symbols may follow: a or b while it reads a, then n times b, then T.
A string is accepted if at every step the symbols above 1/2 are those, no fewer and no more. LSTMs with peepholes count
in a memory cell that its gates can see, and were right from n = 1 to 118 on the average and 1000 at best after training
on n = 1 to 10 (Gers and Schmidhuber 2001, who draw one string after the other, and learn with momentum); here all ten
strings are one batch, for Adam. What is said is the highest n up to which all strings are accepted.
"""

from __future__ import annotations

import numpy as np
from harness import Bar, Outcome, Reader, descend, measured, progress, put

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim, tasks

SYMBOLS = "SabT"


def strings(ns: range) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (T, B, 4), the symbols that may follow (T, B, 4), and where the strings are (T, B, 4)."""
    longest = 2 * ns[-1] + 1
    inputs, allowed, real = np.zeros((3, longest, len(ns), 4), np.float32)
    for row, n in enumerate(ns):
        string, steps = tasks.anbn(n), 2 * n + 1
        inputs[:steps, row] = tasks.multi_hot(string[:-1], SYMBOLS)
        allowed[:steps, row] = tasks.multi_hot(tasks.anbn_successors(string), SYMBOLS)
        real[:steps, row] = 1
    return put(inputs), put(allowed), put(real)


@tg.no_grad()
def highest(model: Reader, most: int) -> int:
    """The highest n so that all strings from 1 to n are accepted."""
    inputs, allowed, real = strings(range(1, most + 1))
    right = ((model(inputs) > 0) == (allowed > 0)).numpy() | (real.numpy() == 0)
    accepted = right.all(axis=(0, 2))
    return most if accepted.all() else int(accepted.argmin())


def trial(rng: np.random.Generator, quick: bool) -> Outcome:
    """Train on n = 1 to 10 alone, and see how far it goes."""
    updates, bar = (1000, 10) if quick else (6000, 100)
    model = Reader(nn.PeepholeLSTMCell(4, 2, forget_bias=1.0), 4)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    schedule = optim.CosineAnnealingLR(optimizer, updates)
    inputs, allowed, real = strings(range(1, 11))

    @tg.capture  # the batch is always the same, so the step can be recorded once, and replayed
    def step() -> Tensor:
        loss = nn.binary_cross_entropy_with_logits(model(inputs), allowed, mask=real)
        descend(model, optimizer, loss)
        return loss

    for _ in progress(updates, "a^n b^n"):
        loss = step()
        schedule.step()
    n = highest(model, 20 if quick else 400)
    return Outcome(n >= bar, f"{10 * updates:,} strings, loss {loss.item():.1e}, all right up to n = {n}")


BARS = (Bar("anbn", "peephole LSTM: all right up to n = 100", trial, seeds=5),)


if __name__ == "__main__":
    measured(__doc__, BARS)
