"""A page that plays the way back on the SVG."""

from __future__ import annotations

from pathlib import Path

from .sketch import Sketch
from .svg import svg


def html(sketch: Sketch, backward: bool) -> str:
    """The drawing as a page that needs no other file."""
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return page.replace("<svg/>", svg(sketch, backward))
