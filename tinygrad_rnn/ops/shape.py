"""Operations that move elements and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from operator import index
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array, refuse_complex, signature
from ..op import check_arrays, op
from ..tape import bare_array
from ..whereabouts import misfit, whereabouts

Shape = tuple[int, ...]


@op
def reshape(xp: Any, x: Array, *, shape: Shape) -> Array:
    """The same elements in another shape; one length may be -1."""
    return x.reshape(shape)


reshape.vjp(x=lambda g, x_shape: g.reshape(x_shape))


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """x with the axes from start_dim to end_dim, both included, merged into one; by default all axes.

    >>> flatten(np.ones((5, 2, 3)), 0, 1).shape
    (10, 3)
    """
    check_arrays("flatten", x=x)
    shape = x.shape or (1,)
    start, end = (dim + len(shape) if dim < 0 else dim for dim in (start_dim, end_dim))
    if not 0 <= start <= end < len(shape):
        raise misfit(f"flatten: x {signature(x)} has no axes from {start_dim} to {end_dim}")
    return reshape(x, (*shape[:start], prod(shape[start : end + 1]), *shape[end + 1 :]))


@op
def transpose(xp: Any, x: Array, *, axes: Sequence[int] | None = None) -> Array:
    """Axes in another order; None reverses them."""
    return x.transpose(axes)


transpose.vjp(x=lambda g, axes: g.transpose(None if axes is None else _inverse(axes)))


@transpose.explain
def _two_axes(x: Array, *, axes: Any) -> str | None:
    """PyTorch's transpose takes two axes, and swaps them."""
    if not isinstance(axes, (tuple, list)) or len(axes) != 2 or x.ndim < 3:
        return None
    return (
        f"x {signature(x)} needs all of its {x.ndim} axes in order, not {tuple(axes)}; swapaxes{tuple(axes)} swaps two"
    )


def _inverse(axes: Sequence[int]) -> Shape:
    ndim = len(axes)
    return tuple(sorted(range(ndim), key=lambda i: axes[i] % ndim))


def axis_of(who: str, x: Any, axis: int) -> int:
    """An axis, possibly counted from the end, as a number from 0; IndexError if x, an array, does not have it."""
    check_arrays(who, x=x)
    if not isinstance(axis, (int, np.integer)) or not -x.ndim <= axis < x.ndim:
        raise IndexError(f"{who}: x {signature(bare_array(x))} has no axis {axis}{whereabouts()}")
    return int(axis) % x.ndim


def wholes(numbers: Any, needed: str, given: Any, cure: str = "") -> tuple[int, ...]:
    """Numbers as Python's integers; TypeError, with what is needed and what was given, if one is not whole."""
    try:
        return tuple(map(index, numbers))
    except TypeError:
        raise TypeError(f"{needed}, not {given!r}{cure}{whereabouts()}") from None


def swapaxes(x: Any, a: int, b: int) -> Any:
    """x with two axes swapped."""
    a, b = axis_of("swapaxes", x, a), axis_of("swapaxes", x, b)
    axes = list(range(x.ndim))
    axes[a], axes[b] = axes[b], axes[a]
    return transpose(x, axes=tuple(axes))


@op
def broadcast_to(xp: Any, x: Array, *, shape: Shape) -> Array:
    """x repeated along new axes and along axes of length 1."""
    return xp.broadcast_to(x, shape)


broadcast_to.vjp(x=lambda g: g)  # the engine sums g back to x's shape, as it does for every broadcast


@op
def expand_dims(xp: Any, x: Array, *, axis: int | Shape) -> Array:
    """x with new axes of length 1."""
    return xp.expand_dims(x, axis)


expand_dims.vjp(x=lambda g, x_shape: g.reshape(x_shape))


@op
def squeeze(xp: Any, x: Array, *, axis: int | Shape | None = None) -> Array:
    """x without axes of length 1: all of them, or those named."""
    return xp.squeeze(x, axis)


squeeze.vjp(x=lambda g, x_shape: g.reshape(x_shape))


@op
def flip(xp: Any, x: Array, *, axis: int | Shape | None = None) -> Array:
    """Elements in reverse order along the axes."""
    return xp.flip(x, axis)


flip.vjp(x=lambda g, axis: flip(g, axis=axis))


@op(name="concatenate")
def join(xp: Any, *xs: Array, axis: int, bounds: tuple[int, ...], out: Array = None) -> Array:
    """The kernel of ``concatenate``; part k lies between bounds k and k+1."""
    return xp.concatenate(xs, axis=axis, out=out)


join.vjp(xs=lambda g, k, axis, bounds: between(g, axis, bounds[k], bounds[k + 1]))


def between(x: Any, axis: int, start: int, stop: int) -> Any:
    """x[start:stop] along an axis."""
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, stop),)]


def concatenate(xs: Sequence[Any], axis: int | None = 0) -> Any:
    """Arrays one after another along an existing axis; all of them flattened if it is None."""
    xs = tuple(xs)
    try:
        if axis is None:
            xs, axis = tuple(map(flatten, xs)), 0
        lengths = [x.shape[axis] if -x.ndim <= axis < x.ndim else 0 for x in xs]  # a wrong axis fails in the kernel
    except (AttributeError, TypeError, ValueError) as error:  # a list of numbers, or an array for an axis
        if getattr(axis, "ndim", 0):
            raise misfit("concatenate: arrays go in as one list, concatenate([a, b])") from error
        if any(type(x) in (list, tuple) for x in xs):
            return concatenate([np.asarray(x) if type(x) in (list, tuple) else x for x in xs], axis)
        join.op.fail(error, xs, {"axis": axis})
    if len(xs) == 1:
        axis_of("concatenate", xs[0], axis)
        return xs[0]
    return join(*xs, axis=axis, bounds=tuple(accumulate(lengths, initial=0)))


@op
def stack(xp: Any, *xs: Array, axis: int = 0, out: Array = None) -> Array:
    """Arrays of one shape along a new axis."""
    return xp.stack(xs, axis=axis, out=out)


stack.vjp(xs=lambda g, k, axis: g[(slice(None),) * (axis % g.ndim) + (k,)])


@op(name="pad")
def surround(xp: Any, x: Array, *, pairs: tuple[Shape, ...], value: float) -> Array:
    """The kernel of ``pad``, with (before, after) for each axis."""
    refuse_complex(value)
    y = xp.full(tuple(n + before + after for n, (before, after) in zip(x.shape, pairs, strict=True)), value, x.dtype)
    y[_inner(x.shape, pairs)] = x
    return y


surround.vjp(x=lambda g, x_shape, pairs: g[_inner(x_shape, pairs)])


def _inner(shape: Shape, pairs: tuple[Shape, ...]) -> tuple[slice, ...]:
    """Where the padded array holds the original."""
    return tuple(slice(before, before + n) for n, (before, _) in zip(shape, pairs, strict=True))


def pad(x: Any, widths: Any, value: float = 0.0) -> Any:
    """x with ``value`` around it; widths are (before, after) for each axis, as in ``numpy.pad``.

    >>> pad(np.ones(2), (1, 2))
    array([0., 1., 1., 0., 0.])
    """
    check_arrays("pad", x=x)
    if isinstance(widths, np.ndarray):
        backend.host.reading(widths)
    given = list(widths) if np.iterable(widths) else [widths]
    needed = "widths are whole numbers: one, (before, after), or such a pair for each axis"
    rows = [wholes(row, f"pad: {needed}", widths) for row in (given if all(map(np.iterable, given)) else [given])]
    if any(len(row) not in (1, 2) for row in rows):
        told = f"{needed}, not {widths!r}"
    elif len(rows) not in (1, x.ndim):
        told = f"{len(rows)} pairs of widths were given for {x.ndim} axes"
    elif any(width < 0 for row in rows for width in row):
        told = f"widths must not be negative, as in {widths!r}; x[1:] leaves elements away"
    else:
        pairs = tuple([(row[0], row[-1]) for row in rows])
        return surround(x, pairs=pairs * x.ndim if len(pairs) == 1 else pairs, value=value)
    raise misfit(f"pad: x {signature(x)}: {told}")


def broadcasts(shape: Shape, to: Shape) -> bool:
    """Whether an array of one shape broadcasts to another."""
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


def unbroadcast(g: Any, shape: Shape) -> Any:
    """Sum an array to the shape from which it was broadcast; works on arrays and on Tensors."""
    if not broadcasts(shape, g.shape):
        raise ValueError(f"a gradient of shape {g.shape} cannot belong to an input of shape {shape}")
    extra = g.ndim - len(shape)
    axes = (*range(extra), *(extra + i for i, n in enumerate(shape) if n == 1 and g.shape[extra + i] != 1))
    return g.sum(axis=axes, keepdims=True).reshape(shape) if axes else g.reshape(shape)


def rows(*xs: Any) -> Any:
    """Arrays as one matrix: all axes but the last flattened, one array below the other."""
    flat = [x if x.ndim == 2 else x.reshape((prod(x.shape[:-1]), x.shape[-1])) for x in xs]
    return concatenate(flat)
