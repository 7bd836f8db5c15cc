"""Initialisation of parameters.

Each function draws an array of a given shape: ``orthogonal((40, 10), blocks=4)``. With a trailing ``_`` it refills an
existing parameter, keeping its dtype and backend: ``orthogonal_(cell.weight_hh, blocks=4)``.
``apply_`` does so for all parameters of a module that match a pattern of names. ``gate_bias_`` sets the bias of a gate,
and ``chrono_`` the biases that decide how long a cell remembers.

generator: a ``numpy.random.Generator``; None means the one that ``manual_seed`` seeds. Numbers are drawn on the host,
so that every backend starts from the same values.
blocks: the number of equal blocks of rows, one per gate. Each is drawn as a matrix of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import numpy as np

from .. import backend
from ..backend import DTypeLike
from ..tensor import Tensor
from .module import Module

Shape = tuple[int, ...]
Generator: TypeAlias = "np.random.Generator | None"  # in quotes, as importing numpy.random takes long


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
    """Uniform on [-1/sqrt(fan_in), 1/sqrt(fan_in)), as PyTorch initialises its layers.

    fan_in: the number of inputs of a Linear or a convolution (channels times window), or the hidden size of a
    recurrent layer.
    """
    return uniform(shape, 1 / math.sqrt(fan_in) if fan_in else 0.0, generator, dtype)


def xavier_uniform(
    shape: Shape, gain: float = 1.0, blocks: int = 1, generator: Generator = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Uniform within gain sqrt(6 / (fan_in + fan_out)), with the fan_out of one block (Glorot and Bengio 2010)."""
    return uniform(shape, gain * math.sqrt(6 / sum(fans(shape, blocks))), generator, dtype)


def xavier_normal(
    shape: Shape, gain: float = 1.0, blocks: int = 1, generator: Generator = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Normal with std gain sqrt(2 / (fan_in + fan_out)), with the fan_out of one block (Glorot and Bengio 2010)."""
    return normal(shape, gain * math.sqrt(2 / sum(fans(shape, blocks))), generator, dtype)


def kaiming_uniform(
    shape: Shape, gain: float = math.sqrt(2), generator: Generator = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Uniform within gain sqrt(3 / fan_in), for layers followed by a ReLU (He et al. 2015)."""
    return uniform(shape, gain * math.sqrt(3 / fans(shape)[0]), generator, dtype)


def kaiming_normal(
    shape: Shape, gain: float = math.sqrt(2), generator: Generator = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Normal with std gain / sqrt(fan_in), for layers followed by a ReLU (He et al. 2015)."""
    return normal(shape, gain / math.sqrt(fans(shape)[0]), generator, dtype)


def orthogonal(
    shape: Shape, gain: float = 1.0, blocks: int = 1, generator: Generator = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Each block W is gain times a random orthogonal matrix, W^T W = gain^2 I (Saxe, McClelland and Ganguli 2014).

    With gain 1, products of such matrices, as in back-propagation through time, neither grow nor shrink. In a block
    with more columns than rows, the rows are orthogonal instead, W W^T = gain^2 I. Axes after the first count as one.

    >>> w = orthogonal((6, 3), blocks=2)
    >>> bool(np.allclose(w[3:].T @ w[3:], np.eye(3), atol=1e-6))
    True
    """
    fans(shape, blocks)  # raises for a shape without fans
    rows, columns = shape[0] // blocks, math.prod(shape[1:])
    tall = _host(generator).standard_normal((blocks, max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q *= np.copysign(gain, np.diagonal(r, axis1=-2, axis2=-1))[:, None]  # else q is not uniform (Mezzadri 2007)
    return np.reshape(q if rows >= columns else q.swapaxes(-1, -2), shape).astype(dtype)


def identity(shape: Shape, gain: float = 1.0, blocks: int = 1, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Each block is gain times the identity; with ReLU, this is the IRNN (Le, Jaitly and Hinton 2015)."""
    fans(shape, blocks)
    rows, columns = shape[0] // blocks, math.prod(shape[1:])
    return np.tile(gain * np.eye(rows, columns), (blocks, 1)).reshape(shape).astype(dtype)


def fans(shape: Shape, blocks: int = 1) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in) or (out, in, *window); fan_out is that of one block.

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
    """The gain that preserves the scale of signals through a nonlinearity; ``slope`` is for negative "leaky_relu".

    >>> round(calculate_gain("tanh"), 4)
    1.6667
    """
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
    gains["leaky_relu"] = math.sqrt(2 / (1 + slope**2))
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: there is no gain for {nonlinearity!r}; there is for {', '.join(gains)}")
    return gains[nonlinearity]


def _host(generator: Generator) -> np.random.Generator:
    if not (generator is None or hasattr(generator, "uniform")):
        cure = "uniform takes one bound, and normal a deviation, where PyTorch's take two numbers"
        raise TypeError(f"init: the generator is one of NumPy's, not {generator!r}; {cure}")
    return generator or backend.host.generator


# ---- for existing parameters ----

Settings = ParamSpec("Settings")


def _in_place(
    draw: Callable[Concatenate[Shape, Settings], np.ndarray],
) -> Callable[Concatenate[Tensor, Settings], Tensor]:
    """Turn a function that draws an array into one that refills a parameter."""

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
    """Redraw each parameter of a module by the first rule with a matching name pattern; the others are unchanged.

    rules: a mapping from name patterns, in which ``*`` matches anything, to functions of a parameter.

    Returns the names of the redrawn parameters. Raises KeyError, and changes nothing, if a pattern matches no name.

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


AnyModule = TypeVar("AnyModule", bound=Module)


def gate_bias_(module: AnyModule, gate: str, value: Any) -> AnyModule:
    """Set the bias of a gate, in a cell or in every cell of a module that has such a gate; returns the module.

    gate: its letter in the equations of the cell, such as "f" of an LSTM.
    value: a number, or (hidden_size,) of them.

    Raises ValueError, and changes nothing, if no cell has such a gate, or one has no biases.

    >>> from tinygrad_rnn import nn
    >>> cell = gate_bias_(nn.LSTMCell(3, 2), "f", 1.0)  # i, f, g, o: the second of four blocks
    >>> cell.bias.tolist()[2:4]
    [1.0, 1.0]
    """
    cells: list[Any] = [part for part in module.modules() if hasattr(part, "bias_of")]
    places = [cell.bias_of(gate) for cell in cells if gate in cell.gate_names]
    if not places or any(p is None for p, _ in places):
        known = ", ".join(dict.fromkeys(name for cell in cells for name in cell.gate_names)) or "none"
        cure = "its cells need bias=True" if places else f"its gates are {known}"
        raise ValueError(f"gate_bias_: {module!r} has no bias of a gate {gate!r}; {cure}")
    for p, rows in places:
        numbers = p.numpy()
        numbers[rows] = value
        p.data = backend.of(p.array).from_host(numbers)
    return module


def chrono_(module: AnyModule, T_max: float, generator: Generator = None) -> AnyModule:
    """Let a cell, or every cell of a module, remember for up to T_max steps (Tallec and Ollivier 2018); returns it.

    LSTM: b_f = log u and b_i = -log u, with u uniform on [1, T_max - 1), a number for each unit. Its forget gate is
    near u / (1 + u), so its memory lasts for about 1 + u steps. A coupled LSTM has b_f alone. GRU: b_z = log u, as z
    keeps the state here. Minimal gated unit: b_f = -log u, as its f replaces the state. Other biases stay as they are.

    T_max: how far apart things that belong together are at most, in steps.

    Raises ValueError, and changes nothing, if T_max is below 2, if no cell keeps its state by a gate, or if one that
    does has no biases.

    >>> from tinygrad_rnn import nn
    >>> cell = chrono_(nn.GRUCell(3, 50), T_max=100)
    >>> u = np.exp(cell.bias.numpy()[50:100])  # of z, the second of three blocks
    >>> bool(u.min() >= 1 and u.max() < 99)
    True
    """
    if not T_max >= 2:
        raise ValueError(f"chrono_: T_max must be at least 2 steps, not {T_max}")
    cells: list[Any] = [part for part in module.modules() if getattr(part, "keeps", None)]
    if not cells:
        raise ValueError(f"chrono_: {module!r} has no cell that keeps its state by a gate, as LSTM and GRU do")
    if any(cell.bias_of(gate)[0] is None for cell in cells for gate in cell.keeps):
        raise ValueError(f"chrono_: {module!r} has a cell without biases; its cells need bias=True")
    for cell in cells:
        spans = np.log(_host(generator).uniform(1, T_max - 1, cell.hidden_size))
        for gate, sign in cell.keeps.items():
            gate_bias_(cell, gate, sign * spans)
    return module
