"""Where in a program something went wrong: the time step, and the user's line that led there."""

from __future__ import annotations

import sys
from functools import cache
from os.path import basename
from types import FrameType

from . import tape
from .surroundings import is_installed, is_ours


class ShapeError(ValueError):
    """Arrays have incompatible shapes, or a kernel raised another ValueError."""


def misfit(message: str) -> ShapeError:
    """The error for incompatible shapes, with the time step and the caller's line."""
    return ShapeError(message + whereabouts())


def whereabouts() -> str:
    """The current time step, and the lines of ``lines_outside``: ``, time step 3, cells.py:41, called from a.py:5``."""
    lines = lines_outside()
    return tape.at_step(tape.present_step()) + (", " + ", called from ".join(lines) if lines else "")


def lines_outside() -> list[str]:
    """The innermost line outside the engine, NumPy and so on, as ``cells.py:41``, and the user's if it is another."""
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


# Modules directly in these packages, not deeper.
_ENGINE = {__package__, f"{__package__}.ops", f"{__package__}.replay", f"{__package__}.replay.passes"}


@cache
def _belongs_to(module: str) -> tuple[bool, bool]:
    """Whether a module belongs to the engine, or to what it and the user call, and whether to this package."""
    engine = module.rpartition(".")[0] in _ENGINE or is_installed(module)
    return engine, is_ours(module)
