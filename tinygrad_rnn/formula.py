"""What a function does to each element of its arrays, as C++: the body of a kernel, written by calling the function.

A ``Formula`` stands for an element, and notes NumPy's functions that are called with it as statements. Each of these
rounds its result to the type that it has when the function is called by itself, so the numbers are the same if the
compiler does not contract a multiplication and an addition into one instruction, which it is told not to. The text is
such that Python could read it too, but for the types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

TYPES = {"float32": "f4", "float64": "f8", "bool": "b1", "int32": "i4", "int64": "i8"}  # C++ names of dtypes

# Of NumPy's functions of the operands a and b; T is the type that these are brought to.
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
    **{name: f"{{a}} {sign} {{b}}" for name, sign in _WRITTEN_BETWEEN.items()},
    **{name: f"{name}({{a}})" for name in _OF_ONE.split()},
    **{name: f"{name}({{a}}, {{b}})" for name in ("maximum", "minimum", "logaddexp", "hypot")},
    "power": "pow({a}, {b})",
    "negative": "-{a}",
    "absolute": "fabs({a})",
    "square": "{a} * {a}",
    "reciprocal": "{T}(1) / {a}",
}
_ALSO_OF_INTEGERS = {"add", "subtract", "multiply", "negative", "maximum", "minimum", "square"}

_SHORT = {(int, 2): "square", (float, 2.0): "square", (float, 0.5): "sqrt", (float, -1.0): "reciprocal"}

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


class Written(NamedTuple):
    """A call as one kernel."""

    kernel: Pointwise
    inputs: tuple[int, ...]  # which of the values are read
    results: tuple[int, ...]  # where they are found among all values, followed by the outputs


def write(call: Callable[[list[Any]], Sequence[Any]], values: Sequence[Any], kind: Any) -> Written | None:
    """What a call makes of values, arrays of a kind among them, as one kernel.

    None if that would save no launch, or if it is no formula of all of the arrays.
    """
    text = Text()
    given = [Formula(text, x.dtype, k) if type(x) is kind else x for k, x in enumerate(values)]
    try:
        results = call(given)
        own = {id(x): k for k, x in enumerate(given)}
        outputs = list({id(y): y for y in results if id(y) not in own}.values())
        kernel = text.kernel(outputs)
    except Exception:  # it does more than a formula can follow
        return None
    if not outputs or text.computed < 2 or len(text.inputs) < sum(type(x) is kind for x in values):
        return None
    own |= {id(y): len(values) + k for k, y in enumerate(outputs)}
    return Written(kernel, tuple(text.inputs), tuple(own[id(y)] for y in results))


def copies(dtypes: Sequence[str]) -> Pointwise:
    """The kernel that copies arrays, or puts numbers into them."""
    return Pointwise(tuple(dtypes), tuple(dtypes), "\n".join(f"y{k} = a{k};" for k in range(len(dtypes))))


class Text:
    """The body of a kernel while it is written. Its inputs are what formulas stand for, as far as it is used."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []
        self.statements: list[str] = []  # first those that read an input
        self._dtypes: list[str] = []
        self._names: dict[Any, str] = {}

    def kernel(self, outputs: Sequence[Formula]) -> Pointwise:
        """The kernel that gives these."""
        body = [*self.statements, *(f"y{k} = {self.operand(y, y.dtype)};" for k, y in enumerate(outputs))]
        return Pointwise(tuple(self._dtypes), tuple(y.dtype.name for y in outputs), "\n".join(body))

    @property
    def computed(self) -> int:
        """How many statements compute something."""
        return len(self.statements) - len(self.inputs)

    def note(self, expression: str, dtype: Any) -> Formula:
        """Write a statement, and return what stands for its result."""
        result = Formula(self, np.dtype(dtype))
        self._names[result] = f"v{len(self._names)}"
        self.statements.append(f"{TYPES[result.dtype.name]} {self._names[result]} = {expression};")
        return result

    def operand(self, x: Any, dtype: np.dtype[Any]) -> str:
        """What is written for an operand that is to have this dtype."""
        kind = TYPES[dtype.name]
        if not isinstance(x, Formula):
            return _literal(x, dtype)
        own = dtype if x.is_number else x.dtype
        key = (x, dtype) if x.is_number else x
        if key not in self._names:
            self._names[key] = f"v{len(self._names)}"
            self.statements.insert(len(self.inputs), f"{TYPES[own.name]} {self._names[key]} = a{len(self.inputs)};")
            self.inputs.append(x.source)
            self._dtypes.append(own.name)
        return self._names[key] if own == dtype else f"{kind}({self._names[key]})"

    def become(self, target: Formula, result: Formula) -> Formula:
        """What is written in place keeps its dtype."""
        self._names[target] = self._names[result.astype(target.dtype)]
        return target


class ArrayOperators(NDArrayOperatorsMixin):
    """NumPy's operators for what stands for an array, with its short ways to a power."""

    __slots__ = ()

    def __pow__(self, other: Any) -> Any:
        short = short_power(self, other)
        return getattr(np, short)(self) if short else super().__pow__(other)


class Formula(ArrayOperators):
    """Stands for an element of an array, or for a number that may change, whose dtype is then a Python type."""

    __slots__ = ("dtype", "source", "text")
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, text: Text, dtype: Any, source: Any = None) -> None:
        self.text = text
        self.dtype = dtype
        self.source = source  # what it stands for

    @property
    def is_number(self) -> bool:
        """Whether it is a number of Python's, which takes the dtype of what it meets."""
        return isinstance(self.dtype, type)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs or ufunc.__name__ not in EXPRESSIONS:
            return NotImplemented
        *taken, given = _dtypes(ufunc, inputs)
        if not _is_written(ufunc.__name__, taken[0], given):
            return NotImplemented
        operands = dict(zip("ab", map(self.text.operand, inputs, taken), strict=False))
        result = self.text.note(EXPRESSIONS[ufunc.__name__].format(T=TYPES[taken[0].name], **operands), given)
        return result if out is None else self.text.become(out[0], result)

    def astype(self, dtype: Any, copy: bool = True) -> Formula:
        """The element in another dtype."""
        dtype = np.dtype(dtype)
        return self if dtype == self.dtype else self.text.note(self.text.operand(self, dtype), dtype)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a formula has no numbers")

    def __bool__(self) -> bool:
        raise TypeError("a function that depends on values is no formula")


def short_power(a: Any, b: Any) -> str | None:
    """What CuPy's operator ** calls for this exponent, if it is one of a few numbers: it rounds in another way."""
    kind = type(b)
    name = _SHORT.get((kind, b)) if kind is int or kind is float else None
    return name if name and (kind is int or a.dtype.kind == "f") else None


def _is_written(name: str, taken: np.dtype[Any], given: np.dtype[Any]) -> bool:
    """Whether C++ does to these dtypes what NumPy does."""
    return taken.kind == "f" or name in _ALSO_OF_INTEGERS or (given.kind == "b" and name in _WRITTEN_BETWEEN)


def _dtypes(ufunc: Any, inputs: Sequence[Any]) -> Any:
    """To which dtypes a function brings its inputs, and which its result has. Python's numbers follow the others."""
    kinds = [x.dtype if hasattr(x, "dtype") else np.dtype(bool) if isinstance(x, bool) else type(x) for x in inputs]
    return ufunc.resolve_dtypes((*kinds, None))


def _literal(x: Any, dtype: np.dtype[Any]) -> str:
    """A number that is the same each time, where not every compiler has a name for infinity."""
    if not isinstance(x, (int, float, np.generic, np.ndarray)):
        raise TypeError("an array on a device may hold another number the next time")
    kind, number = TYPES[dtype.name], float(x) if dtype.kind == "f" else np.array(x, dtype).item()  # OverflowError
    if number in (math.inf, -math.inf):
        return f"({kind}({int(math.copysign(1, number))}) / {kind}(0))"
    return f"({kind}(0) / {kind}(0))" if number != number else f"{kind}({+number!r})"  # +True is 1


class _Functions:
    """The array module of formulas: what does the same to each element, and nothing else."""

    abs = staticmethod(np.absolute)

    def __getattr__(self, name: str) -> Any:
        if name not in EXPRESSIONS:
            raise AttributeError(f"{name} is no function of elements")
        return getattr(np, name)

    @staticmethod
    def where(condition: Formula, a: Any, b: Any) -> Formula:
        text, kinds = condition.text, (np.dtype(bool), *_dtypes(np.add, (a, b))[:2])
        operands = map(text.operand, (condition, a, b), kinds)
        return text.note(f"where({', '.join(operands)})", kinds[1])

    @staticmethod
    def clip(x: Formula, min: Any, max: Any, out: None = None) -> Any:
        above = x if min is None else np.maximum(x, min)
        return above if max is None else np.minimum(above, max)


functions = _Functions()
