"""Operations of neural networks that deserve a rule of their own, for speed or for safety from overflow."""

from __future__ import annotations

from typing import Any

from .. import backend
from ..backend import Array, signature
from ..op import op
from ..tape import Taped
from .elementwise import exp, sqrt
from .reduce import sum
from .shape import Shape, expand_dims, rows


@op
def softmax(xp: Any, x: Array, *, axis: int = -1, out: Array = None) -> Array:
    """y = e^x / sum e^x along an axis."""
    y = xp.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    y = xp.exp(y, out=out)
    y /= y.sum(axis=axis, keepdims=True)
    return y


softmax.vjp(x=lambda g, y, axis: y * (g - sum(g * y, axis=axis, keepdims=True)))


@op
def log_softmax(xp: Any, x: Array, *, axis: int = -1, out: Array = None) -> Array:
    """y = x - log sum e^x along an axis."""
    y = xp.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    y -= xp.log(xp.exp(y).sum(axis=axis, keepdims=True))
    return y


log_softmax.vjp(x=lambda g, y, axis: g - exp(y) * sum(g, axis=axis, keepdims=True))


@op
def minus_one_hot(xp: Any, p: Array, targets: Array) -> Array:
    """p with 1 subtracted at each row's target."""
    y = p.copy()
    flat = y.reshape(-1, y.shape[-1])
    flat[xp.arange(flat.shape[0]), targets.ravel()] -= 1
    return backend.of(p).mark_invalid(y, targets, y.shape[-1])


minus_one_hot.vjp(p=lambda g: g, targets=None)


@op
def cross_entropy(xp: Any, logits: Array, targets: Array) -> Array:
    """-log softmax(logits)[target] for each row: logits (..., classes), integer targets (...)."""
    if logits.shape[:-1] != targets.shape or targets.dtype.kind not in "iu":
        raise ValueError("shapes")
    home, classes = backend.of(logits), logits.shape[-1]
    home.check_indices(targets, classes, "the target")
    top = logits.max(axis=-1, keepdims=True)
    total = xp.log(xp.exp(logits - top).sum(axis=-1)) + top[..., 0]
    losses = total - xp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return home.mark_invalid(losses, targets, classes)


cross_entropy.vjp(
    logits=lambda g, logits, targets: minus_one_hot(softmax(logits), targets) * expand_dims(g, axis=-1), targets=None
)


@cross_entropy.explain
def _(logits: Array, targets: Array) -> str | None:
    if targets.dtype.kind not in "iu":
        return f"targets {signature(targets)} must be integers, the numbers of the classes"
    if logits.shape[:-1] != targets.shape:
        return (
            f"targets {signature(targets)} do not fit logits {signature(logits)} (they need shape {logits.shape[:-1]})"
        )
    return None


@op
def embedding(xp: Any, indices: Array, weight: Array) -> Array:
    """Rows of a table, y = weight[indices], with indices of any shape and weight (count, size)."""
    if indices.dtype.kind not in "iu" or weight.ndim != 2:
        raise TypeError("integers are needed")
    home, count = backend.of(weight), weight.shape[0]
    home.check_indices(indices, count, "the index")
    return home.mark_invalid(weight[indices], indices, count)


@embedding.explain
def _(indices: Array, weight: Array) -> str | None:
    if indices.dtype.kind not in "iu":
        return f"indices {signature(indices)} must be integers"
    return f"weight {signature(weight)} needs two axes, (count, size)" if weight.ndim != 2 else None


@op
def add_rows(xp: Any, values: Array, indices: Array, *, shape: Shape) -> Array:
    """A table of zeros to which values (..., size) are added at rows ``indices`` (...)."""
    table = xp.zeros(shape, dtype=values.dtype)
    backend.of(table).add_rows(table, indices.ravel(), rows(values))
    return table


embedding.vjp(indices=None, weight=lambda g, indices, weight_shape: add_rows(g, indices, shape=weight_shape))
add_rows.vjp(values=lambda g, indices: embedding(indices, g), indices=None)


@op
def normalize(xp: Any, x: Array, *, eps: float = 1e-5) -> Array:
    """y = (x - mean) / sqrt(var + eps) along the last axis."""
    n = x.shape[-1]
    y = x - x.sum(axis=-1, keepdims=True) / n  # a sum and a quotient take a fraction of the time of NumPy's mean
    y /= xp.sqrt((y * y).sum(axis=-1, keepdims=True) / n + eps)
    return y


normalize.vjp(x=lambda g, x, y, eps: _normalize_back(g, x, y, eps))


def _normalize_back(g: Any, x: Any, y: Any, eps: float) -> Any:
    n = x.shape[-1]
    centred = x - sum(x, axis=-1, keepdims=True) / n
    spread = sqrt(sum(centred * centred, axis=-1, keepdims=True) / n + eps)
    return (g - sum(g, axis=-1, keepdims=True) / n - y * (sum(g * y, axis=-1, keepdims=True) / n)) / spread


def layer_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Layer normalisation (Ba, Kiros and Hinton 2016): ``normalize(x) * weight + bias`` over the last axis."""
    y = normalize(x, eps=eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """Each element set to 0 with probability p, the others divided by 1 - p (Srivastava et al. 2014).

    The mask is drawn here, outside of any kernel, on x's backend, from the generator that ``manual_seed`` restarts.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout: the probability must be at least 0 and less than 1, not {p}")
    if not training or p == 0:
        return x
    array = x.array if isinstance(x, Taped) else x
    keep = backend.of(array).uniform(array.shape) >= p
    return x * (keep.astype(array.dtype) / (1 - p))
