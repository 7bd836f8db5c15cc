"""docs/cells.md says what the docstrings say."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))

import make_cells  # noqa: E402


def test_every_cell_has_its_row() -> None:
    page = (DOCS / "cells.md").read_text(encoding="utf-8")
    for cls in make_cells.cells():
        assert make_cells.row(make_cells.describe(cls)).removesuffix(" |\n") in page, "run python docs/make_cells.py"


def test_every_wrapper_has_its_row() -> None:
    page = (DOCS / "cells.md").read_text(encoding="utf-8")
    for cls in make_cells.wrappers():
        assert f"| `{cls.__name__}` | {make_cells.paragraphs(cls)[0].split(chr(10))[0]}" in page


def test_the_page_knows_the_lstm() -> None:
    assert len(make_cells.cells()) >= 13
    assert any("weight_hh` (4H, H)" in column for column in make_cells.describe(make_cells.nn.LSTMCell))
