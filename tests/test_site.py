"""The site: every page is in its contents, every public name in its reference, and docstrings are read as meant."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, flow, nn, optim

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))

import conf  # noqa: E402


def below(page: Path) -> set[Path]:
    """A page, and all those that can be reached by the contents that it lists."""
    found = {page}
    for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        for entry in (line for line in block.splitlines() if line and not line.startswith(":")):
            matches = sorted(page.parent.glob(f"{entry}.md"))
            assert matches, f"{page.name} lists {entry}, which is not there"
            found |= {reached for match in matches for reached in below(match)}
    return found


def test_every_page_is_in_the_contents() -> None:
    missing = set(DOCS.rglob("*.md")) - below(DOCS / "index.md") - {DOCS / "README.md"}
    assert not missing, f"add to a toctree: {sorted(page.relative_to(DOCS).as_posix() for page in missing)}"


@pytest.mark.parametrize("module", [tg, nn, optim, bptt, flow], ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(module: ModuleType) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    told = set(re.findall(r"\.\. automodule:: (\S+)", pages))
    public = {
        name: thing for name, thing in vars(module).items() if not name.startswith("_") and hasattr(thing, "__doc__")
    }
    homes = {name: thing.__module__ for name, thing in public.items() if hasattr(thing, "__module__")}
    assert not {name: home for name, home in homes.items() if home.startswith("tinygrad_rnn") and home not in told}


def test_the_readme_is_a_page_with_its_links_put_right() -> None:
    page = conf.page("README.md")
    assert "](images/char_rnn.png)" in page
    assert "](cells.md)" in page
    assert "](benchmarks.md)" in page
    assert "](docs/" not in page


def test_links_to_the_benchmarks_lead_to_their_page() -> None:
    content = ["[figures](../benchmarks/README.md)"]
    conf.read(None, "results", content)
    assert content == ["[figures](benchmarks.md)"]


@pytest.mark.parametrize(
    ("docstring", "rst"),
    [
        ("y = x * |w|, so.\nSee ``clip_``.", "y = x \\* \\|w\\|, so. See ``clip_``."),
        ("a = b * c\nd = e_{t-1}", "::\n\n    a = b * c\n    d = e_{t-1}"),
        ("What it does.\n\n    1 0\n    0 1", "What it does.\n\n::\n\n    1 0\n    0 1"),
        (
            "x, *ys: the inputs,\n    all of them.\nstate: h.",
            "- ``x, *ys``: the inputs, all of them.\n\n- ``state``: h.",
        ),
        ("It is so.\nx: an input.", "It is so.\n\n- ``x``: an input."),
        ("- one,\n  two\n- three", "- one, two\n\n- three"),
        (">>> f(*x)\n1", ">>> f(*x)\n1"),
    ],
)
def test_docstrings_become_what_they_mean(docstring: str, rst: str) -> None:
    assert conf.as_rst(docstring) == rst
