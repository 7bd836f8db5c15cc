"""Connectionist temporal classification: a loss for label sequences with unknown alignment to the input."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend, ops
from ..backend import Array
from ..op import op
from ..tape import bare_array, host_array
from ..tensor import Tensor, owned, tensor
from ..whereabouts import ShapeError, misfit
from .ctc_paths import NEVER, path_sums
from .losses import reduced
from .sequences import lengths_within


def ctc_loss(
    log_probabilities: Any,
    targets: Any,
    input_lengths: Any = None,
    target_lengths: Any = None,
    *,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log of the probability of a label sequence, summed over its alignments with the input (Graves et al. 2006).

    An alignment assigns a label or the blank to each time step; merging repeats and then dropping blanks yields the
    label sequence. Let l' be the labels with blanks before, between and after them. The probability that the first t
    steps yield the first s symbols of l' is

    alpha_t(s) = p_t(l'_s) (alpha_{t-1}(s) + alpha_{t-1}(s-1) + alpha_{t-1}(s-2) if l'_s is neither blank nor l'_{s-2})

    computed in log space for the whole batch at once. Its derivative is the backward recursion of the paper.

    log_probabilities: (T, B, classes), from ``log_softmax``. Other scores are summed in the same way, and their
    loss may fall below 0; ``lint`` finds logits that were given by mistake.
    targets: integers, (B, S), or all sequences concatenated, (sum of target_lengths,).
    input_lengths, target_lengths: (B,), the number of real steps and labels in each row; None means all. Values beyond
    them are ignored.
    blank: the class that means no label.
    reduction: "none" gives the losses, (B,); "sum" their sum; "mean" divides each by its number of labels (at least 1)
    and then takes the mean, as in PyTorch.
    zero_infinity: a target that needs more steps than the input has gets a loss of 0 instead of inf. Either way, its
    gradient is 0.

    Losses, and gradients for the logits before ``log_softmax``, equal PyTorch's. The gradient for log_probabilities is
    the true one, -p(class at t | targets); PyTorch adds the softmax to it, which ``log_softmax`` removes in backward.

    Raises ShapeError for shapes that do not fit, and ValueError for lengths out of range and for labels that are blank
    or not a class. On a device only shapes are checked, as reading values would mean waiting for it.

    >>> from tinygrad_rnn import log_softmax, zeros
    >>> losses = ctc_loss(log_softmax(zeros(3, 2, 2)), np.array([[1, 0], [1, 1]]), None, [1, 2], reduction="none")
    >>> np.exp(-losses.numpy()) * 2**3  # of 8 alignments, how many read "1", and how many "1 1"
    array([6., 1.], dtype=float32)
    """
    scores = owned(log_probabilities)
    if scores.dtype == np.float16:  # which has no log of nearly 0
        wide = scores.astype("float32")
        options: dict[str, Any] = {"blank": blank, "reduction": reduction, "zero_infinity": zero_infinity}
        return ctc_loss(wide, targets, input_lengths, target_lengths, **options).astype("float16")
    steps, batch, classes = _three_axes(scores)
    given, counts = _beside(scores, targets), _beside(scores, target_lengths)
    rows = _rows(given, counts, batch)
    labels = _lengths("target_lengths", counts, scores, rows.shape[1])
    inputs = _lengths("input_lengths", _beside(scores, input_lengths), scores, steps)
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank {blank} is not among {classes} classes")
    rows = labels_among(rows, labels, classes=classes, blank=blank)
    symbols = _symbols(rows, labels, blank)

    # Path sums by the symbol reached, for the whole batch. Impossible paths have the log NEVER.
    xp = backend.of(scores.array).xp
    two_before = ops.pad(symbols, widths=((0, 0), (2, 0)), value=blank)[:, :-2]
    skips = (symbols != blank) * (symbols != two_before)
    at = ops.broadcast_to(symbols, shape=(steps, *symbols.shape))
    emitted = ops.clip(ops.take_along_axis(scores, at, axis=-1), min=NEVER)
    if input_lengths is None:
        alpha = path_sums(emitted, skips)[-1]
    else:
        running = ops.less(xp.arange(steps)[:, None], inputs)[..., None]
        alphas = path_sums(ops.where(running, emitted, 0), skips)
        start = ops.broadcast_to(_log(ops.equal(xp.arange(symbols.shape[1]), 0), scores), shape=(1, *symbols.shape))
        alpha = ops.concatenate([start, alphas])[inputs, xp.arange(batch)]
    ends = ops.stack([2 * labels, ops.maximum(2 * labels - 1, 0)], axis=1)  # the last blank, and the last label if any
    exist = ops.stack([labels >= 0, labels > 0], axis=1)
    total = ops.logsumexp(ops.take_along_axis(alpha, ends, axis=-1) + _log(exist, scores), axis=-1)
    losses = ops.where(total > NEVER / 2, -total, 0.0 if zero_infinity else float("inf"))
    if reduction == "mean":
        losses = losses / ops.astype(ops.maximum(labels, 1), dtype=scores.dtype)
    return reduced("ctc_loss", losses, None, None, reduction)


def ctc_greedy_decode(scores: Any, lengths: Any = None, *, blank: int = 0) -> list[list[int]]:
    """Label sequences from the best class of each step, with repeats merged and blanks dropped.

    scores: (T, B, classes), log-probabilities or logits. lengths: (B,), the number of real steps in each row.

    >>> ctc_greedy_decode(np.eye(3)[[1, 1, 0, 1, 2]][:, None])
    [[1, 1, 2]]
    """
    scores = owned(scores)
    steps, _, _ = _three_axes(scores)
    counts = host_array(_lengths("lengths", _beside(scores, lengths), scores, steps))
    best = host_array(scores.argmax(axis=-1))
    found = []
    for row, count in zip(best.T, counts, strict=True):
        path = row[:count]
        starts = np.diff(path, prepend=-1) != 0
        found.append(path[starts & (path != blank)].tolist())
    return found


def _three_axes(scores: Any) -> tuple[int, int, int]:
    if scores.ndim != 3 or not scores.shape[0]:
        raise misfit(f"ctc: scores of shape {scores.shape} must be (time, batch, classes), with at least one time step")
    return scores.shape


def _beside(scores: Tensor, x: Any) -> Tensor | None:
    """Integers as a Tensor on the backend of the scores, without a copy if they are there already."""
    if x is None:
        return None
    array = bare_array(x)
    if backend.is_array(array) and backend.of(array) is backend.of(scores.array):
        return owned(x)
    host = host_array(array)
    return tensor(host if host.size else host.astype(np.int64), backend=scores.backend)


def _lengths(name: str, lengths: Tensor | None, scores: Tensor, longest: int) -> Tensor:
    """Lengths (B,) as int64, checked for range; ``longest`` for every row if None."""
    batch = scores.shape[1]
    if lengths is None:
        return tensor(np.full(batch, longest), backend=scores.backend)
    if lengths.shape != (batch,) or lengths.dtype.kind not in "iu":
        raise ShapeError(f"ctc: {name} must be {batch} integers, not {lengths.dtype} of shape {lengths.shape}")
    return lengths_within(lengths, longest=longest, name=name).astype(np.int64)  # type: ignore[no-any-return]


def _rows(targets: Tensor | None, lengths: Tensor | None, batch: int) -> Tensor:
    """Targets as (B, S); concatenated ones are split on the host."""
    if targets is None or targets.dtype.kind not in "iu" or targets.ndim not in (1, 2):
        raise ShapeError(f"ctc_loss: targets must be integers (batch, labels), not {targets!r}")
    if targets.ndim == 2:
        if len(targets) != batch:
            raise ShapeError(
                f"ctc_loss: there are {len(targets)} rows of targets, but {batch} of log-probabilities; targets are "
                "(batch, labels): targets.T for what is (labels, batch), or nn.padded(labels, batch_first=True)"
            )
        return targets.astype(np.int64)
    counts = np.zeros(batch, np.int64) if lengths is None else host_array(lengths)
    if counts.shape != (batch,) or counts.min(initial=0) < 0 or counts.sum() != len(targets):
        raise ShapeError(
            f"ctc_loss: {len(targets)} labels one after another need target_lengths for {batch} rows that add up to "
            f"that, not {counts.tolist()}"
        )
    rows = np.zeros((batch, counts.max(initial=0)), np.int64)
    rows[np.arange(rows.shape[1]) < counts[:, None]] = host_array(targets)
    return tensor(rows, backend=targets.backend)


@op(name="ctc_loss")
def labels_among(xp: Any, rows: Array, lengths: Array, *, classes: int, blank: int) -> Array:
    """Labels as they are; ValueError unless all within their lengths are classes. A device does not look."""
    if isinstance(rows, np.ndarray):
        real = np.arange(rows.shape[1]) < lengths[:, None]
        wrong = rows[real & ((rows < 0) | (rows >= classes) | (rows == blank))]
        if wrong.size:
            raise ValueError(f"label {wrong[0]} is not among {classes} classes, or it is the blank, {blank}")
    return rows


labels_among.vjp(rows=None, lengths=None)


def _symbols(rows: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """Labels with blanks before, between and after them, (B, 2 S + 1)."""
    batch, width = rows.shape
    place = backend.of(rows.array).xp.arange(width)
    labels = ops.where(ops.less(place, lengths[:, None]), rows, blank)
    pairs = ops.reshape(ops.stack([0 * labels + blank, labels], axis=-1), shape=(batch, 2 * width))
    return ops.pad(pairs, widths=((0, 0), (0, 1)), value=blank)


def _log(holds: Any, scores: Tensor) -> Any:
    """log 1 where a condition holds and log 0 (``NEVER``) elsewhere, in the dtype of the scores."""
    return ops.astype(ops.where(holds, 0.0, NEVER), dtype=scores.dtype)
