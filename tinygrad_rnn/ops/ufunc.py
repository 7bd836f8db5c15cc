"""Operations that are one function of the array module, or one method of its arrays.

Their kernels are generated, as is the code in ``dispatch.py``: to look a function up by its name would take longer in
each call. ``told`` documents the operation, which belongs to ``module``.
"""

from __future__ import annotations

import numpy as np

from ..op import Operation, op


def ufunc(module: str, name: str, told: str) -> Operation:
    """The array module's function of this name, of one input x or of two, a and b."""
    inputs = "x" if getattr(np, name).nin == 1 else "a, b"
    return _operation(f"lambda xp, {inputs}, *, out=None: xp.{name}({inputs}, out=out)", module, name, told)


def method(module: str, name: str, told: str) -> Operation:
    """The method of this name of an array x, along axes."""
    kernel = f"lambda xp, x, *, axis=None, keepdims=False: x.{name}(axis=axis, keepdims=keepdims)"
    return _operation(kernel, module, name, told)


def _operation(source: str, module: str, name: str, told: str) -> Operation:
    kernel = eval(source, {"__name__": module})
    kernel.__name__ = kernel.__qualname__ = name
    kernel.__doc__ = told
    return op(kernel)
