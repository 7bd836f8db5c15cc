"""Counts what the stand-in for CuPy would launch on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import generated
import strict_array

from tinygrad_rnn import backend


@contextmanager
def launches() -> Iterator[list[str]]:
    """Names of the functions, products and copies, and texts of the generated kernels, that are launched meanwhile."""
    found: list[str] = []

    def noting(holder: Any, method: str, name: Callable[..., str]) -> Any:
        original = getattr(holder, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            if said := name(*args):
                found.append(said)
            return original(*args, **kwargs)

        return patch.object(holder, method, call)

    def kernel(self: Any, *args: Any) -> str:
        return self.operation if len(args) > len(self.inputs) else ""  # without outputs it makes them, and calls itself

    with ExitStack() as stack:
        stack.enter_context(noting(strict_array.Ufunc, "__call__", lambda self, *_: self.ufunc.__name__))
        stack.enter_context(noting(generated.ElementwiseKernel, "__call__", kernel))
        stack.enter_context(noting(strict_array.StrictArray, "__setitem__", lambda *_: "copy"))
        library = backend.get("strict").cublas._library
        stack.enter_context(noting(library, "cublasGemmEx", lambda *_: "product"))
        yield found
