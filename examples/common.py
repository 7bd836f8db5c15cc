"""What the gallery's programs share: options, seeds, a training loop, the check of a result, a picture.

A program states the bar that it has to reach, and how to run once; ``checked`` does the rest:

    BAR = Bar("strings of 500 bits judged right", full=0.99, quick=0.9, baseline="guessing")

    def run(args: Options, seed: int) -> Result:
        model = Model()                                  # parameters are drawn anew for each seed
        train(model, lambda step: loss_of_a_batch(model), args.steps, lr=1e-2)
        if seed == args.seed:                            # one picture, of the first seed
            with picture(args, "the title") as axes:
                axes.plot(...)
        return Result(accuracy, baseline=0.5)

    if __name__ == "__main__":
        checked(run, BAR, parse(__doc__, steps=(1000, 200, "training steps")))

A program's own options are given as name=(value, value for --quick, help). Errors are reported in one sentence.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim
from tinygrad_rnn.extras import import_extra

Options = argparse.Namespace  # of the command line, an attribute for each


class Result(NamedTuple):
    """The result of one seed, that of the baseline on the same test, and a note."""

    value: float
    baseline: float
    note: str = ""


class Bar(NamedTuple):
    """What a program must reach with every seed: at least ``full`` (``quick`` with --quick), or at most if ``lower``.

    what: the quantity, in words. baseline: what it is compared with, in words; it must not be better.
    """

    what: str
    full: float
    quick: float
    baseline: str
    lower: bool = False

    def limit(self, quick: bool) -> float:
        """The number to reach."""
        return self.quick if quick else self.full

    def text(self, quick: bool) -> str:
        """The bar in words, such as "at least 0.9"."""
        return f"at {'most' if self.lower else 'least'} {self.limit(quick):.4g}"

    def score(self, value: float) -> float:
        """The value, or its negative if less is better: a better value has a higher score."""
        return -value if self.lower else value

    def met(self, result: Result, quick: bool) -> bool:
        """Whether a result reaches the bar, and is no worse than the baseline."""
        return self.score(result.value) >= max(self.score(self.limit(quick)), self.score(result.baseline))


class Row(NamedTuple):
    """A line of the table that run_all.py prints, in words, and whether the program passed."""

    task: str
    result: str
    baseline: str
    bar: str
    seeds: str
    seconds: str
    passed: bool


class Finished(SystemExit):
    """The end of a program, with its rows for the table; the exit status is 1 if one of them did not pass."""

    def __init__(self, rows: list[Row]):
        super().__init__(int(not all(row.passed for row in rows)))
        self.rows = rows


class Parser(argparse.ArgumentParser):
    """Parses the options of all programs. The help is a program's docstring, and an error is one sentence."""

    def __init__(self, doc: str | None):
        kind = argparse.RawDescriptionHelpFormatter
        super().__init__(description=doc, formatter_class=kind, allow_abbrev=False)
        self.add_argument("--backend", metavar="NAME", help="where to compute: numpy (the default) or cupy")
        self.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="the first seed, or only one (0)")
        self.add_argument("--quick", action="store_true", help="a short form, to see in seconds that everything works")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


@contextmanager
def running(program: str, backend: str | None = None) -> Iterator[None]:
    """Run the block on the backend, if one is given; an error ends the program with one sentence."""
    try:
        with tg.use_backend(backend) if backend else nullcontext():
            yield
    except KeyboardInterrupt as stop:
        print(f"{program}: {str(stop) or 'stopped at once; what was saved before is intact'}", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise SystemExit(f"{program}: {told}") from None
    except (ValueError, ArithmeticError, ImportError, MemoryError, tg.BackendError) as error:
        raise SystemExit(f"{program}: {error}") from None


def parse(doc: str | None, **own: tuple[Any, Any, str]) -> Options:
    """The options that all programs have, and those of this one."""
    parser, own = Parser(doc), {"seeds": (3, 1, "how many seeds to try"), **own}
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for pictures and the like (runs/<program>)")
    for name, (full, quick, words) in own.items():
        kind, letter = (str, "FILE") if full is None else (at_least(1), "N")
        several = "" if full is None else f" ({full}; {quick} with --quick)"
        parser.add_argument(f"--{name}", type=kind, metavar=letter, help=words + several)
    args = parser.parse_args()
    args.program = Path(parser.prog).stem
    args.out = args.out or Path("runs") / args.program
    for name, (full, quick, _) in own.items():
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else full)
    return args


def at_least(lowest: int, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """A type for argparse: a number of at least ``lowest``."""

    def read(word: str) -> float:
        with suppress(ValueError):
            if lowest <= (value := kind(word)) < math.inf:
                return value
        raise argparse.ArgumentTypeError(f"{word!r} is not a {'whole ' * (kind is int)}number of at least {lowest}")

    return read


def checked(run: Callable[[Options, int], Result], bar: Bar, args: Options) -> NoReturn:
    """Run a program with each seed, print the results, and end it; its row for the table shows the worst seed."""
    begun, results = time.perf_counter(), []
    with running(f"{args.program}.py", args.backend):
        import_extra("matplotlib", "this program")  # fail now, not after the training
        args.out.mkdir(parents=True, exist_ok=True)
        for seed in range(args.seed, args.seed + args.seeds):
            tg.manual_seed(seed)
            result = run(args, seed)
            results.append(result)
            verdict = f"bar {'reached' if bar.met(result, args.quick) else 'MISSED'}: {bar.text(args.quick)}"
            numbers = f"{bar.what}: {result.value:.4g} ({bar.baseline}: {result.baseline:.4g})"
            print(f"seed {seed}: {numbers}, {verdict}{result.note and f'; {result.note}'}", flush=True)
    seconds = f"{time.perf_counter() - begun:.1f}"
    met = sum(bar.met(result, args.quick) for result in results)
    seeds = f"{met} of {args.seeds}"
    print(f"{args.program}: {seeds} seeds reached the bar, in {seconds} s")
    worst = min(results, key=lambda result: bar.score(result.value))
    told, baseline = f"{bar.what}: {worst.value:.4g}", f"{worst.baseline:.4g} ({bar.baseline})"
    raise Finished([Row("", told, baseline, bar.text(args.quick), seeds, seconds, met == args.seeds)])


def progress(steps: int, title: str) -> Iterator[int]:
    """The numbers below ``steps``, with a progress bar if tqdm is installed and the output is a terminal."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return iter(range(steps))
    return iter(tqdm(range(steps), desc=title, leave=False, disable=None))


def descend(model: nn.Module, optimizer: optim.Optimizer, loss: Tensor, max_norm: float = 1.0) -> None:
    """One step of training, with gradients clipped by their norm."""
    optimizer.zero_grad()
    loss.backward()
    tg.clip_grad_norm_(model.named_parameters(), max_norm)
    optimizer.step()


def train(
    model: nn.Module, loss_of: Callable[[int], Tensor], steps: int, lr: float = 1e-2, title: str = ""
) -> list[float]:
    """Train with Adam, clipping by norm, and a learning rate that falls to 0 as half a cosine; returns all losses."""
    optimizer = optim.Adam(model.parameters(), lr=lr)
    schedule, losses = optim.CosineAnnealingLR(optimizer, steps), []
    model.train()
    for step in progress(steps, title or type(model).__name__):
        loss = loss_of(step)
        descend(model, optimizer, loss)
        schedule.step()
        losses.append(loss.item())
    model.eval()
    return losses


def put(array: Any) -> Tensor:
    """An array from the host, as a Tensor on the program's backend; float64 becomes float32."""
    array = np.asarray(array)
    dtype = np.float32 if array.dtype == np.float64 else None
    return tg.tensor(array, dtype=dtype, backend=tg.backend.default().name)


def columns(rows: Iterable[Iterable[int]]) -> np.ndarray:
    """Rows of numbers as the columns of an array (T, B), with 0 after the ends of shorter ones."""
    return np.array([*zip_longest(*rows, fillvalue=0)])


def share_right(logits: Tensor, targets: np.ndarray) -> float:
    """How often the likeliest class is the target."""
    return float(np.mean(logits.numpy().argmax(axis=-1) == targets))


@contextmanager
def picture(
    args: Options, title: str = "", rows: int = 1, columns: int = 1, size: tuple[float, float] = (7, 3.5)
) -> Iterator[Any]:
    """Axes to draw on, one or an array of them; the picture is then written as gallery_<program>.png into --out."""
    figure = import_extra("matplotlib.figure", "the picture").Figure(size, layout="constrained")
    figure.suptitle(title, fontsize="medium")
    yield figure.subplots(rows, columns)
    figure.savefig(out_file(args, f"gallery_{args.program}.png"), dpi=80)


def out_file(args: Options, name: str) -> Path:
    """The path of a file to write in --out, which is also printed."""
    print(f"wrote {args.out / name}")
    return Path(args.out / name)
