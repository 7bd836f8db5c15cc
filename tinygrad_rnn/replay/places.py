"""Where the values are kept that a step was recorded with."""

from __future__ import annotations

from collections import deque
from types import CellType, MappingProxyType
from typing import Any

ABSENT = object()  # what is found in a place that is gone
PLAIN = (int, float, bool, type(None))  # types of which an equal value is as good as the same


def _item(items: Any, key: Any, default: Any) -> Any:
    try:
        return items[key]
    except LookupError:
        return default


def _content(cell: Any, key: str, default: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return default


def _member(items: Any, key: Any, default: Any) -> Any:
    return key if key in items else default


# By type of the holder; of a set, the key is the value.
_READ: dict[type, Any] = {dict: dict.get, MappingProxyType: MappingProxyType.get, CellType: _content, set: _member}


class Place:
    """Where a value is kept: an item of a list or dictionary, such as an object's attributes."""

    __slots__ = ("holder", "key", "path", "read")
    otherwise: Any = staticmethod(_item)

    def __init__(self, holder: Any, key: Any, path: str) -> None:
        self.holder = holder
        self.key = key
        self.path = path
        otherwise = dict.get if isinstance(holder, dict) else self.otherwise  # to index a defaultdict makes an item
        self.read = _READ.get(type(holder), otherwise)  # with a third argument, for what is not there

    def get(self) -> Any:
        """What is there now; ABSENT if there is nothing."""
        return self.read(self.holder, self.key, ABSENT)

    def put(self, value: Any) -> None:
        """Put something there."""
        self.holder[self.key] = value

    def holds(self, value: Any) -> bool:
        """Whether this very object is there, or an equal number; -0.0 is not equal to 0.0."""
        found = self.get()
        return found is value or (type(found) is type(value) and type(value) in PLAIN and repr(found) == repr(value))

    def is_open(self) -> bool:
        """Whether something else can be put there."""
        return isinstance(self.holder, (dict, list, deque, CellType))


class Attribute(Place):
    """An attribute that is in no dictionary, such as a closure's cell, a function's code, or a tensor's array."""

    __slots__ = ()
    otherwise = staticmethod(getattr)

    def put(self, value: Any) -> None:
        setattr(self.holder, self.key, value)


class ArrayOfGradient(Place):
    """The array of the gradient that a leaf holds; of the one given as key, where a step has let it go."""

    def get(self) -> Any:
        return self._gradient.array

    def put(self, value: Any) -> None:
        self._gradient.array = value

    @property
    def _gradient(self) -> Any:
        return self.key if self.holder.grad is None else self.holder.grad
