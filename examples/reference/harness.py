"""What the programs in this folder share: options, seeds one after the other, the step of training, and the record.

A program has one or more bars. A bar says what is to be reached and how one trial with one seed is made; it counts as
met by a seed, and a seed decides nothing: what is printed at the end is by how many of them it was met.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim


class Outcome(NamedTuple):
    """What a trial came to."""

    met: bool
    said: str  # one line, with the numbers


class Bar(NamedTuple):
    """What is to be reached, and a trial: a function of a random generator, and of whether it is to be quick."""

    name: str
    text: str
    trial: Callable[[np.random.Generator, bool], Outcome]
    seeds: int = 3


class Reader(nn.Module):
    """A cell that reads a sequence, and a linear map from its outputs to what is to be said of it."""

    def __init__(self, cell: nn.Cell, outputs: int):
        self.cell, self.head = cell, nn.Linear(cell.output_size, outputs)

    def forward(self, xs: Any, end: bool = False) -> Tensor:
        """Of each step, (T, B, outputs), or of the ``end`` alone, (B, outputs)."""
        outputs, _ = nn.unroll(self.cell, xs)
        said: Tensor = self.head(outputs[-1] if end else outputs)
        return said


def keep_for(cell: nn.LSTMCell | nn.GRUCell, steps: int, rng: np.random.Generator) -> None:
    """Let the gates begin so that memories last for 1 to ``steps`` steps ("chrono", Tallec and Ollivier 2018)."""
    size = cell.hidden_size
    spans = np.log(rng.uniform(1, steps - 1, size))
    bias = np.zeros(cell.bias.shape, np.float32)
    bias[size : 2 * size] = spans  # the forget gate, and a GRU's z: both keep where they are 1
    if isinstance(cell, nn.LSTMCell):
        bias[:size] = -spans
    cell.bias.data = tg.tensor(bias).data


def put(x: np.ndarray) -> Tensor:
    """An array as a Tensor on the backend in use."""
    return tg.tensor(x, backend=tg.backend.default().name)


def descend(optimizer: optim.Optimizer, loss: Tensor, max_norm: float = 1.0) -> float:
    """One step of training; returns the loss."""
    optimizer.zero_grad()
    loss.backward()
    if max_norm < math.inf:
        tg.clip_grad_norm_(optimizer.parameters, max_norm)
    optimizer.step()
    return loss.item()


def as_in_1997(
    model: nn.Module,
    judged: Callable[[], tuple[Tensor, np.ndarray]],
    wrong_from: float,
    mean_below: float,
    most: int,
    quick: bool,
) -> Outcome:
    """Learn as Hochreiter and Schmidhuber (1997) did: until the last 2000 sequences were right and their mean error is
    low, which counts the sequences; then how many of 2560 fresh ones are wrong. Met if at most 3 are.

    judged: draws a batch, and returns the loss, and the error of each of its sequences, (B,).
    """
    recent, allowed = (500, 26) if quick else (2000, 3)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    errors: deque[float] = deque(maxlen=recent)
    seen = 0
    while seen < most:
        loss, found = judged()
        errors.extend(found.tolist())
        if len(errors) == recent and max(errors) < wrong_from and np.mean(errors) < mean_below:
            break
        descend(optimizer, loss)
        seen += len(found)
        optimizer.lr = 0.01 * (1 - 0.9 * seen / most)
    wrong = tested = 0
    with tg.no_grad():
        while tested < 2560:
            _, found = judged()
            tested, wrong = tested + len(found), wrong + int((found >= wrong_from).sum())
    return Outcome(wrong <= allowed, f"{seen:,} sequences, {wrong} wrong in {tested}")


def progress(total: int, title: str = "") -> Iterator[int]:
    """0, 1, ... with a bar of tqdm where it is installed and somebody looks."""
    numbers: Iterable[int] = range(total)
    if importlib.util.find_spec("tqdm"):
        from tqdm import tqdm

        numbers = tqdm(numbers, desc=title, leave=False, disable=None)
    yield from numbers


def main(doc: str | None, *bars: Bar, arguments: list[str] | None = None) -> int:
    """Run the trials as the options say; returns the exit status, 1 if a quick check failed."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="where to compute")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--seeds", type=int, help="how many, one after the other; by default as many as are recorded")
    parser.add_argument("--quick", action="store_true", help="a small form of each trial, which must succeed")
    parser.add_argument("--only", choices=[bar.name for bar in bars], help="one of the trials")
    parser.add_argument("--out", type=Path, help="folder for a record of the results")
    options = parser.parse_args(arguments)
    if options.seed < 0 or (options.seeds is not None and options.seeds < 1):
        parser.exit(2, f"{parser.prog}: --seed must not be negative, and --seeds must be at least 1\n")
    with tg.use_backend(options.backend):
        records = [_seeds(bar, options) for bar in bars if options.only in (None, bar.name)]
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"{Path(sys.argv[0]).stem}.json"
        path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return int(options.quick and not all(record["met"] == record["seeds"] for record in records))


def _seeds(bar: Bar, options: argparse.Namespace) -> dict[str, Any]:
    """The trials of one bar, told as they end."""
    count = options.seeds or (1 if options.quick else bar.seeds)
    print(f"{bar.name}: {'a quick check' if options.quick else bar.text}", flush=True)
    met, said = 0, []
    for seed in range(options.seed, options.seed + count):
        tg.manual_seed(seed)
        begun = time.perf_counter()
        outcome = bar.trial(np.random.default_rng(seed), options.quick)
        met += outcome.met
        seconds = time.perf_counter() - begun
        said.append(f"seed {seed}: {'met' if outcome.met else 'not met'}; {outcome.said}; {seconds:.0f} s")
        print(f"  {said[-1]}", flush=True)
    print(f"  met by {met} of {count} seeds", flush=True)
    return {"bar": bar.name, "text": bar.text, "quick": options.quick, "met": met, "seeds": count, "trials": said}
