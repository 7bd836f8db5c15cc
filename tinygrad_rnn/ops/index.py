"""Indexing, and its inverse: putting values into zeros."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..op import op
from ..tape import Taped
from .shape import Shape


@op
def scatter(xp: Any, *values: Array, keys: tuple[Any, ...], shape: Shape, out: Array = None) -> Array:
    """Zeros to which each of several values is added at its key: what all uses of ``x[key]`` send back to x."""
    rows = all(type(key) is int for key in keys)
    apart = rows and len({key % shape[0] for key in keys}) == len(keys)  # as a loop over time makes them
    covered = apart and len(keys) == shape[0]
    buffer = out if out is not None else xp.empty(shape, dtype=values[0].dtype)
    if not covered:
        buffer.fill(0)
    for value, key in zip(values, keys, strict=True):
        if apart or (len(keys) == 1 and _is_basic(key)):
            buffer[key] = value
        elif _is_basic(key):
            buffer[key] += value
        else:
            backend.of(buffer).add_at(buffer, key, value)
    return buffer


scatter.vjp(values=lambda g, k, keys: g[keys[k]])


@op
def getitem(xp: Any, x: Array, *, key: Any) -> Array:
    """x[key], for integers, slices, ..., None, integer arrays and boolean arrays."""
    y = x[key]
    if type(key) is not int and (home := backend.of(x)).wraps:
        for indices, size in _index_arrays(key, x.shape):
            y = home.mark_invalid(y, indices, size, lowest=-size, everywhere=isinstance(key, tuple))
    return y


getitem.vjp(x=lambda g, x_shape, key: scatter(g, keys=(key,), shape=x_shape))
getitem.merge(x=lambda g, x_shape, key: scatter(*g, keys=key, shape=x_shape[0]))


def index(x: Any, key: Any) -> Any:
    """x[key], where the key may hold Tensors, and lists and NumPy arrays of indices, wherever x is."""
    if type(key) is int:
        return getitem(x, key=key)
    home = backend.of(x.array if isinstance(x, Taped) else x)
    return getitem(x, key=tuple([_bare(part, home) for part in key]) if isinstance(key, tuple) else _bare(key, home))


def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> tuple[Any, ...]:
    """Equal parts along an axis, or the parts between the given indices."""
    length = x.shape[axis]
    if isinstance(sections, int):
        if sections < 1 or length % sections:
            raise ValueError(
                f"split: an axis of length {length} does not divide into {sections} equal parts (shape {x.shape})"
            )
        size = length // sections
        bounds: Sequence[int] = range(0, length + 1, size) if size else (0,) * (sections + 1)
    else:
        bounds = (0, *sections, length)
    before = (slice(None),) * (axis % x.ndim)
    return tuple([getitem(x, key=(*before, slice(start, stop))) for start, stop in pairwise(bounds)])


def _bare(key: Any, home: backend.Backend) -> Any:
    if isinstance(key, Taped):
        key = key.array
    if isinstance(key, list):
        key = np.array(key, dtype=None if key else int)
    if isinstance(key, np.ndarray):
        return home.from_host(key)
    return int(key) if isinstance(key, np.integer) else key


def _index_arrays(key: Any, shape: Shape) -> Iterator[tuple[Array, int]]:
    """The integer arrays in a key, each with the length of the axis that it picks from."""
    parts = key if isinstance(key, tuple) else (key,)
    taken = [_axes_taken(part) for part in parts]
    axis = 0
    for part, count in zip(parts, taken, strict=True):
        if getattr(part, "dtype", np.bool_) != np.bool_:
            yield part, shape[axis]
        axis += len(shape) - sum(taken) if part is Ellipsis else count


def _axes_taken(part: Any) -> int:
    """How many axes a part of a key picks from."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if getattr(part, "dtype", None) == np.bool_ else 1


def _is_basic(key: Any) -> bool:
    """Whether a key selects every element at most once, as integers, slices and masks do."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts) or (
        not isinstance(key, tuple) and getattr(key, "dtype", None) == np.bool_
    )


@op
def take_along_axis(xp: Any, x: Array, indices: Array, *, axis: int = -1) -> Array:
    """y[i, j] = x[i, indices[i, j]], for the axis -1; the other axes of x and indices agree."""
    size = x.shape[axis]
    return backend.of(x).mark_invalid(xp.take_along_axis(x, indices, axis=axis), indices, size, lowest=-size)


@op
def add_along_axis(xp: Any, values: Array, indices: Array, *, shape: Shape, axis: int) -> Array:
    """Zeros of a shape to which values are added along an axis: the inverse of ``take_along_axis``."""
    buffer = xp.zeros(shape, dtype=values.dtype)
    grid = []
    for a, (n, length) in enumerate(zip(values.shape, shape, strict=True)):
        line = xp.arange(n) if length > 1 else xp.zeros(n, dtype=int)  # x may have been broadcast along this axis
        grid.append(line.reshape((-1,) + (1,) * (values.ndim - 1 - a)))
    grid[axis] = xp.broadcast_to(indices, values.shape)
    backend.of(buffer).add_at(buffer, tuple(grid), values)
    return buffer


take_along_axis.vjp(
    x=lambda g, indices, x_shape, axis: add_along_axis(g, indices, shape=x_shape, axis=axis), indices=None
)
add_along_axis.vjp(values=lambda g, indices, axis: take_along_axis(g, indices, axis=axis), indices=None)
