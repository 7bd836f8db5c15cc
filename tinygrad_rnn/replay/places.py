"""Places that hold the values a step was recorded with."""

from __future__ import annotations

from collections import deque
from types import CellType, MappingProxyType
from typing import Any

ABSENT = object()  # found in a place that is gone
PLAIN = (int, float, bool, str, bytes, type(None))  # types for which equality is as good as identity


def _item(items: Any, key: Any, default: Any) -> Any:
    try:
        return items[key]
    except LookupError:
        return default


def _content(cell: Any, key: str, default: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return default


def _member(items: Any, key: Any, default: Any) -> Any:
    return key if key in items else default


# By the holder's type. In a set, the key is the value.
_READ: dict[type, Any] = {dict: dict.get, MappingProxyType: MappingProxyType.get, CellType: _content, set: _member}


def refill(container: Any, content: Any) -> None:
    """Replace what a dictionary, a set, a list or a deque holds."""
    container.clear()
    (container.update if isinstance(container, (dict, set)) else container.extend)(content)


class Place:
    """A place that holds a value: an item of a list or dictionary, such as an object's ``__dict__``."""

    __slots__ = ("holder", "key", "path", "read")
    otherwise: Any = staticmethod(_item)

    def __init__(self, holder: Any, key: Any, path: str) -> None:
        self.holder = holder
        self.key = key
        self.path = path
        otherwise = dict.get if isinstance(holder, dict) else self.otherwise  # indexing a defaultdict adds items
        self.read = _READ.get(type(holder), otherwise)  # takes a default as its third argument

    def get(self) -> Any:
        """The value there now; ABSENT if there is none."""
        return self.read(self.holder, self.key, ABSENT)

    def put(self, value: Any) -> None:
        """Put a value there."""
        self.holder[self.key] = value

    def holds(self, value: Any) -> bool:
        """Whether this very object is there, or an equal number or text; -0.0 does not equal 0.0."""
        found = self.get()
        return found is value or (type(found) is type(value) and type(value) in PLAIN and repr(found) == repr(value))

    def is_open(self) -> bool:
        """Whether another value can be put there."""
        return isinstance(self.holder, (dict, list, deque))


class Attribute(Place):
    """An attribute outside any dictionary, such as a closure cell's contents, a function's code, a tensor's array."""

    __slots__ = ()
    otherwise = staticmethod(getattr)

    def put(self, value: Any) -> None:
        object.__setattr__(self.holder, self.key, value)  # also in a frozen dataclass

    def is_open(self) -> bool:
        return True


class ArrayOfGradient(Place):
    """The array of a leaf's gradient; if the leaf has none, of the gradient given as key."""

    def get(self) -> Any:
        return self._gradient.array

    def put(self, value: Any) -> None:
        self._gradient.array = value

    @property
    def _gradient(self) -> Any:
        return self.key if self.holder.grad is None else self.holder.grad
