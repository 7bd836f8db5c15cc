"""Operations that are one function of the array module."""

from __future__ import annotations

import numpy as np

from ..op import Operation, op


def ufunc(module: str, name: str, told: str) -> Operation:
    """The function of this name, of one input x or of two, a and b, as an operation of a module; ``told`` documents it.

    As in ``dispatch.py``, the source is generated: to look the function up by its name would take longer in each call.
    """
    inputs = "x" if getattr(np, name).nin == 1 else "a, b"
    kernel = eval(f"lambda xp, {inputs}, *, out=None: xp.{name}({inputs}, out=out)", {"__name__": module})
    kernel.__name__ = kernel.__qualname__ = name
    kernel.__doc__ = told
    return op(kernel)
