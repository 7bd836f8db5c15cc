"""One training step of a minimal GRU, forward and backward: time steps one by one, and at once by ``bptt.scanned``.

python benchmarks/scan.py    # the ways take turns; processor time of one thread, medians of 15 rounds
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from statistics import median
from time import process_time
from typing import Any

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn

STEPS, HIDDEN, ROUNDS = 1000, 128, 15


def main() -> None:
    """Print a row for each batch size and way."""
    print("| batch | way | eager ms | captured ms | recording ms |\n| ---: | --- | ---: | ---: | ---: |")
    for batch in (1, 16):
        xs, taken = tg.randn(STEPS, batch, HIDDEN), dict[str, list[float]]()
        layers = {f: nn.Recurrent(nn.MinGRUCell(HIDDEN, HIDDEN)).unrolled_by(f) for f in (bptt.unroll, bptt.scanned)}

        def step(layer: Any, xs: Any = xs) -> Any:
            return tg.grad((layer(xs).outputs ** 2).mean(), list(layer.parameters()))

        captured = tg.capture(step)
        for _ in range(ROUNDS + 2):  # of which the first is eager, and the second recorded
            for f, layer in layers.items():
                for way in (step, captured):
                    start = process_time()
                    way(layer)
                    taken.setdefault(f"{f.__name__} {way is step}", []).append(1000 * (process_time() - start))
        for f in layers:
            eager, replayed = taken[f"{f.__name__} True"], taken[f"{f.__name__} False"]
            print(f"| {batch} | {f.__name__} | {median(eager):.1f} | {median(replayed[2:]):.1f} | {replayed[1]:.0f} |")


if __name__ == "__main__":
    main()
