"""Errors for out of memory: what was asked for, what holds the rest, and what would fit."""

from __future__ import annotations

import gc
from collections import defaultdict
from typing import Any

from . import backend
from .tape import Node, step_of
from .writes import owner_of

_SHOWN = 4  # this many of the largest holders


class OutOfMemoryError(MemoryError):
    """A MemoryError that says what holds the memory."""


def explained(error: MemoryError, what: str, array: Any, where: str) -> OutOfMemoryError:
    """The same error, with what live graphs keep for backward, by operation, input and time step."""
    home = backend.of(array)
    in_use = home.memory_in_use()
    used = "" if in_use is None else f" {readable(in_use)} of {home.name} are in use."
    kept, steps = _kept()
    total = sum(size for size, *_ in kept)
    holders = [_told(*holder) for holder in kept[:_SHOWN]]
    more = f", and {len(kept) - _SHOWN} more" if len(kept) > _SHOWN else ""
    held = f" Graphs keep {readable(total)} of it for backward: {', '.join(holders)}{more}." if total else ""
    fits = (
        f" These are {steps} time steps: a shorter window or a smaller batch needs less in proportion, and "
        "bptt.checkpointed(cell, xs) keeps about 2 sqrt(T) of T steps instead of all."
        if steps
        else " A smaller batch needs less in proportion."
    )
    return OutOfMemoryError(f"{what}: out of memory{where}. {str(error).rstrip('.')}.{used}{held}{fits}")


def of_replay(error: MemoryError, count: int, side_by_side: bool) -> OutOfMemoryError:
    """The same error for a captured step, when the ``count`` bytes for its replays are not available."""
    lanes = 'without=["lanes"] shares more of it, ' if side_by_side else ""
    return OutOfMemoryError(
        f"capture: out of memory. {error} The step was done, but its replays take {readable(count)} in one piece, "
        f"beside parameters and gradients. {lanes}bptt.checkpointed keeps less, and a smaller batch or a shorter "
        "window needs less in proportion."
    )


def readable(count: int) -> str:
    """A number of bytes in the largest unit that gives at least 10."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size >= 10240:
            size, unit = size / 1024, larger
    return f"{size:,.0f} {unit}"


def _kept() -> tuple[list[tuple[int, str, int, list[int]]], int]:
    """What live nodes saved, each array once: (bytes, operation and name, count, time steps); and how many steps.

    Nodes know only their parents, and there may be several graphs, so the cyclic collector is asked for all nodes.
    """
    arrays: dict[int, tuple[Any, str, int | None]] = {}  # by id of the memory's owner, which is kept alive here
    for node in [x for x in gc.get_objects() if type(x) is Node]:
        for name, array in node.arrays():
            owner = owner_of(array)
            arrays.setdefault(id(owner), (owner, f"{node.plan.op.name}'s {name}", step_of(node.id)))
    groups: dict[str, list[tuple[int, int | None]]] = defaultdict(list)
    for owner, whose, step in arrays.values():
        groups[whose].append((owner.nbytes, step))
    found = [
        (sum(size for size, _ in group), whose, len(group), sorted({s for _, s in group if s is not None}))
        for whose, group in groups.items()
    ]
    return sorted(found, reverse=True), len({step for *_, steps in found for step in steps})


def _told(size: int, whose: str, count: int, steps: list[int]) -> str:
    arrays = "in one array" if count == 1 else f"in {count} arrays"
    when = (
        "" if not steps else f", time step {steps[0]}" if len(steps) == 1 else f", time steps {steps[0]} to {steps[-1]}"
    )
    return f"{whose} {readable(size)} ({arrays}{when})"
