"""Write docs/operations.md from the operations' signatures and docstrings.

python docs/make_operations.py
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import tinygrad_rnn as tg

HEAD = """# Operations

Made by `python docs/make_operations.py` from the docstrings; a test holds the two together. All are functions of
`tg`, and those that take one array, or two, are methods of tensors as well; `+ - * / // % ** @ < <= > >= == != & | ^
~`, `abs`, `round`, `divmod` and indexing do the same. Arrays and numbers may stand in place of tensors: without a
tensor among them, an operation gives a bare array.
"""
FLOORS = {  # files of ops, as they are read
    "elementwise": "Element by element, with a slope",
    "flat": "Element by element, without one",
    "reduce": "Along axes",
    "scan": "Through time",
    "shape": "Shapes",
    "arrange": "The same elements in another order",
    "index": "Parts",
    "linear": "Products",
    "nn": "Networks",
    "conv": "Convolution",
}


def operations(file: str) -> dict[str, Any]:
    """The public operations that a file of ops defines, by name."""
    found = {name: thing for name, thing in vars(tg).items() if callable(thing) and name != "abs"}
    own = {name: f for name, f in found.items() if getattr(f, "__module__", "") == f"tinygrad_rnn.ops.{file}"}
    return dict(sorted(own.items()))


def row(name: str, function: Any) -> str:
    """One line of a table: how it is called, and the first sentence of what is said about it."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "out"]
    called = ", ".join(str(p.replace(annotation=p.empty)) for p in parameters)
    said = (
        " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split()).replace("|", "\\|").replace("``", "`")
    )
    return f"| `{name}({called})` | {said} |\n"


def text() -> str:
    """The page."""
    page = HEAD
    for file, title in FLOORS.items():
        page += f"\n## {title}\n\n| call | what it gives |\n| --- | --- |\n"
        page += "".join(row(name, function) for name, function in operations(file).items())
    return page


def main() -> None:
    """Write the file beside this one."""
    Path(__file__).with_name("operations.md").write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
