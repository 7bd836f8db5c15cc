"""Stand-ins for ``cupy.ElementwiseKernel``: NumPy computes what the body says, or the system's C++ compiler does."""

from __future__ import annotations

import atexit
import ctypes
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from strict_array import StrictArray, wrap

TYPES = {"f4": np.float32, "f8": np.float64, "b1": np.bool_, "i4": np.int32, "i8": np.int64}
NAMES: dict[str, Any] = {
    **{name: getattr(np, name) for name in dir(np) if isinstance(getattr(np, name), np.ufunc)},
    **TYPES,
    "where": np.where,
    "pow": lambda a, b: np.power(*(x.copy() for x in np.broadcast_arrays(a, b))),  # without NumPy's short ways
}


class ElementwiseKernel:
    """Every statement for all elements at once, in place of all statements for one element after the other.

    That is the same if no thread reads what another one writes, and this is checked.
    """

    def __init__(
        self,
        in_params: str,
        out_params: str,
        operation: str,
        name: str = "kernel",
        preamble: str = "",
        options: tuple[str, ...] = (),
    ) -> None:
        assert "-fmad=false" in options
        self.operation, self.preamble = operation, preamble
        self.inputs, self.outputs = ([part.split() for part in text.split(", ")] for text in (in_params, out_params))
        self.statements = [statement.strip().split(" = ") for statement in operation.split(";") if statement.strip()]
        self.compiled = [compile(re.sub(r"\bfabs\b", "absolute", body), name, "eval") for _, body in self.statements]

    def __call__(self, *args: Any) -> Any:
        if len(args) == len(self.inputs):
            shape = np.broadcast_shapes(*(x.shape for x in args if isinstance(x, StrictArray)))
            made = [wrap(np.empty(shape, dtype)) for dtype, _ in self.outputs]
            self(*args, *made)
            return made[0] if len(made) == 1 else tuple(made)
        types = [dtype for dtype, _ in (*self.inputs, *self.outputs)]
        arrays = [
            np.asarray(x, dtype) if isinstance(x, (int, float)) else x._numbers
            for x, dtype in zip(args, types, strict=True)
        ]
        for x, dtype in zip(arrays, types, strict=True):
            assert x.dtype == dtype, "Type is mismatched."
        given, results = arrays[: len(self.inputs)], arrays[len(self.inputs) :]
        shape = results[0].shape
        assert all(y.shape == shape for y in results), "Out shape is mismatched"
        given = [x if x.shape == shape else np.broadcast_to(x, shape) for x in given]
        for k, y in enumerate(results):
            assert not any(np.shares_memory(y, other) for other in results[:k])
            for x in given:
                assert x is y or not np.shares_memory(x, y) or place(x) == place(y), "threads would race"
        self.compute(given, results)

    @np.errstate(all="ignore")
    def compute(self, given: list[np.ndarray], results: list[np.ndarray]) -> None:
        """Let NumPy do what the body says."""
        values: dict[str, Any] = {f"a{k}": x for k, x in enumerate(given)}
        for (target, expression), code in zip(self.statements, self.compiled, strict=True):
            value = eval(code, NAMES, values)
            if target[0] == "y":
                results[int(target[1:])][...] = value
            else:
                kind, name = target.split()
                value = np.asarray(value)
                values[name] = value.copy() if expression[0] == "a" else value.astype(TYPES[kind])


def place(x: np.ndarray) -> Any:
    return x.ctypes.data, x.shape, [stride for n, stride in zip(x.shape, x.strides, strict=True) if n > 1]


COMPILER = shutil.which("c++")
_libraries: dict[str, Any] = {}
# Of this process alone: another one may be writing what this one loads. Windows keeps what is loaded.
_folder = tempfile.mkdtemp(prefix="tinygrad_rnn_kernels")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)


class CompiledKernel(ElementwiseKernel):
    """The body as the system's C++ compiler understands it, in a loop over the elements."""

    def compute(self, given: list[np.ndarray], results: list[np.ndarray]) -> None:
        targets = [np.empty(y.shape, y.dtype) for y in results]
        sources = [np.ascontiguousarray(x) for x in given]
        pointers = (ctypes.c_void_p * (len(sources) + len(targets)))(*(x.ctypes.data for x in [*sources, *targets]))
        self.library().run(ctypes.c_long(targets[0].size), pointers)
        for y, target in zip(results, targets, strict=True):
            y[...] = target

    def library(self) -> Any:
        declared = [
            f"{'const ' * (name[0] == 'a')}{NUMBERS[dtype]} &{name} = (({NUMBERS[dtype]} *) arrays[{k}])[i];"
            for k, (dtype, name) in enumerate([*self.inputs, *self.outputs])
        ]
        loop = "\n".join([*declared, self.operation])
        code = f"""
            #include <cmath>
            using namespace std;
            #define __device__
            {self.preamble}
            extern "C" void run(long n, void **arrays) {{ for (long i = 0; i < n; i++) {{ {loop} }} }}
        """
        if code not in _libraries:
            name = Path(_folder) / str(len(_libraries))
            name.with_suffix(".cpp").write_text(code)
            command = [COMPILER, "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-o", f"{name}.so", f"{name}.cpp"]
            subprocess.run(command, check=True)
            _libraries[code] = ctypes.CDLL(f"{name}.so")
        return _libraries[code]


NUMBERS = {"float32": "float", "float64": "double", "bool": "bool", "int32": "int", "int64": "long long"}
