"""Whose array is this: the one file that knows in what NumPy and CuPy differ.

Everywhere else a kernel receives its array module as ``xp`` and calls functions that both modules share.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # a numpy.ndarray, a cupy.ndarray, or whatever a registered backend calls an array
DTypeLike = Any

_INSTALL_CUPY = 'pip install "tinygrad-rnn[cuda12]" (or [cuda13], to match the driver that nvidia-smi reports)'


class BackendError(RuntimeError):
    """An array library is missing, or arrays of two of them met in one operation."""


class Backend:
    """An array library, and the few things that it does in a way of its own. This one is NumPy."""

    name = "numpy"
    xp: ModuleType | Any = np
    array_type: type = np.ndarray
    wraps = False  # whether an index that is out of range counts from the other end, instead of raising IndexError

    def __init__(self) -> None:
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Restart the generator that random masks are drawn from."""
        self._seed = seed
        self._generator: Any = None

    @property
    def generator(self) -> Any:
        """The generator, made when it is first wanted: ``numpy.random`` alone would double the time to import this."""
        if self._generator is None:
            self._generator = self.xp.random.default_rng(self._seed)
        return self._generator

    def uniform(self, shape: tuple[int, ...]) -> Array:
        """Draw float32 numbers from [0, 1) where this backend's arrays live."""
        return self.generator.random(shape, dtype=np.float32)

    def from_host(self, array: np.ndarray) -> Array:
        """Bring a NumPy array here."""
        return array

    def to_host(self, array: Array) -> np.ndarray:
        """Bring an array of this backend to NumPy; on a device this waits for the result."""
        return np.asarray(array)

    def add_at(self, target: Array, index: Any, values: Array) -> None:
        """``target[index] += values`` in which repeated indices add up."""
        np.add.at(target, index, values)

    def add_rows(self, target: Array, rows: Array, values: Array) -> None:
        """``target[rows] += values`` for a 2-D target and integer rows, which may repeat."""
        # Sorting lets one reduceat sum each row's values: about ten times quicker than np.add.at on rows.
        if rows.size:
            order = np.argsort(rows, kind="stable")
            found, starts = np.unique(rows[order], return_index=True)
            target[found] += np.add.reduceat(values[order], starts, axis=0)

    def row_dots(self, a: Array, b: Array) -> Array:
        """Sums of a times b along the last axis, which stays, of length 1."""
        return np.vecdot(a, b)[..., None]

    def check_indices(self, indices: Array, size: int, what: str) -> None:
        """Raise IndexError unless all indices lie in [0, size). A device, which would stall, has the next one."""
        if indices.size and (indices.min() < 0 or indices.max() >= size):
            wrong = indices[(indices < 0) | (indices >= size)].flat[0]
            raise IndexError(f"{what} {wrong} is out of range: they run from 0 to {size - 1}")

    def mark_invalid(
        self, values: Array, indices: Array, size: int, lowest: int = 0, everywhere: bool = False
    ) -> Array:
        """Values looked up with indices. On a device, NaN where these are not in [lowest, size), or everywhere."""
        return values

    def synchronize(self) -> None:
        """Wait until all work that was handed to the device is done."""

    def memory_in_use(self) -> int | None:
        """Bytes that the library's allocator has handed out, or None where it does not count them."""
        return None


class CupyBackend(Backend):
    """CuPy, on the current CUDA device."""

    name = "cupy"
    wraps = True

    def __init__(self, cupy: ModuleType) -> None:
        self.xp, self.array_type = cupy, cupy.ndarray
        super().__init__()

    def uniform(self, shape: tuple[int, ...]) -> Array:
        return self.generator.random(shape, dtype=np.float32)

    def from_host(self, array: np.ndarray) -> Array:
        return self.xp.asarray(array)

    def to_host(self, array: Array) -> np.ndarray:
        return self.xp.asnumpy(array)

    def add_at(self, target: Array, index: Any, values: Array) -> None:
        index = tuple(map(_widened, index)) if isinstance(index, tuple) else _widened(index)
        self.xp.add.at(target, index, values)

    def add_rows(self, target: Array, rows: Array, values: Array) -> None:
        self.add_at(target, rows, values)

    def row_dots(self, a: Array, b: Array) -> Array:
        return (a * b).sum(axis=-1, keepdims=True)

    def check_indices(self, indices: Array, size: int, what: str) -> None:
        pass

    def mark_invalid(
        self, values: Array, indices: Array, size: int, lowest: int = 0, everywhere: bool = False
    ) -> Array:
        # CuPy wraps an index that is out of range: without a mark, the wrong row would pass for the right one.
        if values.dtype.kind != "f":
            return values
        indices = _widened(indices)
        valid = (indices >= lowest) & (indices < size)
        valid = valid.all() if everywhere else valid
        valid = valid.reshape(valid.shape + (1,) * (values.ndim - valid.ndim))
        return self.xp.where(valid, values, values.dtype.type(np.nan))

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def memory_in_use(self) -> int:
        return int(self.xp.get_default_memory_pool().used_bytes())


def _widened(index: Any) -> Any:
    """An array of integers as int64: CuPy compares and wraps indices in their own type, which a length may overflow."""
    return index.astype(np.int64, copy=False) if getattr(index, "dtype", np.bool_) != np.bool_ else index


_backends: dict[str, Backend] = {}
modules: dict[type, Any] = {}  # array type -> its module, read on every dispatch
_by_type: dict[type, Backend] = {}
_seed = 0


def register(backend: Backend) -> Backend:
    """Make a backend known by its name and by the type of its arrays."""
    _backends[backend.name] = backend
    _by_type[backend.array_type] = backend
    modules[backend.array_type] = backend.xp
    return backend


_numpy = register(Backend())


@functools.cache
def _cupy_or_reason() -> Backend | str:
    """Start CuPy once, with a tiny kernel and a tiny product, or say why it cannot work here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # a warning of CuPy's is no reason to go without it
            import cupy  # type: ignore[import-not-found,import-untyped,unused-ignore]

            ones = cupy.ones((2, 2), dtype=np.float32)
            correct = float((ones @ ones + ones).sum()) == 12.0
            backend = CupyBackend(cupy)
            if correct:
                backend.uniform((1,))
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return f"CuPy is not installed. Install it with {_INSTALL_CUPY}."
        lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line))]  # some are ======
        return (
            f"CuPy is installed, but cannot use a GPU here ({': '.join([type(error).__name__, *lines[:1]])}). It needs "
            f"an NVIDIA driver and the CUDA libraries that come with {_INSTALL_CUPY}."
        )
    if not correct:
        return "CuPy is installed, but computes wrong numbers on this GPU; reinstall it to match the driver."
    backend.seed(_seed)
    return register(backend)


def get(name: str) -> Backend:
    """The backend of this name; BackendError says what to install if it cannot work on this machine."""
    if name in _backends:
        return _backends[name]
    if name != "cupy":
        known = sorted({*_backends, "cupy"})
        raise BackendError(f"there is no backend {name!r}; there are {', '.join(map(repr, known))}")
    found = _cupy_or_reason()
    if isinstance(found, str):
        raise BackendError(f"backend 'cupy' was asked for. {found}")
    return found


def available_backends() -> tuple[str, ...]:
    """Names of the backends that work on this machine.

    >>> "numpy" in available_backends()
    True
    """
    if "cupy" not in _backends:
        _cupy_or_reason()
    return tuple(_backends)


def is_array(value: object) -> bool:
    """Whether this is an array of a known backend (CuPy becomes known when its first array is met)."""
    if type(value) not in _by_type and type(value).__module__.partition(".")[0] == "cupy":
        get("cupy")
    return type(value) in _by_type


def of(array: Array) -> Backend:
    """The backend that an array belongs to; Python and NumPy scalars belong to NumPy."""
    return _by_type.get(type(array), _numpy)


def namespace(values: Any) -> Any:
    """The array module of the first array among the values; NumPy where there is none."""
    for value in values:
        xp = modules.get(type(value))
        if xp is not None:
            return xp
    return next((modules[type(value)] for value in values if is_array(value)), np)  # CuPy's first array, perhaps


class _Default(threading.local):
    name: str | None = None  # None: nobody chose yet in this thread


_default = _Default()
_process_default: str | None = None


def default() -> Backend:
    """Where new tensors are made: by use_backend, else by set_backend, else by TINYGRAD_RNN_BACKEND, else NumPy."""
    return get(_default.name or _process_default or os.environ.get("TINYGRAD_RNN_BACKEND") or "numpy")


def set_backend(name: str) -> None:
    """Make new tensors on this backend from now on, in every thread.

    >>> set_backend("numpy")
    """
    global _process_default
    _process_default = get(name).name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Make new tensors on this backend inside a ``with`` block, in this thread.

    >>> with use_backend("numpy"):
    ...     pass
    """
    before, _default.name = _default.name, get(name).name
    try:
        yield
    finally:
        _default.name = before


def manual_seed(seed: int) -> None:
    """Restart the random generator of every backend, for parameters, ``randn``, ``rand`` and dropout masks.

    >>> manual_seed(0)
    """
    global _seed
    _seed = seed
    for backend in _backends.values():
        backend.seed(seed)


def random_state() -> dict[str, Any]:
    """The state of the host's generator, as a dictionary of plain values that ``set_random_state`` takes back."""
    return dict(_numpy.generator.bit_generator.state)


def set_random_state(state: dict[str, Any]) -> None:
    """Continue the host's generator from where ``random_state`` was read."""
    _numpy.generator.bit_generator.state = state


def host_generator() -> np.random.Generator:
    """NumPy's generator: parameters are drawn from it on every backend, so that CPU and GPU start equal."""
    generator: np.random.Generator = _numpy.generator
    return generator


_SHORT = {"float": "f", "int": "i", "uint": "u", "complex": "c"}


def short_dtype(dtype: Any) -> str:
    """``float32`` as ``f32``, ``int64`` as ``i64``, ``bool`` as it is."""
    name = np.dtype(dtype).name
    letters = name.rstrip("0123456789")
    return _SHORT[letters] + name[len(letters) :] if letters in _SHORT else name


def signature(array: Array) -> str:
    """Dtype and shape, such as ``f32[32,128]``."""
    return f"{short_dtype(array.dtype)}[{','.join(map(str, array.shape))}]"


def _has_own_dtype(data: Any) -> bool:
    """Whether the first number of nested lists comes from an array or a NumPy scalar, and not from Python."""
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return hasattr(data, "dtype")


def as_array(data: Any, dtype: DTypeLike = None, backend: str | None = None) -> Array:
    """A fresh array with the data: arrays keep their dtype and place, Python floats become float32.

    Raises TypeError for data that are not numbers.
    """
    target = get(backend) if backend else (of(data) if is_array(data) else default())
    if is_array(data):
        source = of(data)
        if source is target:
            return target.xp.array(data, dtype=dtype)  # a copy: no tensor shares memory with its creator's array
        host = source.to_host(data)
    else:
        try:
            host = np.array(data)
        except ValueError as error:
            raise TypeError(f"tensor: the nested lists do not form an array ({error})") from None
        if dtype is None and host.dtype == np.float64 and not _has_own_dtype(data):
            dtype = np.float32
    if host.dtype.kind not in "fiub":
        raise TypeError(f"tensor: real numbers or booleans are needed, not {type(data).__name__} of dtype {host.dtype}")
    return target.from_host(host.astype(dtype if dtype is not None else host.dtype))
