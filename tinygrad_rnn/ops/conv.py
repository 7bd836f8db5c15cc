"""Two-dimensional convolution and pooling, built on one pair of operations: windows, and their overlapping sum."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import index
from typing import Any

from ..backend import Array, signature
from ..op import check_arrays, op
from ..whereabouts import misfit
from .index import split
from .linear import einsum
from .shape import Shape, concatenate, expand_dims, pad, reshape

Pair = tuple[int, int]


def pair(value: int | Pair) -> Pair:
    """(height, width) from one number for both, or from one for each."""
    try:
        high, wide = value if isinstance(value, (tuple, list)) else (value, value)
        return index(high), index(wide)
    except (TypeError, ValueError):
        raise TypeError(f"an integer for height and width, or one for each, is needed, not {value!r}") from None


def _counts(shape: Shape, size: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Pair:
    """How many windows fit along the last two axes; ValueError if none does."""
    if len(shape) < 2:
        raise ValueError("windows need two axes, height and width; expand_dims(x, axis=0) adds one")
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    counts = tuple((n - r) // max(1, s) + 1 for n, r, s in zip(shape[-2:], reach, stride, strict=True))
    if min(*counts, *size, *stride, *dilation) < 1:
        apart = f" and dilation {dilation}" if dilation != (1, 1) else ""
        raise ValueError(
            f"windows of size {size} with stride {stride}{apart} do not fit into the last two axes of shape {shape}"
        )
    return counts[0], counts[1]


def _places(x: Array, size: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Iterator[Array]:
    """For each place in a window, row by row, a view (..., rows, columns) of the elements there in all windows."""
    rows, columns = _counts(x.shape, size, stride, dilation)
    for i in range(0, size[0] * dilation[0], dilation[0]):
        for j in range(0, size[1] * dilation[1], dilation[1]):
            yield x[..., i : i + rows * stride[0] : stride[0], j : j + columns * stride[1] : stride[1]]


@op
def windows(xp: Any, x: Array, *, size: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Array:
    """All windows over the last two axes, as a view: (..., H, W) becomes (..., rows, columns, size, size)."""
    counts = _counts(x.shape, size, stride, dilation)
    steps = [[n * a for n, a in zip(apart, x.strides[-2:], strict=True)] for apart in (stride, dilation)]
    return xp.lib.stride_tricks.as_strided(x, (*x.shape[:-2], *counts, *size), (*x.strides[:-2], *steps[0], *steps[1]))


@op
def overlap_add(
    xp: Any, x: Array, *, shape: Shape, size: Pair, stride: Pair, dilation: Pair = (1, 1), out: Array = None
) -> Array:
    """Windows summed where they overlap: the adjoint of ``windows``, so each is the other's vjp."""
    total = xp.empty(shape, dtype=x.dtype) if out is None else out
    total.fill(0)
    for k, place in enumerate(_places(total, size, stride, dilation)):
        place += x[(..., *divmod(k, size[1]))]
    return total


windows.vjp(
    x=lambda g, x_shape, size, stride, dilation: overlap_add(
        g, shape=x_shape, size=size, stride=stride, dilation=dilation
    )
)
overlap_add.vjp(x=lambda g, size, stride, dilation: windows(g, size=size, stride=stride, dilation=dilation))


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Any:
    """Cross-correlation of images (B, C, H, W) with kernels (O, C / groups, kH, kW), as in PyTorch: (B, O, H', W').

    H' = (H + 2 padding - dilation (kH - 1) - 1) // stride + 1, and W' likewise.
    dilation: the distance between a kernel's elements. groups: the number of equal parts into which channels and
        kernels divide; the kernels of a part see only its channels.
    """
    check_arrays("conv2d", x=x, weight=weight)
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise misfit(
            f"conv2d: x {x.shape} must be (batch, channels, height, width), and weight {weight.shape} (out, "
            f"channels{f' / {groups} groups' if groups > 1 else ''}, height, width)"
        )
    if bias is not None and getattr(bias, "shape", None) != weight.shape[:1]:  # others might broadcast silently
        given = signature(bias) if hasattr(bias, "dtype") else repr(bias)
        raise misfit(f"conv2d: the bias {given} must be one number for each of the {weight.shape[0]} kernels")
    high, wide = pair(padding)
    if high or wide:
        x = pad(x, widths=((0, 0), (0, 0), (high, high), (wide, wide)))
    seen = windows(x, size=weight.shape[2:], stride=pair(stride), dilation=pair(dilation))
    parts = [(seen, weight)]
    if groups > 1:
        parts = list(zip(split(seen, groups, axis=1), split(weight, groups), strict=True))
    y = concatenate([einsum("bcyxij,ocij->boyx", *part) for part in parts], axis=1)
    return y if bias is None else y + reshape(bias, (-1, 1, 1))


@op
def max_pool2d(xp: Any, x: Array, *, size: int | Pair, stride: int | Pair | None = None) -> Array:
    """The largest element of each window over the last two axes; the stride is the window size unless given.

    Equal maxima share the gradient evenly.
    """
    (high, wide), (down, right) = pair(size), pair(size if stride is None else stride)
    _counts(x.shape, (high, wide), (down, right))  # to raise with both lengths: each pass below knows but one
    rows = reduce(xp.maximum, _places(x, (high, 1), (down, 1)))
    return reduce(xp.maximum, _places(rows, (1, wide), (1, right)))


@op
def shares(xp: Any, x: Array, y: Array, *, size: Pair, stride: Pair) -> Array:
    """1 / n for each of the n elements of a window of x that equal its maximum y, else 0; laid out as ``windows``."""
    found = xp.empty((size[0] * size[1], *y.shape), dtype=x.dtype)
    for k, place in enumerate(_places(x, size, stride)):
        found[k] = place == y
    found /= xp.maximum(found.sum(axis=0), 1)
    return xp.moveaxis(found.reshape(*size, *y.shape), (0, 1), (-2, -1))  # faster to fill than in its final layout


def _to_maxima(g: Any, x: Any, y: Any, size: int | Pair, stride: int | Pair | None) -> Any:
    how = {"size": pair(size), "stride": pair(size if stride is None else stride)}
    return overlap_add(expand_dims(g, axis=(-2, -1)) * shares(x, y, **how), shape=x.shape, **how)


max_pool2d.vjp(x=_to_maxima)
shares.vjp(x=None, y=None)
