"""Indexing and its adjoint, adding values into zeros."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..op import check_arrays, op
from ..tape import bare_array
from ..whereabouts import misfit
from ..writes import own
from .shape import Shape, axis_of, wholes


@op
def scatter(xp: Any, *values: Array, keys: tuple[Any, ...], shape: Shape, out: Array = None) -> Array:
    """Zeros with each of several values added at its key: the gradient for x from all uses of ``x[key]``."""
    apart, covering = tiling(keys, shape)
    buffer = out if out is not None else xp.empty(shape, dtype=values[0].dtype)
    if not covering:
        buffer.fill(0)
    home = backend.of(buffer)
    if apart:
        home.put(buffer, keys, values)
        return buffer
    for value, key in zip(values, keys, strict=True):
        if _is_basic(key):
            buffer[key] += value
        else:
            home.add_at(buffer, key, value)
    return buffer


def tiling(keys: tuple[Any, ...], shape: Shape) -> tuple[bool, bool]:
    """(apart, covering): whether no element belongs to two keys, and whether every element also belongs to one.

    Known for rows, x[0], x[1], ..., and for the parts of one ``split``; (False, False) for other keys. A single key is
    apart if it names no element twice; whether it covers all is not asked.
    """
    first = keys[0]
    if len(keys) == 1:
        return _is_basic(first), False
    if type(first) is int:
        apart = all(type(key) is int for key in keys) and len({key % shape[0] for key in keys}) == len(keys)
        return apart, apart and len(keys) == shape[0]
    if type(first) is Cut and all(type(key) is Cut and key.family is first.family for key in keys):
        apart = len({key.number for key in keys}) == len(keys)
        return apart, apart and len(keys) == len(first.family)
    return False, False


scatter.vjp(values=lambda g, k, keys: g[keys[k]])


@op
def getitem(xp: Any, x: Array, *, key: Any) -> Array:
    """x[key], for integers, slices, ..., None, integer arrays and boolean arrays."""
    y = x[key]
    if xp is not np and type(key) not in (int, Cut):
        home = backend.of(x)
        for indices, size in _index_arrays(key, x.shape):
            y = home.mark_invalid(y, indices, size, lowest=-size, everywhere=isinstance(key, tuple))
    return y


getitem.vjp(x=lambda g, x_shape, key: scatter(g, keys=(key,), shape=x_shape))
getitem.merge(x=lambda g, x_shape, key: scatter(*g, keys=key, shape=x_shape[0]))


def index(x: Any, key: Any) -> Any:
    """x[key], where the key may hold Tensors, lists and NumPy arrays of indices, whatever backend x is on."""
    if type(key) is int:
        return getitem(x, key=key)
    return getitem(x, key=tuple([_bare(part, x, own) for part in key]) if isinstance(key, tuple) else _bare(key, x))


class Cut(tuple[slice, ...]):
    """A key such as [:, 3:5], made by ``split``. It knows its family: a complete one needs no zeros to add into."""

    number: int
    family: list[tuple[slice, ...]]  # the keys of all parts, which cover the axis without overlap


@functools.lru_cache(maxsize=1024)
def _cuts(ndim: int, axis: int, bounds: tuple[int, ...]) -> tuple[Any, ...]:
    """The keys of the parts between consecutive bounds."""
    keys = [(slice(None),) * (axis % ndim) + (slice(start, stop),) for start, stop in pairwise(bounds)]
    if not all(0 <= start <= stop <= bounds[-1] for start, stop in pairwise(bounds)):
        return tuple(keys)  # parts that overlap, or count from the end
    cuts = tuple(map(Cut, keys))
    for number, cut in enumerate(cuts):
        cut.number, cut.family = number, keys
    return cuts


def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> tuple[Any, ...]:
    """x split along an axis into equal parts, or at the given indices."""
    shape: Any = getattr(x, "shape", None)
    if shape is None:
        check_arrays("split", x=x)  # which raises
    if not -len(shape) <= axis < len(shape):
        axis_of("split", x, axis)  # which raises
    length = shape[axis]
    if isinstance(sections, (int, np.integer)):
        if sections < 1 or length % sections:
            raise misfit(
                f"split: an axis of length {length} does not divide into {sections} equal parts (shape {x.shape})"
            )
        size = length // sections
        bounds = tuple(range(0, length + 1, size)) if size else (0,) * (sections + 1)
        cuts = _cuts(len(shape), axis, bounds)
    else:
        needed = "split: sections are a number of equal parts, or a list of indices to split at"
        places = wholes(sections, needed, sections)
        cuts = _cuts(len(shape), axis, (0, *places, length))
    return tuple([getitem(x, key=cut) for cut in cuts])


def _bare(key: Any, x: Any, copy: Any = None) -> Any:
    """A part of a key for x: indices as an array on x's backend, integers as Python's, anything else unchanged.

    copy: copies an array for the tape, which does that itself for a key that is an array, but looks into no tuple.
    """
    if isinstance(key, (int, slice)):  # nearly always
        return key
    key, home = backend.plain(key), backend.of(bare_array(x))
    if isinstance(key, list):
        key = np.array(key, dtype=None if key else int)
    array = bare_array(key)
    if isinstance(array, np.ndarray) and home.name != "numpy":
        backend.host.reading(array)
        return home.from_host(array)
    if copy and backend.is_array(key) and getattr(x, "node", None) is not None:
        return copy(key)
    return int(array) if isinstance(array, np.integer) else array


def _index_arrays(key: Any, shape: Shape) -> Iterator[tuple[Array, int]]:
    """The integer arrays in a key, each with the length of the axis that it indexes."""
    parts = key if isinstance(key, tuple) else (key,)
    taken = [_axes_taken(part) for part in parts]
    axis = 0
    for part, count in zip(parts, taken, strict=True):
        if getattr(part, "dtype", np.bool_) != np.bool_:
            yield part, shape[axis]
        axis += len(shape) - sum(taken) if part is Ellipsis else count


def _axes_taken(part: Any) -> int:
    """How many axes a part of a key indexes."""
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
def take_along_axis(xp: Any, x: Array, indices: Array, *, axis: int | None = -1) -> Array:
    """y[i, j] = x[i, indices[i, j]] for axis -1; other axes of x and indices broadcast. None takes from flattened x."""
    if axis is None:
        x, axis = x.reshape(-1), 0
    size = x.shape[axis]
    return backend.of(x).mark_invalid(xp.take_along_axis(x, indices, axis=axis), indices, size, lowest=-size)


@op
def add_along_axis(xp: Any, values: Array, indices: Array, *, shape: Shape, axis: int) -> Array:
    """Zeros with values added at indices along an axis: the adjoint of ``take_along_axis``."""
    buffer = xp.zeros(shape, dtype=values.dtype)
    grid = []
    for a, (n, length) in enumerate(zip(values.shape, shape, strict=True)):
        line = xp.arange(n) if length > 1 else xp.zeros(n, dtype=int)  # x may have been broadcast along this axis
        grid.append(line.reshape((-1,) + (1,) * (values.ndim - 1 - a)))
    grid[axis] = xp.broadcast_to(indices, values.shape)
    backend.of(buffer).add_at(buffer, tuple(grid), values)
    return buffer


def _put_back(g: Any, indices: Any, x_shape: Shape, axis: int | None) -> Any:
    if axis is None:
        return add_along_axis(g, indices, shape=(prod(x_shape),), axis=0).reshape(x_shape)
    return add_along_axis(g, indices, shape=x_shape, axis=axis)


take_along_axis.vjp(x=_put_back, indices=None)
add_along_axis.vjp(values=lambda g, indices, axis: take_along_axis(g, indices, axis=axis), indices=None)
