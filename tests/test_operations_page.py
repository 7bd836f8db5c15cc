"""The table of operations says what the docstrings say, and leaves none out."""

from __future__ import annotations

import sys
from pathlib import Path

import tinygrad_rnn as tg

DOCS = Path(__file__).parents[1] / "docs"
sys.path.append(str(DOCS))

import make_operations  # noqa: E402


def test_the_page_is_what_the_docstrings_say() -> None:
    assert (DOCS / "operations.md").read_text(encoding="utf-8") == make_operations.text(), (
        "run python docs/make_operations.py"
    )


def test_every_operation_of_tg_is_there() -> None:
    listed = {name for file in make_operations.FLOORS for name in make_operations.operations(file)}
    ours = {f for f in vars(tg).values() if getattr(f, "__module__", "").startswith("tinygrad_rnn.ops.")}
    assert {getattr(tg, name) for name in listed} == ours
