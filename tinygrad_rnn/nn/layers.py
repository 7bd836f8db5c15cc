"""Non-recurrent layers, for inputs with any number of axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import ops
from ..backend import DTypeLike
from ..op import check_arrays
from ..ops.nn import check_probability
from ..tensor import Tensor, as_tensor
from ..whereabouts import misfit
from . import init
from .checks import check_sizes
from .module import Module, parameter


class Linear(Module):
    """Affine map of the last axis, y = x W^T + b, with W of shape (out_features, in_features).

    >>> from tinygrad_rnn import nn, ones
    >>> nn.Linear(3, 2)(ones(5, 3)).shape
    (5, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: DTypeLike = None,
        backend: str | None = None,
    ):
        check_sizes(self, 0, in_features=in_features, out_features=out_features)
        self.weight = parameter(init.fan_in_uniform((out_features, in_features), in_features), dtype, backend)
        self.bias = parameter(init.fan_in_uniform((out_features,), in_features), dtype, backend) if bias else None

    def forward(self, x: Any) -> Tensor:
        return ops.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}{', bias=False' * (self.bias is None)}"


class Embedding(Module):
    """A table of vectors, one for each of ``num_embeddings`` symbols; called with integers of any shape.

    padding_idx: the symbol that pads short sequences. Its vector starts at zero and gets no gradient, so it stays
    zero; a negative number counts from the end.

    Raises ValueError for a padding_idx outside the table; IndexError, when called, for an index outside it.

    >>> from tinygrad_rnn import nn, tensor
    >>> vectors = nn.Embedding(10, 4, padding_idx=0)(tensor([[3, 1, 0]]))
    >>> vectors.shape, vectors[0, 2].tolist()
    ((1, 3, 4), [0.0, 0.0, 0.0, 0.0])
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: DTypeLike = None,
        backend: str | None = None,
    ):
        check_sizes(self, 0, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        table = init.normal((num_embeddings, embedding_dim))
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"Embedding: padding_idx {padding_idx} is not among {num_embeddings} symbols")
            padding_idx %= num_embeddings
            table[padding_idx] = 0
        self.padding_idx = padding_idx
        self.weight = parameter(table, dtype, backend)

    def forward(self, indices: Any) -> Tensor:
        vectors = ops.embedding(indices, self.weight)
        if self.padding_idx is None:
            return vectors
        padding = ops.equal(as_tensor(indices), self.padding_idx)
        return ops.where(padding[..., None], vectors.detach(), vectors)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}{padding}"


class Dropout(Module):
    """While training, set each element to 0 with probability p, and divide the rest by 1 - p (Srivastava et al. 2014).

    >>> from tinygrad_rnn import nn, ones
    >>> nn.Dropout(0.5).eval()(ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, p: float = 0.5):
        self.p = check_probability("Dropout", p)

    def forward(self, x: Any) -> Any:
        return ops.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return str(self.p)


class LayerNorm(Module):
    """Layer normalisation (Ba, Kiros and Hinton 2016): y = (x - mean) / sqrt(var + eps) * weight + bias.

    normalized_shape: the lengths of the last axes, over which mean and variance are taken; an int for one axis.
    weight and bias have this shape, and start as ones and zeros.

    Raises ShapeError if the last axes of x differ from it.

    >>> from tinygrad_rnn import nn, tensor
    >>> nn.LayerNorm(2)(tensor([[1.0, 3.0]])).numpy().round(3)
    array([[-1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        dtype: DTypeLike = None,
        backend: str | None = None,
    ):
        lengths: Any = normalized_shape if np.iterable(normalized_shape) else [normalized_shape]
        for length in lengths:
            check_sizes(self, 0, normalized_shape=length)
        shape = tuple(map(int, lengths))
        self.normalized_shape, self.eps = shape, eps
        self.weight = parameter(np.ones(shape, np.float32), dtype, backend)
        self.bias = parameter(np.zeros(shape, np.float32), dtype, backend)

    def forward(self, x: Any) -> Tensor:
        check_arrays("LayerNorm", x=x)
        shape = self.normalized_shape
        if tuple(x.shape[-len(shape) :]) != shape:  # otherwise it might broadcast silently
            raise misfit(f"LayerNorm: x of shape {x.shape} does not end in the axes {shape}")
        if len(shape) == 1:
            return ops.layer_norm(x, self.weight, self.bias, self.eps)
        flat = ops.reshape(x, shape=(*x.shape[: -len(shape)], math.prod(shape)))
        return ops.reshape(ops.normalize(flat, eps=self.eps), shape=x.shape) * self.weight + self.bias

    def extra_repr(self) -> str:
        return str(self.normalized_shape[0] if len(self.normalized_shape) == 1 else self.normalized_shape)


class Sequential(Module):
    """Modules (or any functions) applied one after another.

    >>> from tinygrad_rnn import nn, tanh
    >>> model = nn.Sequential(nn.Linear(2, 3), tanh, nn.Linear(3, 1))
    >>> len(model), model[-1]
    (3, Linear(3, 1))
    """

    def __init__(self, *layers: Any):
        for layer in layers:
            if not callable(layer):
                raise TypeError(
                    f"Sequential: layers are modules or functions, one after another, as in Sequential(*layers), and "
                    f"not a {type(layer).__name__}"
                )
        self.layers = list(layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, k: int) -> Any:
        return self.layers[k]

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __repr__(self) -> str:
        return f"Sequential({', '.join(getattr(layer, '__name__', repr(layer)) for layer in self.layers)})"


class ModuleList(Module, list[Any]):
    """A list of modules that is itself a module; as an attribute of a module, a plain list works too.

    >>> from tinygrad_rnn import nn
    >>> layers = nn.ModuleList([nn.Linear(2, 3)])
    >>> layers.append(nn.Linear(3, 1, bias=False))
    >>> [name for name, _ in layers.named_parameters()]
    ['0.weight', '0.bias', '1.weight']
    """

    __eq__, __hash__ = object.__eq__, object.__hash__  # type: ignore[assignment]  # compared by identity, like any module
