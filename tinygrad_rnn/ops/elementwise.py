"""Elementwise operations. Inputs broadcast as in NumPy; the engine sums gradients back to the inputs' shapes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ..backend import Array, refuse_complex, refuse_unreal
from ..formula import short_power
from ..op import op
from ..tape import Taped
from .flat import floor_divide, isinf, sign
from .ufunc import ufunc

_op = partial(ufunc, __name__)

# Each is the array module's function of this name; below are those with a kernel of their own.
add = _op("add", "Sum, y = a + b.").vjp(a=lambda g: g, b=lambda g: g)
subtract = _op("subtract", "Difference, y = a - b.").vjp(a=lambda g: g, b=lambda g: -g)
multiply = _op("multiply", "Product, y = a b.").vjp(a=lambda g, b: g * b, b=lambda g, a: g * a)
divide = _op("divide", "Quotient, y = a / b.").vjp(a=lambda g, b: g / b, b=lambda g, b, y: -g * y / b)
remainder = _op("remainder", "Remainder of floor division, y = a - b floor(a / b), with the sign of b.").vjp(
    a=lambda g: g, b=lambda g, a, b: -g * floor_divide(a, b)
)
negative = _op("negative", "y = -x.").vjp(x=lambda g: -g)
absolute = _op("absolute", "y = |x|; the gradient at 0 is 0.").vjp(x=lambda g, x: g * sign(x))
square = _op("square", "y = x^2.").vjp(x=lambda g, x: g * (2 * x))
sqrt = _op("sqrt", "Square root, y = x^(1/2).").vjp(x=lambda g, y: g / (2 * y))
reciprocal = _op("reciprocal", "y = 1 / x.").vjp(x=lambda g, y: -g * y * y)
exp = _op("exp", "y = e^x.").vjp(x=lambda g, y: g * y)
expm1 = _op("expm1", "y = e^x - 1, accurate for small x.").vjp(x=lambda g, y: g * (1 + y))
log = _op("log", "Natural logarithm, y = log x.").vjp(x=lambda g, x: g / x)
log1p = _op("log1p", "y = log(1 + x), accurate for small x.").vjp(x=lambda g, x: g / (1 + x))
cos = _op("cos", "Cosine, y = cos x, with x in radians.")
sin = _op("sin", "Sine, y = sin x, with x in radians.").vjp(x=lambda g, x: g * cos(x))
cos.vjp(x=lambda g, x: -g * sin(x))
tanh = _op("tanh", "Hyperbolic tangent, y = (e^x - e^-x) / (e^x + e^-x).").vjp(x=lambda g, y: g * (1 - y * y))
maximum = _op("maximum", "The larger of a and b; where they are equal, each gets half of the gradient.").vjp(
    a=lambda g, a, b: _winner(g, a, b), b=lambda g, a, b: _winner(g, b, a)
)
minimum = _op("minimum", "The smaller of a and b; where they are equal, each gets half of the gradient.").vjp(
    a=lambda g, a, b: _winner(g, b, a), b=lambda g, a, b: _winner(g, a, b)
)
logaddexp = _op("logaddexp", "y = log(e^a + e^b), without overflow.").vjp(
    a=lambda g, a, b: g * _share(a, b), b=lambda g, a, b: g * _share(b, a)
)


def _winner(g: Array, a: Array, b: Array) -> Array:
    """The gradient of max(a, b) for a: g where a is larger, half of it where they are equal, else 0."""
    return where(a > b, g, where(a == b, 0.5 * g, 0))


def _share(a: Array, b: Array) -> Array:
    """e^a / (e^a + e^b), one half where a and b are equal, even if infinite."""
    twins = (a == b) & isinf(a)  # inf - inf would be NaN
    return where(twins, 0.5, logistic(a - where(twins, 0, b)))


@op
def where(xp: Any, condition: Array, a: Array, b: Array) -> Array:
    """a where the condition holds, and b elsewhere."""
    if a is None or b is None:
        raise TypeError("it chooses between two arrays or numbers")
    if xp is np and type(b) in (int, float) and b == 0 and _is_masked(condition, a):  # ten times as fast
        return np.multiply(a.view(f"u{a.itemsize}"), condition).view(a.dtype)  # bits times 0 or 1, so NaN becomes 0 too
    return xp.where(condition if hasattr(condition, "dtype") else xp.asarray(condition), a, b)  # CuPy takes no bool


def _is_masked(condition: Any, a: Any) -> bool:
    """Whether a is an array of floats, not a small one, to be masked by an array of booleans."""
    large = isinstance(a, np.ndarray) and a.size >= 2**12 and a.dtype.kind == "f" and a.itemsize <= 8
    return large and isinstance(condition, np.ndarray) and condition.dtype.kind == "b"


where.vjp(
    condition=None,
    a=lambda g, condition: where(condition, g, 0),
    b=lambda g, condition: where(condition, 0, g),
)


@op
def power(xp: Any, a: Array, b: Array, *, out: Array = None) -> Array:
    """y = a ** b. The gradient for b assumes a > 0; where a = 0 it is 0."""
    short = short_power(a, b)  # ``xp.power`` takes no shortcuts, but y must equal a ** b of arrays
    return getattr(xp, short)(a, out=out) if short else xp.power(a, b, out=out)


power.vjp(a=lambda g, a, b: g * _power_slope(a, b), b=lambda g, a, y: g * y * log(where(a == 0, 1.0, a)))


def _power_slope(a: Array, b: Array) -> Array:
    """b a^(b-1), with 0 at b = 0 even where a = 0."""
    if isinstance(b, (int, float)):
        return b * a ** (b - 1) if b else a * 0
    lower = b - 1.0  # not b - 1, which is 255 for an unsigned 0 of eight bits
    return b * a ** where(a == 0, where(b == 0, 1, lower), lower)


@op
def sigmoid(xp: Any, x: Array, *, out: Array = None) -> Array:
    """Logistic function, y = 1 / (1 + e^-x).

    Computed as 0.5 tanh(x / 2) + 0.5, with an absolute error near the rounding error of 1, so a y far below 1 has few
    correct digits. For its logarithm use softplus: log sigmoid(x) = -softplus(-x).
    """
    half = _HALF.get(getattr(x, "dtype", None), 0.5) if xp is np else 0.5
    y = xp.multiply(x, half, out=out)
    y = xp.tanh(y, out=out)  # never overflows, and takes half the time of exp
    y *= half
    y += half
    return y


# NumPy's functions process a 0-d array twice as fast as a Python number.
_HALF: dict[Any, Any] = {np.dtype(letter): np.array(0.5, letter) for letter in "efd"}


sigmoid.vjp(x=lambda g, y: g * (y * (1 - y)))


@op
def relu(xp: Any, x: Array, *, out: Array = None) -> Array:
    """y = max(x, 0); the gradient at 0 is 0."""
    return xp.maximum(x, 0, out=out)


relu.vjp(x=lambda g, y: where(y > 0, g, 0))  # gives 0, not NaN, where g is infinite


@op
def logistic(xp: Any, x: Array) -> Array:
    """``sigmoid`` with full relative precision, also for y far below 1."""
    return xp.exp(xp.minimum(x, 0)) * (xp.tanh(xp.absolute(x) * 0.5) * 0.5 + 0.5)


logistic.vjp(x=lambda g, x, y: g * (y * logistic(-x)))


@op
def softplus(xp: Any, x: Array, *, out: Array = None) -> Array:
    """y = log(1 + e^x), without overflow."""
    return xp.logaddexp(x, 0, out=out)


softplus.vjp(x=lambda g, x: g * logistic(x))


@op
def clip(xp: Any, x: Array, *, min: float | None = None, max: float | None = None, out: Array = None) -> Array:
    """x limited to [min, max] (None: no bound). The gradient passes inside, bounds included, and is 0 outside."""
    refuse_complex(min)
    refuse_complex(max)
    return xp.clip(x, min, max, out=out)


clip.vjp(x=lambda g, x, y: where(x == y, g, 0))


@op(name="astype")
def cast(xp: Any, x: Array, *, dtype: Any) -> Array:
    """The kernel of ``astype``."""
    return x.astype(dtype)


cast.vjp(x=lambda g, dtype: g if np.dtype(dtype).kind == "f" else g * 0)


def astype(x: Any, dtype: Any) -> Any:
    """x in another dtype; the gradient is cast back to x's own. Integer and boolean results have no history."""
    refuse_unreal("astype", dtype)
    if isinstance(x, Taped) and np.dtype(dtype).kind != "f":
        x = type(x).wrap(x.array)
    return cast(x, dtype=dtype)
