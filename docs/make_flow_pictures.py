"""Makes the pictures of docs/flow.md: runs the page's code, and saves ``figure`` where a picture follows the code.

python docs/make_flow_pictures.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent


def blocks(page: str) -> list[tuple[str, str]]:
    """Each block of Python on a page, and the path of the picture that comes right after it, or nothing."""
    return re.findall(r"```python\n(.*?)```(?:\n\n!\[[^\]]*\]\((.*?)\))?", page, re.S)


def main() -> None:
    """Write all pictures, and say how large they are."""
    space: dict[str, Any] = {"__name__": "flow"}
    for code, picture in blocks((DOCS / "flow.md").read_text(encoding="utf-8")):
        exec(compile(code, "flow.md", "exec"), space)
        if picture:
            path = DOCS / picture
            space["figure"].savefig(path, dpi=100)
            print(f"{picture}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
