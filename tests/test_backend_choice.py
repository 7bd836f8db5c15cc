"""Which backend is used: by name, by default, by the environment; and what is said where CuPy cannot work."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from inspect import signature
from pathlib import Path
from types import FunctionType

import pytest
import strict

import tinygrad_rnn as tg
from tinygrad_rnn.backend import BackendError

# ---- the default ----


def test_use_backend_is_undone(strict_device: str) -> None:
    with pytest.raises(ZeroDivisionError), tg.use_backend(strict_device):  # noqa: PT012
        with tg.use_backend("numpy"):
            assert tg.zeros(1).backend == "numpy"
        assert tg.zeros(1).backend == strict_device
        raise ZeroDivisionError
    assert tg.zeros(1).backend == "numpy"


def test_use_backend_belongs_to_its_thread_and_set_backend_to_all(strict_device: str) -> None:
    found: list[str] = []

    def look() -> None:
        found.append(tg.zeros(1).backend)

    def in_a_thread() -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    with tg.use_backend(strict_device):
        in_a_thread()
    tg.set_backend(strict_device)
    try:
        in_a_thread()
        with tg.use_backend("numpy"):
            look()
    finally:
        tg.set_backend("numpy")
    look()
    assert found == ["numpy", strict_device, "numpy", "numpy"]


def test_unknown_backends() -> None:
    for ask in (
        lambda: tg.tensor([1.0], backend="jax"),
        lambda: tg.set_backend("jax"),
        lambda: tg.use_backend("jax").__enter__(),
        lambda: tg.ones(1).to("jax"),
    ):
        with pytest.raises(BackendError, match="there is no backend 'jax'; there are 'cupy', 'numpy'; CUDA is 'cupy'"):
            ask()


def test_available_backends(strict_device: str) -> None:
    assert tg.available_backends()[0] == "numpy"
    assert strict_device in tg.available_backends()


# ---- CuPy, or what is there in its place ----

FAKE_CUPY = """
import sys, types
import numpy as np
class CUDARuntimeError(RuntimeError): pass
def fail(*args, **kwargs): raise CUDARuntimeError("cudaErrorInsufficientDriver: the driver is too old")
cupy = types.ModuleType("cupy")
cupy.ndarray, cupy.ones = type("ndarray", (), {}), fail
sys.modules["cupy"] = cupy
"""
ASK_FOR_CUPY = """
import tinygrad_rnn as tg
x, layer = tg.tensor([1.0], backend="numpy"), tg.nn.Linear(1, 1)
messages = set()
for ask in (
    lambda: tg.tensor([1.0], backend="cupy"), lambda: tg.zeros(1, backend="cupy"), lambda: tg.set_backend("cupy"),
    lambda: tg.use_backend("cupy").__enter__(), lambda: x.to("cupy"), lambda: layer.to("cupy"),
):
    try:
        ask()
    except tg.BackendError as caught:
        messages.add(str(caught))
assert tg.available_backends() == ("numpy",), tg.available_backends()
assert tg.zeros(1).backend == "numpy"
print(*messages, sep="; ")
"""
BROKEN_IMPORT = """
del sys.modules["cupy"]
class Finder:
    def find_spec(self, name, *_):
        if name == "cupy":
            raise ImportError("\\n=====\\nFailed to import CuPy.\\nlibnvrtc.so.12\\n=====")
sys.meta_path.insert(0, Finder())
"""
WRONG_NUMBERS = """
cupy.ones = lambda *_, **__: np.zeros((2, 2))
cupy.random = types.SimpleNamespace(default_rng=lambda seed: None)
"""
NO_GPU = "CuPy is installed, but cannot use a GPU here"
NEEDS = (
    'It needs an NVIDIA driver and the CUDA libraries that come with pip install "tinygrad-rnn[cuda12]" (or [cuda13]'
)
DRIVER = "CUDARuntimeError: cudaErrorInsufficientDriver: the driver is too old"
STATES = {
    "no CuPy": (
        'sys.modules["cupy"] = None',
        'CuPy is not installed. Install it with pip install "tinygrad-rnn[cuda12]"',
    ),
    "no driver": ("", f"{NO_GPU} ({DRIVER}). {NEEDS}"),
    "no libraries": (BROKEN_IMPORT, f"{NO_GPU} (ImportError: Failed to import CuPy.). {NEEDS}"),
    "wrong numbers": (WRONG_NUMBERS, "CuPy is installed, but computes wrong numbers on this GPU; reinstall it"),
}


def run(*code: str, **environment: str) -> str:
    """What a fresh Python prints, in which warnings are errors."""
    paths = [str(Path(tg.__file__).parents[1]), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("state", STATES)
def test_what_is_missing_is_said(state: str) -> None:
    setting, expected = STATES[state]
    message = run(FAKE_CUPY, setting, ASK_FOR_CUPY)
    assert message.startswith(f"backend 'cupy' was asked for. {expected}")
    assert message.count("asked for") == 1  # each way to ask for it says the same


def test_the_environment_chooses_the_default() -> None:
    code = "import tinygrad_rnn as tg; print(tg.zeros(1).backend)"
    without = 'import sys; sys.modules["cupy"] = None'
    assert run(code, TINYGRAD_RNN_BACKEND="numpy") == "numpy"
    said = "BackendError: TINYGRAD_RNN_BACKEND: "
    assert f"{said}backend 'cupy' was asked for. CuPy is not" in run(without, code, TINYGRAD_RNN_BACKEND="cupy")
    assert f"{said}there is no backend 'jax'; there are 'cupy'" in run(code, TINYGRAD_RNN_BACKEND="jax")


def test_cupy_is_started_by_its_name_or_by_its_first_array() -> None:
    setting = 'import strict; strict.StrictArray.__module__ = "cupy"; sys.modules["cupy"] = strict.xp'
    by_name = "import tinygrad_rnn as tg; print(*tg.available_backends(), tg.ones(2, backend='cupy').sum().item())"
    assert run(FAKE_CUPY, setting, by_name) == "numpy cupy 2.0"
    for first in ("tg.tensor(x)", "tg.Tensor.wrap(tg.softplus(x))", "tg.Tensor.wrap(tg.multiply(2.0, x))"):
        by_array = f"import tinygrad_rnn as tg; x = strict.xp.ones((2, 2)); print({first}.backend)"
        assert run(FAKE_CUPY, setting, by_array) == "cupy"


def test_a_warning_does_not_stop_cupy() -> None:
    setting = """
import strict, warnings
def ones(*args, **kwargs):
    warnings.warn("CUDA path could not be detected")
    return strict.xp.zeros((2, 2), "float32") + 1
cupy.__dict__.update(vars(strict.xp) | {"ones": ones})
"""
    assert run(FAKE_CUPY, setting, "import tinygrad_rnn as tg; print(*tg.available_backends())").startswith(
        "numpy cupy"
    )


def module_names(source: str) -> set[str]:
    """The names that code looks up in an array module: ``xp.tanh``, ``home.xp.lib.stride_tricks``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Attribute)):
            of = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            found |= {node.attr} if of == "xp" else set()
    return found


def test_kernels_use_only_names_that_the_strict_module_has() -> None:
    """Those of code that no test reaches included; the next test compares the strict module with CuPy."""
    assert module_names("xp.lib.stride_tricks.as_strided(home.xp.tan(np.sin(x)), xp=3)") == {"lib", "tan"}
    files = Path(tg.__file__).parent.rglob("*.py")
    used = set().union(*(module_names(file.read_text(encoding="utf-8")) for file in files))
    assert len(used) > 40
    assert used - vars(strict.xp).keys() == set()


def test_the_strict_module_has_only_names_that_cupy_has() -> None:
    cupy = pytest.importorskip("cupy")
    own = {
        name: value
        for name, value in vars(strict.StrictArray).items()
        if name not in ("_key", "_numbers", "__weakref__")
    }
    assert [name for name in own if not hasattr(cupy.ndarray, name)] == []
    assert [name for name in vars(strict.xp) if not hasattr(cupy, name)] == []
    for name, method in own.items():
        for parameter in getattr(method, "parameters", ()):
            assert f"{parameter}=" in getattr(cupy.ndarray, name).__doc__.splitlines()[0]
    for name, ours in vars(strict.xp).items():
        theirs = getattr(cupy, name)
        if isinstance(ours, FunctionType) and isinstance(theirs, FunctionType) and name not in ("arange", "einsum"):
            assert set(signature(ours).parameters) <= set(signature(theirs).parameters), name
