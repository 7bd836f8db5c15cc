"""Gradient clipping: by norm, by value, and of the messages between time steps.

Norms and scales are operations on the backend's own arrays, so the host waits for a device only where it must: to raise
or skip, it has to know whether all gradients are finite. That is one wait, however many parameters there are.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from . import backend
from .backend import Array, DTypeLike
from .grad_mode import no_grad
from .op import op
from .ops import clip, less, max, multiply, sum, where
from .tape import host_array
from .tensor import Tensor

Parameters = Iterable[Any]  # Tensors, or (name, Tensor) pairs as from ``named_parameters()``
Numbers = tuple[float, float, float, tuple[str, ...]]
Measure = Callable[..., tuple[list[float], list[float] | None]]  # norms after clipping; cosines, if directions changed


class ClipReport(Sequence[Any]):
    """What clipping did, as a tuple (norm, clipped_norm, angle, nonfinite) that is computed on first access.

    On a device, the host waits only at that access.
    """

    def __init__(self, measure: Callable[..., Numbers], *tensors: Tensor) -> None:
        self._measure: Callable[..., Numbers] | None = measure
        self.tensors = tensors  # the arguments of ``measure``

    def of(self, tensors: Iterable[Tensor]) -> ClipReport:
        """The report on the same clipping in another run, from that run's tensors."""
        return ClipReport(self._measure, *tensors) if self._measure else self

    @cached_property
    def _numbers(self) -> Numbers:
        assert self._measure is not None
        numbers = self._measure(*self.tensors)
        self._measure, self.tensors = None, ()  # releases the gradients
        return numbers

    def __getitem__(self, key: Any) -> Any:
        return self._numbers[key]

    def __len__(self) -> int:
        return 4

    @property
    def norm(self) -> float:
        """L2 norm of all gradients together, before clipping."""
        return self._numbers[0]

    @property
    def clipped_norm(self) -> float:
        """L2 norm of all gradients together, after clipping."""
        return self._numbers[1]

    @property
    def angle(self) -> float:
        """Angle between the gradients before and after, in radians; 0 if all were scaled alike."""
        return self._numbers[2]

    @property
    def nonfinite(self) -> tuple[str, ...]:
        """Names of gradients that held NaN or infinity; if any, the numbers are NaN and there is no update to make."""
        return self._numbers[3]

    @property
    def clipped(self) -> bool:
        """Whether anything changed."""
        return self.clipped_norm < self.norm

    def __float__(self) -> float:
        return self.norm

    def __format__(self, spec: str) -> str:
        return format(self.norm, spec) if spec else repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (tuple, ClipReport)) and self[:] == other[:]

    def __getstate__(self) -> dict[str, Any]:
        return {"_measure": None, "tensors": (), "_numbers": self._numbers}

    def __hash__(self) -> int:
        return hash(self[:])

    def __repr__(self) -> str:
        norm, clipped_norm, angle, nonfinite = self
        return f"ClipReport({norm=}, {clipped_norm=}, {angle=}, {nonfinite=})"


def clip_grad_norm_(
    parameters: Parameters, max_norm: float, per_parameter: bool = False, on_nonfinite: str = "raise"
) -> ClipReport:
    """Scale gradients down to an L2 norm of at most ``max_norm`` (Pascanu, Mikolov and Bengio 2013).

    g <- g * min(1, max_norm / ||g||), with the norm over all parameters together, or with ``per_parameter`` over each.

    parameters: Tensors, or (name, Tensor) pairs (``model.named_parameters()``), so that messages can name them.
    on_nonfinite: what to do about NaN or infinity anywhere in the gradients.
        "raise": raise FloatingPointError and change nothing; on a device, the host waits once.
        "skip": drop all gradients, so that the optimiser's next step does nothing; on a device, the host waits once.
        "zero": zero all gradients, without waiting. Plain SGD then makes no step, but momentum and Adam's averages
        decay and still move the parameters, and so does weight decay.

    >>> from tinygrad_rnn import tensor
    >>> w = tensor([3.0, 4.0], requires_grad=True)
    >>> (w * w / 2).sum().backward()
    >>> clip_grad_norm_([w], 1.0).norm, w.grad.numpy()
    (5.0, array([0.6, 0.8], dtype=float32))
    """

    def shrunk(gradients: list[Tensor], before: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        scales = factors(before, limit=min(max_norm, sys.float_info.max), together=not per_parameter)
        return [scaled(g, scales[k] if per_parameter else scales) for k, g in enumerate(gradients)], [scales]

    def measure(before: Tensor, scales: Tensor) -> tuple[list[float], list[float] | None]:
        after = multiply(before, scales).tolist()
        return after, [1.0] * len(after) if per_parameter else None

    return _clip("clip_grad_norm_", parameters, on_nonfinite, shrunk, measure, max_norm=max_norm)


def clip_grad_value_(parameters: Parameters, max_value: float, on_nonfinite: str = "raise") -> ClipReport:
    """Clip every element of every gradient to [-max_value, max_value].

    parameters, on_nonfinite: see ``clip_grad_norm_``.

    >>> from tinygrad_rnn import tensor
    >>> w = tensor([3.0, -0.5], requires_grad=True)
    >>> (w * w / 2).sum().backward()
    >>> clip_grad_value_([w], 1.0).clipped, w.grad.tolist()
    (True, [1.0, -0.5])
    """

    def held(gradients: list[Tensor], before: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        bound = float(max_value)  # an np.float64 would turn float32 into float64
        clipped = [clip(g, -bound, bound) for g in gradients]
        return clipped, [x.detach() for x in (*gradients, *clipped)]

    def measure(before: Tensor, *tensors: Tensor) -> tuple[list[float], list[float] | None]:
        gradients, clipped = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        after = norms(*clipped, dtype=np.float64)
        units = (where(size > 0, size, 1.0) for size in (before, after))
        pairs = zip(gradients, clipped, *units, strict=True)
        return after.tolist(), [((g / b) * (c / a)).sum().item() for g, c, b, a in pairs]

    return _clip("clip_grad_value_", parameters, on_nonfinite, held, measure, max_value=max_value)


@op
def clip_message(xp: Any, x: Array, *, bound: float) -> Array:
    """Return x; the backward pass clips each element of its gradient to [-bound, bound] (Graves 2013).

    Applied to each part of a cell's state, it clips the gradient that each time step sends to the one before.
    """
    if not bound > 0:
        raise ValueError(f"the bound must be above 0, not {bound}")
    return x


clip_message.vjp(x=lambda g, bound: clip(g, -bound, bound))


@op
def norms(xp: Any, *xs: Array, dtype: DTypeLike = None) -> Array:
    """L2 norms of arrays, y_k = ||x_k||, without overflow or underflow of squares; the gradient at 0 is 0."""
    found = backend.of(xs[0]).norms(xs)
    return found.astype(xs[0].dtype if dtype is None else dtype, copy=False)


norms.vjp(xs=lambda g, xs, y, k: xs[k] * (g[k] / where(y[k] == 0, 1.0, y[k])))


@op
def factors(xp: Any, norms: Array, *, limit: float, together: bool) -> Array:
    """Factors that bring norms down to a limit, y = min(1, limit / norm): one for each (n,), or for all together ()."""
    sizes = backend.of(norms).norms([norms])[0].astype(norms.dtype, copy=False) if together else norms
    return limit / xp.maximum(sizes, limit)


factors.vjp(
    norms=lambda g, norms, y, limit, together: (
        where(y < 1, g * y * y / -limit, 0) * (norms * (y / limit) if together else 1)
    )
)


@op
def scaled(xp: Any, x: Array, factor: Array, *, out: Array = None) -> Array:
    """x times a 0-d factor, in the dtype of x; on the host, x itself if the factor is 1 and ``out`` is None or x."""
    if xp is np and factor == 1 and (out is None or out is x):
        return x
    return xp.multiply(x, factor.astype(x.dtype, copy=False), out=out)


scaled.op.overwrites = True
scaled.vjp(x=lambda g, factor: g * factor, factor=lambda g, x: sum(g * x))


@op
def refuse_nonfinite(xp: Any, norms: Array, *, caller: str, names: tuple[str, ...]) -> Array:
    """Return the norms if all are finite, else raise FloatingPointError with the names of those that are not."""
    if bad := _nonfinite(host_array(norms).tolist(), names):
        raise FloatingPointError(f"{caller}: the gradient of {', '.join(bad)} is not finite; nothing was changed")
    return norms


refuse_nonfinite.vjp(norms=lambda g: g)
refuse_nonfinite.op.waits = True


@no_grad()
def _clip(
    caller: str,
    parameters: Parameters,
    on_nonfinite: str,
    change: Callable[[list[Tensor], Tensor], tuple[list[Tensor], list[Tensor]]],
    measure: Measure,
    **bound: float,
) -> ClipReport:
    """Replace the gradients of parameters by what ``change`` returns for them; the rest as in its callers."""
    for name, value in bound.items():
        if not value > 0:
            raise ValueError(f"{caller}: {name} must be above 0, not {value}")
    if on_nonfinite not in ("raise", "skip", "zero"):
        raise ValueError(f"{caller}: on_nonfinite is 'raise', 'skip' or 'zero', not {on_nonfinite!r}")
    found = _with_gradients(parameters)
    if not found:
        return ClipReport(lambda: (0.0, 0.0, 0.0, ()))
    names, gradients = tuple(found.values()), [p.grad for p in found]
    before = norms(*gradients, dtype=np.float64)
    if on_nonfinite == "raise":
        before = refuse_nonfinite(before, caller=caller, names=names)
    if on_nonfinite == "skip" and (bad := _nonfinite(before.tolist(), names)):
        for p in found:
            p.grad = None
        return ClipReport(lambda: (math.nan, math.nan, math.nan, bad))
    usable = before
    if on_nonfinite == "zero":
        sound = less(max(before), math.inf)
        gradients, usable = [where(sound, g, 0.0) for g in gradients], where(sound, before, 0.0)
    clipped, measured = change(gradients, usable)
    for p, g in zip(found, clipped, strict=True):
        if p.grad.requires_grad:  # its graph needs the old values
            p.grad = g
        else:
            p.grad.array = g.array
    return ClipReport(partial(_numbers, names, measure), before, *measured)


def _with_gradients(parameters: Parameters) -> dict[Any, str]:
    """The parameters with a gradient, each once, and their names."""
    several = isinstance(parameters, Iterable) and not isinstance(parameters, (Tensor, str, dict))
    names: dict[Any, str] = {}
    for i, entry in enumerate(parameters if several else [parameters]):
        match entry:
            case Tensor():
                names.setdefault(entry, f"parameter {i} {list(entry.shape)}")
            case (str(name), Tensor() as p):
                names.setdefault(p, name)
            case _:  # two parameters of one layer in a list of their own are no name and parameter
                raise TypeError(
                    "clip: parameters are Tensors, or pairs of name and Tensor, such as model.parameters(), not a "
                    f"{type(entry).__name__}; those of two modules are one list, [*encoder.parameters(), "
                    "*decoder.parameters()]"
                )
    if not names and isinstance(parameters, Iterator):
        told = "nothing is clipped: the iterator of parameters is empty (a generator can be read only once)"
        warnings.warn(f"clip: {told}", stacklevel=5)
    return {p: name for p, name in names.items() if p.grad is not None}


def _nonfinite(sizes: list[float], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name, size in zip(names, sizes, strict=True) if not math.isfinite(size))


def _numbers(names: Sequence[str], measure: Measure, norms: Tensor, *measured: Tensor) -> Numbers:
    """The content of a report: total norms and angle, from the norms and cosines of the single gradients."""
    before = norms.tolist()
    if bad := _nonfinite(before, names):
        return math.nan, math.nan, math.nan, bad
    after, cosines = measure(norms, *measured)
    norm, clipped, angle = math.hypot(*before), math.hypot(*after), 0.0
    if cosines is not None and 0 < clipped < norm:
        shares = zip(before, after, cosines, strict=True)
        angle = math.acos(min(1.0, math.fsum((b / norm) * (a / clipped) * cosine for b, a, cosine in shares)))
    return norm, clipped, angle, ()
