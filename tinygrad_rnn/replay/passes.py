"""What is done to a program before it is played: each pass is a function that changes it in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from .lower import lower
from .program import Line, Program, Value
from .through_time import batch, hoist, reassociate
from .weights import lay_out_weights
from .widen import widen


def drop_dead(program: Program) -> None:
    """Leave out lines whose result nobody reads; random numbers are drawn all the same, as eager steps draw them."""
    wanted = set(program.results)
    kept = []
    for line in reversed(program.lines):
        if line.result in wanted or line.kind == "random":
            wanted.update(line.reads)
            kept.append(line)
    program.lines = kept[::-1]


def share(program: Program) -> None:
    """Compute once what several lines compute of the same inputs."""
    first: dict[Any, Value] = {}
    new: dict[Value, Value] = {}
    kept = []
    for line in program.lines:
        line.replace(new)
        key = None if line.kind == "random" else _key(line)
        if key is not None and key in first:
            new[line.result] = first[key]
        else:
            if key is not None:
                first[key] = line.result
            kept.append(line)
    program.lines = kept
    program.replace(new)


def _key(line: Line) -> Any:
    """What two lines have in common that compute the same, or None where that cannot be told."""
    try:
        key = line.function, _hashable(line.inputs), _hashable(tuple(line.attributes.items()))
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
    return type(x), x


PASSES = {"lower": lower, "share": share, "hoist": hoist, "widen": widen, "share again": share, "reassociate": reassociate, "batch": batch, "lay_out_weights": lay_out_weights}


def run(program: Program, options: dict[str, bool]) -> None:
    """All passes that are not switched off, in their order."""
    for name, change in PASSES.items():
        if options.get(name, True):
            change(program)
        drop_dead(program)
