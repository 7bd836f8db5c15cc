"""The pages in docs/ run as they stand there, each from top to bottom, and their pictures are there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))

import make_flow_pictures  # noqa: E402

PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path) -> None:
    pytest.importorskip("matplotlib")
    space: dict[str, Any] = {"__name__": page.stem}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        exec(compile(block, page.name, "exec"), space)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_the_pictures_of_a_page_are_there_and_small(page: Path) -> None:
    for picture in re.findall(r"!\[[^\]]*\]\((.*?)\)", page.read_text(encoding="utf-8")):
        assert 0 < (DOCS / picture).stat().st_size < 100_000


def test_each_picture_of_the_flow_comes_from_the_code_before_it() -> None:
    page = (DOCS / "flow.md").read_text(encoding="utf-8")
    blocks = make_flow_pictures.blocks(page)
    assert [picture for _, picture in blocks if picture] == re.findall(r"\((images/.*?)\)", page)
    assert all("figure = " in code for code, picture in blocks if picture)
