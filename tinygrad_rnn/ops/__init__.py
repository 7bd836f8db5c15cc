"""All operations: forward kernels and derivatives, side by side."""

from .conv import conv2d, max_pool2d, overlap_add, shares, windows
from .elementwise import (
    absolute,
    add,
    astype,
    clip,
    cos,
    divide,
    equal,
    exp,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    power,
    relu,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    subtract,
    tanh,
    where,
)
from .index import add_along_axis, getitem, index, scatter, split, take_along_axis
from .linear import contract, einsum, linear, matmul, mT, outer, product
from .nn import (
    add_rows,
    cross_entropy,
    cross_entropy_back,
    dropout,
    embedding,
    gain_gradient,
    layer_norm,
    log_softmax,
    logsumexp,
    normalize,
    normalize_back,
    softmax,
)
from .reduce import argmax, argmin, cumsum, max, mean, min, std, sum, var
from .shape import (
    broadcast_to,
    concatenate,
    expand_dims,
    flip,
    join,
    pad,
    reshape,
    rows,
    squeeze,
    stack,
    swapaxes,
    transpose,
)
