"""The passes that optimise a program before it is replayed: functions that change it in place."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ...backend import Backend
from ..program import Line, Program, Value, key_of
from ..views import VIEWS
from . import fuse, lower, sum_over_time, through_time, wavefront, widen


def share(program: Program) -> None:
    """Share common subexpressions, except between segments and reruns of ``checkpointed``, which save memory.

    Views of ports and constants take no memory, and are always shared.
    """
    first: dict[Any, Line] = {}
    new: dict[Value, Value] = {}
    kept = []
    for line in program.lines:
        line.replace(new)
        is_view = line.function in VIEWS and all(x.line is None for x in line.reads)
        key = line.function, 0 if is_view else line.rerun, key_of(line.inputs), key_of(line.attributes)
        known = line if line.kind == "random" else first.setdefault(key, line)
        if known is line:
            kept.append(line)
            continue
        new[line.result] = known.result
        line.let_go()
        if known.step != line.step:
            known.step = None  # it no longer belongs to one time step
    program.lines = kept
    program.end.replace(new)


def draw_first(program: Program) -> None:
    """Draw random numbers first, in their order, so that the rest can be one graph."""
    program.lines.sort(key=lambda line: line.kind != "random")


PASSES = {
    "lower": lower.lower,
    "share": share,
    "hoist": through_time.hoist,
    "widen": widen.widen,
    "sum_over_time": sum_over_time.sum_over_time,
    "reassociate": through_time.reassociate,
    "batch": through_time.batch,
    "narrow": fuse.narrow,
    "fuse": fuse.fuse,
    "wavefront": wavefront.wavefront,
    "draw_first": draw_first,
}

JOINING = {"hoist", "sum_over_time", "reassociate", "wavefront"}  # may change the last bits of a result
_FOR_LAUNCHES = {"narrow", "fuse", "wavefront", "draw_first"}  # on a GPU, where launches are the bottleneck
_FOR_THE_CACHE = {"widen", "reassociate", "batch"}  # on a CPU
GRAPH, LANES = "graph", "lanes"  # not passes, but can be left out like them: the CUDA graph, and lanes in it
_NEEDS = {LANES: GRAPH, "wavefront": LANES}  # useless without the other


def left_out(without: Collection[str], home: Backend) -> set[str]:
    """The names to leave out on a backend: those asked for, those for other backends, and those that need these."""
    names = {*without, *(_FOR_THE_CACHE if home.cuda else _FOR_LAUNCHES)}
    if not home.cuda or not hasattr(home.xp.cuda, "Graph"):
        names.add(GRAPH)
    for name, other in _NEEDS.items():
        if other in names:
            names.add(name)
    return names


def run(program: Program, without: Collection[str] = (), until: str | None = None) -> None:
    """Run all passes in order, except ``without``, and up to ``until`` if it is given."""
    for name, change in {"": Program.drop_dead, **PASSES}.items():
        if name not in without:
            change(program)
            program.drop_dead()
        if name == until:
            break
