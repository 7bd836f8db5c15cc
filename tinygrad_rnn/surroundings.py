"""The surroundings of a function: the names in its code, and the package that it comes from."""

from __future__ import annotations

import dis
import sys
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

_SETTLED = {__package__, "numpy", "math", "builtins", "operator"}  # packages in which nothing changes
_LIBRARIES = "numpy cupy scipy pandas sklearn torch jax tensorflow safetensors PIL tqdm matplotlib IPython"
_INSTALLED = {*sys.stdlib_module_names, *_LIBRARIES.split()} - {"__main__"}


class Names(NamedTuple):
    """The names in code, nested functions included: globals that it may read, all of them, and modules it imports."""

    read: tuple[str, ...]  # in order
    mentioned: frozenset[str]  # but for attributes that a constructor only sets
    imported: tuple[str, ...]


_READING = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}  # the last two in class bodies


@lru_cache(maxsize=1024)
def names_in(code: CodeType) -> Names:
    """The names in code.

    >>> names_in((lambda x: len(x.parts)).__code__).read
    ('len',)
    """
    steps = list(dis.get_instructions(code))
    read = [i.argval for i in steps if i.opname in _READING]
    imported = [i.argval for i in steps if i.opname == "IMPORT_NAME"]
    making = code.co_name == "__init__"
    mentioned = {i.argval for i in steps if i.opcode in dis.hasname and not (making and i.opname == "STORE_ATTR")}
    for names in (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)):
        read += names.read
        imported += names.imported
        mentioned |= names.mentioned
    # A dictionary keeps the order; with a set, a program would depend on the hash seed.
    return Names(tuple(dict.fromkeys(read)), frozenset(mentioned), tuple(dict.fromkeys(imported)))


def is_settled(function: Any, known: frozenset[Any] = frozenset()) -> bool:
    """Whether a function depends only on its arguments: all else that it reads is settled functions and modules."""
    if isinstance(function, ModuleType):
        return _package(function.__name__) in _SETTLED
    function = function.op.kernel if hasattr(function, "op") else function
    if _package(type(function).__module__) not in ("builtins", "numpy") or not callable(function):
        return False
    if _package(function.__module__) in _SETTLED or function in known:
        return True
    if not isinstance(function, FunctionType):
        return False
    around = [cell.cell_contents for cell in function.__closure__ or ()]
    around += [function.__globals__[name] for name in names_in(function.__code__).read if name in function.__globals__]
    return all(is_settled(x, known | {function}) for x in around)


def _package(module: str | None) -> str:
    """The top-level package of a module."""
    return (module or "").partition(".")[0]


def is_ours(module: str | None) -> bool:
    """Whether a module is part of this package."""
    return _package(module) == __package__


def is_installed(module: str | None) -> bool:
    """Whether a module is of Python's library or a known package: no part of a step, and slow to search (torch)."""
    return _package(module) in _INSTALLED


def is_users(module: str | None) -> bool:
    """Whether a module is neither installed nor ours."""
    return not (is_installed(module) or is_ours(module))
