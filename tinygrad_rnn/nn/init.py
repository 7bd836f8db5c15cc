"""How parameters begin.

Each function draws an array of a shape: ``orthogonal((40, 10), blocks=4)``. The same name with ``_`` at its end draws
one for a parameter that exists, and keeps that one's dtype and place: ``orthogonal_(cell.weight_hh, blocks=4)``.
``apply_`` does so for all parameters of a module whose names match.

generator: a ``numpy.random.Generator``; without one, that which ``manual_seed`` restarts. Numbers are drawn on the
host, so that every backend starts from the same ones.
blocks: into how many equal blocks of rows, one for each gate, the matrix divides. Each is drawn as a matrix by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Concatenate, ParamSpec, TypeAlias

import numpy as np

from .. import backend
from ..backend import DTypeLike
from ..tensor import Tensor
from .module import Module

Shape = tuple[int, ...]
Generator: TypeAlias = "np.random.Generator | None"  # in quotes: numpy.random alone takes half as long to import


def constant(shape: Shape, value: float, dtype: DTypeLike = np.float32) -> np.ndarray:
    """One value everywhere."""
    return np.full(shape, value, dtype)


def uniform(shape: Shape, bound: float = 1.0, generator: Generator = None, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Uniform on [-bound, bound)."""
    return _host(generator).uniform(-bound, bound, shape).astype(dtype)


def normal(shape: Shape, std: float = 1.0, generator: Generator = None, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Normal with mean 0."""
    return (std * _host(generator).standard_normal(shape)).astype(dtype)


def fan_in_uniform(shape: Shape, fan_in: int, generator: Generator = None, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Uniform on [-1/sqrt(fan_in), 1/sqrt(fan_in)), where PyTorch's layers begin.

    fan_in is the number of inputs of a Linear or of a convolution (channels times window), and the hidden size of a
    recurrent layer.
    """
    return uniform(shape, 1 / math.sqrt(fan_in) if fan_in else 0.0, generator, dtype)


def xavier_uniform(
    shape: Shape, gain: float = 1.0, blocks: int = 1, generator: Generator = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Uniform within gain sqrt(6 / (fan_in + fan_out)), with fan_out that of a block (Glorot and Bengio 2010)."""
    return uniform(shape, gain * math.sqrt(6 / sum(fans(shape, blocks))), generator, dtype)


def xavier_normal(
    shape: Shape, gain: float = 1.0, blocks: int = 1, generator: Generator = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Normal with std gain sqrt(2 / (fan_in + fan_out)), with fan_out that of a block (Glorot and Bengio 2010)."""
    return normal(shape, gain * math.sqrt(2 / sum(fans(shape, blocks))), generator, dtype)


def kaiming_uniform(
    shape: Shape, gain: float = math.sqrt(2), generator: Generator = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Uniform within gain sqrt(3 / fan_in), for layers that a ReLU follows (He et al. 2015)."""
    return uniform(shape, gain * math.sqrt(3 / fans(shape)[0]), generator, dtype)


def kaiming_normal(
    shape: Shape, gain: float = math.sqrt(2), generator: Generator = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Normal with std gain / sqrt(fan_in), for layers that a ReLU follows (He et al. 2015)."""
    return normal(shape, gain / math.sqrt(fans(shape)[0]), generator, dtype)


def orthogonal(
    shape: Shape, gain: float = 1.0, blocks: int = 1, generator: Generator = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Each block W a random orthogonal matrix, W^T W = gain^2 I (Saxe, McClelland and Ganguli 2014).

    A product of such matrices, as back-propagation through time forms it, neither grows nor shrinks. Of a block that is
    wider than high the rows are orthonormal, W W^T = gain^2 I. The axes from the second on count as one.

    >>> w = orthogonal((6, 3), blocks=2)
    >>> bool(np.allclose(w[3:].T @ w[3:], np.eye(3), atol=1e-6))
    True
    """
    fans(shape, blocks)  # raises for a shape that has none
    rows, columns = shape[0] // blocks, math.prod(shape[1:])
    tall = _host(generator).standard_normal((blocks, max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q *= np.copysign(gain, np.diagonal(r, axis1=-2, axis2=-1))[:, None]  # else q is not uniform (Mezzadri 2007)
    return np.reshape(q if rows >= columns else q.swapaxes(-1, -2), shape).astype(dtype)


def identity(shape: Shape, gain: float = 1.0, blocks: int = 1, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Each block gain times the identity: with ReLU, the IRNN (Le, Jaitly and Hinton 2015)."""
    fans(shape, blocks)
    rows, columns = shape[0] // blocks, math.prod(shape[1:])
    return np.tile(gain * np.eye(rows, columns), (blocks, 1)).reshape(shape).astype(dtype)


def fans(shape: Shape, blocks: int = 1) -> tuple[int, int]:
    """Inputs and outputs of each unit, (fan_in, fan_out), of a weight (out, in) or (out, in, *window).

    >>> fans((20, 3, 5, 5)), fans((40, 10), blocks=4)
    ((75, 500), (10, 10))
    """
    if len(shape) < 2 or blocks < 1 or shape[0] % blocks or 0 in shape:
        raise ValueError(
            f"init: a weight of shape {tuple(shape)} has no fans; it needs two axes or more, none of them empty, and "
            f"rows that divide into {blocks} equal blocks"
        )
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] // blocks * window


def calculate_gain(nonlinearity: str, slope: float = 0.01) -> float:
    """The gain that keeps the size of signals through a nonlinearity; ``slope`` is that of "leaky_relu" below 0.

    >>> round(calculate_gain("tanh"), 4)
    1.6667
    """
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
    gains["leaky_relu"] = math.sqrt(2 / (1 + slope**2))
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: there is no gain for {nonlinearity!r}; there is for {', '.join(gains)}")
    return gains[nonlinearity]


def _host(generator: Generator) -> np.random.Generator:
    return generator or backend.host.generator


# ---- for parameters that exist ----

Settings = ParamSpec("Settings")


def _in_place(
    draw: Callable[Concatenate[Shape, Settings], np.ndarray],
) -> Callable[Concatenate[Tensor, Settings], Tensor]:
    """From a function that draws an array of a shape, one that draws it for a parameter."""

    def fill(p: Tensor, /, *args: Settings.args, **kwargs: Settings.kwargs) -> Tensor:
        kwargs["dtype"] = p.dtype
        p.data = backend.of(p.array).from_host(draw(p.shape, *args, **kwargs))
        return p

    fill.__name__ = fill.__qualname__ = f"{draw.__name__}_"
    fill.__doc__ = f"``{draw.__name__}`` for a parameter that exists, which is also returned."
    return fill


constant_ = _in_place(constant)
uniform_ = _in_place(uniform)
normal_ = _in_place(normal)
fan_in_uniform_ = _in_place(fan_in_uniform)
xavier_uniform_ = _in_place(xavier_uniform)
xavier_normal_ = _in_place(xavier_normal)
kaiming_uniform_ = _in_place(kaiming_uniform)
kaiming_normal_ = _in_place(kaiming_normal)
orthogonal_ = _in_place(orthogonal)
identity_ = _in_place(identity)


def apply_(module: Module, rules: Mapping[str, Callable[[Tensor], Any]]) -> list[str]:
    """Draw each parameter of a module anew by the first rule whose pattern its name matches; the rest stay as they are.

    rules: from patterns of names, in which ``*`` stands for anything, to functions of a parameter.

    Returns the names of what was drawn. Raises KeyError, and changes nothing, if a pattern matches no name.

    >>> from functools import partial
    >>> from tinygrad_rnn import nn
    >>> model = nn.Sequential(nn.LSTMCell(3, 5), nn.Linear(5, 2))
    >>> apply_(model, {"*.weight_hh": partial(orthogonal_, blocks=4), "*.weight*": xavier_uniform_})
    ['layers.0.weight_ih', 'layers.0.weight_hh', 'layers.1.weight']
    """
    parameters = dict(module.named_parameters())
    for pattern in rules:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise KeyError(f"init: no parameter matches {pattern!r}; there are {', '.join(parameters)}")
    drawn = []
    for name, p in parameters.items():
        for pattern, rule in rules.items():
            if fnmatchcase(name, pattern):
                rule(p)
                drawn.append(name)
                break
    return drawn
