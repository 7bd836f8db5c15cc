"""Where in a program something went wrong: the time step, and the line of the user's that led there."""

from __future__ import annotations

import sys
from functools import cache
from os.path import basename
from types import FrameType

from . import tape


class ShapeError(ValueError):
    """Arrays whose shapes do not go together, or whatever else makes a kernel raise ValueError."""


def misfit(message: str) -> ShapeError:
    """The error for shapes that do not go together, with the time step and the caller's line."""
    return ShapeError(message + whereabouts())


_ENGINE = {__package__, f"{__package__}.ops", f"{__package__}.replay"}  # what lies in these folders, and no deeper


def whereabouts() -> str:
    """The present time step, the innermost line outside of the engine, and the user's: ``, step 3, cells.py:41``."""
    lines = lines_outside()
    return tape.said(tape.present_step()) + (", " + ", called from ".join(lines) if lines else "")


def lines_outside() -> list[str]:
    """The innermost line outside of the engine, as ``cells.py:41``, and the user's if that is another one."""
    frame: FrameType | None = sys._getframe(1)
    lines: list[str] = []
    while frame is not None:
        engine, ours = _belongs_to(frame.f_globals.get("__name__", ""))
        if not engine and (not lines or not ours):
            lines.append(f"{basename(frame.f_code.co_filename)}:{frame.f_lineno}")
            if not ours:
                break
        frame = frame.f_back
    return lines


@cache
def _belongs_to(module: str) -> tuple[bool, bool]:
    """Whether a module is one of the engine's, and whether one of this package's."""
    engine = module.rpartition(".")[0] in _ENGINE or module == "contextlib"
    return engine, module.split(".")[0] == __package__
