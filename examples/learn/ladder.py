"""The common part of the rungs: three options, and checks. Everything else is in the rung itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the gallery's common part lies one folder up
from common import Options, Parser, running

import tinygrad_rnn as tg


def climb(rung: Callable[[Options], None]) -> None:
    """Run a rung's function with the options ``backend``, ``seed`` and ``quick``; an error is one sentence."""
    parser = Parser(sys.modules[rung.__module__].__doc__)
    options = parser.parse_args()
    with running(parser.prog, options.backend):
        options.backend = tg.backend.default().name
        tg.manual_seed(options.seed)
        rung(options)


def check(claim: str, holds: bool) -> None:
    """Print a claim that holds; end the program with one that does not, and exit status 1."""
    if not holds:
        sys.exit(f"this does not hold: {claim}")
    print(f"holds: {claim}")
