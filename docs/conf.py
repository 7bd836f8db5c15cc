"""The site, made by Sphinx: pip install -e ".[docs]" && sphinx-build -W docs build/site

The pages are Markdown. The README and that of the benchmarks become pages as they are, and the API is made from the
docstrings, which are plain text with a few habits (see ``as_rst``).
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

ROOT = Path(__file__).parents[1]

project = "tinygrad_rnn"
html_title = "tinygrad_rnn"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["README.md"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
add_module_names = False

# ---- pages whose text stands elsewhere in the repository ----

ELSEWHERE = {"README.md": "index.md", "benchmarks/README.md": "benchmarks.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)#]*)([^)]*)\)")


def page(source: str) -> str:
    """A text from elsewhere in the repository, with its links as they must be in docs."""

    def moved(link: re.Match[str]) -> str:
        picture, words, path, anchor = link.groups()
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        place = ELSEWHERE.get(there) or there.removeprefix("docs/")
        return f"{picture}[{words}]({place}{anchor})" if (ROOT / "docs" / place).is_file() else words

    return LINK.sub(moved, (ROOT / source).read_text(encoding="utf-8"))


def read(app: Any, name: str, content: list[str]) -> None:
    """Put such a text in front of what its page in docs says; links to it lead to that page."""
    for source, place in ELSEWHERE.items():
        content[0] = content[0].replace(f"](../{source})", f"]({place})")
        if f"{name}.md" == place:
            content[0] = page(source) + "\n" + content[0]


# ---- docstrings ----

BULLET = re.compile(r"^(?:- |(\*{0,2}\w+(?:, \*{0,2}\w+)*): (?=\S))")
EQUATION = re.compile(r"^[^.:>]* = \S")


def as_rst(docstring: str) -> str:
    """A docstring, without its indentation, in Sphinx's own language.

    Its paragraphs are separated by empty lines. They may be doctests, which begin with ``>>>``; lists of parameters,
    ``name: what it is``; equations, whose lines are kept, as are those of all that is indented; or text, in which
    ``code`` is the only mark.
    """
    return "\n\n".join(map(_paragraph, re.split(r"\n[ ]*\n", docstring.strip("\n"))))


def _paragraph(text: str) -> str:
    if text.startswith(">>>"):
        return text
    if text.startswith(" ") or all(EQUATION.match(line) for line in text.splitlines()):
        return "::\n\n" + indent(dedent(text), "    ")
    items: list[str] = []
    for line in text.splitlines():
        if line.startswith("- ") or not items or (BULLET.match(line) and items[-1].endswith((".", ":", ")"))):
            items.append(line)
        else:
            items[-1] += " " + line.strip()
    return _escaped("\n\n".join(BULLET.sub(lambda m: f"- ``{m[1]}``: " if m[1] else "- ", item) for item in items))


def _escaped(text: str) -> str:
    """Text in which nothing but ``code`` has a meaning."""
    parts = re.split(r"(``.*?``)", text, flags=re.S)
    return "".join(part if k % 2 else re.sub(r"([\\*|_`])", r"\\\1", part) for k, part in enumerate(parts))


def translate(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turn each docstring that Sphinx reads into Sphinx's language."""
    lines[:] = as_rst("\n".join(lines)).splitlines() if any(lines) else []


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", translate)
