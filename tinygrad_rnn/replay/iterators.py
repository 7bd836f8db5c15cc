"""Iterators in reach of a step, which a replay would not draw from."""

from __future__ import annotations

import operator
from functools import partial
from types import MethodWrapperType
from typing import Any, NoReturn
from weakref import ProxyTypes

from ..tape import CaptureError
from ..whereabouts import whereabouts
from .symbol import refusals


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
    if type(x) is tuple:
        parts = tuple(closed(part, f"{path}[{k}]") for k, part in enumerate(x))
        return x if all(map(operator.is_, parts, x)) else parts
    if type(x) is partial:
        arguments = closed(x.args, path)
        return x if arguments is x.args else partial(x.func, *arguments, **x.keywords)
    source = x.__self__ if type(x) is MethodWrapperType else x  # of draw = iter(batches).__next__
    drawn = hasattr(type(source), "__next__") and type(source) not in ProxyTypes
    return Closed(path) if drawn and not hasattr(source, "write") else x  # as files do
