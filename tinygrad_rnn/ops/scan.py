"""The recurrence that is linear in its state, over all time steps at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..op import op
from .shape import flip


@op
def linear_scan(xp: Any, a: Array, b: Array, *, out: Array = None) -> Array:
    """y_0 = b_0, then y_t = a_t * y_{t-1} + b_t along the first axis, with a one step shorter than b.

    a: (T, ...), for t from 1. b: (T + 1, ...), from 0: it begins with the state to start from.

    On the host it is a loop within the kernel; the same recurrence in single operations gives the same bits. A device
    doubles the reach of all steps ceil(log2(T + 1)) times, in three launches each (Hillis and Steele 1986; for
    recurrent networks, Martin and Cundy 2018). It multiplies runs of a, which rounds otherwise, and overflows sooner.
    The gradient is such a scan too, from the end.

    Raises ShapeError if the shapes do not fit.

    >>> linear_scan(np.array([0.5, 0.5]), np.ones(3))
    array([1.  , 1.5 , 1.75])
    """
    if not a.ndim or b.shape != (a.shape[0] + 1, *a.shape[1:]):
        raise ValueError("b must be one step longer than a, along the first axis, and otherwise of its shape")
    y = xp.empty(b.shape, dtype=np.result_type(a.dtype, b.dtype)) if out is None else out
    backend.of(y).linear_scan(a, b, y)
    return y


def _from_the_end(g: Any, a: Any) -> Any:
    """The gradient for b, h_t = a_{t+1} * h_{t+1} + g_t; that for a repeats it, unless a captured step shares it."""
    return flip(linear_scan(flip(a, axis=0), flip(g, axis=0)), axis=0)


linear_scan.vjp(a=lambda g, a, y: _from_the_end(g, a)[1:] * y[:-1], b=_from_the_end)
