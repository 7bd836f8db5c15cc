"""Generates kernels, each of which does the work of several elementwise lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formula import Formula, Pointwise, Text, functions
from ..program import Line, Value
from ..scalar import Scalar

_known: dict[Any, bool] = {}  # whether a function can be a formula, by its inputs
_KEPT = 1 << 12  # entries at most


def is_pointwise(line: Line) -> bool:
    """Whether a line can be a part of a generated kernel."""
    arrays = [x for x in line.inputs if isinstance(x, Value)]
    if line.kind not in ("ufunc", "op") or not line.result.size or len(line.reads) != len(arrays):
        return False
    key = line.function, str(line.attributes), *(x.dtype if isinstance(x, Value) else type(x) for x in line.inputs)
    if key not in _known:
        if len(_known) >= _KEPT:
            _known.clear()
        _known[key] = _can_be_written(line)
    return _known[key] and (
        line.kind == "ufunc" or np.broadcast_shapes(*(x.shape for x in arrays)) == line.result.shape
    )


def _can_be_written(line: Line) -> bool:
    try:
        alone, inputs = kernel([line], [line.result])
    except Exception:  # it does more than a formula can follow
        return False
    return bool(inputs) and alone.outputs == (line.result.dtype.name,)


def kernel(lines: list[Line], outputs: list[Value]) -> tuple[Pointwise, list[Any]]:
    """One kernel for lines in order, and its inputs: values, and numbers that may change."""
    text = Text()
    formulas: dict[int, Any] = {}  # by id, as a Scalar cannot be hashed

    def formula(x: Any) -> Any:
        if not isinstance(x, (Value, Scalar)):
            return x  # a constant stands for itself
        if id(x) not in formulas:
            formulas[id(x)] = Formula(text, float if isinstance(x, Scalar) else x.dtype, x)  # in every run a float
        return formulas[id(x)]

    for line in lines:
        module = [functions] if line.kind == "op" else []
        formulas[id(line.result)] = line.function(*module, *map(formula, line.inputs), **line.attributes)
    return text.kernel([formulas[id(value)] for value in outputs]), text.inputs
