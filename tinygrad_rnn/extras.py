"""Optional libraries, imported where they are used; if one is missing, the error says how to install it."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str, purpose: str) -> Any:
    """Import a module of the ``examples`` extra; ImportError says what needs it and how to install it.

    >>> import_extra("no_such_module", "this doctest")
    Traceback (most recent call last):
    ImportError: this doctest needs no_such_module, which is not installed: pip install "tinygrad-rnn[examples]"
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = module.partition(".")[0]
        raise ImportError(
            f'{purpose} needs {package}, which is not installed: pip install "tinygrad-rnn[examples]"'
        ) from None
