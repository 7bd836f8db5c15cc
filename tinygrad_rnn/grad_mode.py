"""Whether operations are recorded: ``no_grad`` and ``enable_grad``, as blocks and as decorators."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any, TypeVar, overload

from .tape import state

F = TypeVar("F", bound=Callable[..., Any])


class _GradMode(ContextDecorator):
    """Switches recording on or off for a block or a function, and back however it ends."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._before: list[bool] = []

    def __call__(self, function: F) -> F:
        later = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        if later or isinstance(function, type) or not callable(function):
            raise TypeError(
                f"no_grad, enable_grad: they decorate functions and generators; inside of {function!r} use with"
            )
        if not inspect.isgeneratorfunction(function):
            return super().__call__(function)

        @functools.wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            go_on = functools.partial(generator.send, None)
            while True:
                with _GradMode(self._enabled):  # while the generator runs, not while its caller does
                    try:
                        value = go_on()
                    except StopIteration as stop:
                        return stop.value
                try:
                    go_on = functools.partial(generator.send, (yield value))
                except BaseException as error:
                    go_on = functools.partial(generator.throw, error)

        return steps  # type: ignore[return-value]

    def _recreate_cm(self) -> _GradMode:
        return _GradMode(self._enabled)  # a decorated function may run in several threads

    def __enter__(self) -> None:
        self._before.append(state.enabled)
        state.enabled = self._enabled

    def __exit__(self, *_: object) -> None:
        state.enabled = self._before.pop()


@overload
def no_grad() -> _GradMode: ...
@overload
def no_grad(function: F) -> F: ...
def no_grad(function: Any = None) -> Any:
    """Record nothing inside this block, for evaluation and parameter updates. Works as a decorator too.

    >>> from tinygrad_rnn import ones
    >>> w = ones(2, requires_grad=True)
    >>> with no_grad():
    ...     print((w * w).requires_grad)
    False
    """
    return _GradMode(False) if function is None else _GradMode(False)(function)


@overload
def enable_grad() -> _GradMode: ...
@overload
def enable_grad(function: F) -> F: ...
def enable_grad(function: Any = None) -> Any:
    """Record inside this block, even within ``no_grad``."""
    return _GradMode(True) if function is None else _GradMode(True)(function)


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread."""
    return state.enabled
