"""Memory of one training step of a character LSTM: eager and captured, with and without checkpointing.

    python benchmarks/memory.py --workloads M D L

Checkpointing covers the recurrence alone, or, with the loss inside, the whole model as one cell, which reads a token
and its target and outputs the loss of a time step. --segments applies to both, ceil(sqrt(T)) by default. The eager peak
is what tracemalloc sees above the step's start; "planned" is the arena of the captured step, and "one array each" what
it would take with memory of its own for every result. Times are medians, with eager and captured taking turns in this
process, and with one thread if OMP_NUM_THREADS says so.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

from engines import build_tinygrad_rnn
from workloads import WORKLOADS, make

ROUNDS, WARM_UP = 7, 3


def peak(step: Any) -> int:
    """The peak of the bytes that Python's allocators hold during a step, beyond those held before it."""
    tracemalloc.start()
    step()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    step()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most - before


def milliseconds(step: Any) -> float:
    """How long a step takes."""
    begin = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - begin)


def measured(workload: str, way: str, options: argparse.Namespace) -> list[str]:
    """Megabytes of the eager and of the captured step, and milliseconds of both."""
    from tinygrad_rnn import capture

    captured: list[Any] = []

    def replay(step: Any) -> Any:
        captured.append(capture(step, without=options.without))
        return captured[0]

    build = partial(build_tinygrad_rnn, *make(workload), unroll=way)
    if way != "unroll":
        build = partial(build, segments=options.segments)
    steps = [build(), build(replay=replay)]
    most = peak(steps[0])
    rounds = [[milliseconds(step) for step in steps] for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    memory = captured[0].memory
    mb = [f"{size / 1e6:.1f}" for size in (most, memory.planned, memory.naive)]
    return mb + [f"{statistics.median(times):.3g}" for times in zip(*rounds, strict=True)]


def main() -> None:
    """Print a table."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=["M", "D", "L"], choices=WORKLOADS)
    parser.add_argument("--segments", type=int)
    parser.add_argument("--without", nargs="*", default=[], help="passes that the captured steps leave out")
    options = parser.parse_args()
    print("| workload | sequence | eager peak MB | planned MB | one array each MB | eager ms | captured ms |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for workload in options.workloads:
        for way in ("unroll", "checkpointed", "loss inside"):
            print(f"| {' | '.join([workload, way, *measured(workload, way, options)])} |", flush=True)


if __name__ == "__main__":
    main()
