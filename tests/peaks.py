"""Peaks of memory, as tracemalloc sees them."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tinygrad_rnn import tape


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """In the block, call what this gives for the most bytes held since its start, beyond what was there before.

    The marks of earlier time steps are forgotten first. In a process that ran many tests, the array that holds them
    would else be copied to a larger one at some moment, and count as memory of whoever was measured then.
    """
    del tape.state.marks[:], tape.state.steps[:]
    gc.collect()  # what other tests left behind is not freed in the block
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
