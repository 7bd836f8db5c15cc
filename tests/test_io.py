"""Saving and loading: what goes in comes out, a write that fails leaves the old file, a bad file is told in words."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

import tinygrad_rnn as tg
from tinygrad_rnn import CheckpointError, nn


class Point(NamedTuple):
    """A named tuple that can be found again by its name."""

    x: Any
    y: Any


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return bool(a == b)


numbers = st.integers() | st.integers(-(10**5000), 10**5000) | st.floats()
dtypes = hnp.integer_dtypes(endianness="=") | hnp.floating_dtypes(endianness="=", sizes=(16, 32, 64)) | st.just(bool)
arrays = hnp.arrays(st.shared(dtypes, key="dtype"), hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
anything = st.text(st.characters(exclude_categories=()))  # lone surrogates and NULs too
trees = st.recursive(
    st.none() | st.booleans() | numbers | anything | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(anything, inner, max_size=4)
        | st.builds(Point, inner, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(tree=trees)
def test_every_tree_comes_back_exactly(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.safetensors"
    tg.save(path, tree)
    assert same(tg.load(path), tree)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tree.safetensors"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(12)[::-2],
        np.asfortranarray(np.eye(3, 2)),
        np.broadcast_to(np.float32(3), (2, 2)),
        np.array([1.5, 2.5], ">f4"),
        np.float16(3),
    ],
)
def test_any_layout_is_saved_by_value(path: Path, array: Any) -> None:
    tg.save(path, array)
    loaded = tg.load(path)
    assert type(loaded) is np.ndarray
    assert loaded.shape == array.shape
    assert (loaded == array).all()
    loaded += 1  # it is an array of its own, not a view of the file


def test_tensors_come_back_as_arrays_and_states_as_states(path: Path) -> None:
    model = nn.LSTMCell(3, 4)
    _, state = model(tg.ones(2, 3))
    tg.save(path, {"model": model.state_dict(), "state": [state, None]})
    loaded = tg.load(path)
    assert type(loaded["state"][0]) is nn.LSTMState
    assert same(loaded["state"][0].c, state.c.numpy())
    model.load_state_dict(loaded["model"])


@pytest.mark.parametrize("kind", [lambda x: [x], lambda x: (x,), lambda x: {"k": x}, lambda x: Point(x, 0)])
def test_what_is_not_too_deep_to_save_is_not_too_deep_to_load(path: Path, kind: Any) -> None:
    def deep(levels: int) -> Any:
        return kind(deep(levels - 1)) if levels else None

    for levels in range(400, 0, -1):
        try:
            tg.save(path, deep(levels))
        except RecursionError:
            continue
        break
    loaded, depth = tg.load(path), 0
    while loaded is not None:
        loaded, depth = next(iter(loaded.values())) if isinstance(loaded, dict) else loaded[0], depth + 1
    assert depth == levels > 100


def test_a_named_tuple_that_cannot_be_found_comes_back_as_one_of_its_name(path: Path) -> None:
    tg.save(path, [namedtuple("Local", "h c")(1, 2)] * 2)
    first, second = tg.load(path)
    assert (first.h, first.c, type(first).__name__) == (1, 2, "Local")
    assert type(first) is type(second)


def test_a_string_out_of_an_array_is_a_string(path: Path) -> None:
    tg.save(path, {"symbols": list(np.array(["b", "a"]))})
    assert same(tg.load(path), {"symbols": ["b", "a"]})


def test_paths_that_collide_are_kept_apart(path: Path) -> None:
    tree = {"a.b": np.array(1), "a": {"b": np.array(2), "b'": np.array(3)}, "__metadata__": np.array(4)}
    tg.save(path, tree)
    assert same(tg.load(path), tree)


class OfAnotherLibrary:
    """What shows that something is an array, of whatever library."""

    def __dlpack__(self) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": [1, {2}]}, "'a.1' in the tree is of type set"),
        ({"a": {3: 4}}, "keys of 'a' in the tree must be strings, but 3"),
        ([np.array([object()])], "'0' in the tree is an array of dtype object"),
        (np.array(1j), "the tree is an array of dtype complex128"),
        ([np.ma.array([1.0, 2.0], mask=[True, False])], r"'0' in the tree: a masked array .* use x\.filled\(0\)"),
        ({"w": [OfAnotherLibrary()]}, r"'w\.0' in the tree: a .*OfAnotherLibrary is no array of NumPy .* x\.numpy\(\)"),
        (print, "the tree is of type builtin_function_or_method"),
        ({"model": nn.Linear(2, 1)}, r"'model' in the tree is of type Linear; .* save its state_dict\(\)$"),
    ],
)
def test_what_cannot_be_saved_is_named(path: Path, tree: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        tg.save(path, tree)
    assert not os.listdir(path.parent)


def test_a_tree_in_the_place_of_the_path_is_named(path: Path) -> None:
    with pytest.raises(TypeError, match=r"the path comes first, save\(path, tree\), .* not a dict"):
        tg.save({"a": 1}, path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        tg.save(tmp_path / "nowhere" / "x.safetensors", 1)


# ---- writing is all or nothing ----


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("full"), PermissionError("in use")])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise error

    tg.save(path, {"old": np.arange(3)})
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        tg.save(path, {"new": np.arange(4)})
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert list(tg.load(path)) == ["old"]


@pytest.mark.parametrize("locked", [False, True])
def test_a_read_only_file_is_replaced_everywhere(path: Path, monkeypatch: pytest.MonkeyPatch, locked: bool) -> None:
    """Windows neither replaces nor removes a read-only file, and none that is open."""
    replace, unlink = os.replace, os.unlink

    def refused(file: Any) -> bool:
        return os.path.exists(file) and not os.stat(file).st_mode & stat.S_IWRITE

    def as_on_windows(source: Any, target: Any) -> None:
        if locked or refused(target):
            raise PermissionError(13, "Access is denied", source, None, target)
        replace(source, target)

    def unlink_as_on_windows(file: Any) -> None:
        if refused(file):
            raise PermissionError(13, "Access is denied", file)
        unlink(file)

    tg.save(path, {"old": np.arange(3)})
    path.chmod(stat.S_IREAD)
    monkeypatch.setattr(os, "replace", as_on_windows)
    monkeypatch.setattr(os, "unlink", unlink_as_on_windows)
    with pytest.raises(PermissionError) if locked else contextlib.nullcontext():
        tg.save(path, {"new": np.arange(4)})
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert list(tg.load(path)) == ["old" if locked else "new"]
    assert not path.stat().st_mode & stat.S_IWRITE
    path.chmod(stat.S_IREAD | stat.S_IWRITE)  # else the folder could not be removed on Windows


def test_what_was_loaded_does_not_change_with_the_file(path: Path) -> None:
    tg.save(path, np.zeros(1000))
    loaded = tg.load(path)
    content = bytearray(path.read_bytes())
    content[-8000:] = b"\x01" * 8000
    path.write_bytes(content)
    assert not loaded.any()


def test_only_files_are_replaced(tmp_path: Path) -> None:
    """A device would be gone for the whole system, if the user may do that."""
    places = [tmp_path / "folder", tmp_path / "pipe"]
    places[0].mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(places[1])
    for place in filter(Path.exists, places):
        with pytest.raises(FileExistsError, match="is a folder or a device"):
            tg.save(place, 1)
        assert not place.is_file()


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_file_keeps_its_permissions(path: Path) -> None:
    tg.save(path, 1)
    path.chmod(0o600)
    tg.save(path, 2)
    assert path.stat().st_mode & 0o777 == 0o600
    assert tg.load(path) == 2


@pytest.mark.skipif(os.name != "posix", reason="elsewhere links need a privilege")
def test_a_link_keeps_pointing_to_the_file(tmp_path: Path, path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "real")
    tg.save(path, 1)
    assert path.is_symlink()
    assert tg.load(tmp_path / "elsewhere" / "real") == 1


# ---- damaged and foreign files ----

TREE = {"weights": [np.arange(6, dtype=np.float32)], "state": Point(np.ones(2), None), "step": 3, "lr": math.inf}


def test_a_file_cut_anywhere_is_an_error(path: Path) -> None:
    tg.save(path, TREE)
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=r"tree\.safetensors is truncated, or not"):
            tg.load(path)


def test_a_byte_changed_anywhere_in_the_header_is_an_error_or_harmless(path: Path) -> None:
    tg.save(path, TREE)
    content = path.read_bytes()
    for place in range(len(content) - 40):
        path.write_bytes(content[:place] + bytes([content[place] ^ 3]) + content[place + 1 :])
        try:
            tg.load(path)
        except CheckpointError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_missing_and_foreign_files_are_named(path: Path) -> None:
    for absent in (path, path.parent):
        with pytest.raises(FileNotFoundError, match=rf"load: there is no file {re.escape(str(absent))}; give"):
            tg.load(absent)
    for content in (b"", b"hello", b"PK\x03\x04" + bytes(1000), bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"tree\.safetensors is truncated, or not a .safetensors file"):
            tg.load(path)
    save_file({"weight": np.ones(3)}, path)
    with pytest.raises(CheckpointError, match=r"not one that tg.save wrote; read it with safetensors"):
        tg.load(path)


@pytest.mark.parametrize(
    "structure", ["", "{", '{"array": "b"}', '{"new": 1}', "{}", '{"tuple": 3}', '{"namedtuple": ["a:B", {"1": 2}]}']
)
def test_a_structure_that_makes_no_sense_is_an_error(path: Path, structure: str) -> None:
    save_file({"a": np.ones(3)}, path, metadata={"format": "tinygrad_rnn.tree.1", "tree": structure})
    with pytest.raises(CheckpointError, match="damaged"):
        tg.load(path)


def test_loading_imports_nothing(path: Path) -> None:
    structure = json.dumps({"namedtuple": ["this:s", {"x": 1}]})
    save_file({"a": np.ones(3)}, path, metadata={"format": "tinygrad_rnn.tree.1", "tree": structure})
    assert tg.load(path) == (1,)
    assert "this" not in sys.modules


# ---- the extras stay extras ----


def test_a_missing_extra_says_how_to_install_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (lambda: tg.save(path, 1), lambda: tg.load(path)):
        with pytest.raises(ImportError, match=r'needs safetensors.*pip install "tinygrad-rnn\[examples\]"'):
            call()


def test_the_root_import_needs_numpy_alone() -> None:
    extras = ["safetensors", "tqdm", "matplotlib", "cupy", "torch"]
    program = f"import sys, tinygrad_rnn; print([name for name in {extras} if name in sys.modules])"
    root = Path(tg.__file__).parent.parent
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert told.stdout.strip() == "[]"
