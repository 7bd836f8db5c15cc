"""Operations that reduce an axis, several axes (a tuple), or everything (None)."""

from __future__ import annotations

import math
from typing import Any

from .. import backend
from ..backend import Array
from ..op import op
from .arrange import roll
from .elementwise import where
from .shape import broadcast_to, expand_dims, flip, reshape
from .ufunc import method

Axis = int | tuple[int, ...] | None


@op
def sum(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False, out: Array = None) -> Array:
    """y = sum over the axis."""
    return x.sum(axis=axis, keepdims=keepdims, out=out)


sum.vjp(x=lambda g, x_shape, axis, keepdims: spread(g, x_shape, axis, keepdims))


@op
def mean(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """y = sum over the axis / number of its elements."""
    return backend.of(x).mean(x, axis, keepdims)


mean.vjp(  # in float16, the number of elements itself may be out of range
    x=lambda g, x_shape, axis, keepdims: spread(g * (1 / (_count(x_shape, axis) or 1)), x_shape, axis, keepdims)
)


@op
def prod(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False, out: Array = None) -> Array:
    """y = product over the axis. The gradient needs no division, so it is exact even where elements are 0."""
    return x.prod(axis=axis, keepdims=keepdims, out=out)


prod.vjp(x=lambda g, x, axis, keepdims: _times_others(spread(g, x.shape, axis, keepdims), x, _axes(x.ndim, axis)))


def _times_others(g: Array, x: Array, axes: tuple[int, ...]) -> Array:
    """g times, for each element of x, the product of all others along the axes.

    These n - 1 follow it cyclically, and are multiplied in runs of 1, 2, 4, ..., by the binary digits of n - 1.
    """
    for axis in axes:
        rest, length, start, runs = x.shape[axis] - 1, 1, 1, x
        while rest > 0:
            if rest % 2:
                g = g * roll(runs, -start, axis)
                start += length
            rest //= 2
            if rest:
                runs, length = runs * roll(runs, -length, axis), 2 * length
        x = prod(x, axis=axis, keepdims=True)
    return g


@op
def max(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False, out: Array = None) -> Array:
    """The largest element; equal maxima share the gradient evenly."""
    return x.max(axis=axis, keepdims=keepdims, out=out)


@op
def min(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """The smallest element; equal minima share the gradient evenly."""
    return x.min(axis=axis, keepdims=keepdims)  # not out=, which CuPy's min mistakes for a dtype (cupy#9032)


def _to_extremes(g: Array, x: Array, y: Array, axis: Axis, keepdims: bool) -> Array:
    """g divided evenly among the elements that equal the extreme y."""
    hit = (x == spread(y, x.shape, axis, keepdims)).astype(x.dtype)
    return spread(g, x.shape, axis, keepdims) * (hit / hit.sum(axis=axis, keepdims=True))


max.vjp(x=_to_extremes)
min.vjp(x=_to_extremes)


@op
def var(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False, ddof: int = 0, out: Array = None) -> Array:
    """Variance, y = sum (x - mean)^2 / (n - ddof)."""
    return x.var(axis=axis, keepdims=keepdims, ddof=ddof, out=out)


def _from_mean(g: Array, x: Array, axis: Axis, keepdims: bool, ddof: int) -> Array:
    """The rule of ``var``."""
    share = g / ((_count(x.shape, axis) - ddof) / 2)
    return spread(share, x.shape, axis, keepdims) * (x - x.mean(axis=axis, keepdims=True))


var.vjp(x=_from_mean)


@op
def std(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False, ddof: int = 0, out: Array = None) -> Array:
    """Standard deviation, the square root of ``var``; where all elements are equal, the gradient is 0."""
    return x.std(axis=axis, keepdims=keepdims, ddof=ddof, out=out)


std.vjp(
    x=lambda g, x, y, axis, keepdims, ddof: _from_mean(
        where(y == 0, 0, g / where(y == 0, 1, 2 * y)), x, axis, keepdims, ddof
    )
)


@op
def cumsum(xp: Any, x: Array, *, axis: int | None = -1, out: Array = None) -> Array:
    """Running sum along an axis, or over flattened x if it is None: y_t = sum of x_s for s <= t."""
    return xp.cumsum(x, axis=axis, out=out)


cumsum.vjp(x=lambda g, axis, x_shape: reshape(flip(cumsum(flip(g, axis=axis), axis=axis), axis=axis), shape=x_shape))


argmax = method(__name__, "argmax", "Index of the largest element; no gradient.").vjp(x=None)
argmin = method(__name__, "argmin", "Index of the smallest element; no gradient.").vjp(x=None)
any = method(__name__, "any", "Whether any element is not 0; False if there are none.").vjp(x=None)
all = method(__name__, "all", "Whether no element is 0; True if there are none.").vjp(x=None)


def _axes(ndim: int, axis: Axis) -> tuple[int, ...]:
    """The axis argument as a tuple of numbers from 0 up."""
    if axis is None:
        return tuple(range(ndim))
    return tuple(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def _count(shape: tuple[int, ...], axis: Axis) -> int:
    """How many elements are reduced to one."""
    return math.prod(shape[a] for a in _axes(len(shape), axis))


def spread(g: Array, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Array:
    """A reduced array broadcast back to the shape from before the reduction."""
    if not keepdims and axis is not None:
        g = expand_dims(g, axis=_axes(len(shape), axis))
    return broadcast_to(g, shape=shape)
