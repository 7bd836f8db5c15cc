"""Convolution over sequences and images, and pooling: layers to put in front of a recurrent network."""

from __future__ import annotations

import math
from typing import Any

from .. import ops
from ..backend import DTypeLike
from ..op import check_arrays
from ..ops.conv import Pair, pair
from ..tensor import Tensor
from ..whereabouts import misfit
from . import init
from .checks import check_sizes
from .module import Module, parameter


def _pairs(layer: Any, **settings: int | Pair) -> list[Pair]:
    """Each setting for height and width; ValueError for a padding below 0, or anything else below 1."""
    pairs = []
    for name, value in settings.items():
        try:
            pairs.append(pair(value))
        except TypeError as error:
            raise TypeError(f"{type(layer).__name__}: {name}: {error}") from None
        least = 0 if name == "padding" else 1
        if min(pairs[-1]) < least:
            raise ValueError(f"{type(layer).__name__}: {name} must be at least {least}, not {pairs[-1]}")
    return pairs


class Convolution(Module):
    """The base class of convolutions: kernels (out_channels, in_channels / groups, *window), and biases."""

    stride: Any
    padding: Any
    dilation: Any

    def __init__(self, in_channels: int, out_channels: int, window: Any, groups: int, bias: bool, **where: Any):
        check_sizes(self, 0, in_channels=in_channels, out_channels=out_channels)
        check_sizes(self, 1, groups=groups)
        if in_channels % groups or out_channels % groups:
            told = f"{in_channels} channels in and {out_channels} out must both divide into {groups} groups"
            raise ValueError(f"{type(self).__name__}: {told}")
        self.groups, channels = groups, in_channels // groups
        fan_in = channels * math.prod(window)
        self.weight = parameter(init.fan_in_uniform((out_channels, channels, *window), fan_in), **where)
        self.bias = parameter(init.fan_in_uniform((out_channels,), fan_in), **where) if bias else None

    def extra_repr(self) -> str:
        out, channels, *window = self.weight.shape
        size: Any = tuple(window) if len(window) > 1 else window[0]
        more = f", dilation={self.dilation}" if self.dilation not in (1, (1, 1)) else ""
        more += f", groups={self.groups}" if self.groups > 1 else ""
        more += ", bias=False" if self.bias is None else ""
        return f"{channels * self.groups}, {out}, {size}, stride={self.stride}, padding={self.padding}{more}"


class Conv1d(Convolution):
    """Cross-correlation of sequences (B, C, L) with learned kernels: (B, out_channels, L').

    y[b, o, t] = bias[o] + sum over c and k of weight[o, c, k] x[b, c, t stride + k dilation - padding], 0 outside of x
    L' = (L + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1

    groups: the number of equal groups of input and output channels; each group of y sees only its own group of x.

    Axes are in PyTorch's order. Convert a sequence (T, B, F) with ``x.transpose(1, 2, 0)``, and back with
    ``y.transpose(2, 0, 1)``.

    Raises ShapeError if x has the wrong axes or channels, or is shorter than the kernel.

    >>> from tinygrad_rnn import nn, ones
    >>> nn.Conv1d(3, 8, kernel_size=5, stride=2)(ones(2, 3, 25)).shape
    (2, 8, 11)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: DTypeLike = None,
        backend: str | None = None,
    ):
        check_sizes(self, 1, kernel_size=kernel_size, stride=stride, dilation=dilation)
        check_sizes(self, 0, padding=padding)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        super().__init__(in_channels, out_channels, (kernel_size,), groups, bias, dtype=dtype, backend=backend)

    def forward(self, x: Any) -> Tensor:
        check_arrays("Conv1d", x=x)
        channels = self.weight.shape[1] * self.groups
        least = self.dilation * (self.weight.shape[2] - 1) + 1 - 2 * self.padding
        if x.ndim != 3 or x.shape[1] != channels or x.shape[2] < least:
            raise misfit(
                f"Conv1d: x of shape {x.shape} must be (batch, {channels} channels, length), with a length of "
                f"at least {least}"
            )
        # Treat the sequence as an image of height 1.
        picture, kernels = ops.expand_dims(x, axis=2), ops.expand_dims(self.weight, axis=2)
        y = ops.conv2d(
            picture, kernels, self.bias, (1, self.stride), (0, self.padding), (1, self.dilation), self.groups
        )
        return ops.squeeze(y, axis=2)


class Conv2d(Convolution):
    """Cross-correlation of images (B, C, H, W) with learned kernels: (B, out_channels, H', W').

    H' = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1, and likewise W'; pairs are for H and W.
    dilation, groups: as in ``Conv1d``; ``groups=in_channels`` is a depthwise convolution.

    Raises ShapeError if x has the wrong axes or channels, or is smaller than the kernel.

    >>> from tinygrad_rnn import nn, ones
    >>> nn.Conv2d(1, 8, kernel_size=3, padding=1)(ones(2, 1, 28, 28)).shape
    (2, 8, 28, 28)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: DTypeLike = None,
        backend: str | None = None,
    ):
        window, self.stride, self.padding, self.dilation = _pairs(
            self, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
        )
        super().__init__(in_channels, out_channels, window, groups, bias, dtype=dtype, backend=backend)

    def forward(self, x: Any) -> Tensor:
        check_arrays("Conv2d", x=x)
        channels, size = self.weight.shape[1] * self.groups, self.weight.shape[2:]
        least = tuple(d * (k - 1) + 1 - 2 * p for k, p, d in zip(size, self.padding, self.dilation, strict=True))
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] < least[0] or x.shape[3] < least[1]:
            raise misfit(
                f"Conv2d: x of shape {x.shape} must be (batch, {channels} channels, height, width), with height "
                f"and width of at least {least}"
            )
        return ops.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class MaxPool2d(Module):
    """The maximum over windows of the last two axes; windows do not overlap unless a stride is given.

    H' = (H + 2 padding - kernel_size) // stride + 1, and likewise W'; pairs are for H and W.
    Tied maxima share the gradient of their window, whereas PyTorch gives all of it to the first.

    Raises ValueError if padding exceeds half the window, and ShapeError if x is smaller than a window.

    >>> from tinygrad_rnn import nn, tensor
    >>> nn.MaxPool2d(2)(tensor([[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]])).tolist()
    [[4.0, 8.0]]
    """

    def __init__(self, kernel_size: int | Pair, stride: int | Pair | None = None, padding: int | Pair = 0):
        self.kernel_size, self.stride, self.padding = _pairs(
            self, kernel_size=kernel_size, stride=kernel_size if stride is None else stride, padding=padding
        )
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(
                f"MaxPool2d: padding {self.padding} must be at most half of the window {self.kernel_size}, else some "
                "windows would be empty"
            )

    def forward(self, x: Any) -> Any:
        if any(self.padding) and x.ndim > 1:
            widths = ((0, 0),) * (x.ndim - 2) + tuple((n, n) for n in self.padding)
            x = ops.pad(x, widths=widths, value=-float("inf"))
        return ops.max_pool2d(x, self.kernel_size, self.stride)

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"
