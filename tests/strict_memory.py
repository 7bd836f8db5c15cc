"""The memory of the stand-in for a GPU: who owns it, how much there is of it, and what goes to and fro."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

tally = SimpleNamespace(
    host_copies=0,  # how often the host has waited for a value of the device
    uploads=0,  # how often numbers of the host were copied to the device
    limit=None,  # bytes that all arrays together may have, or None
)
_owners: WeakValueDictionary[int, Any] = WeakValueDictionary()  # arrays by id of what owns the memory in NumPy


class OutOfMemoryError(MemoryError):
    """CuPy's, word for word."""

    def __init__(self, size: int, total: int, limit: int) -> None:
        so_far = f"allocated so far: {total:,} bytes, limit set to: {limit:,} bytes"
        super().__init__(f"Out of memory allocating {size:,} bytes ({so_far}).")


def used_bytes() -> int:
    """Bytes of all arrays that are alive."""
    return sum([array.nbytes for array in _owners.values()])


def owner_of(array: Any, numbers: np.ndarray) -> Any:
    """The array of which a new one shows a part, or None: then it takes memory of its own."""
    key = id(root(numbers))
    owner = _owners.get(key)
    if owner is None:
        if tally.limit is not None and used_bytes() + numbers.nbytes > tally.limit:
            raise OutOfMemoryError(numbers.nbytes, used_bytes(), tally.limit)
        _owners[key] = array
    return owner


class Memory:
    """What was allocated at once."""

    def __init__(self, root: np.ndarray) -> None:
        self._root = root

    ptr = property(lambda self: self._root.ctypes.data)
    size = property(lambda self: self._root.nbytes)

    @property
    def bytes(self) -> np.ndarray:
        return self._root.reshape(-1, order="A").view(np.uint8) if self.size else self._root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Memory) and (self.ptr, self.size) == (other.ptr, other.size)

    __hash__ = None


class Pointer:
    """``cupy.cuda.MemoryPointer``."""

    def __init__(self, mem: Memory, ptr: int) -> None:
        self.mem, self.ptr = mem, ptr

    def __add__(self, offset: int) -> Pointer:
        return Pointer(self.mem, self.ptr + offset)


def root(numbers: Any) -> np.ndarray:
    """The array that owns a view's memory."""
    while (base := getattr(numbers, "base", None)) is not None:
        numbers = base
    return np.asarray(numbers)
