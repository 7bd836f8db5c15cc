"""Operations as operators and methods, for all that stands for an array: Tensors, and a recorder's symbols."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import ops

if TYPE_CHECKING:
    from .tensor import Tensor


def _swapped(operation: Any) -> Callable[..., Tensor]:
    """The operator for an object on the right-hand side."""
    return lambda self, other: operation(other, self)


def _method(function: Any) -> Callable[..., Tensor]:
    """The function itself; as a method it gets a Tensor, and gives one."""
    return function


class Operators:
    """The operators and methods of NumPy's arrays, by the engine's operations."""

    __slots__ = ()
    __hash__ = object.__hash__

    __add__ = __radd__ = add = ops.add
    __sub__ = subtract = ops.subtract
    __mul__ = __rmul__ = multiply = ops.multiply
    __truediv__ = divide = ops.divide
    __floordiv__ = floor_divide = ops.floor_divide
    __mod__ = remainder = ops.remainder
    __pow__ = power = ops.power
    __matmul__ = matmul = _method(ops.matmul)
    __rsub__, __rtruediv__, __rfloordiv__ = map(_swapped, (ops.subtract, ops.divide, ops.floor_divide))
    __rmod__, __rpow__, __rmatmul__ = map(_swapped, (ops.remainder, ops.power, ops.matmul))
    __neg__ = negative = ops.negative
    __abs__ = abs = absolute = ops.absolute
    __lt__ = less = ops.less
    __le__ = less_equal = ops.less_equal
    __gt__ = greater = ops.greater
    __ge__ = greater_equal = ops.greater_equal
    __eq__ = equal = ops.equal  # type: ignore[assignment]
    __ne__ = not_equal = ops.not_equal  # type: ignore[assignment]
    __and__ = __rand__ = bitwise_and = ops.bitwise_and
    __or__ = __ror__ = bitwise_or = ops.bitwise_or
    __xor__ = __rxor__ = bitwise_xor = ops.bitwise_xor
    __invert__ = invert = ops.invert
    __round__ = round = ops.round
    __getitem__ = _method(ops.index)
    exp, log, sqrt, sin, cos, tanh = ops.exp, ops.log, ops.sqrt, ops.sin, ops.cos, ops.tanh
    expm1, log1p, square, reciprocal = ops.expm1, ops.log1p, ops.square, ops.reciprocal
    sigmoid, relu, softplus, sign = ops.sigmoid, ops.relu, ops.softplus, ops.sign
    floor, ceil, isnan, isinf, isfinite = ops.floor, ops.ceil, ops.isnan, ops.isinf, ops.isfinite
    maximum, minimum, clip, logaddexp = ops.maximum, ops.minimum, ops.clip, ops.logaddexp
    sum, prod, mean, max, min, var = ops.sum, ops.prod, ops.mean, ops.max, ops.min, ops.var
    std, logsumexp, cumsum, argmax, argmin = ops.std, ops.logsumexp, ops.cumsum, ops.argmax, ops.argmin
    any, all, argsort = ops.any, ops.all, ops.argsort
    broadcast_to, expand_dims, squeeze, flip = ops.broadcast_to, ops.expand_dims, ops.squeeze, ops.flip
    softmax, log_softmax, take_along_axis = ops.softmax, ops.log_softmax, ops.take_along_axis
    linear, linear_scan, normalize = ops.linear, ops.linear_scan, ops.normalize
    cross_entropy, embedding = ops.cross_entropy, ops.embedding
    layer_norm, max_pool2d, split = ops.layer_norm, ops.max_pool2d, ops.split
    sort, roll, repeat, tile = map(_method, (ops.sort, ops.roll, ops.repeat, ops.tile))
    tril, triu, swapaxes, flatten = map(_method, (ops.tril, ops.triu, ops.swapaxes, ops.flatten))
    pad, astype, outer = map(_method, (ops.pad, ops.astype, ops.outer))
    conv2d, dropout = map(_method, (ops.conv2d, ops.dropout))

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Any, Any]:
        return other // self, other % self

    def where(self, condition: Any, other: Any) -> Tensor:
        """Elements of self where the condition holds, and of other elsewhere."""
        return ops.where(condition, self, other)

    def reshape(self, *numbers: Any, **shape: Any) -> Tensor:
        """The same elements in another shape, given as numbers or as a tuple."""
        return ops.reshape(self, *([one_tuple(numbers)] if numbers else []), **shape)

    def transpose(self, *numbers: Any, **axes: Any) -> Tensor:
        """Axes in another order, given as numbers or as a tuple; reversed if none are given."""
        return ops.transpose(self, *([one_tuple(numbers)] if numbers else []), **axes)

    @property
    def T(self) -> Tensor:
        """Axes in reverse order."""
        return ops.transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        return ops.swapaxes(self, -1, -2)


def one_tuple(values: tuple[Any, ...]) -> tuple[int, ...] | None:
    """The tuple that was given as ``f(2, 3)`` or as ``f((2, 3))``; None for ``f(None)``."""
    if len(values) != 1:
        return values
    (given,) = values
    if given is None:
        return None
    return tuple(given) if isinstance(given, (tuple, list)) else values
