"""The adding problem: two of many numbers are marked, and the sum of these two is what counts.

    python examples/reference/adding.py                   # both forms
    python examples/reference/adding.py --only 1997       # T = 100, counted as Hochreiter and Schmidhuber did
    python examples/reference/adding.py --only 2015       # T = 600, as Le, Jaitly and Hinton, and Bai et al. 2018

1997: an LSTM of two blocks with two cells each learned in 74,000 sequences and then got 1 of 2560 wrong, where wrong
is an error above 0.04; training stopped when the last 2000 were right and the mean training error was below 0.01. Here
the last 6000 must be, and Adam learns from batches of 20, of which every sequence counts.

2015: to say 1 always has a mean squared error of 1/6, as the sum of two uniform numbers has the variance 2/12; a GRU
came to 5.3e-5 at T = 600 (Bai, Kolter and Koltun 2018).
"""

from __future__ import annotations

from collections import deque
from functools import partial

import numpy as np
from harness import BATCH, Bar, Outcome, Reader, as_in_1997, descend, keep_for, measured, progress, put

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim, tasks


def form_of_1997(rng: np.random.Generator, quick: bool) -> Outcome:
    """Sequences until the last 6000 were right, and then how many of 2560 fresh ones are wrong."""
    steps = 22 if quick else 100
    model = Reader(nn.LSTMCell(2, 8), 1)
    keep_for(model.cell, steps, rng)

    def judged() -> tuple[Tensor, np.ndarray]:
        xs, targets = tasks.adding(steps, BATCH, rng, form=1997)
        said = model(put(xs), end=True)[:, 0]
        return nn.mse_loss(said, put(targets)), abs(said.numpy() - targets)

    return as_in_1997(model, judged, wrong_from=0.04, mean_below=0.01, most=74_000, quick=quick)


def form_of_2015(rng: np.random.Generator, quick: bool) -> Outcome:
    """The mean squared error on 2000 fresh sequences, once that of training is low enough."""
    steps, hidden, most = (30, 16, 1500) if quick else (600, 64, 3000)
    goal, batch = (0.02 if quick else 0.0005), 50
    draw = partial(tasks.adding, steps, batch, rng)
    model = Reader(nn.GRUCell(2, hidden), 1)
    keep_for(model.cell, steps, rng)
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    losses: deque[float] = deque(maxlen=20)
    for update in progress(most, "adding 2015"):
        xs, targets = draw()
        loss = nn.mse_loss(model(put(xs), end=True)[:, 0], put(targets))
        descend(model, optimizer, loss)
        losses.append(loss.item())
        if (update + 1) % 100 == 0 and not quick:
            print(f"    {(update + 1) * batch:,} sequences: {np.mean(losses):.5f}", flush=True)
        if len(losses) == 20 and np.mean(losses) < goal:
            break
    errors, baseline = [], []
    with tg.no_grad():
        for _ in range(40):
            xs, targets = draw()
            errors.append(((model(put(xs), end=True)[:, 0].numpy() - targets) ** 2).mean())
            baseline.append(((targets - 1) ** 2).mean())
    error = float(np.mean(errors))
    said = f"{(update + 1) * batch:,} sequences, error {error:.2g}, of saying 1: {np.mean(baseline):.4f} (1/6 = 0.1667)"
    return Outcome(error < 2 * goal, said)


BARS = (
    Bar("1997", "LSTM, T = 100: within 74,000 sequences, at most 3 wrong in 2560", form_of_1997, seeds=5),
    Bar("2015", "GRU, T = 600: mean squared error below 0.001", form_of_2015),
)


if __name__ == "__main__":
    measured(__doc__, BARS)
