"""Errors for what a recorded step must not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ..tape import CaptureError, state
from ..whereabouts import whereabouts


class NumberError(CaptureError):
    """A step does more than arithmetic with a number that may change."""


class MissingError(CaptureError, AttributeError):
    """A step asks an array for something that its stand-in does not have."""


refusals: list[CaptureError] = []  # all of a recording, as the step may catch one and go on


def refuse(what: str, kind: type[CaptureError] = CaptureError) -> NoReturn:
    """Raise an error that says what the step does, and in which line."""
    error = kind(
        f"capture: the step {what}{whereabouts()}. A recorded step cannot depend on values; compute with operations "
        "(tg.where for a choice), or move this out of the step"
    )
    if state.keep is not None:  # else a symbol or a number has outlived its recording
        refusals.append(error)
    raise error


def refused(what: str, kind: type[CaptureError] = CaptureError) -> Callable[..., Any]:
    """A method that refuses."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        refuse(what, kind)

    return method
