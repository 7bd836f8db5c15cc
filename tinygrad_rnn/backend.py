"""The backends: which exist, which one is the default, which one an array belongs to; and the dtype policy."""

from __future__ import annotations

import functools
import operator
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .cupy_backend import CupyBackend
from .formula import Formula, functions
from .numpy_backend import Array, Backend

DTypeLike = Any

_INSTALL_CUPY = 'pip install "tinygrad-rnn[cuda12]" (or [cuda13], to match the driver that nvidia-smi reports)'


class BackendError(RuntimeError):
    """An array library is missing, or one operation was given arrays of two backends."""


_backends: dict[str, Backend] = {}
modules: dict[type, Any] = {Formula: functions}  # array type -> its module, read on every dispatch
_by_type: dict[type, Backend] = {}
PLAIN = {int, float, bool, str, slice, tuple, list, dict, type(None)}  # common types that are no arrays
CHANGEABLE: set[type] = {list, dict}  # types of values that whoever made them may change, each type of arrays included
_seed = 0


def register(backend: Backend) -> Backend:
    """Register a backend under its name and its array type."""
    _backends[backend.name] = backend
    _by_type[backend.array_type] = backend
    modules[backend.array_type] = backend.xp
    CHANGEABLE.add(backend.array_type)
    return backend


host = Backend.host = register(Backend())  # its generator draws all parameters, so CPU and GPU start equal


@functools.cache
def _cupy_or_reason() -> Backend | str:
    """Start CuPy and test it with a tiny kernel and matrix product, or return the reason why it cannot work here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # a CuPy warning is no reason to reject it
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
    """The backend with this name; BackendError says what to install if it cannot work on this machine."""
    if name in _backends:
        return _backends[name]
    if name != "cupy":
        known = sorted({*_backends, "cupy"})
        raise BackendError(f"there is no backend {name!r}; there are {', '.join(map(repr, known))}; CUDA is 'cupy'")
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
    """Whether this is an array of a registered backend (the first CuPy array registers CuPy)."""
    kind = type(value)
    if kind not in _by_type and kind not in PLAIN and kind.__module__.partition(".")[0] == "cupy":
        get("cupy")
    return kind in _by_type


def plain(value: Any) -> Any:
    """A memory map, or another subclass of NumPy's array, as an ordinary one; anything else unchanged.

    Raises TypeError for a complex number, and for an array of another library, or with a mask, which would be lost.
    """
    if isinstance(value, np.ndarray):
        if hasattr(value, "filled"):
            raise TypeError("a masked array has no gradient where it is masked: use x.filled(0), and mask the loss")
        return np.asarray(value)
    if hasattr(value, "__dlpack__") and not is_array(value):
        told = f"a {type(value).__module__}.{type(value).__qualname__} is no array of NumPy or CuPy"
        raise TypeError(f"{told}; bring it there first, as x.numpy() or np.asarray(x) does")
    refuse_complex(value)
    return value


def of(array: Array) -> Backend:
    """The backend that an array belongs to; Python and NumPy scalars belong to NumPy."""
    return _by_type.get(type(array), host)


def namespace(values: Any) -> Any:
    """The array module of the first array among the values; NumPy if there is none."""
    return next((modules[type(value)] for value in values if type(value) in modules or is_array(value)), np)


class _Default(threading.local):
    name: str | None = None  # None: not chosen in this thread


_default = _Default()
_process_default: str | None = None


def default() -> Backend:
    """The backend for new tensors: from use_backend, else set_backend, else TINYGRAD_RNN_BACKEND, else NumPy."""
    if chosen := _default.name or _process_default:
        return get(chosen)
    try:
        return get(os.environ.get("TINYGRAD_RNN_BACKEND") or "numpy")
    except BackendError as error:
        raise BackendError(f"TINYGRAD_RNN_BACKEND: {error}") from None


def chosen(name: str | None) -> Backend:
    """The backend with this name, or the default one for None."""
    return get(name) if name else default()


def set_backend(name: str) -> None:
    """Create new tensors on this backend from now on, in every thread.

    >>> set_backend("numpy")
    """
    global _process_default
    _process_default = get(name).name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Create new tensors on this backend inside a ``with`` block, in this thread.

    >>> with use_backend("numpy"):
    ...     pass
    """
    before, _default.name = _default.name, get(name).name
    try:
        yield
    finally:
        _default.name = before


def manual_seed(seed: int) -> None:
    """Seed the random generators of all backends, for parameters, ``randn``, ``rand`` and dropout masks.

    Raises TypeError unless ``seed`` is an integer, ValueError if it is negative; then nothing changes.

    >>> manual_seed(0)
    """
    global _seed
    if operator.index(seed) < 0:
        raise ValueError(f"manual_seed: a whole number of at least 0 is needed, not {seed}")
    _seed = seed
    for backend in _backends.values():
        backend.seed(seed)


def random_state() -> dict[str, Any]:
    """The states of the random generators by backend, as plain values for ``save`` and ``set_random_state``.

    >>> from tinygrad_rnn import rand
    >>> before = random_state()
    >>> x = rand(2)
    >>> set_random_state(before)
    >>> x.tolist() == rand(2).tolist()
    True
    """
    return {name: backend.random_state() for name, backend in _backends.items()}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the random generators from ``random_state()``, except those of backends that are not available here.

    Raises TypeError if this is not such a state.
    """
    if not isinstance(state, dict) or "numpy" not in state:
        raise TypeError(f"set_random_state: what random_state() returned is needed, not {state!r}")
    for name in state.keys() & {*available_backends()}:
        get(name).set_random_state(state[name])


def _short_dtype(dtype: Any) -> str:
    """``f32`` for ``float32``, ``i64`` for ``int64``, ``bool`` unchanged."""
    name = np.dtype(dtype).name
    letters = name.rstrip("0123456789")
    return letters[0] + name[len(letters) :] if letters in ("float", "int", "uint", "complex") else name


def signature(array: Array) -> str:
    """Dtype and shape of an array, or of anything else that has both, such as ``f32[32,128]``."""
    return f"{_short_dtype(array.dtype)}[{','.join(map(str, array.shape))}]"


def is_dtype(x: Any) -> bool:
    """Whether x names a dtype, as ``"float64"`` and ``np.float64`` do; None does not."""
    try:
        return x is not None and np.dtype(x) is not None
    except TypeError:
        return False


def is_finite(x: Any) -> bool:
    """Whether a floating-point array holds neither NaN nor infinity (on a device, this waits); True for all else."""
    return getattr(getattr(x, "dtype", None), "kind", "") != "f" or bool(of(x).xp.isfinite(x).all())


def refuse_complex(value: Any) -> None:
    """Raise TypeError for a complex number."""
    if isinstance(value, (complex, np.complexfloating)):
        raise TypeError(f"tensors hold real numbers or booleans, not complex ones such as {value}")


def refuse_unreal(caller: str, dtype: DTypeLike) -> None:
    """Raise TypeError unless a dtype is one of real numbers or booleans, or None."""
    if dtype is not None and not _is_real(dtype):
        raise TypeError(f"{caller}: tensors hold real numbers or booleans, not {np.dtype(dtype)}")


def _is_real(dtype: DTypeLike) -> bool:
    return np.dtype(dtype).kind in "fiub"


def as_array(data: Any, dtype: DTypeLike = None, backend: str | None = None) -> Array:
    """Copy data into a new array: arrays keep their dtype and backend, Python floats become float32.

    Raises TypeError if the data are not numbers, and ValueError for nested lists of unequal lengths.
    """
    refuse_unreal("tensor", dtype)
    if is_array(data):
        source = of(data)
        target = get(backend) if backend else source
        source.reading(data)
        if source.name == target.name and _is_real(data.dtype):
            return source.xp.array(data, dtype=dtype)  # a copy: no tensor shares memory with its creator's array
        numbers = source.to_host(data)
    else:
        target = chosen(backend)
        numbers = _from_lists(data)
        if dtype is None and numbers.dtype == np.float64 and not _has_own_dtype(data):
            dtype = np.float32
    if not _is_real(numbers.dtype):
        given = f"{type(data).__name__} of dtype {numbers.dtype}"
        raise TypeError(f"tensor: real numbers or booleans are needed, not {given}")
    return target.from_host(numbers.astype(numbers.dtype if dtype is None else dtype))


def _from_lists(data: Any) -> np.ndarray:
    """Nested lists, a number, or a subclass of NumPy's array, as an array; an error says what else it is."""
    try:
        return np.array(plain(data) if isinstance(data, np.ndarray) else data)
    except (TypeError, ValueError) as error:
        if hasattr(data, "_fields"):  # what a layer returns
            told = f"a {type(data).__name__} is no array; one field of it is meant: {', '.join(data._fields)}"
            raise TypeError(f"tensor: {told}") from None
        if isinstance(error, TypeError):
            raise
        raise ValueError(f"tensor: the nested lists do not form an array ({error})") from None


def _has_own_dtype(data: Any) -> bool:
    """Whether the first number of nested lists is an array or a NumPy scalar rather than Python's."""
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return hasattr(data, "dtype")
