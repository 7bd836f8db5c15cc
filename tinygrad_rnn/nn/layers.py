"""Layers that do not recur."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..backend import DTypeLike
from ..tensor import Tensor
from . import init
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
        self.weight = parameter(init.fan_in_uniform((out_features, in_features), in_features), dtype, backend)
        self.bias = parameter(init.fan_in_uniform((out_features,), in_features), dtype, backend) if bias else None

    def forward(self, x: Any) -> Tensor:
        return ops.linear(x, self.weight, self.bias)

    def __repr__(self) -> str:
        return f"Linear({self.weight.shape[1]}, {self.weight.shape[0]})"


class Embedding(Module):
    """A table of vectors, one for each of ``num_embeddings`` symbols; called with integers of any shape.

    >>> from tinygrad_rnn import nn, tensor
    >>> nn.Embedding(10, 4)(tensor([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, dtype: DTypeLike = None, backend: str | None = None):
        self.weight = parameter(init.normal((num_embeddings, embedding_dim)), dtype, backend)

    def forward(self, indices: Any) -> Tensor:
        return ops.embedding(indices, self.weight)

    def __repr__(self) -> str:
        return f"Embedding({self.weight.shape[0]}, {self.weight.shape[1]})"


class Dropout(Module):
    """Each element set to 0 with probability p while training, the others divided by 1 - p (Srivastava et al. 2014)."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: the probability must be at least 0 and less than 1, not {p}")
        self.p = p

    def forward(self, x: Any) -> Any:
        return ops.dropout(x, self.p, self.training)

    def __repr__(self) -> str:
        return f"Dropout({self.p})"


class LayerNorm(Module):
    """Layer normalisation of the last axis (Ba et al. 2016): (x - mean) / sqrt(var + eps) * weight + bias."""

    def __init__(self, size: int, eps: float = 1e-5, dtype: DTypeLike = None, backend: str | None = None):
        self.eps = eps
        self.weight = parameter(np.ones(size, np.float32), dtype, backend)
        self.bias = parameter(np.zeros(size, np.float32), dtype, backend)

    def forward(self, x: Any) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class Conv2d(Module):
    """Cross-correlation of pictures (B, C, H, W) with learned kernels: (B, out_channels, H', W').

    H' = (H + 2 padding - kernel_size) // stride + 1, and so for W'.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        dtype: DTypeLike = None,
        backend: str | None = None,
    ):
        high, wide = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        fan_in = in_channels * high * wide
        self.stride, self.padding = stride, padding
        self.weight = parameter(init.fan_in_uniform((out_channels, in_channels, high, wide), fan_in), dtype, backend)
        self.bias = parameter(init.fan_in_uniform((out_channels,), fan_in), dtype, backend) if bias else None

    def forward(self, x: Any) -> Tensor:
        return ops.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class MaxPool2d(Module):
    """The largest element of each window over the last two axes; windows lie side by side unless a stride is given."""

    def __init__(self, kernel_size: int | tuple[int, int], stride: int | tuple[int, int] | None = None):
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Any) -> Any:
        return ops.max_pool2d(x, self.kernel_size, self.stride)


class Sequential(Module):
    """Modules (or any functions) applied one after another."""

    def __init__(self, *layers: Any):
        self.layers = list(layers)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x
