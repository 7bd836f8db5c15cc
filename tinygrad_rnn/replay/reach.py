"""What a step can reach: the tensors that it uses, and the Python values that it was recorded with.

The search goes from the function through its closure, the globals and attributes that it names, and its arguments.
A class can list in ``ports`` the attributes that change from call to call, such as an optimiser's ``lr``.
"""

from __future__ import annotations

import operator
import random
import sys
from collections import deque
from collections.abc import Iterator
from functools import cached_property, partial, partialmethod, singledispatchmethod
from itertools import accumulate, repeat
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

import numpy as np

from .. import backend
from ..surroundings import is_installed, is_ours, is_users, names_in
from ..tape import Leaf
from ..tensor import Tensor, leaf_of
from ..tree import tree_items
from .iterators import closed
from .places import ABSENT, PLAIN, Attribute, Place

_OPAQUE = (CodeType, np.dtype, np.generic)
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_METHODS = (MethodType, MethodWrapperType, BuiltinFunctionType, staticmethod, classmethod, property)
_WRAPPED = (*_METHODS, partial, partialmethod, singledispatchmethod, cached_property, *_VIEWS)
_PARTS = ("__self__", "__func__", "func", "args", "keywords", "dispatcher", "fget", "fset", "mapping")  # of these
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_PROTOCOL = ("forward", "initial_state", "input_projection", "step")  # methods that the engine calls on any object
_ANY = frozenset({"__dict__", "attrgetter", "getattr", "hasattr", "vars"})  # code with these may use any attribute
# Python's classes for users' objects.
_HOLDERS = {"ChainMap", "LifoQueue", "Namespace", "PriorityQueue", "Queue", "SimpleNamespace", "UserDict", "UserList"}
OF_CAPTURED = "_captured_"  # begins the names of attributes that keep the captured methods of an object
_MAKING = {"__init__", "__new__", "__post_init__"}
_UNUSED = {"__del__", "__repr__", "__str__"}


class Reach:
    """Everything that a function can reach, by itself and through its arguments.

    Of the user's objects, classes and modules, only attributes named in reachable code count; of objects of the
    engine's classes, and of classes derived from them, all attributes count.
    """

    def __init__(self, function: Any, arguments: Any = ()) -> None:
        self._root = function
        self._mentioned = set(_PROTOCOL)
        known = 0
        while known < len(self._mentioned):  # until no more code is found that mentions new names
            known = len(self._mentioned)
            self._walk([(function, "", False), *_objects(arguments)])

    def _walk(self, ahead: list[tuple[Any, str, bool]]) -> None:
        self.tensors: dict[Tensor, str] = {}  # with a path to each
        self.leaves: dict[Leaf, str] = {}
        self.generators: list[Any] = []  # of random numbers
        self.iterators: list[tuple[Place, Any, Any]] = []  # with stand-ins that refuse to be drawn from
        self.ports: list[Place] = []  # arrays and numbers that change from call to call
        self.fixed: list[tuple[Place, Any]] = []  # all other places, with their values
        self.arrays: dict[int, tuple[str, Any]] = {}  # that no tensor holds, by id, with a path to each
        self.sizes: list[tuple[Any, int, str]] = []  # of lists, dictionaries and sets
        self.sizes_of_ports: list[tuple[Any, int, str]] = []  # of those with ports, to which an optimiser may add some
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # keeps what was seen alive, so that no other object gets its id
        self._ahead = ahead
        while self._ahead:
            self._visit(*self._ahead.pop())

    def unchanged(self) -> bool:
        """Whether everything that the step was recorded with is still there."""
        containers, sizes, columns = self._columns
        if not all(map(operator.eq, map(len, containers), sizes)):
            return False
        for read, holders, keys, values in columns:  # nearly always equal, so many are checked at once
            if not all(map(operator.is_, map(read, holders, keys, repeat(ABSENT)), values)):
                return all(place.holds(value) for place, value in self.fixed)
        return True

    @cached_property
    def _columns(self) -> Any:
        """Containers and their lengths; and for each read function, the holders, keys and values of its places."""
        columns: dict[Any, list[Any]] = {}
        for place, value in self.fixed:
            columns.setdefault(place.read, []).append((place.holder, place.key, value))
        containers, sizes, _ = zip(*self.sizes, strict=True) if self.sizes else ((), (), ())
        return containers, sizes, [(read, *zip(*rows, strict=True)) for read, rows in columns.items()]

    def changed(self) -> list[str]:
        """The paths of everything that has changed."""
        paths = [place.path for place, value in self.fixed if not place.holds(value)]
        return paths + [f"the length of {path}" for container, size, path in self.sizes if len(container) != size]

    def _look(self, place: Place, is_port: bool = False) -> None:
        value = place.get()
        if is_port and (backend.is_array(value) or type(value) in (int, float)):
            self.ports.append(place)
            return
        self.fixed.append((place, value))
        stand_in = closed(value, place.path)
        if stand_in is not value and place.is_open():
            self.iterators.append((place, value, stand_in))
        self._ahead.append((value, place.path, is_port))

    def _visit(self, x: Any, path: str, is_port: bool) -> None:
        if backend.is_array(x):
            self.arrays.setdefault(id(x), (path, x))
            return
        if id(x) in self._seen or (isinstance(x, (*PLAIN, *_OPAQUE)) and not is_users(type(x).__module__)):
            return
        self._seen.add(id(x))
        self._kept.append(x)
        if isinstance(x, Tensor):
            self.tensors[x] = path
            self.fixed.append((Attribute(x, "node", f"{path}.requires_grad"), x.node))
            if leaf := leaf_of(x):
                self.leaves[leaf] = path
        elif state_of(x) is not None:
            self.generators.append(x)
        elif isinstance(x, (dict, MappingProxyType)):
            self._items(x, x, path, is_port)
        elif type(x) is set:
            self._items(x, x, path, False)
        elif isinstance(x, (list, deque)):
            self._items(x, range(len(x)), path, is_port)
        elif isinstance(x, (tuple, set, frozenset)):
            self.sizes.append((x, len(x), path))
            self._ahead += [(child, f"{path}[{i}]", is_port) for i, child in enumerate(x)]
        elif isinstance(x, (FunctionType, *_WRAPPED)):
            self._function(x, path)
        elif isinstance(x, ModuleType):
            if is_users(x.__name__):
                self._namespace(vars(x), path, ("__getattr__",))
        elif "__wrapped__" in getattr(x, "__dict__", {}) and not is_users(type(x).__module__):
            self._ahead.append((x.__wrapped__, path, False))  # another captured step
        elif isinstance(x, type):
            self._inherited(x, x, path, [])
            self._ahead.append((type(x), path, False))
        elif not is_installed(type(x).__module__):
            self._object(x, path)
        elif type(x).__name__ in _HOLDERS:
            self._namespace(vars(x), path, ("data", "maps", "queue"))
        if isinstance(x, _CONTAINERS) and (hasattr(x, "__dict__") or is_users(type(x).__module__)):
            self._object(x, path)  # of a class of its own, such as ModuleList

    def _items(self, container: Any, keys: Any, path: str, is_port: bool) -> None:
        (self.sizes_of_ports if is_port else self.sizes).append((container, len(container), path))
        for key in list(keys):
            self._look(Place(container, key, f"{path}[{key!r}]"), is_port)

    def _namespace(self, names: Any, path: str, also: Any = ()) -> list[str]:
        """Look at the mentioned attributes of an object, a class or a module."""
        every = not _ANY.isdisjoint(self._mentioned)
        if every:  # one more may be found by hasattr
            self.sizes.append((names, len(names), path))
        found = [name for name in _attributes(names) if every or name in self._mentioned or name in also]
        for name in found:
            self._look(Place(names, name, f"{path}.{name}".lstrip(".")))
        return found

    def _object(self, x: Any, path: str) -> None:
        held, derived = getattr(x, "__dict__", {}), [c for c in type(x).__mro__ if is_ours(c.__module__)]
        if derived:
            ports = getattr(type(x), "ports", ())
            self.sizes.append((held, len(held), path))
            for name in _attributes(held):
                self._look(Place(held, name, f"{path}.{name}".lstrip(".")), name in ports)
        else:
            self._namespace(held, path)
        self._inherited(x, type(x), path, [held])

    def _inherited(self, x: Any, kind: type, path: str, before: list[Any]) -> None:
        """Look at the mentioned attributes of an object's user classes; before: namespaces that take precedence."""
        hooks = {name for c in kind.__mro__ if is_ours(c.__module__) for name in vars(c)}  # the engine may call them
        unused = _UNUSED if x is kind else _UNUSED | _MAKING  # the code may make instances of a class
        for c in (c for c in kind.__mro__ if is_users(c.__module__)):
            if hooks:
                self.sizes.append((vars(c), len(vars(c)), c.__name__))
            special = {name for name in vars(c) if name.startswith("__") and callable(vars(c)[name])}
            for name in self._namespace(vars(c), path, (hooks | special) - unused):
                if x is not kind and isinstance(vars(c)[name], MemberDescriptorType):
                    self._look(Attribute(x, name, f"{path}.{name}"))
                else:
                    missing = [Place(names, name, f"{path}.{name}") for names in before if name not in names]
                    self.fixed += [(place, ABSENT) for place in missing]
            before.append(vars(c))

    def _function(self, f: Any, path: str) -> None:
        if not isinstance(f, FunctionType):
            self._ahead += [(part, path, False) for part in (getattr(f, name, None) for name in _PARTS)]
        elif not (f is self._root or is_users(f.__module__)):
            return
        elif hasattr(f, "op"):  # a user's operation: only its kernel and rules are the user's code
            self._ahead += [(rule, path, False) for rule in (f.op.kernel, *f.op.rules.values(), *f.op.merges.values())]
        else:
            read, mentioned, imported = names_in(f.__code__)
            self._mentioned |= mentioned
            packages = list(accumulate((f.__globals__.get("__package__") or "").split("."), "{}.{}".format))
            for name in imported:  # "" for "from . import x"
                found = (sys.modules.get(full) for full in (name, *(f"{p}.{name}".rstrip(".") for p in packages)))
                self._ahead += [(module, name, False) for module in found if module is not None]
            for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
                self._look(Attribute(cell, "cell_contents", name))
            for name in read:  # also one that is not there: a global may hide a builtin later
                self._look(Place(f.__globals__, name, name))
            self._namespace(vars(f), path, ("registry",))  # of functools.singledispatch
            for name in ("__code__", "__defaults__", "__kwdefaults__"):  # reloading code in a notebook replaces them
                self._look(Attribute(f, name, f"{path}.{name}".lstrip(".")))


def state_of(generator: Any) -> Any:
    """The state of a random generator, of either kind of NumPy's or Python's; None for other objects."""
    if type(generator).__name__ == "Generator" and hasattr(generator, "bit_generator"):
        return repr(generator.bit_generator.state)
    if type(generator).__name__ == "RandomState":
        return repr(generator.get_state(legacy=False))
    return generator.getstate() if isinstance(generator, random.Random) else None


def _attributes(names: Any) -> list[str]:
    """The names of attributes, without those that keep captured methods."""
    return [name for name in names if not str(name).startswith(OF_CAPTURED)]


def _objects(arguments: Any) -> list[tuple[Any, str, bool]]:
    """The objects among a call's arguments that can change, without tensors and arrays."""
    args, kwargs = arguments or ((), {})
    items = [(f"argument {path}", x) for path, x in tree_items((*args, kwargs))]
    items = [(path, x) for path, x in items if not (isinstance(x, Tensor) or backend.is_array(x))]
    return [(x, path, False) for path, x in [*items, *((kind.__name__, kind) for kind in _kinds((args, kwargs)))]]


def _kinds(tree: Any) -> Iterator[type]:
    """The user's classes of containers in a tree, whose methods a step may call."""
    if isinstance(tree, (tuple, list, dict)):
        if is_users(type(tree).__module__):
            yield type(tree)
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from _kinds(child)
