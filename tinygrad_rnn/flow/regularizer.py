"""A regulariser that preserves the norm of the gradient as it flows back through time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..backward import walk
from ..create import zeros_like
from ..grad import grad
from ..grad_mode import no_grad
from ..ops import concatenate, reshape, split, sqrt, where
from ..tensor import Tensor, filled_like
from .gradients import by_step


def omega(loss: Tensor, states: Any, immediate: Sequence[Tensor] | None = None) -> Tensor:
    """How much the steps back through time change the norm of the gradient (Pascanu, Mikolov and Bengio 2013).

    Omega = sum over t of (||dE/dh_{t+1} dh_{t+1}/dh_t|| / ||dE/dh_{t+1}|| - 1)^2

    Add it to the loss, ``loss = task_loss + alpha * omega(task_loss, states)``, before ``loss.backward()``.
    loss: E. states: see ``gradient_norms``; two or more in order of time.
    immediate: the only parameters to differentiate Omega for, such as ``[cell.weight_hh]``, with h_t held constant.

    As in the paper, dE/dh_{t+1} is held constant when Omega is differentiated. By default, the derivative is otherwise
    complete: parameters affect Omega through their use in step t + 1, and through h_t, which all earlier steps produce.
    The paper also holds h_t constant ("immediate" partial derivatives with respect to the recurrent weights). With
    ``immediate=[cell.weight_hh]``, everything computed up to h_t is likewise constant.

    With a batch, norms are taken per row, and Omega is the mean over the rows; a row where no gradient arrives counts
    as 0. A state of several parts, such as h and c, is one vector. Raises ValueError for states that are not in order
    of time: layers that are unrolled one after another need an Omega each.

    >>> from tinygrad_rnn import nn, ones
    >>> cell = nn.RNNCell(3, 5)
    >>> run = nn.unroll(cell, ones(7, 2, 3), record=True)
    >>> task_loss = (run.outputs[-1] ** 2).mean()
    >>> loss = task_loss + 0.1 * omega(task_loss, run)
    >>> loss.backward()
    """
    steps = [list(state.values()) for state in by_step("omega", states)]
    for p in immediate or ():
        if p.node is None or not p.is_leaf:
            raise ValueError(f"omega: immediate takes parameters, leaves that require a gradient, not {p!r}")
    if len(steps) < 2:
        raise ValueError(f"omega: two states or more are needed, not {len(steps)}")
    for t, (before, after) in enumerate(pairwise(steps)):
        if _ids(after)[0] <= _ids(before)[-1]:
            raise ValueError(f"omega: the state of step {t + 1} of the list was not made after that of step {t}")
    found = iter(grad(loss, [leaf for step in steps for leaf in step], retain_graph=True, allow_unused=True))
    totals = [[next(found) for _ in step] for step in steps]
    omegas = []
    for (before, after), total in zip(pairwise(steps), totals[1:], strict=True):
        term = _stretch(before, after, total)
        omegas.append(term if immediate is None else _held(term, immediate, _ids(before)[-1] + 1))
    return sum(omegas[1:], omegas[0])


def _ids(parts: list[Tensor]) -> list[int]:
    """The node ids of a state's parts, in order of creation."""
    return sorted(part.node.id for part in parts if part.node is not None)


def _stretch(before: list[Tensor], after: list[Tensor], total: list[Tensor | None]) -> Tensor:
    """One term of the sum: the squared deviation from 1 of the gradient's growth over one step back."""
    units, alive = _units(_partial(after, total))
    sent = _partial(before, grad(after, before, units, create_graph=True, allow_unused=True), record=True)
    square = (_rows(sent) ** 2).sum(axis=1, keepdims=True)
    growth = where(square > 0, sqrt(where(square > 0, square, 1.0)), 0.0)  # sqrt has no slope at 0
    return ((growth - 1.0) ** 2 * alive).mean()


def _partial(parts: list[Tensor], total: Sequence[Tensor | None], record: bool = False) -> list[Tensor]:
    """Gradients for each part of a state with the other parts held constant.

    The total gradient of an LSTM's c_t includes the path through h_t = o tanh(c_t), which belongs to h_t's gradient.
    """
    vs = [zeros_like(part) if g is None else g for part, g in zip(parts, total, strict=True)]
    newest_first = sorted(range(len(parts)), key=lambda k: -_ids([parts[k]])[0])
    for place, k in enumerate(newest_first):
        if newer := newest_first[:place]:
            ends, sent = [parts[j] for j in newer], [vs[j] for j in newer]
            within = grad(ends, parts[k], sent, create_graph=record, retain_graph=True, allow_unused=True)
            vs[k] = vs[k] if within is None else vs[k] - within
    return vs


@no_grad()
def _units(vs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Unit vectors in the direction of each row, all parts together, and which rows have one (1.0 or 0.0).

    Only the direction matters for Omega. Divide by the largest element first, as squares of tiny gradients underflow.
    """
    rows = _rows(vs)
    largest = abs(rows).max(axis=1, keepdims=True)
    alive = largest > 0
    rows = rows / where(alive, largest, 1.0)
    rows = rows / where(alive, sqrt((rows * rows).sum(axis=1, keepdims=True)), 1.0)
    parts = split(rows, np.cumsum([v.size // rows.shape[0] for v in vs])[:-1].tolist(), axis=1)
    return [reshape(part, v.shape) for part, v in zip(parts, vs, strict=True)], alive.astype(rows.dtype)


def _rows(parts: list[Tensor]) -> Tensor:
    """The parts of a state side by side, (B, units); without a batch, a single row."""
    return concatenate([reshape(x, (x.shape[0] if x.ndim > 1 else 1, -1)) for x in parts], axis=1)


def _held(term: Tensor, parameters: Sequence[Tensor], horizon: int) -> Tensor:
    """The same value, differentiable by these parameters only, with everything older than the horizon constant."""
    value = term.detach()
    if term.node is None:
        return value
    slopes = walk(
        [(term.node, filled_like(term.array, 1))],
        targets=frozenset(p.node for p in parameters if p.node is not None),
        horizon=horizon,
        retain=True,
    )
    for p in parameters:
        if p.node in slopes:
            value = value + ((p - p.detach()) * slopes[p.node]).sum()
    return value
