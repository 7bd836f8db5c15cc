"""Sums over the paths through a lattice, for connectionist temporal classification.

In each time step a path goes one of three ways: it stays, or moves on by one place or two. Arrays are (T, B, S): time
steps, rows, places. A leading axis of length 3, where there is one, indexes the ways.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ..backend import Array
from ..op import op
from ..ops import pad, softmax, stack, where

NEVER = -1e30  # stands for log 0: as good as -inf in float32, without the NaN of -inf - -inf


@op
def path_sums(xp: Any, emitted: Array, skips: Array) -> Array:
    """Logs of the sums over all paths that reach each place at each time: alpha in Graves et al. (2006).

    alpha_t(s) = emitted_t(s) + log(e^alpha_{t-1}(s) + e^alpha_{t-1}(s-1) + e^alpha_{t-1}(s-2) if skips(s))

    A path starts in one of the first two places. skips: (B, S), the places that it may enter by moving two.
    """
    alpha = emitted.copy()
    alpha[0, :, 2:] += NEVER
    ways = xp.full((3, *skips.shape), NEVER, dtype=alpha.dtype)
    for before, now in pairwise(alpha):
        ways[0] = before
        ways[1, :, 1:] = before[:, :-1]
        ways[2, :, 2:] = xp.where(skips[:, 2:], before[:, :-2], NEVER)
        top = ways.max(axis=0)
        now += xp.log(xp.exp(ways - top).sum(axis=0)) + top
    return alpha


@op
def moved(xp: Any, x: Array, *, value: float) -> Array:
    """x as it is, moved on by one place, and by two: (3, T, B, S), with a value in the vacated places."""
    ways = xp.full((3, *x.shape), value, dtype=x.dtype)
    ways[0], ways[1, ..., 1:], ways[2, ..., 2:] = x, x[..., :-1], x[..., :-2]
    return ways


@op
def joined(xp: Any, ways: Array) -> Array:
    """The sum of the three ways, each moved back to where it came from: the transpose of ``moved``."""
    x = ways[0].copy()
    x[..., :-1] += ways[1, ..., 1:]
    x[..., :-2] += ways[2, ..., 2:]
    return x


@op
def carried_back(xp: Any, x: Array, shares: Array) -> Array:
    """y_t = x_t + joined(shares_t y_{t+1}): the gradient at each place, from all paths that continue from it."""
    y = x.copy()
    for t in reversed(range(len(x) - 1)):
        ways = shares[:, t] * y[t + 1]
        y[t] += ways[0]
        y[t, :, :-1] += ways[1, :, 1:]
        y[t, :, :-2] += ways[2, :, 2:]
    return y


@op
def carried_on(xp: Any, x: Array, shares: Array) -> Array:
    """y_t = x_t + the sum over the ways of shares_{t-1} moved(y_{t-1}): the transpose of ``carried_back``."""
    y = x.copy()
    for t in range(1, len(x)):
        stay, one, two = shares[:, t - 1]
        y[t] += stay * y[t - 1]
        y[t, :, 1:] += one[:, 1:] * y[t - 1, :, :-1]
        y[t, :, 2:] += two[:, 2:] * y[t - 1, :, :-2]
    return y


def _shares(alpha: Any, skips: Any) -> Any:
    """For each place in the next time step, the share of its paths that arrive by each way."""
    allowed = stack([skips == skips, skips == skips, skips])[:, None]
    return softmax(where(allowed, moved(alpha, value=NEVER), NEVER), axis=0)


def _met(on: Any, back: Any) -> Any:
    """``on``, moved by each way, times ``back`` of the next time step at the place it arrives at."""
    return moved(on, value=0.0) * pad(back[1:], widths=((0, 1), (0, 0), (0, 0)))


path_sums.vjp(emitted=lambda g, y, skips: where(y > NEVER / 2, carried_back(g, _shares(y, skips)), 0), skips=None)
moved.vjp(x=lambda g: joined(g))
joined.vjp(ways=lambda g: moved(g, value=0.0))
carried_back.vjp(x=lambda g, shares: carried_on(g, shares), shares=lambda g, y, shares: _met(carried_on(g, shares), y))
carried_on.vjp(
    x=lambda g, shares: carried_back(g, shares), shares=lambda g, y, shares: _met(y, carried_back(g, shares))
)
