"""Unrolling without a loop, for cells that are linear in their state."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from ..backend import signature
from ..nn.checks import begin
from ..nn.sequences import over
from ..nn.unrolling import Unrolled, prepare, project
from ..ops import concatenate, flip, linear_scan, where
from ..tree import tree_map
from ..whereabouts import ShapeError


def scanned(cell: Any, xs: Any, state: Any = None, mask: Any = None, *, reverse: bool = False) -> Unrolled:
    """``unroll`` in a few operations for all T steps, for a cell whose new state is linear in the one before.

    h_t = a_t * h_{t-1} + b_t, where a and b depend on the inputs alone (Martin and Cundy 2018)

    cell: it says so by a method ``linear(z)`` beside its ``step``, which returns (a, b) for projected inputs, of one
        step or of all of them, both in the shape of h. Its state is the one array h, and so is its output.
    xs, state, mask, reverse: as for ``unroll``, as are the results and errors. For a whole layer of such cells, say
        ``layer.unrolled_by(bptt.scanned)``.

    The recurrence is one ``linear_scan``. On the host, outputs and states are bit for bit those of ``unroll`` if
    ``step`` computes ``a * h + b`` too.

    Raises TypeError for a cell without ``linear``, or if one class defines it and another one ``step``, as then they
    may differ; ShapeError if a or b do not have the shape of h for each step.

    >>> from tinygrad_rnn import nn, ones
    >>> outputs, h = scanned(nn.MinGRUCell(3, 5), ones(7, 2, 3))
    >>> outputs.shape, h.shape
    ((7, 2, 5), (2, 5))
    """
    xs, real = prepare("scanned", cell, xs, mask)
    defined = [{"linear", "step", "full_step"} & vars(kind).keys() for kind in type(cell).__mro__]
    newest = next(filter(None, defined), set())
    if "linear" not in newest or len(newest) < 2:
        raise TypeError(
            f"scanned: {type(cell).__name__} needs a method linear(z), in the class that defines its step, which "
            "returns (a, b) such that the new state, and the output, is a * h + b; bptt.unroll takes any cell"
        )
    zs = project(cell, xs, real)
    h = begin(cell, tree_map(itemgetter(0), zs), state)
    a, b = cell.linear(zs)
    if not all(getattr(x, "shape", None) == (len(xs), *h.shape) for x in (a, b)):
        told = " and ".join(signature(x) if hasattr(x, "dtype") else repr(x) for x in (a, b))
        raise ShapeError(
            f"scanned: {type(cell).__name__}.linear must return a and b of {(len(xs), *h.shape)}, not {told}"
        )
    if real is not None:
        a, b = where(over(real, a), a, 1), where(over(real, b), b, 0)
    if reverse:
        a, b = flip(a, axis=0), flip(b, axis=0)
    hs = linear_scan(a, concatenate([h[None], b]))
    outputs = flip(hs[1:], axis=0) if reverse else hs[1:]
    return Unrolled(outputs if real is None else where(over(real, outputs), outputs, 0), hs[-1])
