"""Stand-ins for numbers that may change from replay to replay, such as a learning rate."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from .. import backend
from ..operators import Operators
from .refusal import NumberError, refuse, refused


class Scalar:
    """A Python number that may change between replays, such as a learning rate: replays redo the arithmetic on it."""

    __slots__ = ("number", "run")

    def __init__(self, number: float, run: Callable[[], float]) -> None:
        self.number = number  # its value in this run
        self.run = run  # computes its value in a replay

    __repr__ = __str__ = __format__ = refused("makes text of a number that may change", NumberError)

    __class__ = property(lambda self: float)  # type: ignore[assignment]  # for isinstance

    def checked(self, check: Callable[[float], None]) -> Scalar:
        """This number; now and in each replay, ``check`` is called with it, and may raise."""

        def run() -> float:
            number = self.run()
            check(number)
            return number

        check(self.number)
        return Scalar(self.number, run)

    def _compared(self, other: Any) -> Any:
        if isinstance(other, (int, float, Scalar)):
            refuse("compares a number that may change", NumberError)
        return NotImplemented  # an array can compare

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _compared
    __array_ufunc__ = None  # operators of arrays, also on a device, leave the work to the number's
    __bool__ = refused("asks whether a number that may change is true", NumberError)
    __hash__ = __array__ = refused("looks a number up that may change", NumberError)  # type: ignore[assignment]
    __float__ = __int__ = __index__ = __round__ = refused("makes a constant of a number that may change", NumberError)


def _arithmetic(name: str, swapped: bool = False) -> Callable[..., Any]:
    """The method for one of Python's operators; with an array, it is an operation."""
    function = getattr(operator, name)

    def method(self: Scalar, *others: Any) -> Any:
        operands = (*others, self) if swapped else (self, *others)
        if any(not isinstance(other, (int, float, Scalar)) for other in others):
            arrays = all(map(backend.is_array, others))
            return getattr(Operators, f"__{name}__")(*operands) if arrays else NotImplemented

        def run() -> float:
            return function(*[x.run() if isinstance(x, Scalar) else x for x in operands])

        number = function(*[x.number if isinstance(x, Scalar) else x for x in operands])
        return Scalar(number, run)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Scalar, f"__{_name}__", _arithmetic(_name))
    setattr(Scalar, f"__r{_name}__", _arithmetic(_name, swapped=True))
for _name in ("neg", "pos", "abs"):
    setattr(Scalar, f"__{_name}__", _arithmetic(_name))
