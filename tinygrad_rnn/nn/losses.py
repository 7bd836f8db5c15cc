"""Losses: the mean over the elements that count, or with ``reduction`` their "sum", or with "none" one by one."""

from __future__ import annotations

from typing import Any

from .. import backend, ops
from ..tape import Taped
from ..tensor import Tensor


def _array(x: Any) -> Any:
    return x.array if isinstance(x, Taped) else x


def _reduce(name: str, losses: Any, weights: Any, reduction: str) -> Tensor:
    """The mean weighted by ``weights`` (a mask is weights of 0 and 1), the sum, or the losses as they are."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: the reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    if weights is None:
        return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()
    if tuple(weights.shape) != tuple(losses.shape):
        raise ValueError(
            f"{name}: the mask has shape {tuple(weights.shape)}, but there are losses of shape {losses.shape}"
        )
    weights = weights.astype(losses.dtype)
    losses = ops.where(weights != 0, losses, 0) * weights  # not just times 0: what is masked may be NaN
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.sum() / weights.sum()


def cross_entropy(
    logits: Any,
    targets: Any,
    *,
    ignore_index: int | None = None,
    mask: Any = None,
    weight: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """-log softmax(logits)[target], in nats.

    logits: (..., classes). targets: (...), integers.
    ignore_index: a target that does not count. mask: (...), which elements count, or how much.
    weight: (classes,), how much each class counts.

    >>> from tinygrad_rnn import nn, tensor, zeros
    >>> round(nn.cross_entropy(zeros(3, 4), tensor([0, 1, 2])).item(), 4)
    1.3863
    """
    targets, weights = _counted(targets, ignore_index, mask, weight)
    return _reduce("cross_entropy", ops.cross_entropy(logits, targets), weights, reduction)


def nll_loss(
    log_probabilities: Any,
    targets: Any,
    *,
    ignore_index: int | None = None,
    mask: Any = None,
    weight: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """-log_probabilities[target]: what ``cross_entropy`` is for the output of ``log_softmax``."""
    targets, weights = _counted(targets, ignore_index, mask, weight)
    backend.of(targets).check_indices(targets, log_probabilities.shape[-1], "nll_loss: the target")
    picked = ops.take_along_axis(log_probabilities, targets[..., None], axis=-1)
    return _reduce("nll_loss", -ops.squeeze(picked, axis=-1), weights, reduction)


def _counted(targets: Any, ignore_index: int | None, mask: Any, weight: Any) -> tuple[Any, Any]:
    """Targets with 0 for those to ignore, and how much each counts (None: all alike), as arrays."""
    targets, weights, weight = _array(targets), _array(mask), _array(weight)
    if ignore_index is not None:
        kept = targets != ignore_index
        weights = kept if weights is None else kept * weights
        targets = targets * kept
    if weight is not None:
        weights = weight[targets] if weights is None else weight[targets] * weights
    return targets, weights


def mse_loss(prediction: Any, target: Any, *, mask: Any = None, reduction: str = "mean") -> Tensor:
    """(prediction - target)^2. The shapes must be equal: a broadcast here is nearly always a mistake."""
    _same_shape("mse_loss", prediction, target)
    difference = prediction - target
    return _reduce("mse_loss", difference * difference, _array(mask), reduction)


def binary_cross_entropy_with_logits(logits: Any, target: Any, *, mask: Any = None, reduction: str = "mean") -> Tensor:
    """-(target log sigmoid(logits) + (1 - target) log(1 - sigmoid(logits))), without overflow."""
    _same_shape("binary_cross_entropy_with_logits", logits, target)
    return _reduce("binary_cross_entropy_with_logits", ops.softplus(logits) - logits * target, _array(mask), reduction)


def _same_shape(name: str, prediction: Any, target: Any) -> None:
    if tuple(prediction.shape) != tuple(target.shape):
        raise ValueError(
            f"{name}: prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape"
        )
