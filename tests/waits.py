"""Counts how often the host waits for a device: on CuPy, by watching all that waits, and alike on the stand-in."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from tinygrad_rnn.backend import Backend

READS = ("get", "item", "tolist", "__array__", "__bool__", "__float__", "__int__")


@contextmanager
def counted(home: Backend) -> Iterator[Counter[str]]:
    """How often, and by which method, the host waits for a backend's arrays, streams and events meanwhile."""
    found: Counter[str] = Counter()
    inside = False

    def counting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            found[name] += not inside  # float(x) is x.get() inside
            before, inside = inside, True
            try:
                return original(*args, **kwargs)
            finally:
                inside = before

        return method

    watched = [(home.array_type, name) for name in READS if hasattr(home.array_type, name)]
    for kind in (getattr(home.xp.cuda, name, None) for name in ("Stream", "Event")):
        watched += [(kind, "synchronize")] if kind else []
    with ExitStack() as stack:
        for kind, name in watched:
            stack.enter_context(patch.object(kind, name, counting(name, getattr(kind, name))))
        yield found


@contextmanager
def waiting(home: Backend, times: int = 0) -> Iterator[None]:
    """Fails unless the host waits just so many times meanwhile. On NumPy's arrays it never does."""
    if home.name == "numpy":
        yield
        return
    with ExitStack() as stack:
        if home.name == "cupy" and not times:  # then CuPy itself refuses to wait, inside of its functions too
            import cupyx

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "not possible to reliably detect", and soon to go
                stack.enter_context(cupyx.allow_synchronize(False))
        found = stack.enter_context(counted(home))
        yield
    assert found.total() == times, dict(found)
