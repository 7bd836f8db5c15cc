"""What is done to a program before it is played: each pass is a function that changes it in place."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from .fold import fold
from .fuse import fuse, narrow
from .lower import lower
from .program import VIEWS, Line, Program, Value
from .sums import sum_over_time
from .through_time import batch, hoist, reassociate
from .weights import lay_out_weights
from .widen import widen


def drop_dead(program: Program) -> None:
    """Leave out lines whose result nobody reads; random numbers are drawn all the same, as eager steps draw them."""
    wanted = set(program.results)
    kept = []
    for line in reversed(program.lines):
        if line.kind == "random" or not wanted.isdisjoint(line.results):
            wanted.update(line.reads)
            kept.append(line)
    program.lines = kept[::-1]


def share(program: Program) -> None:
    """Compute once what several lines compute of the same inputs, but what is made again to save memory.

    Views of what comes from outside take no memory, and are shared by all.
    """
    first: dict[Any, Line] = {}
    new: dict[Value, Value] = {}
    kept = []
    for line in program.lines:
        line.replace(new)
        key = None if line.kind == "random" else _key(line)
        if key is not None and key in first:
            new[line.result] = first[key].result
            if first[key].step != line.step:
                first[key].step = None  # it is no more a part of one step than of another
        else:
            if key is not None:
                first[key] = line
            kept.append(line)
    program.lines = kept
    program.replace(new)


def draw_first(program: Program) -> None:
    """Draw random numbers, in their order, before everything else, so that the rest can be one graph."""
    program.lines.sort(key=lambda line: line.kind != "random")


def _key(line: Line) -> Any:
    """What two lines have in common that compute the same, or None where that cannot be told."""
    apart = line.run if line.name not in VIEWS or any(x.line is not None for x in line.reads) else 0
    try:
        key = line.function, apart, _hashable(line.inputs), _hashable(tuple(line.attributes.items()))
        hash(key)
    except TypeError:
        return None
    return key


def _hashable(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x), *map(_hashable, x)
    if isinstance(x, slice):
        return slice, x.start, x.stop, x.step
    if isinstance(x, np.ndarray):
        raise TypeError
    return type(x), repr(x) if type(x) is float else x  # 0.0 and -0.0 are equal, but not alike


PASSES = {
    "lower": lower,
    "share": share,
    "hoist": hoist,
    "widen": widen,
    "share_again": share,
    "sum_over_time": sum_over_time,
    "reassociate": reassociate,
    "fold": fold,
    "batch": batch,
    "lay_out_weights": lay_out_weights,
    "narrow": narrow,
    "fuse": fuse,
    "draw_first": draw_first,
}

JOINING = {
    "hoist",
    "sum_over_time",
    "reassociate",
    "fold",
    "lay_out_weights",
}  # these may change the last bits of a result

FOR_LAUNCHES = {"narrow", "fuse", "draw_first"}  # on a GPU, where the number of launches is what matters
FOR_THE_CACHE = {"widen", "reassociate", "fold", "batch", "lay_out_weights"}  # on a CPU
GRAPH = "graph"  # no pass, but can be left out like one: the replay as a CUDA graph


def run(program: Program, without: Collection[str] = (), until: str | None = None) -> None:
    """All passes, in their order, but for some; up to the one that is named, if one is."""
    for name, change in {"": drop_dead, **PASSES}.items():
        if name not in without:
            change(program)
            drop_dead(program)
        if name == until:
            break
