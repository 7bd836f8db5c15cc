"""Joins: lines that put their inputs side by side, so that each has its own place in the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from .. import ops
from ..backend import Array
from ..ops.index import tiling
from .program import Line, Value


def gather(xp: Any, *xs: Array, axis: int, out: Array = None) -> Array:
    """A stack that a pass makes. It needs no copy if its inputs are evenly spaced in memory, in either direction."""
    return xp.stack(xs, axis=axis, out=out)


_stack, _concatenate, _scatter = ops.stack.op.kernel, ops.shape.join.op.kernel, ops.scatter.op.kernel
_JOINS = {_stack, _concatenate, _scatter, gather}


def is_join(line: Line) -> bool:
    """Whether a line puts its inputs side by side, so that each has its own place in the result."""
    if line.function is not _scatter:
        return line.function in _JOINS
    return all(tiling(line.attributes["keys"], line.attributes["shape"]))


def in_order(line: Line) -> list[Value]:
    """The pieces of a join along the first axis, in order; nothing for other joins."""
    pieces = list(line.inputs)
    if line.function is _scatter:
        keys = line.attributes["keys"]
        if any(type(key) is not int for key in keys):
            return []
        keys = [key % line.attributes["shape"][0] for key in keys]
        pieces = [piece for _, piece in sorted(zip(keys, pieces, strict=True), key=lambda pair: pair[0])]
    elif line.attributes["axis"] != 0:
        return []
    return pieces if all(isinstance(piece, Value) for piece in pieces) else []


def slots(line: Line, joined: Array) -> Iterator[tuple[Any, Array]]:
    """The inputs of a join in order, each with its place in the result."""
    if line.function is _scatter:
        keys: Any = line.attributes["keys"]
    else:
        axis, bounds = line.attributes["axis"] % joined.ndim, line.attributes.get("bounds")
        parts = map(slice, bounds, bounds[1:]) if bounds else range(len(line.inputs))
        keys = [(slice(None),) * axis + (part,) for part in parts]
    for piece, key in zip(line.inputs, keys, strict=True):
        key = key if isinstance(key, tuple) else (key,)
        yield piece, joined[key if ... in key else (*key, ...)]  # an array, even of a single element


def joined_in_place(line: Line, pieces: list[Array], addresses: list[int]) -> Array | None:
    """A join along the first axis as a view of its pieces, which lie in one block; None if they are unevenly spaced."""
    first = pieces[0]
    step = addresses[1] - addresses[0] if len(pieces) > 1 else first.nbytes
    if any(piece.strides != first.strides for piece in pieces):
        return None
    if step < 0 and first.shape and first.size == first.shape[-1] and line.function is not gather:
        return None  # rows in reverse order: products copy them, and round differently
    if any(begin != addresses[0] + k * step for k, begin in enumerate(addresses)):
        return None
    strides = (step, *first.strides)
    if line.function is _concatenate:
        strides = first.strides
        if step != len(first) * strides[0] or any(piece.shape != first.shape for piece in pieces):
            return None
    return np.lib.stride_tricks.as_strided(first, line.result.shape, strides)


def gather_line(values: Sequence[Value], like: Line) -> Line:
    """A line that gathers values."""
    whole = Value((len(values), *values[0].shape), values[0].dtype)
    line = Line("op", "gather", gather, tuple(values), {"axis": 0}, whole, like)
    line.step = None
    return line


def concatenate_line(values: Sequence[Value], whole: Value, like: Line) -> Line:
    """A line that concatenates values along their first axis."""
    bounds = tuple(accumulate((x.shape[0] for x in values), initial=0))
    return Line("op", "concatenate", _concatenate, tuple(values), {"axis": 0, "bounds": bounds}, whole, like)
