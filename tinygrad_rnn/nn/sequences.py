"""Sequences of unequal length: padding, masks, last outputs, and means over time.

A mask (T, B) is True or 1 where a step is real. Any pattern works, even gaps and rows without a real step. ``lengths``
(B,) stand for the mask ``t < length``. Sequences are time-major unless ``batch_first``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import backend, ops
from ..backend import Array, signature
from ..op import op
from ..ops import where
from ..tape import bare_array
from ..tensor import Tensor


def padded(sequences: Iterable[Any], value: float = 0, batch_first: bool = False) -> tuple[Any, np.ndarray]:
    """Pad sequences of unequal length with a value, to (T, B, ...); also returns their lengths (B,).

    sequences: arrays, Tensors or lists, each (steps, ...). Gradients flow back to Tensors.

    Raises ValueError for no sequences.

    >>> xs, lengths = padded([[1, 2, 3], [4]])
    >>> xs.T.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, 0, 0]], [3, 1])
    """
    rows = [x if hasattr(x, "shape") else backend.as_array(x, backend="numpy") for x in sequences]
    if not rows:
        raise ValueError("padded: at least one sequence is needed")
    like = next((x for x in rows if x.size), rows[0])
    rows = [x if x.size else x.astype(like.dtype) for x in rows]  # an empty list says nothing of its dtype
    lengths = np.array([len(x) for x in rows])
    widths = [((0, int(lengths.max()) - len(x)), *((0, 0),) * (x.ndim - 1)) for x in rows]
    filled = [ops.pad(x, widths=width, value=value) for x, width in zip(rows, widths, strict=True)]
    return ops.stack(filled, axis=0 if batch_first else 1), lengths


def length_mask(lengths: Any, steps: int) -> Any:
    """The mask of real steps, (steps, B): True where t < length.

    lengths: (B,) integers from 0 to steps, as a list, an array or a Tensor.

    Raises TypeError if they are not integers, ValueError if they are not of shape (B,) or out of range. The range is
    not checked on a device, where the host would have to wait; a length beyond the end then means all steps.

    >>> length_mask([2, 0, 1], 2).tolist()
    [[True, False, True], [True, False, False]]
    """
    if not hasattr(lengths, "shape"):
        lengths = np.asarray(lengths)
        lengths = lengths if lengths.size else lengths.astype(int)  # NumPy makes an empty list float64
    bare = backend.plain(bare_array(lengths))
    if bare.dtype.kind not in "iu":
        cure = "; a mask is given as mask=" if bare.dtype.kind == "b" else ""
        raise TypeError(f"lengths: integers are needed, one for each row, not {signature(bare)}{cure}")
    if bare.ndim != 1:
        raise ValueError(f"lengths: one for each row is needed, shape (B,), not {signature(bare)}")
    return ops.less(backend.of(bare).xp.arange(steps)[:, None], lengths_within(lengths, longest=steps))


@op(name="lengths")
def lengths_within(xp: Any, lengths: Array, *, longest: int, name: str = "lengths") -> Array:
    """Lengths as they are; ValueError unless all run from 0 to ``longest``. A device does not look: it would wait."""
    if isinstance(lengths, np.ndarray) and lengths.size and not 0 <= lengths.min() <= lengths.max() <= longest:
        row = int(np.argmax((lengths < 0) | (lengths > longest)))
        raise ValueError(f"row {row} has length {lengths[row]}, but {name} run from 0 to {longest}")
    return lengths


lengths_within.vjp(lengths=None)


def time_major(who: str, x: Any, lengths: Any = None, mask: Any = None, batch_first: bool = False) -> tuple[Any, Any]:
    """A sequence as (T, B, ...), and its mask (T, B) of booleans on the same backend, or None if all steps are real.

    who: the name to use in errors. x: (T, B, ...), or (B, T, ...) with batch_first, and likewise the mask.

    Raises TypeError if x is not an array, and ValueError for zero steps or for lengths or a mask that do not fit.
    """
    if not hasattr(x, "shape"):
        cure = "; join its steps with tg.stack" if isinstance(x, (list, tuple)) else ""
        raise TypeError(f"{who}: the sequence must be one Tensor or array, not a {type(x).__name__}{cure}")
    shape, time = x.shape, int(batch_first)
    if len(shape) <= time or not shape[time]:
        which = "second" if batch_first else "first"
        raise ValueError(f"{who}: there are no time steps in inputs of shape {shape}; time is the {which} axis")
    if lengths is not None and mask is not None:
        raise ValueError(f"{who}: give lengths or a mask, not both")
    if mask is not None:
        mask = beside(mask, x)
        if mask.shape != shape[:2]:
            axes = "batch and steps" if batch_first else "steps and batch"
            raise ValueError(f"{who}: the mask has shape {mask.shape}, but {axes} are {shape[:2]}")
        mask = ops.swapaxes(mask, 0, 1) if batch_first else mask
    elif lengths is not None:
        mask = beside(length_mask(lengths, shape[time]), x)
        if mask.shape[1:] != shape[1 - time : 2 - time]:
            raise ValueError(f"{who}: there are {mask.shape[1]} lengths, but inputs of shape {shape}")
    return ops.swapaxes(x, 0, 1) if batch_first else x, mask


def beside(mask: Any, x: Any) -> Any:
    """A mask as booleans; one on the host is moved to the backend of x."""
    mask = backend.plain(mask) if hasattr(mask, "shape") else np.asarray(mask)
    mask = mask if mask.dtype.kind == "b" else as_mask(mask)
    return backend.of(bare_array(x)).from_host(mask) if isinstance(mask, np.ndarray) else mask


@op(name="mask")
def as_mask(xp: Any, mask: Array) -> Array:
    """True where a mask is 1; ValueError if it holds other numbers than 0 and 1, for which a device does not look."""
    if isinstance(mask, np.ndarray) and (strange := mask[(mask != 0) & (mask != 1)]).size:
        raise ValueError(f"a mask holds True or 1 and False or 0, but in this one is {strange[0]}; mask != 0 makes one")
    return mask != 0


as_mask.vjp(mask=None)


def over(mask: Any, x: Any) -> Any:
    """A mask of the first axes of x, with axes of length 1 added for the others."""
    return mask if mask.ndim == x.ndim else mask.reshape(mask.shape[: x.ndim] + (1,) * (x.ndim - mask.ndim))


def last(
    outputs: Any, lengths: Any = None, mask: Any = None, direction: str = "forward", batch_first: bool = False
) -> Tensor:
    """Each row's last output: (B, ...), from outputs (T, B, ...). Rows without a real step get 0.

    direction: "forward" takes the last real step; "reverse" takes the first, where a layer that reads backwards ends;
        "both" is for ``Bidirectional``, and takes half of the features from each.

    Raises ValueError for other directions, and for lengths or masks that do not fit.

    >>> from tinygrad_rnn import tensor
    >>> last(tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), lengths=[1, 2]).tolist()
    [[1.0], [4.0]]
    """
    if direction not in ("forward", "reverse", "both"):
        raise ValueError(f"last: the direction is 'forward', 'reverse' or 'both', not {direction!r}")
    outputs, mask = time_major("last", outputs, lengths, mask, batch_first)
    if direction == "both":
        onward, back = ops.split(outputs, 2, axis=-1)
        return ops.concatenate([_at_end(onward, mask, False), _at_end(back, mask, True)], axis=-1)
    return _at_end(outputs, mask, direction == "reverse")


def _at_end(outputs: Any, mask: Any, reverse: bool) -> Any:
    steps = outputs.shape[0]
    if mask is None:
        return outputs[0 if reverse else steps - 1]
    found = mask if reverse else ops.flip(mask, axis=0)
    at = ops.argmax(found, axis=0)  # the first real step from that side
    at = over(at if reverse else steps - 1 - at, outputs[0])
    picked = ops.take_along_axis(outputs, ops.expand_dims(at, axis=0), axis=0)[0]
    return where(over(ops.any(mask, axis=0), picked), picked, 0)


def mean(outputs: Any, lengths: Any = None, mask: Any = None, batch_first: bool = False) -> Tensor:
    """The mean over each row's real steps: (B, ...), from outputs (T, B, ...). Rows without a real step get 0.

    >>> from tinygrad_rnn import tensor
    >>> mean(tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), lengths=[1, 2]).tolist()
    [[1.0], [3.0]]
    """
    outputs, mask = time_major("mean", outputs, lengths, mask, batch_first)
    if mask is None:
        return ops.mean(outputs, axis=0)
    if outputs.dtype.kind != "f":
        outputs = ops.astype(outputs, dtype="float64")  # as without a mask
    if outputs.dtype == np.float16:  # in which sums stop growing at 2048, and counts end at 65504
        return ops.astype(mean(ops.astype(outputs, dtype="float32"), mask=mask), dtype="float16")
    total = ops.sum(where(over(mask, outputs), outputs, 0), axis=0)
    count = ops.maximum(ops.sum(mask, axis=0), 1)
    return total / over(ops.astype(count, dtype=outputs.dtype), total)
