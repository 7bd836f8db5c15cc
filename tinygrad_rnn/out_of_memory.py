"""Errors for out of memory: what was asked for, what holds the rest, and what would fit."""

from __future__ import annotations

import gc
from collections import defaultdict
from typing import Any, NamedTuple

from . import backend
from .tape import Node, at_step, step_of
from .writes import owner_of

_SHOWN = 4  # this many of the largest holders


class OutOfMemoryError(MemoryError):
    """A MemoryError that says what holds the memory."""


def explained(error: MemoryError, what: str, array: Any, where: str) -> OutOfMemoryError:
    """The same error, with what live graphs keep for backward, by operation, input and time step."""
    home = backend.of(array)
    in_use = home.memory_in_use()
    used = "" if in_use is None else f" {readable(in_use)} of {home.name} are in use."
    holders = _holders()
    total = sum(holder.size for holder in holders)
    steps = len({step for holder in holders for step in holder.steps})
    shown = ", ".join(map(str, holders[:_SHOWN]))
    more = f", and {len(holders) - _SHOWN} more" if len(holders) > _SHOWN else ""
    held = f" Graphs keep {readable(total)} of it for backward: {shown}{more}." if total else ""
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


class _Holder(NamedTuple):
    """What all live nodes of an operation saved of one of its inputs, or of its output."""

    size: int  # in bytes
    whose: str  # such as "tanh's y"
    arrays: int  # how many
    steps: list[int]  # the time steps that they are from

    def __str__(self) -> str:
        where = "in one array" if self.arrays == 1 else f"in {self.arrays} arrays"
        first, last = (self.steps[0], self.steps[-1]) if self.steps else (None, None)
        when = at_step(first) if first == last else f", time steps {first} to {last}"
        return f"{self.whose} {readable(self.size)} ({where}{when})"


def _holders() -> list[_Holder]:
    """What live nodes saved, the largest first; an array that several saved counts once.

    Nodes know only their parents, and there may be several graphs, so the cyclic collector is asked for all nodes.
    """
    groups: dict[str, list[tuple[int, int | None]]] = defaultdict(list)
    seen: dict[int, Any] = {}  # by id, the owners of memory; kept alive here, so that no id is used twice
    for node in [x for x in gc.get_objects() if type(x) is Node]:
        for name, array in node.arrays():
            owner = owner_of(array)
            if id(owner) not in seen:
                seen[id(owner)] = owner
                groups[f"{node.plan.op.name}'s {name}"].append((owner.nbytes, step_of(node.id)))
    holders = [
        _Holder(sum(size for size, _ in group), whose, len(group), sorted({s for _, s in group if s is not None}))
        for whose, group in groups.items()
    ]
    return sorted(holders, reverse=True)
