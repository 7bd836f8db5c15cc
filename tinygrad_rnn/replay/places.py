"""What a step can reach: the tensors that it uses, and the Python values that it was recorded with.

From the function through its closure, the globals that it names, and the objects, lists and dictionaries found there.
An object can list in ``ports`` the attributes that hold what changes from call to call, such as an optimiser's ``lr``.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from .. import backend
from ..op import Op
from ..tape import Leaf
from ..tensor import Tensor

_OPAQUE = (str, bytes, type, ModuleType, BuiltinFunctionType, CodeType, np.dtype, np.generic)
_PLAIN = (int, float, bool, type(None))


class Place:
    """Where a value is kept: an item of a list or dictionary, such as an object's attributes, or a closure's cell."""

    __slots__ = ("holder", "key", "path")

    def __init__(self, holder: Any, key: Any, path: str) -> None:
        self.holder = holder
        self.key = key
        self.path = path

    def get(self) -> Any:
        """What is there now."""
        return self.holder.cell_contents if self.key is _CELL else self.holder[self.key]

    def put(self, value: Any) -> None:
        """Put something there."""
        self.holder[self.key] = value


class ArrayOf(Place):
    """The array of a tensor."""

    def get(self) -> Any:
        return self.holder.array

    def put(self, value: Any) -> None:
        self.holder.array = value


class ArrayOfGradient(Place):
    """The array of the gradient that a leaf holds."""

    def get(self) -> Any:
        return self.holder.grad.array

    def put(self, value: Any) -> None:
        self.holder.grad.array = value


_CELL = object()


class Reach:
    """All that a function can reach."""

    def __init__(self, function: Any) -> None:
        self.tensors: dict[Tensor, str] = {}  # with a path to each
        self.leaves: dict[Leaf, str] = {}
        self.generators: list[Any] = []  # of random numbers
        self.ports: list[Place] = []  # arrays and numbers that change from call to call
        self.fixed: list[tuple[Place, Any]] = []  # everything else, with what is there
        self.sizes: list[tuple[Any, int]] = []  # of lists and dictionaries
        self._root = function
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # what was seen stays alive, or another object may get its id
        self._ahead: list[tuple[Any, str, bool]] = [(function, "", False)]
        while self._ahead:
            self._visit(*self._ahead.pop())

    def unchanged(self) -> bool:
        """Whether all that a step was recorded with is there still."""
        return all(len(container) == size for container, size in self.sizes) and all(
            _holds(place, value) for place, value in self.fixed
        )

    def changed(self) -> list[str]:
        """The paths of what is no longer as it was."""
        paths = [place.path for place, value in self.fixed if not _holds(place, value)]
        return paths + [f"the length of a {type(c).__name__}" for c, size in self.sizes if len(c) != size]

    def _look(self, place: Place, is_port: bool) -> None:
        value = place.get()
        if is_port and (backend.is_array(value) or type(value) in (int, float)):
            self.ports.append(place)
            return
        if not is_port or not isinstance(value, (dict, list)):
            self.fixed.append((place, value))
        self._ahead.append((value, place.path, is_port))

    def _visit(self, x: Any, path: str, is_port: bool) -> None:
        if isinstance(x, (*_PLAIN, *_OPAQUE)) or backend.is_array(x) or id(x) in self._seen:
            return
        self._seen.add(id(x))
        self._kept.append(x)
        if isinstance(x, Tensor):
            self.tensors[x] = path
            if isinstance(x.node, Leaf):
                self.leaves[x.node] = path
        elif type(x).__name__ == "Generator" and hasattr(x, "bit_generator"):
            self.generators.append(x)
        elif isinstance(x, dict):
            self._items(x, x, path, is_port)
        elif isinstance(x, list):
            self._items(x, range(len(x)), path, is_port)
        elif isinstance(x, (tuple, set, frozenset)):
            self._ahead += [(child, f"{path}[{i}]", is_port) for i, child in enumerate(x)]
        elif isinstance(x, (FunctionType, MethodType, partial)):
            self._function(x, path)
        elif "__wrapped__" in getattr(x, "__dict__", {}) and not isinstance(x, FunctionType):
            self._ahead.append((x.__wrapped__, path, False))  # another captured step
        elif hasattr(x, "__dict__") and not _foreign(type(x).__module__):
            ports = getattr(type(x), "ports", ())
            self.sizes.append((x.__dict__, len(x.__dict__)))
            for name in list(x.__dict__):
                self._look(Place(x.__dict__, name, f"{path}.{name}".lstrip(".")), name in ports)
            if callable(x):
                self._ahead.append((type(x).__call__, path, False))

    def _items(self, container: Any, keys: Any, path: str, is_port: bool) -> None:
        if not is_port:
            self.sizes.append((container, len(container)))
        for key in list(keys):
            self._look(Place(container, key, f"{path}[{key!r}]"), is_port)

    def _function(self, f: Any, path: str) -> None:
        if isinstance(op := getattr(f, "op", None), Op):  # of whose dispatch a recording replaces parts
            self._ahead.append((op.kernel, path, False))
        elif isinstance(f, partial):
            self._ahead += [(f.func, path, False), (f.args, path, False), (f.keywords, path, False)]
        elif isinstance(f, MethodType):
            self._ahead += [(f.__self__, path, False), (f.__func__, path, False)]
        elif f is self._root or not (_foreign(f.__module__) or _ours(f.__module__)):
            for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
                if _filled(cell):
                    self._look(Place(cell, _CELL, name), False)
            for name in _names(f.__code__):
                if name in f.__globals__:
                    self._look(Place(f.__globals__, name, name), False)
            self._ahead += [(value, path, False) for value in f.__defaults__ or ()]


def _holds(place: Place, value: Any) -> bool:
    """Whether a place holds this very object, or an equal number."""
    try:
        found = place.get()
    except (KeyError, IndexError, ValueError):
        return False
    return found is value or (type(found) is type(value) and type(value) in _PLAIN and found == value)


def _names(code: CodeType) -> Iterator[str]:
    """The globals that code reads, that of the functions inside it included."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] == __package__.partition(".")[0]


def _foreign(module: str | None) -> bool:
    """Whether code comes from Python's library or NumPy's, which hold nothing of a user's step."""
    name = (module or "").partition(".")[0]
    return (name in sys.stdlib_module_names and name != "__main__") or name in ("numpy", "cupy", "tqdm", "matplotlib")
