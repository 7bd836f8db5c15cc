"""Neural-network operations with rules of their own, for speed or to avoid overflow."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

from .. import backend
from ..backend import Array
from ..numpy_backend import largest
from ..op import check_arrays, op
from ..tape import bare_array
from .elementwise import exp, sqrt, where
from .index import add_along_axis
from .reduce import Axis, mean, spread, sum, var
from .shape import Shape, expand_dims, rows

_BLOCK = 2**15  # elements of a block that stays in the cache through several operations


@op
def softmax(xp: Any, x: Array, *, axis: Axis = -1, out: Array = None) -> Array:
    """y = e^x / sum e^x along an axis, or along several (a tuple)."""
    home, axis = backend.of(x), _along(x, axis)
    y, _ = home.exponentials(_floats(x), axis, out)
    y /= home.row_sums(y) if axis == -1 else y.sum(axis=axis, keepdims=True)
    return y


def _floats(x: Array) -> Array:
    """x, as float64 if it holds integers: the difference of two unsigned ones would wrap."""
    return x if x.dtype.kind == "f" else x.astype(float)


def _along(x: Any, axis: Axis) -> Axis:
    """The axis; None for a 0-d array, for which NumPy accepts the axes 0 and -1 but CuPy does not."""
    return None if not x.ndim and axis in (0, -1) else axis


def _through_softmax(g: Any, y: Any, axis: Axis) -> Any:
    return y * (g - sum(g * y, axis=_along(y, axis), keepdims=True))


softmax.op.overwrites = True
softmax.vjp(x=_through_softmax)


@op
def log_softmax(xp: Any, x: Array, *, axis: int = -1, out: Array = None) -> Array:
    """y = x - log sum e^x along an axis."""
    x, along = _floats(x), _along(x, axis)
    y = xp.subtract(x, largest(x, along), out=out)
    if y.size:
        y -= xp.log(xp.exp(y).sum(axis=along, keepdims=True))
    return y


log_softmax.op.overwrites = True
log_softmax.vjp(
    x=lambda g, y, axis: g - exp(y) * sum(g, axis=_along(y, axis), keepdims=True)  # type: ignore[has-type]
)


@op
def logsumexp(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """y = log sum e^x, without overflow; if all x are -inf, or there are none, y is -inf and the gradient 0."""
    x = _floats(x)
    top = largest(x, axis)
    total = xp.exp(x - xp.where(xp.isfinite(top), top, 0)).sum(axis=axis, keepdims=True)
    y = xp.log(xp.maximum(total, 0.5)) + top  # the total is at least 1, or else 0 because the top is -inf
    return y if keepdims else xp.squeeze(y, axis=axis)


def _shares(g: Array, x: Array, y: Array, axis: Axis, keepdims: bool) -> Array:
    """g times softmax(x): for large x, exp(x - y) would be inaccurate, as y has few digits after the point."""
    possible = y > -math.inf
    where_possible = spread(possible, x.shape, axis, keepdims)
    g = spread(where(possible, g, 0), x.shape, axis, keepdims)
    return g * softmax(where(where_possible, x, 0), axis=axis)


logsumexp.vjp(x=_shares)


@op
def nll(xp: Any, x: Array, targets: Array) -> Array:
    """y = -x[target] for each row: x (..., classes), integer targets (...)."""
    home, classes = backend.of(x), x.shape[-1]
    home.check_indices(targets, classes, "the target")
    return home.mark_invalid(-xp.take_along_axis(x, targets[..., None], axis=-1)[..., 0], targets, classes)


nll.vjp(
    x=lambda g, targets, x_shape: add_along_axis(
        expand_dims(-g, axis=-1), expand_dims(targets, axis=-1), shape=x_shape, axis=-1
    ),
    targets=None,
)


@op
def cross_entropy(xp: Any, logits: Array, targets: Array) -> Array:
    """-log softmax(logits)[target] for each row: logits (..., classes), integer targets (...)."""
    if targets.dtype.kind not in "iu":
        raise TypeError("targets must be integers, the numbers of the classes")
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"targets must have the shape {logits.shape[:-1]}")
    home, classes = backend.of(logits), logits.shape[-1]
    home.check_indices(targets, classes, "the target")
    exponentials, top = home.exponentials(_floats(logits), -1)
    chosen = logits.reshape((targets.size, classes))[xp.arange(targets.size), targets.ravel()]
    below = top - chosen.reshape((*targets.shape, 1))  # exact where logits are large and log sum e^x has few digits
    losses = (xp.log(home.row_sums(exponentials)) + below)[..., 0]
    return home.mark_invalid(losses, targets, classes)


@nll.explain
@cross_entropy.explain
def _ignored(scores: Array, targets: Array) -> str | None:
    """PyTorch leaves targets of -100 out unless told otherwise."""
    if targets.dtype.kind != "i" or targets.shape != scores.shape[:-1] or not (targets == -100).any():
        return None
    return (
        f"the target -100 is out of range: they run from 0 to {scores.shape[-1] - 1}; "
        "nn.cross_entropy and nn.nll_loss leave it out if they are given ignore_index=-100"
    )


@op
def cross_entropy_back(xp: Any, logits: Array, targets: Array, v: Array, *, out: Array = None) -> Array:
    """The vjp of ``cross_entropy`` for a cotangent v: (softmax(logits) - 1 at each row's target) v."""
    home, classes = backend.of(logits), logits.shape[-1]
    v = home.mark_invalid(v, targets, classes)
    y = xp.ascontiguousarray(home.exponentials(logits, -1, out)[0])
    y *= v[..., None] / home.row_sums(y)
    y.reshape(-1, classes)[xp.arange(targets.size), targets.ravel()] -= v.ravel()
    return y


cross_entropy_back.op.overwrites = True
cross_entropy.vjp(logits=lambda g, logits, targets: cross_entropy_back(logits, targets, g), targets=None)
cross_entropy_back.vjp(
    logits=lambda g, logits, v: _through_softmax(g * expand_dims(v, axis=-1), softmax(logits), -1),
    v=lambda g, logits, targets: sum(g * softmax(logits), axis=-1) + nll(g, targets),
    targets=None,
)


@op
def embedding(xp: Any, indices: Array, weight: Array) -> Array:
    """Rows of a table, y = weight[indices], with indices of any shape and weight (count, size)."""
    if indices.dtype.kind not in "iu":
        raise TypeError("indices must be integers")
    if weight.ndim != 2:
        raise ValueError("weight needs two axes, (count, size)")
    home, count = backend.of(weight), weight.shape[0]
    home.check_indices(indices, count, "the index")
    found = weight.take(indices.astype("int64", copy=False), axis=0)  # in half the time of weight[indices]
    return home.mark_invalid(found, indices, count)


@op
def add_rows(xp: Any, values: Array, indices: Array, *, shape: Shape) -> Array:
    """A table of zeros with values (..., size) added at rows ``indices`` (...)."""
    table = xp.zeros(shape, dtype=values.dtype)
    backend.of(table).add_rows(table, indices.ravel(), rows(values))
    return table


embedding.vjp(indices=None, weight=lambda g, indices, weight_shape: add_rows(g, indices, shape=weight_shape))
add_rows.vjp(values=lambda g, indices: embedding(indices, g), indices=None)


def _centred(xp: Any, x: Array, eps: float) -> tuple[Array, Array, Array]:
    """x minus its mean, sqrt(var + eps), and a vector of 1 / n; a row's dot product with it is the row's mean.

    Such a product takes a fraction of the time of NumPy's ``mean``.
    """
    n, home = x.shape[-1], backend.of(x)
    average = xp.empty(n, dtype=x.dtype if x.dtype.kind == "f" else float)
    average.fill(1 / max(1, n))
    y = x - home.row_dots(x, average)
    return y, xp.sqrt(home.row_dots(y, y) / max(1, n) + eps), average


@op
def normalize(xp: Any, x: Array, *, eps: float = 1e-5) -> Array:
    """y = (x - mean) / sqrt(var + eps) along the last axis."""
    y, std, _ = _centred(xp, x, eps)
    y /= std
    return y


@op
def normalize_back(xp: Any, v: Array, x: Array, *, eps: float) -> Array:
    """The vjp of n = ``normalize(x)`` for a cotangent v: (v - mean(v) - n mean(v n)) / sqrt(var + eps)."""
    y, std, average = _centred(xp, x, eps)
    home = backend.of(y)
    y *= home.row_dots(v, y) / (-max(1, x.shape[-1]) * std * std)
    y += v
    y -= home.row_dots(v, average)
    y /= std
    return y


@op
def gain_gradient(xp: Any, v: Array, x: Array, *, eps: float) -> Array:
    """The sum over all rows of v * ``normalize(x)``: the gradient for the weight of ``layer_norm``."""
    y, std, _ = _centred(xp, x, eps)
    y *= v
    return xp.dot(1 / std.reshape(1, -1), y.reshape(std.size, x.shape[-1]))[0]


def _normalize_back_back(g: Any, v: Any, x: Any, y: Any, eps: float) -> Any:
    """The vjp of ``normalize_back`` for x: the part through n plus the part through the standard deviation."""

    def average(a: Any) -> Any:
        return mean(a, axis=-1, keepdims=True)

    n, std = normalize(x, eps=eps), sqrt(var(x, axis=-1, keepdims=True) + eps)
    through_n = -(g * average(v * n) + v * average(g * n)) / std
    return normalize_back(through_n, x, eps=eps) - n * (average(g * y) / std)


normalize.vjp(x=lambda g, x, eps: normalize_back(g, x, eps=eps))
normalize_back.vjp(v=lambda g, x, eps: normalize_back(g, x, eps=eps), x=_normalize_back_back)
gain_gradient.vjp(
    v=lambda g, x, eps: g * normalize(x, eps=eps), x=lambda g, v, x, eps: normalize_back(g * v, x, eps=eps)
)


@op
def layer_norm(xp: Any, x: Array, weight: Array = None, bias: Array = None, *, eps: float = 1e-5) -> Array:
    """Layer normalisation (Ba, Kiros and Hinton 2016): y = ``normalize(x)`` * weight + bias over the last axis.

    weight: (size,). bias: (size,), or any shape that broadcasts to x's.
    """
    if weight is not None and weight.shape != x.shape[-1:]:
        raise ValueError(f"weight must have the shape {x.shape[-1:]}")
    y = normalize.op.kernel(xp, x, eps=eps)
    if weight is not None:
        y *= weight
    if bias is not None:
        y += bias
    return y


layer_norm.vjp(
    x=lambda g, x, weight, eps: normalize_back(g if weight is None else g * weight, x, eps=eps),
    weight=lambda g, x, eps: gain_gradient(g, x, eps=eps),
    bias=lambda g, bias_shape: g,  # names bias_shape because the merge gets only what the rule names
)
layer_norm.merge(
    weight=lambda g, x, eps: _weight_gradient(g, x, eps[0]),
    bias=lambda g, bias_shape: rows(*g) if len(bias_shape[0]) < 2 else functools.reduce(operator.add, g),
)


def _weight_gradient(gs: Sequence[Any], xs: Sequence[Any], eps: float) -> Any:
    """The sum over all uses, some at a time: one by one takes many calls, and all at once leaves the cache."""
    at_once = max(1, _BLOCK // max(1, gs[0].size))
    parts = [slice(k, k + at_once) for k in range(0, len(gs), at_once)]
    return functools.reduce(operator.add, [gain_gradient(rows(*gs[k]), rows(*xs[k]), eps=eps) for k in parts])


def dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """Each element set to 0 with probability p, the others divided by 1 - p (Srivastava et al. 2014).

    The mask is drawn here, outside any kernel, on x's backend, from the generator that ``manual_seed`` seeds.
    """
    check_arrays("dropout", x=x)
    p = check_probability("dropout", p)
    if not training or p == 0:
        return x
    array = bare_array(x)
    keep = backend.of(array).uniform(array.shape) >= p
    return x * (keep.astype(array.dtype) / (1 - p))


def check_probability(who: str, p: float) -> float:
    """A probability of dropping something, as a float; TypeError unless it is a number, ValueError unless in [0, 1)."""
    try:
        within = 0 <= p < 1
    except TypeError:
        raise TypeError(f"{who}: a probability must be a number, not {p!r}") from None
    if not within:
        raise ValueError(f"{who}: a probability must be at least 0 and less than 1, not {p}")
    return float(p)  # an np.float64 would turn float32 into float64
