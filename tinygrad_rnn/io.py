"""Saving and loading: a nested tree of arrays and plain values in one ``.safetensors`` file.

Arrays are the file's entries, under dotted names that any safetensors reader shows; the structure around them is JSON
in the file's metadata. No file can make ``load`` run code or import a module.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import shutil
import stat
import sys
from collections import namedtuple
from typing import Any

import numpy as np

from . import backend
from .extras import import_extra
from .tape import bare_array, host_array

_FORMAT = "tinygrad_rnn.tree.1"


class CheckpointError(ValueError):
    """A file cannot be loaded; the message names it and says what to do."""


def save(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a tree to a ``.safetensors`` file, replacing an existing one.

    tree: dictionaries with string keys, lists, tuples and named tuples, nested as deep as Python's limit of recursion
        allows (some 300 levels), of Tensors, NumPy or CuPy arrays, numbers, strings, booleans and None. Numbers are
        restored exactly, integers of any size.

    The new file is written beside the old one and replaces it in one move: even after a full disk, Ctrl-C or a power
    cut, the path holds either all of the old tree or all of the new one.

    Raises TypeError for anything else in the tree, with the path to it, and for a path that is none; FileNotFoundError
    if the folder does not exist; FileExistsError if the path is that of a folder or a device.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "tree.safetensors")
    >>> save(path, {"weights": [np.eye(2)], "step": 3})
    >>> load(path)
    {'weights': [array([[1., 0.], [0., 1.]])], 'step': 3}
    """
    numpy_format = import_extra("safetensors.numpy", "tg.save")
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"save: the path comes first, save(path, tree), as a string or a Path, not a {type(path).__name__}"
        )
    target = os.path.realpath(path)  # follows links, so that the file is replaced and not the link
    folder, name = os.path.split(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"save: there is no folder {folder} to write {name} to; make it first")
    if os.path.exists(target) and not os.path.isfile(target):
        raise FileExistsError(f"save: {target} is a folder or a device, which a file cannot replace; give another path")
    arrays: dict[str, np.ndarray] = {}
    structure = json.dumps(_encode(tree, "", arrays))
    _write(target, numpy_format.save(arrays, metadata={"format": _FORMAT, "tree": structure}))


def load(path: str | os.PathLike[str]) -> Any:
    """Read the tree that ``save`` wrote, with NumPy arrays for all arrays and Tensors.

    A named tuple gets back its class if that module is imported, else a new class of the same name.

    Raises FileNotFoundError if there is no such file, CheckpointError if it is truncated or ``save`` did not write it.
    """
    safetensors = import_extra("safetensors", "tg.load")
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"load: there is no file {path}; give the path of one that tg.save wrote")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (a file is no dictionary)
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read ({error.strerror}); change its permissions") from error
    except Exception as error:  # what is raised for a damaged file differs between versions of safetensors
        raise CheckpointError(
            f"{path} is truncated, or not a .safetensors file ({error}); use another copy, or save it anew"
        ) from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} is a .safetensors file, but not one that tg.save wrote; read it with safetensors.numpy.load_file"
        )
    try:
        return _decode(json.loads(metadata["tree"]), arrays)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its structure cannot be read ({error!r}); save it anew") from error


def _encode(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """The value as JSON, where each object names its kind; arrays are added to ``arrays`` under their paths."""

    def child(key: object, part: Any) -> Any:
        return _encode(part, f"{path}.{key}" if path else str(key), arrays)

    try:
        value = backend.plain(bare_array(value))
    except TypeError as error:
        raise TypeError(f"save: {_place(path)}: {error}") from None
    if isinstance(value, np.str_):
        return str(value)
    if isinstance(value, (np.ndarray, np.generic)) or backend.is_array(value):
        return {"array": _enter(value, path, arrays)}
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() < 64 else {"int": hex(value)}  # Python limits the digits of decimals
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(value)}  # JSON cannot express these
    if isinstance(value, list):
        return [child(i, part) for i, part in enumerate(value)]
    if isinstance(value, tuple):
        if names := getattr(value, "_fields", None):
            origin = f"{type(value).__module__}:{type(value).__qualname__}"
            return {"namedtuple": [origin, {n: child(n, part) for n, part in zip(names, value, strict=True)}]}
        return {"tuple": [child(i, part) for i, part in enumerate(value)]}
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"save: the keys of {_place(path)} must be strings, but {wrong[0]!r} is among them")
        return {"dict": {key: child(key, part) for key, part in value.items()}}
    raise TypeError(
        f"save: {_place(path)} is of type {type(value).__name__}; a tree holds dictionaries, lists, tuples, "
        "Tensors, arrays, numbers, strings, booleans and None"
        + ("; save its state_dict()" if hasattr(value, "state_dict") else "")
    )


def _enter(array: Any, path: str, arrays: dict[str, np.ndarray]) -> str:
    """Add an array to the entries and return its name there."""
    host = host_array(array)
    dtype = host.dtype.newbyteorder("=")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise TypeError(f"save: {_place(path)} is an array of dtype {host.dtype}, which the file format lacks")
    name = (path or "array").encode("utf-8", "backslashreplace").decode()
    while name in arrays or name == "__metadata__":  # {"a.b": x, "a": {"b": y}}
        name += "'"
    arrays[name] = host.astype(dtype, order="C", copy=False)  # other orders would be written wrongly, without an error
    return name


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The tree from its JSON and its arrays."""
    if isinstance(value, list):
        return [_decode(part, arrays) for part in value]
    if not isinstance(value, dict):
        return value
    content: Any
    ((kind, content),) = value.items()
    if kind == "array":
        return arrays[content]
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple([_decode(part, arrays) for part in content])
    if kind == "dict":
        return {key: _decode(part, arrays) for key, part in content.items()}
    if kind == "namedtuple":
        origin, fields = content
        return _named_tuple(origin, tuple(fields))._make([_decode(part, arrays) for part in fields.values()])
    raise ValueError(f"unknown kind {kind!r}")


def _named_tuple(origin: str, fields: tuple[str, ...]) -> Any:
    """The named tuple class ``module:name`` if it is already imported, else one of that name."""
    module, _, name = origin.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)  # getattr itself could run a module's __getattr__
    if isinstance(found, type) and issubclass(found, tuple) and getattr(found, "_fields", None) == fields:
        return found
    return _new_named_tuple(name.rpartition(".")[2], fields)


@functools.cache
def _new_named_tuple(name: str, fields: tuple[str, ...]) -> Any:
    """A named tuple class, cached so that loaded trees have the same structure."""
    return namedtuple(name, fields)


def _place(path: str) -> str:
    return f"{path!r} in the tree" if path else "the tree"


def _write(target: str, content: bytes) -> None:
    """Write a file beside the target, and replace the target by it in one move."""
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # before the move, or a power cut could leave an empty file
        with contextlib.suppress(OSError):  # there is none yet, or the file system refuses
            shutil.copymode(target, temporary)  # a private file stays private
        _replace(temporary, target)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IREAD | stat.S_IWRITE)  # Windows does not remove a read-only file
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _replace(source: str, target: str) -> None:
    """Move a file over another one, also where that one is read-only."""
    try:
        os.replace(source, target)
    except PermissionError:  # Windows does not replace a read-only file
        mode = os.stat(target).st_mode if os.path.isfile(target) else stat.S_IWRITE
        if mode & stat.S_IWRITE:
            raise
        os.chmod(target, mode | stat.S_IWRITE)
        try:
            os.replace(source, target)
        except BaseException:
            os.chmod(target, mode)
            raise


def _sync_folder(folder: str) -> None:
    """Flush the folder's new entry to the disk, on systems that can open a folder."""
    if os.name == "posix":
        with contextlib.suppress(OSError):  # some network file systems refuse; the file itself is safe by now
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
