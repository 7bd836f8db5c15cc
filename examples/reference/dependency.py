"""Long-term dependency: the first symbol decides, and others follow to step T; how large may T be?

    python examples/reference/dependency.py

The first of T symbols is X or Y, the rest are distractors, and at the end it is to be said which it was (Hochreiter and
Schmidhuber 1997, experiment 2c). Simple networks that learn such tasks by gradient descent get to about 10 steps
(Bengio, Simard and Frasconi 1994), the LSTM to over 1000. The reason is seen before any training: back through a simple
network the gradient shrinks by a factor at every step, and back through an LSTM whose forget gates are open it does
not. Success is at most 1 % wrong in 2560 fresh sequences.
"""

from __future__ import annotations

import numpy as np
from harness import Bar, Outcome, Reader, descend, keep_for, measured, progress, put

import tinygrad_rnn as tg
from tinygrad_rnn import flow, nn, optim, tasks


def learn(model: Reader, optimizer: optim.Optimizer, steps: int, most: int, rng: np.random.Generator) -> Outcome:
    """Train until 40 batches in a row were right, or to the end of the budget, and test."""
    right, seen = 0, 0
    for _ in progress(most, f"T = {steps}"):
        xs, classes = tasks.first_symbol(steps, 20, rng)
        logits = model(put(tasks.one_hot(xs, 6)), end=True)[:, 0]
        right = right + 1 if ((logits.numpy() > 0) == classes).all() else 0
        if right == 40:
            break
        descend(model, optimizer, nn.binary_cross_entropy_with_logits(logits, put(classes)))
        seen += 20
    xs, classes = tasks.first_symbol(steps, 2560, rng)
    with tg.no_grad():
        wrong = float(((model(put(tasks.one_hot(xs, 6)), end=True)[:, 0].numpy() > 0) != classes).mean())
    return Outcome(wrong <= 0.01, f"{seen:,} sequences, {wrong:.1%} wrong in 2560")


def simple(rng: np.random.Generator, quick: bool) -> Outcome:
    """The longest T that tanh networks of 10 units get to, each anew by plain gradient descent with clipping."""
    learnt = 0
    for steps in (5, 30) if quick else (5, 10, 15, 20, 30, 50):
        model = Reader(nn.RNNCell(6, 10), 1)
        if not learn(model, optim.SGD(model.parameters(), lr=0.1), steps, 500 if quick else 5000, rng).met:
            break
        learnt = steps
    return Outcome(5 <= learnt <= 20, f"learnt T = {learnt}, and not {steps}")


def lstm(rng: np.random.Generator, quick: bool) -> Outcome:
    """An LSTM of 8 cells whose gates begin such that it remembers for up to T steps."""
    model, steps = Reader(nn.LSTMCell(6, 8), 1), 50 if quick else 1000
    keep_for(model.cell, steps, rng)
    return learn(model, optim.Adam(model.parameters(), lr=0.01), steps, 1000, rng)


def gradient(rng: np.random.Generator, quick: bool) -> Outcome:
    """The norm of the gradient in h_t (RNN) and c_t (LSTM) by lag, before training, relative to that at the end."""
    steps, lags = (101, (1, 10, 100)) if quick else (1001, (1, 10, 100, 1000))
    xs = put(tasks.one_hot(tasks.first_symbol(steps, 20, rng).inputs, 6))
    said, last = [], {}
    for name, cell in (("RNN h", nn.RNNCell(6, 10)), ("LSTM c", nn.LSTMCell(6, 8))):
        if isinstance(cell, nn.LSTMCell):
            keep_for(cell, steps, rng)
        run = nn.unroll(cell, xs, record=True)
        norms = flow.gradient_norms((run.outputs[-1] ** 2).sum(), run).norms[name[-1]]
        last[name] = norms[-1 - lags[-1]] / norms[-1]
        said.append(f"{name} " + ", ".join(f"{norms[-1 - lag] / norms[-1]:.1e}" for lag in lags))
    return Outcome(last["RNN h"] < 1e-10 < 1e-3 < last["LSTM c"], f"after lags of {lags}: {'; '.join(said)}")


BARS = (
    Bar("gradient", "of it, less than 1e-10 is left at the longest lag in an RNN, more than 1e-3 in an LSTM", gradient),
    Bar("RNN", "learns T = 5, and no more than T = 20, of 5, 10, 15, 20, 30 and 50", simple, seeds=5),
    Bar("LSTM", "learns T = 1000", lstm),
)


if __name__ == "__main__":
    measured(__doc__, BARS)
