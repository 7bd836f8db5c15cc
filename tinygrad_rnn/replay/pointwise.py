"""Generated kernels: several elementwise functions as C++, of which each thread computes those of one element.

The text is such that Python could read it too, but for the types. Each result is rounded to its own type, as it is when
the function is called by itself, so the numbers are the same if the compiler does not contract a multiplication and an
addition into one instruction, which it is told not to.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import numpy as np

from ..op import registry
from .program import Line, Value
from .symbol import Scalar

TYPES = {"float32": "f4", "float64": "f8", "bool": "b1", "int32": "i4", "int64": "i8"}  # C++ names of dtypes

# Of NumPy's functions of the operands a and b. Those of operations are defined where these are.
_WRITTEN_BETWEEN = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
    "bitwise_and": "&",
    "bitwise_or": "|",
    "bitwise_xor": "^",
}
_OF_ONE = "tanh exp log sqrt sin cos tan expm1 log1p log2 floor ceil rint sign isnan isinf isfinite"
EXPRESSIONS = {
    **{name: f"a {sign} b" for name, sign in _WRITTEN_BETWEEN.items()},
    **{name: f"{name}(a)" for name in _OF_ONE.split()},
    **{name: f"{name}(a, b)" for name in ("maximum", "minimum", "logaddexp", "hypot")},
    "power": "pow(a, b)",
    "negative": "-a",
    "absolute": "fabs(a)",
    "square": "a * a",
    "reciprocal": "1 / a",
}
_ALSO_OF_INTEGERS = {"add", "subtract", "multiply", "negative", "maximum", "minimum", "square"}
_BITS = {"bitwise_and", "bitwise_or", "bitwise_xor"}

PREAMBLE = """
typedef float f4; typedef double f8; typedef bool b1; typedef int i4; typedef long long i8;
#define POINTWISE template <typename T> __device__ inline T
POINTWISE where(bool condition, T a, T b) { return condition ? a : b; }
POINTWISE maximum(T a, T b) { return a != a ? a : b != b ? b : a < b ? b : a; }
POINTWISE minimum(T a, T b) { return a != a ? a : b != b ? b : b < a ? b : a; }
POINTWISE sign(T a) { return a != a ? a : T((a > 0) - (a < 0)); }
POINTWISE logaddexp(T a, T b) { return a == b ? a + log(T(2)) : maximum(a, b) + log1p(exp(-fabs(a - b))); }
"""


class Pointwise(NamedTuple):
    """A kernel: the dtypes of its inputs a0, a1, ... and outputs y0, y1, ..., and what is done for one element."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    body: str

    @property
    def __name__(self) -> str:
        return "pointwise"

    @property
    def parameters(self) -> tuple[str, str]:
        """The inputs and the outputs, each with its dtype."""
        return tuple(
            ", ".join(f"{dtype} {letter}{k}" for k, dtype in enumerate(dtypes))
            for letter, dtypes in (("a", self.inputs), ("y", self.outputs))
        )  # type: ignore[return-value]


def is_pointwise(line: Line) -> bool:
    """Whether a line can be a part of a kernel."""
    if _expression(line) is None or not line.result.size:
        return False
    if any(x.dtype.name not in TYPES for x in (line.result, *line.reads)) or len(line.reads) != len(_values(line)):
        return False
    kind = _computed_in(line).kind
    if line.kind == "op" or line.result.dtype.kind == "b":
        return kind == "b" or line.name not in _BITS
    return kind == "f" or (kind == "i" and line.name in _ALSO_OF_INTEGERS)


def _values(line: Line) -> list[Value]:
    return [x for x in line.inputs if isinstance(x, Value)]


def _expression(line: Line) -> Any:
    if line.kind == "ufunc":
        return EXPRESSIONS.get(line.name)
    op = registry.get(getattr(line.function, "__name__", ""))
    return op.expression if line.kind == "op" and op is not None and op.kernel is line.function else None


def _computed_in(line: Line) -> np.dtype[Any]:
    """The dtype of the operands, of which NumPy makes that of the result."""
    if line.result.dtype.kind != "b" or line.kind == "op":
        return np.dtype(line.result.dtype)
    numbers = [x.number if isinstance(x, Scalar) else x for x in line.inputs]  # it is a float in every run
    return np.result_type(*[x.dtype if hasattr(x, "dtype") else x for x in numbers])


def kernel(lines: list[Line], outputs: list[Value]) -> tuple[Pointwise, list[Any]]:
    """One kernel for lines in order, and its inputs: values, and numbers that may change, of which each has a dtype."""
    names: dict[Any, str] = {}
    body: list[str] = []
    inputs: list[Any] = []
    dtypes: list[str] = []

    def operand(x: Any, dtype: np.dtype[Any]) -> str:
        if not isinstance(x, (Value, Scalar)):
            return _literal(x, TYPES[dtype.name])
        key = x if isinstance(x, Value) else (x, dtype)
        if key not in names:
            own = x.dtype if isinstance(x, Value) else dtype
            names[key] = f"v{len(names)}"
            body.insert(len(inputs), f"{TYPES[own.name]} {names[key]} = a{len(inputs)};")
            inputs.append(x)
            dtypes.append(own.name)
        return names[key] if not isinstance(x, Value) or x.dtype == dtype else f"{TYPES[dtype.name]}({names[key]})"

    for line in lines:
        text = _inlined(line, operand)
        names[line.result] = f"v{len(names)}"
        body.append(f"{TYPES[line.result.dtype.name]} {names[line.result]} = {text};")
    body += [f"y{k} = {names[value]};" for k, value in enumerate(outputs)]
    results = tuple(value.dtype.name for value in outputs)
    return Pointwise(tuple(dtypes), results, "\n".join(body)), inputs


def _inlined(line: Line, operand: Any) -> str:
    """A line's expression with its operands in it."""
    expression = _expression(line)
    if line.kind == "ufunc":
        given = dict(zip("ab", line.inputs, strict=False))
    else:
        op = registry[line.function.__name__]
        given = dict(zip(op.inputs, line.inputs, strict=False)) | op.attributes | line.attributes
        expression = expression(**{k: given[k] for k in op.attributes}) if callable(expression) else expression
    dtype = _computed_in(line)
    own = {name for name, x in given.items() if isinstance(x, Value) and (line.kind == "op" and x.dtype.kind == "b")}

    def put(match: re.Match[str]) -> str:
        word = match[0]
        if word in given:
            return str(operand(given[word], given[word].dtype if word in own else dtype))
        return f"{TYPES[dtype.name]}({word})" if word[0].isdigit() else word

    return re.sub(r"(?<![\w.])(\d+\.?\d*(e[+-]?\d+)?|[A-Za-z_]\w*)", put, expression)


def _literal(x: Any, kind: str) -> str:
    """A number that is the same in each replay, where not every compiler has a name for infinity."""
    number = x.item() if hasattr(x, "item") else x
    if number in (math.inf, -math.inf):
        return f"({kind}({int(math.copysign(1, number))}) / {kind}(0))"
    return f"({kind}(0) / {kind}(0))" if number != number else f"{kind}({number + 0!r})"  # + 0: True as 1
