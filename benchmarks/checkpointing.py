"""Memory and time of one training step, forward and backward, with checkpointed BPTT beside plain BPTT.

    python benchmarks/checkpointing.py [--steps 1000] [--rounds 9]

An LSTM reads a sequence, and the loss is a mean square: of its last output (many to one), of all outputs, or of each
output where it is made, in the cell, so that no sequence of outputs is stored. The ways take turns within each round;
times are medians over the rounds, and ratios medians of each round's ratio. Memory is the peak that tracemalloc sees in
a separate run, including outputs, gradients and Python's objects. One thread.
"""

from __future__ import annotations

import argparse
import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn, tape
from tinygrad_rnn.nn.wrappers import Wrapper

SIZES = [(16, 64), (16, 128)]  # batch, hidden size

Way = Callable[..., Any]


class Scored(Wrapper):
    """Replaces each output by its mean square, (B, 1)."""

    def full_step(self, z: Any, state: Any) -> Any:
        output, state, gates = self.inner_step(z, state)
        return (output**2).mean(axis=-1, keepdims=True), state, gates


def training_step(cell: nn.LSTMCell, xs: tg.Tensor, way: Way, loss_of: str) -> None:
    """Forward and backward."""
    cell.zero_grad()
    if loss_of == "each":
        way(Scored(cell), xs).outputs.mean().backward()
        return
    outputs, state = way(cell, xs)
    y = state.h if loss_of == "last" else outputs
    (y**2).mean().backward()


def seconds(run: Callable[[], None]) -> float:
    """How long a run takes."""
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak(run: Callable[[], None]) -> int:
    """The peak of the bytes that a run has in use."""
    gc.collect()
    del tape.state.marks[:], tape.state.steps[:]  # time steps of earlier runs, which do not count
    tracemalloc.start()
    run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def main() -> None:
    """Print a row for each size, loss and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print("| batch, hidden | loss of | way | peak MiB | of plain | ms | times plain |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for batch, hidden in SIZES:
        tg.manual_seed(0)
        cell, xs = nn.LSTMCell(hidden, hidden), tg.randn(options.steps, batch, hidden)
        small = bptt.memory_plan(cell, options.steps, batch).sqrt.bytes // 4
        ways: dict[str, Way] = {
            "plain": bptt.unroll,
            "sqrt(T) segments": bptt.checkpointed,
            "a quarter of sqrt's bytes": partial(bptt.checkpointed, budget=small),
        }
        for loss_of in ("last", "all", "each"):
            runs = {name: partial(training_step, cell, xs, way, loss_of) for name, way in ways.items()}
            peaks = {name: peak(run) for name, run in runs.items()}
            rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(options.rounds)]
            for name in runs:
                taken = statistics.median(round[name] for round in rounds)
                ratio = statistics.median(round[name] / round["plain"] for round in rounds)
                print(
                    f"| {batch}, {hidden} | {loss_of} | {name} | {peaks[name] / 2**20:.1f} "
                    f"| {peaks[name] / peaks['plain']:.1%} | {1000 * taken:.0f} | {ratio:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
