"""What kernels and rules find as ``xp`` while a step is recorded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import ops
from ..op import registry
from .refusal import refused
from .symbol import Symbol

if TYPE_CHECKING:
    from .recorder import Recorder


class Functions:
    """The array module of symbols: operations under NumPy's names, and functions that make constant arrays."""

    def __init__(self, recorder_of: Callable[[], Recorder]) -> None:
        self._recorder_of = recorder_of

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _BY_NAME:
            return _BY_NAME[name]
        real = getattr(self._recorder_of().home.xp, name)
        if name in _MAKERS:
            return functools.partial(_on_arrays, real)
        if callable(real) and not isinstance(real, type):
            return refused(f"calls {name} of the array module, which is no operation")
        return real

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        """A symbol as it is, or in another dtype; an array of anything else."""
        if isinstance(x, Symbol):
            return x if dtype is None else x.astype(dtype)
        return self._recorder_of().home.xp.asarray(x, dtype=dtype)

    array = ascontiguousarray = asarray

    def zeros_like(self, x: Any) -> Symbol:
        """Zeros that the step may write into later, as optimisers do."""
        recorder = self._recorder_of()
        zeros = _on_arrays(recorder.home.xp.zeros_like, x)
        return recorder.symbol(zeros, recorder.constant(zeros))


_BY_NAME: dict[str, Any] = {op.name: op.function for op in registry.values()} | {
    "abs": ops.absolute,
    "concatenate": ops.concatenate,
    "dot": ops.matmul,
    "matmul": ops.matmul,
    "pad": ops.pad,
    "swapaxes": ops.swapaxes,
}
_MAKERS = ("ones_like", "full_like", "empty_like", "zeros", "ones", "full", "empty", "arange", "eye")


def _on_arrays(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*[a.array if isinstance(a, Symbol) else a for a in args], **kwargs)
