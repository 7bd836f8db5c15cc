"""Iterators in reach of a step, which a replay would not draw from."""

from __future__ import annotations

import operator
from functools import partial
from types import BuiltinMethodType, MethodWrapperType
from typing import Any, NoReturn
from weakref import ProxyTypes

from ..surroundings import is_users
from ..tape import CaptureError
from ..whereabouts import whereabouts
from .refusal import refusals


class Closed:
    """Stands in for an iterator while a step is recorded, and refuses any use."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _refuse(self, *_: Any) -> NoReturn:
        refusals.append(
            CaptureError(
                f"capture: the step draws from {self._path}, which a replay would not do{whereabouts()}; draw before "
                "the step, and pass in what is drawn as an argument"
            )
        )
        raise refusals[-1]

    __iter__ = __next__ = __call__ = __getattr__ = _refuse


def closed(x: Any, path: str) -> Any:
    """A stand-in for an iterator, or for a tuple or a partial function with iterators in it; x itself otherwise."""
    if isinstance(x, tuple):
        parts = [closed(part, f"{path}[{k}]") for k, part in enumerate(x)]
        return x if all(map(operator.is_, parts, x)) else tuple.__new__(type(x), parts)
    if type(x) is partial:
        given = x.func, *x.args
        stand_ins = closed(given, path)
        return x if stand_ins is given else partial(*stand_ins, **x.keywords)
    source = x.__self__ if type(x) in (MethodWrapperType, BuiltinMethodType) else x  # of draw = iter(batches).__next__
    draw = getattr(type(source), "__next__", None)
    if draw is None or type(source) in ProxyTypes or is_users(getattr(draw, "__module__", "builtins")):
        return x  # what a user's own __next__ changes is seen as a change
    return x if hasattr(source, "write") else Closed(path)  # files are iterators
