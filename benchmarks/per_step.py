"""Time per step of h = tanh(h * w + x[t]) over 64 numbers, forward and backward, for longer and longer sequences.

    python benchmarks/per_step.py [--lengths 1000 10000 100000] [--rounds 5]

The sequence x is one leaf that needs a gradient, so its T slices meet again in the backward pass. If the times are
flat, the cost of the graph and of the slices is linear in T. One thread; medians over the rounds; and after each
length, what the cyclic garbage collector finds when the graph is dropped (it should be nothing).
"""

from __future__ import annotations

import argparse
import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import time

import numpy as np

import tinygrad_rnn as tg


def step_times(length: int, width: int = 64) -> tuple[float, float]:
    """Seconds per step, forward and backward."""
    x = tg.tensor(np.random.default_rng(0).standard_normal((length, width), dtype=np.float32), requires_grad=True)
    w = tg.full(width, 0.5, requires_grad=True)
    start = time.perf_counter()
    h = tg.zeros(width)
    for t in range(length):
        h = tg.tanh(h * w + x[t])
    middle = time.perf_counter()
    h.sum().backward()
    return (middle - start) / length, (time.perf_counter() - middle) / length


def main() -> None:
    """Print a row for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| T | forward us/step | backward us/step | together | left for the collector |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for length in options.lengths:
        gc.collect()
        # Short sequences are repeated to take as long as a long one, so that their medians are as reliable.
        repeats = max(1, 10_000 // length)
        rounds = [[step_times(length) for _ in range(repeats)] for _ in range(options.rounds)]
        left = gc.collect()
        forward, backward = (
            1e6 * statistics.median(statistics.median(pair[i] for pair in round) for round in rounds) for i in (0, 1)
        )
        print(f"| {length:,} | {forward:.1f} | {backward:.1f} | {forward + backward:.1f} | {left} |", flush=True)


if __name__ == "__main__":
    main()
