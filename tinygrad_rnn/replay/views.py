"""Lines whose result may be a view of their input: slices, columns, other shapes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

from .. import ops
from .program import Line, Value

# Kernels, not names: a user's operation may have one of these names and do something else.
getitem, reshape, expand_dims = ops.getitem.op.kernel, ops.reshape.op.kernel, ops.expand_dims.op.kernel
_OTHERS = ops.transpose, ops.broadcast_to, ops.squeeze, ops.flip
VIEWS = {getitem, reshape, expand_dims, *(operation.op.kernel for operation in _OTHERS)}


def slice_line(x: Value, key: Any, shape: tuple[int, ...], like: Line) -> Line:
    """A line that takes a part of a value."""
    return Line("op", "getitem", getitem, (x,), {"key": key}, Value(shape, x.dtype), like)


def columns_line(x: Value, start: int, stop: int, like: Line) -> Line:
    """A line that slices a value along its last axis only."""
    key = (*(slice(None),) * (len(x.shape) - 1), slice(start, stop))
    return slice_line(x, key, (*x.shape[:-1], stop - start), like)


def columns(line: Line, base: Value) -> tuple[int, int] | None:
    """Start and stop, if a line slices a base along its last axis only."""
    key = line.attributes["key"] if line.function is getitem and line.inputs[0] is base else None
    if not isinstance(key, tuple) or not key or not all(isinstance(part, slice) for part in key):
        return None
    if len(key) != len(base.shape) or any(part != slice(None) for part in key[:-1]) or key[-1].step not in (None, 1):
        return None
    start, stop, _ = key[-1].indices(base.shape[-1])
    return (start, stop) if start <= stop else None  # x[5:3] has no columns, but would count as -2


class Slice(NamedTuple):
    """Columns start to stop of a base."""

    start: int
    stop: int
    line: Line


def column_slices(base: Value, readers: list[Line]) -> list[Slice]:
    """The column slices of a base among its readers, in order; nothing if there is only one, or if some overlap."""
    if len(readers) < 2:  # nearly always
        return []
    found = [Slice(*bounds, line) for line in readers if (bounds := columns(line, base)) is not None]
    found.sort(key=lambda s: (s.start, s.stop))
    apart = all(a.stop <= b.start for a, b in pairwise(found))
    return found if len(found) > 1 and apart else []


def reshape_line(x: Value, shape: tuple[int, ...], like: Line) -> Line:
    """A line that reshapes a value."""
    return Line("op", "reshape", reshape, (x,), {"shape": shape}, Value(shape, x.dtype), like)
