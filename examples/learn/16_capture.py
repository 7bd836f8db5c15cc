"""Capture and replay: a training step is recorded once, and then replayed without running its Python code.

    python examples/learn/16_capture.py

A step of fixed shapes does the same operations every time: forward, backward, clipping, update. Kernels are pure
functions, so what was done once can be written down and done again with other numbers, in a better order, and in memory
that is laid out beforehand. The code of the step need not change for that.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn, optim


def make(seed: int, hidden: int) -> Callable[[Tensor, nn.LSTMState], tuple[Tensor, nn.LSTMState]]:
    """A fresh network, and a step of truncated BPTT that trains it: the state goes in and comes out."""
    tg.manual_seed(seed)
    cell, head = nn.LSTMCell(8, hidden), nn.Linear(hidden, 1)
    parameters = [*cell.parameters(), *head.parameters()]
    optimizer = optim.Adam(parameters, lr=0.01)

    def step(x: Tensor, state: nn.LSTMState) -> tuple[Tensor, nn.LSTMState]:
        outputs, state = bptt.unroll(cell, x, state)
        loss = nn.mse_loss(head(outputs), x.sum(axis=2, keepdims=True).cumsum(axis=0) * 0.1)
        optimizer.zero_grad()
        loss.backward()
        tg.clip_grad_norm_(parameters, max_norm=1.0)
        optimizer.step()
        return loss, bptt.detach(state)

    return step


def train(step: Callable, x: Tensor, hidden: int, updates: int) -> tuple[np.ndarray, float]:
    """The loss of every update, and the median of milliseconds per update."""
    zeros = tg.zeros(x.shape[2], hidden)
    state, losses, taken = nn.LSTMState(zeros, zeros), [], []
    for update in range(updates):
        start = time.perf_counter()
        loss, state = step(x[update % len(x)], state)
        losses.append(loss.item())
        taken.append(1000 * (time.perf_counter() - start))
    return np.array(losses), statistics.median(taken[5:])


def main(options: Options) -> None:
    """The same training three times: as it is, replayed bit for bit, and replayed with everything that helps."""
    hidden, updates = (16, 20) if options.quick else (64, 60)
    x = tg.randn(4, 25, 16, 8)  # windows, time, batch, features

    plain, plain_ms = train(make(options.seed, hidden), x, hidden, updates)
    exact, exact_ms = train(tg.capture(make(options.seed, hidden), exact=True), x, hidden, updates)
    captured = tg.capture(make(options.seed, hidden))
    quick, quick_ms = train(captured, x, hidden, updates)
    print(f"one update of 25 steps: {plain_ms:.2f} ms as it is, {exact_ms:.2f} exact, {quick_ms:.2f} with all passes")
    print(f"loss {plain[0]:.4f} at first, {plain[-1]:.4f} after {updates} updates")

    check("it learns", plain[-4:].mean() < 0.8 * plain[:4].mean())
    if options.backend == "numpy":
        check("the exact replay has the same losses to the last bit", bool((exact == plain).all()))
    check("the other one has the same but for rounding", np.allclose(quick, plain, rtol=1e-3))
    memory = captured.memory
    print(
        f"memory of a replay: {memory.planned / 1e3:.0f} kB; with an array for each result {memory.naive / 1e3:.0f} kB"
    )
    check("memory is used again and again", memory.planned < memory.naive)
    lines = captured.source(after="").count(" = "), captured.source().count(" = ")
    print(f"{lines[0]} lines were recorded, {lines[1]} are left:\n...")
    print("\n".join(captured.source().splitlines()[-5:]))
    check("there are fewer lines than were recorded", lines[1] < lines[0])


if __name__ == "__main__":
    climb(main)
