"""Losses: the mean over the elements that count; ``reduction`` "sum" returns their sum, "none" each by itself.

mask: of the shape of the losses, which of them count (booleans) or how much (weights).
Masked-out elements may hold anything, even NaN or invalid class numbers: they affect neither the loss nor other
gradients, and their own gradient is 0. A mean divides by the sum of the mask; a mean over nothing is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend, ops
from ..ops.shape import broadcasts
from ..tensor import Tensor, owned
from ..whereabouts import ShapeError, misfit


def cross_entropy(
    logits: Any,
    targets: Any,
    *,
    ignore_index: int | None = None,
    mask: Any = None,
    weight: Any = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """-log softmax(logits)[target], in nats.

    logits: (..., classes). targets: (...), integers.
    ignore_index: a target that does not count. mask: (...), which elements count, or how much.
    weight: (classes,), the weight of each class; a mean divides by the sum of the targets' weights, as in PyTorch.
    label_smoothing: the share of each target that is spread evenly over all classes (Szegedy et al. 2016).

    Raises ShapeError for shapes that do not fit, and IndexError if a target that counts is not a class.

    >>> from tinygrad_rnn import nn, tensor, zeros
    >>> round(nn.cross_entropy(zeros(3, 4), tensor([0, 1, 2])).item(), 4)
    1.3863
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be between 0 and 1, not {label_smoothing}")
    label_smoothing = float(label_smoothing)  # an np.float64 would turn float32 into float64
    logits, targets, mask = _classes("cross_entropy", logits, targets, ignore_index, mask)
    losses = ops.cross_entropy(logits, targets)
    weight, weights = _weights("cross_entropy", weight, targets, logits)
    if weight is not None:
        losses = losses * weights
    if label_smoothing:
        if weight is None:
            even = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
        else:
            even = -ops.mean(ops.log_softmax(logits) * weight, axis=-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * even
    return reduced("cross_entropy", losses, mask, weights, reduction)


def nll_loss(
    log_probabilities: Any,
    targets: Any,
    *,
    ignore_index: int | None = None,
    mask: Any = None,
    weight: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """-log_probabilities[target]: ``cross_entropy`` for the output of ``log_softmax``; arguments as there.

    >>> from tinygrad_rnn import nn, tensor
    >>> nn.nll_loss(tensor([[-1.0, -2.0]]), tensor([1])).item()
    2.0
    """
    scores, targets, mask = _classes("nll_loss", log_probabilities, targets, ignore_index, mask)
    losses = ops.nll(scores, targets)
    weight, weights = _weights("nll_loss", weight, targets, scores)
    if weight is not None:
        losses = losses * weights
    return reduced("nll_loss", losses, mask, weights, reduction)


def mse_loss(prediction: Any, target: Any, *, mask: Any = None, reduction: str = "mean") -> Tensor:
    """(prediction - target)^2. The shapes must be equal: broadcasting here is nearly always a mistake.

    >>> from tinygrad_rnn import nn, tensor
    >>> nn.mse_loss(tensor([1.0, 2.0]), tensor([1.0, 5.0])).item()
    4.5
    """
    prediction, target, mask = _elements("mse_loss", prediction, target, mask)
    difference = prediction - target
    return reduced("mse_loss", difference * difference, mask, None, reduction)


def huber_loss(
    prediction: Any, target: Any, *, delta: float = 1.0, mask: Any = None, reduction: str = "mean"
) -> Tensor:
    """Quadratic near 0 and linear beyond delta, so that outliers do not dominate (Huber 1964).

    With d = prediction - target: d^2 / 2 where |d| <= delta, and delta (|d| - delta / 2) elsewhere.

    >>> from tinygrad_rnn import nn, tensor
    >>> nn.huber_loss(tensor([1.0, 2.0]), tensor([1.0, 5.0]), reduction="none").tolist()
    [0.0, 2.5]
    """
    if not delta > 0:
        raise ValueError(f"huber_loss: delta must be above 0, not {delta}")
    delta = float(delta)  # an np.float64 would turn float32 into float64
    prediction, target, mask = _elements("huber_loss", prediction, target, mask)
    difference = prediction - target
    held = ops.clip(difference, -delta, delta)
    return reduced("huber_loss", held * (difference - 0.5 * held), mask, None, reduction)


def binary_cross_entropy_with_logits(
    logits: Any, target: Any, *, pos_weight: Any = None, mask: Any = None, reduction: str = "mean"
) -> Tensor:
    """-(pos_weight target log sigmoid(logits) + (1 - target) log(1 - sigmoid(logits))), without overflow.

    target: of the shape of logits, between 0 and 1.
    pos_weight: the weight of a target of 1 relative to one of 0; a number, or an array that broadcasts to logits.

    >>> from tinygrad_rnn import nn, tensor
    >>> round(nn.binary_cross_entropy_with_logits(tensor([0.0]), tensor([1.0])).item(), 4)
    0.6931
    """
    name = "binary_cross_entropy_with_logits"
    logits, target, mask = _elements(name, logits, target, mask)
    if pos_weight is None:
        losses = ops.softplus(logits) - logits * target
    else:
        pos_weight = _constant(pos_weight, logits)
        shape = getattr(pos_weight, "shape", ())
        if not broadcasts(shape, logits.shape):  # nor may it broadcast logits, of which there would be more losses
            raise misfit(f"{name}: pos_weight of shape {shape} does not broadcast to logits of shape {logits.shape}")
        losses = ops.softplus(-logits) * (target * pos_weight) + ops.softplus(logits) * (1 - target)
    return reduced(name, losses, mask, None, reduction)


# ---- shared by all losses ----


def _constant(x: Any, like: Tensor) -> Any:
    """A number or an array, in the dtype of the scores, so that float32 stays float32."""
    return float(x) if isinstance(x, (int, float)) else owned(x, like).astype(like.dtype)


def _floating(x: Any) -> Tensor:
    """Scores as a Tensor, in float64 if they are integers: differences of bytes would wrap around."""
    x = owned(x)
    return x if x.dtype.kind == "f" else x.astype("float64")


def _elements(name: str, prediction: Any, target: Any, mask: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Prediction, target and mask, checked to have one shape, with masked-out elements set to 0."""
    prediction = _floating(prediction)
    target = owned(target, prediction)
    if prediction.shape != target.shape:
        raise misfit(f"{name}: prediction {prediction.shape} and target {target.shape} differ in shape")
    if target.dtype.kind != "f":
        target = target.astype(prediction.dtype)
    mask = _mask(name, mask, prediction.shape, prediction)
    return _cleaned(prediction, mask), _cleaned(target, mask), mask


def _classes(
    name: str, scores: Any, targets: Any, ignore_index: int | None, mask: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scores, targets, and the mask without ignored targets, with masked-out elements set to 0."""
    scores, targets = _floating(scores), owned(targets)
    if targets.shape != scores.shape[:-1] or targets.dtype.kind not in "iu":
        raise misfit(
            f"{name}: targets {backend.signature(targets.array)} do not fit scores {backend.signature(scores.array)}; "
            f"they must be integers of shape {scores.shape[:-1]}, numbers of the classes that the last axis holds"
        )
    mask = _mask(name, mask, targets.shape, scores)
    if ignore_index is not None:
        kept = targets.astype(int) != ignore_index  # CuPy compares bytes with bytes only
        mask = kept if mask is None else kept * mask
    if mask is None:
        return scores, targets, None
    return _cleaned(scores, mask[..., None]), _cleaned(targets, mask), mask


def _weights(name: str, weight: Any, targets: Tensor, scores: Tensor) -> tuple[Any, Any]:
    """The weight of each class, and of each target."""
    if weight is None:
        return None, None
    weight = _constant(weight, scores)
    shape = getattr(weight, "shape", ())
    if shape != scores.shape[-1:]:
        raise ShapeError(f"{name}: there are {scores.shape[-1]} classes, but weight has shape {shape}")
    return weight, ops.embedding(targets, weight[:, None])[..., 0]


def _mask(name: str, mask: Any, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
    if mask is None:
        return None
    mask = owned(mask, like)
    if mask.shape != shape:
        raise misfit(f"{name}: the mask has shape {mask.shape}, but there are losses of shape {shape}")
    return mask


def _cleaned(values: Any, mask: Tensor | None) -> Any:
    """The values, set to 0 where the mask is 0: in backward, 0 times a NaN there would still be NaN."""
    return values if mask is None else ops.where(mask != 0, values, 0)


def reduced(name: str, losses: Tensor, mask: Any, weights: Any, reduction: str) -> Tensor:
    """The masked losses, their sum, or their mean. They are already multiplied by ``weights``."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: the reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    if reduction == "mean" and losses.dtype == np.float16:  # in which sums and counts soon leave the range
        weights = None if weights is None else weights.astype("float32")
        return reduced(name, losses.astype("float32"), mask, weights, reduction).astype("float16")
    if mask is not None:
        mask = mask.astype(losses.dtype)
        losses = _cleaned(losses, mask) * mask
    if reduction == "none":
        return losses
    if reduction == "sum" or not losses.size:
        return losses.sum()
    if mask is None and weights is None:
        return losses.mean()
    counted = (mask if weights is None else weights if mask is None else mask * weights).sum()
    return losses.sum() / ops.where(counted == 0, 1, counted)
