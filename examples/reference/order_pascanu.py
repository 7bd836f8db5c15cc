"""Temporal order as Pascanu, Mikolov and Bengio (2013) measured it: what clipping and the regulariser Omega are for.

    python examples/reference/order_pascanu.py            # long: hours for all lengths

A simple network of 50 tanh units reads T symbols, of which two are X or Y, and says in which order they came. It learns
by stochastic gradient descent on batches of 20. In the paper plain SGD fails as soon as T grows, clipping the norm of
the gradient (MSGD-C) helps, and with the regulariser Omega as well (MSGD-CR) all lengths up to 200 are solved: success
is an error below 1 % on 10,000 sequences. W_hh begins sparse, 15 weights for each unit, with a spectral radius of 0.95
("smart tanh"). The paper allows 5 million updates at a rate of 0.01; here there are 3000, and the rate falls from 0.1
in a straight line: what is compared is how far each kind of training comes with the same small budget.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from harness import Bar, Outcome, Reader, descend, measured, progress, put

import tinygrad_rnn as tg
from tinygrad_rnn import flow, nn, optim, tasks

RATE, CLIP, ALPHA = 0.1, 1.0, 2.0
LENGTHS = (20, 50, 100, 150, 200)


def network(rng: np.random.Generator) -> Reader:
    """50 tanh units that begin as the paper's "smart tanh"."""
    model = Reader(nn.RNNCell(6, 50), 4)
    weights = np.zeros((50, 50))
    for row in weights:
        row[rng.choice(50, 15, replace=False)] = rng.normal(0, 0.1, 15)
    weights *= 0.95 / abs(np.linalg.eigvals(weights)).max()
    model.cell.weight_hh.data = put(weights.astype(np.float32)).data
    nn.init.normal_(model.cell.weight_ih, 0.1, rng)
    nn.init.normal_(model.head.weight, 0.1, rng)
    nn.init.apply_(model, {"*.bias": lambda bias: nn.init.constant_(bias, 0.0)})
    return model


def wrong(model: Reader, steps: int, count: int, rng: np.random.Generator) -> float:
    """The share of fresh sequences that are put into a wrong class."""
    symbols, classes = tasks.temporal_order(steps, count, rng, form=2013)
    with tg.no_grad():
        said = model(put(tasks.one_hot(symbols, 6)), end=True).numpy().argmax(axis=1)
    return float((said != classes).mean())


def learn(clip: float, alpha: float, steps: int, most: int, rng: np.random.Generator) -> Outcome:
    """Updates until 1000 sequences have an error below 1 %, and then that of 10,000."""
    model = network(rng)
    optimizer = optim.SGD(model.parameters(), lr=RATE)
    updates = 0
    for _ in progress(most, f"T = {steps}"):
        if updates % 100 == 0 and wrong(model, steps, 1000, rng) < 0.01:
            break
        symbols, classes = tasks.temporal_order(steps, 20, rng, form=2013)
        run = nn.unroll(model.cell, put(tasks.one_hot(symbols, 6)), record=alpha > 0)
        loss = nn.cross_entropy(model.head(run.outputs[-1]), put(classes))
        if alpha:
            loss = loss + alpha * flow.omega(loss, run, immediate=[model.cell.weight_hh])
        descend(model, optimizer, loss, clip)
        updates += 1
        optimizer.lr = RATE * (1 - updates / most)
    error = wrong(model, steps, 10_000, rng)
    return Outcome(error < 0.01, f"T = {steps}: {error:.1%} wrong after {updates:,} updates")


def trial(clip: float, alpha: float, rng: np.random.Generator, quick: bool) -> Outcome:
    """From the shortest to the longest, until one is not learnt."""
    lengths, most = ((10,), 1000) if quick else (LENGTHS, 3000)
    outcomes: list[Outcome] = []
    while len(outcomes) < len(lengths) and all(outcome.met for outcome in outcomes):
        outcomes.append(learn(clip, alpha, lengths[len(outcomes)], most, rng))
        if not quick:
            print(f"    {outcomes[-1].said}", flush=True)
    return Outcome(outcomes[-1].met, ", ".join(outcome.said for outcome in outcomes))


NONE = float("inf")  # no clipping
KINDS = {"SGD": (NONE, 0.0), "SGD-C": (CLIP, 0.0), "SGD-R": (NONE, ALPHA), "SGD-CR": (CLIP, ALPHA)}
BARS = tuple(
    Bar(kind, f"an error below 1 % for every T of {LENGTHS}", partial(trial, *settings), needed=kind == "SGD-CR")
    for kind, settings in KINDS.items()
)


if __name__ == "__main__":
    measured(__doc__, BARS)
