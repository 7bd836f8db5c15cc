"""Gradient clipping, in the forms that go by that name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from . import backend
from .backend import Array
from .op import op
from .ops import clip
from .tensor import Tensor


class ClipReport(NamedTuple):
    """What clipping did."""

    norm: float  # L2 norm of all gradients together, before
    clipped_norm: float  # and after
    angle: float  # radians between the two; 0 when all gradients were scaled alike
    nonfinite: tuple[
        str, ...
    ] = ()  # gradients that held NaN or infinity; then nothing was clipped, and all were dropped

    @property
    def clipped(self) -> bool:
        """Whether anything changed."""
        return self.clipped_norm < self.norm


Parameters = Iterable[Any]  # of Tensors, or of pairs of name and Tensor, as ``named_parameters()`` gives them


def clip_grad_norm_(
    parameters: Parameters, max_norm: float, per_parameter: bool = False, on_nonfinite: str = "raise"
) -> ClipReport:
    """Scale gradients down to an L2 norm of at most ``max_norm`` (Pascanu, Mikolov and Bengio 2013).

    g <- g * min(1, max_norm / ||g||), with the norm over all parameters together, or ``per_parameter`` over each.
    parameters: Tensors, or pairs of name and Tensor (``model.named_parameters()``), so that messages can name them.
    on_nonfinite: what to do about NaN or infinity: "raise" FloatingPointError, which changes nothing; or "skip": drop
    all gradients, so that the optimiser's next step does nothing.

    >>> from tinygrad_rnn import tensor
    >>> w = tensor([3.0, 4.0], requires_grad=True)
    >>> (w * w / 2).sum().backward()
    >>> clip_grad_norm_([w], 1.0).norm, w.grad.numpy()
    (5.0, array([0.6, 0.8], dtype=float32))
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm_: max_norm must be above 0, not {max_norm}")
    found = _gradients(parameters, "clip_grad_norm_", on_nonfinite)
    norms = [_norm(g.array) for _, _, g in found]
    bad = tuple(name for (name, _, _), norm in zip(found, norms, strict=True) if not math.isfinite(norm))
    if bad:
        return _nonfinite("clip_grad_norm_", found, bad, on_nonfinite)
    total = math.hypot(*norms)
    scales = [min(1.0, max_norm / norm) if norm else 1.0 for norm in (norms if per_parameter else [total] * len(norms))]
    for (_, p, g), scale in zip(found, scales, strict=True):
        if scale < 1:
            _put(p, g, g.array * scale)
    after = math.hypot(*(norm * scale for norm, scale in zip(norms, scales, strict=True)))
    angle = 0.0
    if per_parameter and total:
        cosine = sum((norm / total) * (norm * scale / after) for norm, scale in zip(norms, scales, strict=True))
        angle = math.acos(min(1.0, cosine))
    return ClipReport(total, after, angle)


def clip_grad_value_(parameters: Parameters, max_value: float, on_nonfinite: str = "raise") -> ClipReport:
    """Hold every element of every gradient between -max_value and max_value."""
    if not max_value > 0:
        raise ValueError(f"clip_grad_value_: max_value must be above 0, not {max_value}")
    found = _gradients(parameters, "clip_grad_value_", on_nonfinite)
    before = [_norm(g.array) for _, _, g in found]
    bad = tuple(name for (name, _, _), norm in zip(found, before, strict=True) if not math.isfinite(norm))
    if bad:
        return _nonfinite("clip_grad_value_", found, bad, on_nonfinite)
    total, dot = math.hypot(*before), 0.0
    after = []
    for (_, p, g), norm in zip(found, before, strict=True):
        clipped = g.array.clip(-max_value, max_value)
        after.append(_norm(clipped))
        if norm and after[-1]:
            dot += float(((g.array / norm) * (clipped / after[-1])).sum()) * norm * after[-1] / total
        _put(p, g, clipped)
    new = math.hypot(*after)
    return ClipReport(total, new, math.acos(min(1.0, dot / new)) if 0 < new < total else 0.0)


@op
def clip_message(xp: Any, x: Array, *, bound: float) -> Array:
    """x itself; on the way back each element of its gradient is held within -bound and bound (Graves 2013).

    Put round the state of a cell, it clips the message that each time step sends to the one before.
    """
    return x


clip_message.vjp(x=lambda g, bound: clip(g, low=-bound, high=bound))


def _gradients(parameters: Parameters, caller: str, on_nonfinite: str) -> list[tuple[str, Tensor, Tensor]]:
    """(name, parameter, gradient) of every parameter that has one."""
    if on_nonfinite not in ("raise", "skip"):
        raise ValueError(f"{caller}: on_nonfinite is 'raise' or 'skip', not {on_nonfinite!r}")
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    found = []
    for i, entry in enumerate(parameters):
        name, p = (f"parameter {i} {list(entry.shape)}", entry) if isinstance(entry, Tensor) else entry
        if p.grad is not None:
            found.append((name, p, p.grad))
    return found


def _put(p: Tensor, g: Tensor, array: Array) -> None:
    """Give p's gradient g other values. One with history is part of a graph, which keeps the old ones."""
    array = backend.of(p.array).xp.asarray(array)  # NumPy makes scalars of 0-d results
    if g.requires_grad:
        p.grad = Tensor.wrap(array)
    else:
        g.array = array


def _norm(g: Array) -> float:
    """L2 norm, also where the squares of float32 numbers would overflow or vanish."""
    flat = g.ravel()
    with np.errstate(over="ignore"):
        square = float(flat.dot(flat))
    if 1e-30 < square < 1e30:
        return math.sqrt(square)
    xp = backend.of(g).xp
    largest = float(xp.abs(flat).max()) if flat.size else 0.0
    if not math.isfinite(largest) or largest == 0.0:
        return largest
    flat = flat / largest
    return largest * math.sqrt(float(flat.dot(flat)))


def _nonfinite(
    caller: str, found: list[tuple[str, Tensor, Tensor]], bad: tuple[str, ...], on_nonfinite: str
) -> ClipReport:
    if on_nonfinite == "raise":
        raise FloatingPointError(f"{caller}: the gradient of {', '.join(bad)} is not finite; nothing was changed")
    for _, p, _ in found:
        p.grad = None
    return ClipReport(math.nan, math.nan, math.nan, bad)
