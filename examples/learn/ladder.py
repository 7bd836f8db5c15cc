"""What the rungs share: three options, and checks. All else stands in the rung itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import tinygrad_rnn as tg


def climb(rung: Callable[[argparse.Namespace], None]) -> None:
    """Run a rung's function with the options ``backend``, ``seed`` and ``quick``; what goes wrong is one sentence."""
    parser = argparse.ArgumentParser(description=sys.modules[rung.__module__].__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--backend", default="numpy", help="where to compute: numpy (the default) or cupy")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (0)")
    parser.add_argument("--quick", action="store_true", help="less of everything that takes time")
    options = parser.parse_args()
    try:
        with tg.use_backend(options.backend):
            tg.manual_seed(options.seed)
            rung(options)
    except (tg.BackendError, ImportError) as error:
        sys.exit(f"{parser.prog}: {error}")


def check(claim: str, holds: bool) -> None:
    """Print a claim that holds; end the program with one that does not, and exit status 1."""
    if not holds:
        sys.exit(f"this does not hold: {claim}")
    print(f"holds: {claim}")
