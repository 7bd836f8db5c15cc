"""Runs the code of the pages in docs, and writes what they show of it: printed output, and pictures.

python docs/make_pages.py [PAGE ...]

A block of Python may be followed by a block of text, which is what it printed, or by a picture or a link to one, which
is its ``figure``: of matplotlib, or a drawing in SVG or HTML. A block marked ``py`` is code for another library, and is
left alone.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tinygrad_rnn.op import registry

DOCS = Path(__file__).parent
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n(?:```text\n(.*?)```|!?\[[^\]]*\]\((\S*images/\S*)\)))?", re.S)


class Block(NamedTuple):
    """One block of Python: what it printed, and what the page shows below it, None or "" where there is nothing."""

    printed: str
    shown: str | None
    picture: str
    figure: Any


def pages() -> list[Path]:
    """The pages that hold code."""
    return [page for page in sorted(DOCS.rglob("*.md")) if "```python" in page.read_text(encoding="utf-8")]


def run(page: Path) -> Iterator[Block]:
    """Run a page from its top to its bottom, in one namespace."""
    space: dict[str, Any] = {"__name__": page.stem}
    operations = dict(registry)
    try:
        for code, shown, picture in (match.groups() for match in BLOCK.finditer(page.read_text(encoding="utf-8"))):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, page.name, "exec"), space)
            yield Block(printed.getvalue(), shown, picture or "", space["figure"] if picture else None)
    finally:
        for name in registry.keys() - operations:  # an operation would keep all of its page alive
            del registry[name]


def save(figure: Any, path: Path) -> None:
    """Write a picture, and say how large it is."""
    if isinstance(figure, str):
        path.write_text(figure.rstrip("\n") + "\n", encoding="utf-8")
    else:
        figure.savefig(path, dpi=100)
    print(f"{path.relative_to(DOCS)}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Bring the pages that are named, or all, up to date."""
    for page in map(Path, sys.argv[1:]) if sys.argv[1:] else pages():
        outputs = []
        for block in run(page.resolve()):
            outputs.append(block.printed)
            if block.picture:
                save(block.figure, (page.resolve().parent / block.picture).resolve())
        remaining = iter(outputs)

        def renewed(match: re.Match[str], remaining: Iterator[str] = remaining) -> str:
            printed, whole = next(remaining), match.group(0)
            if match.group(2) is None:
                return whole
            return whole[: match.start(2) - match.start()] + printed + "```"

        page.write_text(BLOCK.sub(renewed, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
