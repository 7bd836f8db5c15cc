"""What the programs in this folder share: options, bars, seeds one after the other, and the record.

A program has one or more bars. A bar says what is to be reached and how one trial with one seed is made; it counts as
met by a seed, and a seed decides nothing: what is printed at the end is by how many of them it was met.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the gallery's common part lies one folder up
from common import Finished, Options, Parser, Row, at_least, columns, descend, progress, put, running  # noqa: F401

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim

BATCH = 20  # sequences that are learnt from at once where they are counted as in 1997


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
    needed: bool = True  # whether the program fails where a seed does; no, where failing is a part of the picture


class Reader(nn.Module):
    """A cell that reads a sequence, and a linear map from its outputs to what is to be said of it."""

    def __init__(self, cell: nn.Cell, outputs: int):
        self.cell: Any = cell
        self.head = nn.Linear(cell.output_size, outputs)

    def forward(self, xs: Any, end: bool = False) -> Tensor:
        """Of each step, (T, B, outputs), or of the ``end`` alone, (B, outputs)."""
        outputs, _ = nn.unroll(self.cell, xs)
        return self.head(outputs[-1] if end else outputs)


def keep_for(cell: nn.LSTMCell | nn.GRUCell, steps: int, rng: np.random.Generator) -> None:
    """Let the gates begin so that memories last for 1 to ``steps`` steps ("chrono", Tallec and Ollivier 2018)."""
    assert cell.bias is not None
    nn.init.constant_(cell.bias, 0.0)
    nn.init.chrono_(cell, steps, rng)


def as_in_1997(
    model: nn.Module,
    judged: Callable[[], tuple[Tensor, np.ndarray]],
    wrong_from: float,
    mean_below: float,
    most: int,
    quick: bool,
) -> Outcome:
    """Learn until the last 6000 sequences were right and their mean error is low; then test on 2560 fresh ones.

    Met if at most 3 of these are wrong. (Hochreiter and Schmidhuber 1997, who asked for the last 2000)
    judged: draws BATCH sequences, and returns the loss, and the error of each sequence, (BATCH,).
    """
    recent, allowed = (500, 26) if quick else (6000, 3)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    errors: deque[float] = deque(maxlen=recent)
    seen = 0
    for _ in progress(most // BATCH, "until all are right"):
        loss, found = judged()
        errors.extend(found.tolist())
        if len(errors) == recent and max(errors) < wrong_from and np.mean(errors) < mean_below:
            break
        descend(model, optimizer, loss)
        seen += BATCH
        optimizer.lr = 0.01 * (1 - 0.9 * seen / most)
    with tg.no_grad():
        wrong = sum(int((judged()[1] >= wrong_from).sum()) for _ in range(2560 // BATCH))
    return Outcome(wrong <= allowed, f"{seen:,} sequences, {wrong} wrong in 2560")


def measured(doc: str | None, bars: Sequence[Bar]) -> NoReturn:
    """Run the trials that the options ask for, write down what came of them, and end the program."""
    parser = Parser(doc)
    most = max(bar.seeds for bar in bars)
    parser.add_argument("--seeds", type=at_least(1), metavar="N", help=f"how many seeds ({most}; 1 with --quick)")
    parser.add_argument("--only", choices=[bar.name for bar in bars], help="one of the bars")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for a record of the results")
    options = parser.parse_args()
    program = Path(parser.prog).stem
    with running(parser.prog, options.backend):
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)  # now, and not when all is learned
        found = [tried(bar, options) for bar in bars if options.only in (None, bar.name)]
    rows, records = [row for row, _ in found], [record for _, record in found]
    print(f"{program}: met by seeds: {', '.join(f'{row.task} {row.seeds}' for row in rows)}")
    if options.out:
        (options.out / f"{program}.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    raise Finished(rows)


def tried(bar: Bar, options: Options) -> tuple[Row, dict[str, Any]]:
    """The trials of one bar, told as they end: their row for the table, and their record.

    The row says what was said of the first seed, or of the first that missed.
    """
    count = options.seeds or (1 if options.quick else bar.seeds)
    trials: list[dict[str, Any]] = []
    text = "a quick check" if options.quick else bar.text
    print(f"{bar.name}: {text}", flush=True)
    for seed in range(options.seed, options.seed + count):
        tg.manual_seed(seed)
        begun = time.perf_counter()
        met, said = bar.trial(np.random.default_rng(seed), options.quick)
        seconds = time.perf_counter() - begun
        print(f"  seed {seed}: {'met' if met else 'not met'}; {said}; {seconds:.0f} s", flush=True)
        trials.append({"seed": seed, "met": bool(met), "said": said, "seconds": round(seconds, 1)})
    seeds = f"{sum(trial['met'] for trial in trials)} of {count}"
    print(f"  met by {seeds} seeds", flush=True)
    first = min(trials, key=lambda trial: trial["met"])
    took = f"{sum(trial['seconds'] for trial in trials):.1f}"
    row = Row(bar.name, first["said"], "", text, seeds, took, first["met"] or not bar.needed)
    return row, {"bar": bar.name, "text": bar.text, "quick": options.quick, "trials": trials}
