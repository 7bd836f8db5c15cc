"""Operations that reorder or repeat elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array, signature
from ..op import check_arrays, op
from ..tape import bare_array, host_array
from ..whereabouts import misfit
from .elementwise import where
from .index import take_along_axis
from .shape import axis_of, broadcast_to, concatenate, expand_dims, flatten, reshape, wholes


@op
def argsort(xp: Any, x: Array, *, axis: int = -1) -> Array:
    """Indices that sort x along an axis, keeping the order of equal elements; no gradient."""
    return xp.argsort(x, axis=axis, kind="stable")


argsort.vjp(x=None)
argsort.op.waits = True  # CuPy's sort may make the host wait, which a CUDA graph cannot capture


def sort(x: Any, axis: int | None = -1) -> Any:
    """The elements along an axis, or of flattened x, in ascending order. Gradients return to the elements' old places.

    >>> sort(np.array([3.0, 1.0, 2.0]))
    array([1., 2., 3.])
    """
    check_arrays("sort", x=x)
    if axis is None:
        return sort(flatten(x))
    return take_along_axis(x, argsort(x, axis_of("sort", x, axis)), axis)


def roll(x: Any, shift: int, axis: int | None = None) -> Any:
    """Elements shifted along an axis, from the end round to the start; over flattened x if no axis is given.

    >>> roll(np.arange(5), 2)
    array([3, 4, 0, 1, 2])
    """
    check_arrays("roll", x=x)
    if axis is None:
        return reshape(roll(flatten(x), shift, 0), x.shape)
    axis = axis_of("roll", x, axis)
    ahead = (slice(None),) * axis
    (by,) = wholes([shift], "roll: the shift must be one whole number", shift, "; call roll once for each axis")
    cut = -by % max(1, x.shape[axis])
    return concatenate([x[(*ahead, slice(cut, None))], x[(*ahead, slice(cut))]], axis=axis)


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Any:
    """Each element ``repeats`` times in a row along an axis; of flattened x if no axis is given.

    repeats: a number for all, or one for each place along the axis.

    >>> repeat(np.array([[1, 2], [3, 4]]), 2, axis=1)
    array([[1, 1, 2, 2],
           [3, 3, 4, 4]])
    >>> repeat(np.array([1, 2, 3]), [2, 0, 1])
    array([1, 1, 3])
    """
    check_arrays("repeat", x=x)
    if axis is None:
        return repeat(flatten(x), repeats, 0)
    shape, axis = list(x.shape), axis_of("repeat", x, axis)
    counts = host_array(repeats)
    if counts.shape not in ((), (shape[axis],)) or counts.dtype.kind not in "iu" or counts.min(initial=0) < 0:
        needed = f"{shape[axis]} whole numbers along axis {axis}, or one"
        raise misfit(f"repeat: x {signature(x)} needs {needed}, not {counts}")
    if counts.ndim:
        backend.host.reading(counts)
        return x[(slice(None),) * axis + (np.repeat(np.arange(shape[axis]), counts),)]
    many = broadcast_to(expand_dims(x, axis + 1), (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
    shape[axis] *= repeats
    return reshape(many, tuple(shape))


def tile(x: Any, reps: int | Sequence[int]) -> Any:
    """x as a whole repeated ``reps`` times along each axis; fewer numbers than axes apply to the last axes.

    >>> tile(np.array([1, 2]), (2, 2))
    array([[1, 2, 1, 2],
           [1, 2, 1, 2]])
    """
    check_arrays("tile", x=x)
    needed = "tile: reps must be a whole number, or one for each axis"
    times = wholes(reps if np.iterable(reps) else [reps], needed, reps)
    if min(times, default=0) < 0:
        raise misfit(f"{needed}, not {reps!r}")
    ndim = max(len(times), x.ndim)
    pairs = list(zip((1,) * (ndim - len(times)) + times, (1,) * (ndim - x.ndim) + x.shape, strict=True))
    apart = reshape(x, tuple(n for _, length in pairs for n in (1, length)))
    many = broadcast_to(apart, tuple(n for pair in pairs for n in pair))
    return reshape(many, tuple(count * length for count, length in pairs))


def tril(x: Any, k: int = 0) -> Any:
    """Lower triangle over the last two axes: elements above the k-th diagonal become 0.

    >>> tril(np.ones((2, 3)))
    array([[1., 0., 0.],
           [1., 1., 0.]])
    """
    return where(_below(x, k), x, False)


def triu(x: Any, k: int = 0) -> Any:
    """Upper triangle over the last two axes: elements below the k-th diagonal become 0."""
    return where(_below(x, k - 1), False, x)


def _below(x: Any, k: int) -> Array:
    """A mask of the k-th diagonal and everything below it."""
    check_arrays("tril, triu", x=x)
    array = bare_array(x)
    if array.ndim < 2:
        raise misfit(f"tril, triu: x {signature(array)} needs two axes")
    return backend.of(array).from_host(np.tri(array.shape[-2], array.shape[-1], k, dtype=bool))
