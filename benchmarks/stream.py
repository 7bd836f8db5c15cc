"""Truncated BPTT along an endless stream: memory and time per step, at 10,000, 100,000 and 1,000,000 steps.

python benchmarks/stream.py                      # k1 = 20, k2 = 50, an LSTM of 8 units, batch 1
python benchmarks/stream.py --k2 0               # chunks: k2 = None
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import gc
import itertools
import resource
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn, optim
from tinygrad_rnn.tape import Node


def sine() -> Iterator[np.ndarray]:
    """A noisy sine without end."""
    rng = np.random.default_rng(0)
    for t in itertools.count():
        yield np.array([[np.sin(t * 2 * np.pi / 25) + 0.1 * rng.standard_normal()]], np.float32)


def resident() -> float:
    """The memory of this process now, in MB; its peak if the system does not report it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    """Learn to predict the next value, and report on the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("k1", 20), ("k2", 50), ("hidden", 8), ("steps", 1_000_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--tracemalloc", action="store_true", help="count what Python allocates, at several times the time"
    )
    options = parser.parse_args()
    tg.manual_seed(0)
    cell, head = nn.LSTMCell(1, options.hidden), nn.Linear(options.hidden, 1)
    optimizer = optim.SGD([*cell.parameters(), *head.parameters()], lr=0.05)

    def step(x: np.ndarray, carried: Any) -> tuple[Tensor, Any]:
        state, guess = carried
        loss = nn.mse_loss(guess, x)
        y, state = cell(x, state)
        return loss, (state, head(y))

    zeros = tg.zeros(1, options.hidden)
    start = nn.LSTMState(zeros, zeros), tg.zeros(1, 1)
    reports = {n for n in (1_000, 10_000, 100_000, 1_000_000) if n < options.steps} | {options.steps}
    if options.tracemalloc:
        tracemalloc.start()
    print("| steps | us per step | mean loss | resident MB | tracemalloc peak MB | nodes alive |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    begun, before, losses = time.perf_counter(), 0, 0.0
    for window in bptt.truncated(step, sine(), start, options.k1, options.k2 or None):
        optimizer.zero_grad()
        window.backward()
        tg.clip_grad_norm_(optimizer.parameters, 1.0)
        optimizer.step()
        losses += window.loss.item() * window.steps
        if window.stop in reports:
            taken, count = time.perf_counter() - begun, window.stop - before
            peak = f"{tracemalloc.get_traced_memory()[1] / 1e6:.2f}" if options.tracemalloc else "-"
            alive = sum(type(x) is Node and bool(x) for x in gc.get_objects())
            columns = [f"{window.stop:,}", f"{1e6 * taken / count:.0f}", f"{losses / count:.4f}"]
            print("| " + " | ".join([*columns, f"{resident():.1f}", peak, str(alive)]) + " |", flush=True)
            if options.tracemalloc:
                tracemalloc.reset_peak()
            begun, before, losses = time.perf_counter(), window.stop, 0.0
        if window.stop >= options.steps:
            break


if __name__ == "__main__":
    main()
