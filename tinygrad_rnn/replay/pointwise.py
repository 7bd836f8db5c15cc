"""Generates kernels, each of which does the work of several elementwise lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..formula import Formula, Pointwise, Text, functions
from .program import Line, Value
from .symbol import Scalar

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
    text = Text()
    try:
        result = _write(line, lambda x: _formula(text, x))
        text.kernel([result])
    except Exception:  # it does more than a formula can follow
        return False
    return bool(text.computed) and bool(text.inputs) and result.dtype == line.result.dtype


def _write(line: Line, formula: Callable[[Any], Any]) -> Formula:
    module = [functions] if line.kind == "op" else []
    return line.function(*module, *map(formula, line.inputs), **line.attributes)


def _formula(text: Text, x: Any) -> Any:
    """The stand-in for an input of a line; a constant stands for itself."""
    if isinstance(x, Scalar):
        return Formula(text, float, x)  # it is a float in every run
    return Formula(text, x.dtype, x) if isinstance(x, Value) else x


def kernel(lines: list[Line], outputs: list[Value]) -> tuple[Pointwise, list[Any]]:
    """One kernel for lines in order, and its inputs: values, and numbers that may change."""
    text = Text()
    formulas: dict[int, Any] = {}  # by id, as a Scalar cannot be hashed

    def formula(x: Any) -> Any:
        if not isinstance(x, (Value, Scalar)):
            return x
        if id(x) not in formulas:
            formulas[id(x)] = _formula(text, x)
        return formulas[id(x)]

    for line in lines:
        formulas[id(line.result)] = _write(line, formula)
    return text.kernel([formulas[id(value)] for value in outputs]), text.inputs
