"""The gradient of a parameter, split by the time of the loss and the time of the parameter's use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .. import tape
from ..backward import walk
from ..extras import import_extra
from ..nn import Module
from ..tape import GraphError, Leaf, host_array
from ..tensor import Tensor, filled_like
from .pictures import ribbons


class LagMap:
    """The gradient of a sum of losses, split into dl_t / dW_s by loss t and use s: NumPy arrays by parameter name.

    steps: the number of steps, T.
    norms: (T, T), at [t, s] the norm of dl_t / dW_s; 0 where s > t.
    by_lag: (T,), at [d] the norm of the sum of all dl_t / dW_s with lag t - s = d.
    gradients: the sum of all dl_t / dW_s, which is the gradient of the sum of the losses.
    contributions: (T, T, *shape), at [t, s] dl_t / dW_s itself, if kept.

    Its repr has a line for each parameter, with a character for each lag.
    """

    def __init__(self, steps: int, shapes: Mapping[str, tuple[int, ...]], dtype: Any, keep: bool):
        self.steps = steps
        self.norms = {name: np.zeros((steps, steps)) for name in shapes}
        self.contributions = {name: np.zeros((steps, steps, *shapes[name]), dtype) for name in shapes} if keep else None
        self._lags = {name: np.zeros((steps, *shapes[name]), dtype) for name in shapes}

    def add(self, name: str, t: int, s: int, contribution: np.ndarray) -> None:
        """Add dl_t / dW_s of a parameter W."""
        self.norms[name][t, s] = np.linalg.norm(contribution)
        self._lags[name][t - s] += contribution
        if self.contributions is not None:
            self.contributions[name][t, s] = contribution

    @property
    def by_lag(self) -> dict[str, np.ndarray]:
        """The norm of the gradient that arrives with each lag."""
        return {name: np.linalg.norm(lags.reshape(self.steps, -1), axis=1) for name, lags in self._lags.items()}

    @property
    def gradients(self) -> dict[str, np.ndarray]:
        """The gradient of the sum of the losses."""
        return {name: lags.sum(axis=0) for name, lags in self._lags.items()}

    def masked(self, reached: Any) -> dict[str, np.ndarray]:
        """The gradients with each dl_t / dW_s multiplied by a factor, such as 0 or 1: reached[t, s], shape (T, T).

        Raises ValueError if the contributions were not kept.
        """
        if self.contributions is None:
            raise ValueError("masked: the contributions were not kept; call gradient_by_lag(..., keep=True)")
        factors = np.asarray(reached, dtype=float)
        if factors.shape != (self.steps, self.steps):
            raise ValueError(f"masked: {self.steps} steps need an array of {(self.steps,) * 2}, not {factors.shape}")
        return {name: np.tensordot(factors, parts, axes=2) for name, parts in self.contributions.items()}

    def __repr__(self) -> str:
        return ribbons(f"LagMap, lags 0 to {self.steps - 1}", self.by_lag)

    def plot(self) -> Any:
        """A matplotlib Figure: the map of all parameters together on the left, the norm by lag of each on the right.

        Raises ImportError if matplotlib is not installed.
        """
        figure = import_extra("matplotlib.figure", "LagMap.plot").Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        total = np.sqrt(sum(norms**2 for norms in self.norms.values()))
        decades = np.log10(total, out=np.full_like(total, np.nan), where=total > 0)
        image = left.imshow(decades, cmap="viridis", interpolation="nearest")
        figure.colorbar(image, ax=left, label="log10 of the norm")
        left.set(xlabel="use in step s", ylabel="loss of step t", title="Who learns from whom")
        for name, norms in self.by_lag.items():
            right.plot(np.where(norms > 0, norms, np.nan), ".-", label=name)
        right.set_yscale("log")
        right.set(xlabel="lag t - s, in steps", ylabel="norm of the gradient", title="How far back the gradient comes")
        right.legend()
        right.grid(alpha=0.3)
        return figure


def gradient_by_lag(
    step: Callable[[Any, Any], tuple[Any, Any]], xs: Iterable[Any], state: Any, parameters: Any, *, keep: bool = False
) -> LagMap:
    """The gradient of sum_t l_t for some parameters, split into dl_t / dW_s, with W_s the parameter as used in step s.

    The lower triangle of dl_t / dW_s adds up to the gradient. Truncated BPTT leaves out the long lags; where gradients
    vanish, they are 0 (Hochreiter 1991; Pascanu, Mikolov and Bengio 2013).

    step, xs, state: as for ``bptt.truncated``; all inputs are read, and the graph of all steps is kept.
    parameters: a Module, a dict of Tensors by name, or some Tensors, which are then called "0", "1", ...
    keep: whether to keep each dl_t / dW_s, not only its norm; for T steps this takes T^2 times the parameters.

    Runs one backward pass per step, so time grows as T^2. No ``.grad`` is touched. Raises ValueError for no steps or
    parameters, TypeError for a parameter that is not a leaf that requires a gradient, and GraphError if a parameter was
    used before the first step, which belongs to no step, or if no loss depends on any of them.

    >>> from tinygrad_rnn import nn, ones
    >>> cell = nn.RNNCell(1, 4)
    >>> def step(x, h):
    ...     y, h = cell(x, h)
    ...     return (y * y).mean(), h
    >>> lags = gradient_by_lag(step, ones(9, 2, 1), None, cell)
    >>> lags.norms["weight_hh"].shape, bool(lags.by_lag["weight_hh"][7] > 0)
    ((9, 9), True)
    """
    named = _named(parameters)
    own = {name: p.node for name, p in named.items()}
    uses: dict[Leaf, tuple[str, int]] = {}

    def apart(mark: Callable[[int], int]) -> Iterator[int]:
        """Time steps. In each, every parameter gets a new leaf, which receives gradients of this step's uses only."""
        for s in range(1 << 62):
            mark(s)
            for name, p in named.items():
                p.node = Leaf(p.array.shape, p.array.dtype)
                uses[p.node] = name, s
            yield s

    losses = []
    try:
        with tape.timeline() as mark:
            for _, x in zip(apart(mark), xs, strict=False):  # mark first: what xs computes belongs to the step
                loss, state = step(x, state)
                losses.append(loss)
    finally:
        for name, p in named.items():
            p.node = own[name]
    _check(losses)
    dtype = np.result_type(*(p.dtype for p in named.values()))
    found = LagMap(len(losses), {name: p.shape for name, p in named.items()}, dtype, keep)
    strangers = {node: name for name, node in own.items()}
    arrived = False
    for t, loss in enumerate(losses):
        if loss.node is None:
            continue
        for leaf, g in walk([(loss.node, filled_like(loss.array, 1))], retain=True).items():
            if leaf in strangers:
                raise GraphError(
                    f"gradient_by_lag: the parameter {strangers[leaf]!r} was used before the first step, which belongs "
                    "to no step; compute what needs it inside step"
                )
            if leaf in uses:
                name, s = uses[leaf]  # type: ignore[index]
                found.add(name, t, s, host_array(g))
                arrived = True
    if not arrived:
        raise GraphError(f"gradient_by_lag: no loss depends on {', '.join(named)}; are these what step uses?")
    return found


def _named(parameters: Any) -> dict[str, Tensor]:
    """Parameters by name, checked to be leaves that require a gradient."""
    if isinstance(parameters, Module):
        named = dict(parameters.named_parameters())
    elif isinstance(parameters, Mapping):
        named = dict(parameters)
    else:
        listed = [parameters] if isinstance(parameters, Tensor) else parameters
        named = {str(k): p for k, p in enumerate(listed)}
    if not named:
        raise ValueError("gradient_by_lag: there are no parameters (a generator can be read only once)")
    if len(set(named.values())) < len(named):
        raise ValueError("gradient_by_lag: a parameter was given twice")
    for name, p in named.items():
        if not isinstance(p, Tensor) or not isinstance(p.node, Leaf):
            raise TypeError(f"gradient_by_lag: {name!r} must be a leaf that requires a gradient, not {p!r}")
    return named


def _check(losses: list[Any]) -> None:
    if not losses:
        raise ValueError("gradient_by_lag: there are no steps (was an iterator read before?)")
    for t, loss in enumerate(losses):
        if not isinstance(loss, Tensor) or loss.array.shape != ():
            told = f"has shape {loss.shape}" if isinstance(loss, Tensor) else f"is a {type(loss).__name__}"
            raise ValueError(f"gradient_by_lag: the loss of step {t} {told}; step returns (loss, state), a scalar loss")
    if all(loss.node is None for loss in losses):
        raise GraphError("gradient_by_lag: no loss has a history; are parameters used, and outside of no_grad?")
