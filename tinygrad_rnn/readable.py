"""What can be read off a Tensor: its shape and dtype, its numbers, its text."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import backend
from .backend import DTypeLike
from .tape import Taped, host_array, state


class Readable(Taped):
    """The base class of Tensor with what it tells about its array; on a device, the host waits for numbers and text."""

    __slots__ = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(self.array.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.array.ndim)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self.array.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return np.dtype(self.array.dtype)

    @property
    def backend(self) -> str:
        """Where the array lives: ``numpy`` or ``cupy``."""
        return backend.of(self.array).name

    def item(self) -> Any:
        """The only element, as a Python number; on a device, this waits for the result."""
        if self.size != 1:
            raise ValueError(f"item: {self!r} has {self.size} elements, not one")
        return self.array.item()

    def numpy(self) -> np.ndarray:
        """A copy as a NumPy array, without history."""
        return np.array(host_array(self))

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return self.array.tolist()

    def __len__(self) -> int:
        if not self.array.ndim:
            raise TypeError(f"{self!r} has no axis to count along")
        return int(self.array.shape[0])

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"{self!r} has {self.size} elements: say whether any or all of them must hold")
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.size != 1:
            raise TypeError(f"{self!r} is not an index; one integer is")
        return int(self.item())

    def __str__(self) -> str:
        """The numbers, as NumPy shows them; ``repr`` shows what a tensor is, without waiting for a device."""
        return str(self.numpy()) if state.keep is None else repr(self)  # while a step is captured

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __array__(self, dtype: DTypeLike = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(f"{self!r} gives NumPy a copy and no view; x.data is the array itself")
        if self.node is None and self.backend == "numpy":
            return np.array(host_array(self), dtype)  # a copy, so that writes to it cannot reach this tensor
        raise TypeError(f"{self!r} does not turn into a NumPy array unasked; call x.numpy(), or tg.stack for a list")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(f"{self!r} is not written in place; build a new one with tg.where or tg.concatenate")
