"""What is done to a program before it is played: each pass is a function that changes it in place."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..backend import Backend
from .fuse import fuse, narrow
from .lower import lower
from .program import Line, Program, Value, alike
from .sums import sum_over_time
from .through_time import batch, hoist, reassociate
from .views import VIEWS
from .wavefront import wavefront
from .widen import widen


def share(program: Program) -> None:
    """Compute once what several lines compute of the same inputs, but what is made again to save memory.

    Views of what comes from outside take no memory, and are shared by all.
    """
    first: dict[Any, Line] = {}
    new: dict[Value, Value] = {}
    kept = []
    for line in program.lines:
        line.replace(new)
        known = line if line.kind == "random" else _first(line, first)
        if known is line:
            kept.append(line)
            continue
        new[line.result] = known.result
        line.let_go()
        if known.step != line.step:
            known.step = None  # it is no more a part of one step than of another
    program.lines = kept
    program.results = [new.get(value, value) for value in program.results]


def draw_first(program: Program) -> None:
    """Draw random numbers, in their order, before everything else, so that the rest can be one graph."""
    program.lines.sort(key=lambda line: line.kind != "random")


def _first(line: Line, first: dict[Any, Line]) -> Line:
    """The first line that computes what this one does."""
    apart = line.rerun if line.function not in VIEWS or any(x.line is not None for x in line.reads) else 0
    return first.setdefault((line.function, apart, alike(line.inputs), alike(line.attributes)), line)


PASSES = {
    "lower": lower,
    "share": share,
    "hoist": hoist,
    "widen": widen,
    "sum_over_time": sum_over_time,
    "reassociate": reassociate,
    "batch": batch,
    "narrow": narrow,
    "fuse": fuse,
    "wavefront": wavefront,
    "draw_first": draw_first,
}

JOINING = {"hoist", "sum_over_time", "reassociate", "wavefront"}  # may change the last bits of a result
FOR_LAUNCHES = {"narrow", "fuse", "wavefront", "draw_first"}  # on a GPU, where launches are what matters
FOR_THE_CACHE = {"widen", "reassociate", "batch"}  # on a CPU
GRAPH, LANES = "graph", "lanes"  # no passes, but can be left out like one: the CUDA graph, and what it has side by side
_NEEDS = {LANES: GRAPH, "wavefront": LANES}  # what is of no use without another


def left_out(without: Collection[str], home: Backend) -> set[str]:
    """What is to be left out on a backend: what was asked for, what is for other backends, and what needs these."""
    names = {*without, *(FOR_THE_CACHE if home.cuda else FOR_LAUNCHES)}
    if not home.cuda or not hasattr(home.xp.cuda, "Graph"):
        names.add(GRAPH)
    for name, other in _NEEDS.items():
        if other in names:
            names.add(name)
    return names


def run(program: Program, without: Collection[str] = (), until: str | None = None) -> None:
    """All passes, in their order, but for some; up to the one that is named, if one is."""
    for name, change in {"": Program.drop_dead, **PASSES}.items():
        if name not in without:
            change(program)
            program.drop_dead()
        if name == until:
            break
