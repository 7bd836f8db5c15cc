"""All operations: forward kernels and derivatives, side by side."""

# fmt: off
# isort: off
from .arrange import argsort, repeat, roll, sort, tile, tril, triu
from .conv import conv2d, max_pool2d, overlap_add, shares, windows
from .elementwise import (
    absolute, add, astype, clip, cos, divide, exp, expm1, log, log1p, logaddexp, maximum, minimum, multiply, negative,
    power, reciprocal, relu, remainder, sigmoid, sin, softplus, sqrt, square, subtract, tanh, where,
)
from .flat import (
    bitwise_and, bitwise_or, bitwise_xor, ceil, equal, floor, floor_divide, greater, greater_equal, invert, isfinite,
    isinf, isnan, less, less_equal, not_equal, round, sign,
)
from .index import add_along_axis, getitem, index, scatter, split, take_along_axis
from .linear import contract, einsum, linear, matmul, mT, outer, product
from .nn import (
    add_rows, cross_entropy, cross_entropy_back, dropout, embedding, gain_gradient, layer_norm, log_softmax, logsumexp,
    nll, normalize, normalize_back, softmax,
)
from .reduce import all, any, argmax, argmin, cumsum, max, mean, min, prod, std, sum, var
from .scan import linear_scan
from .shape import (
    broadcast_to, concatenate, expand_dims, flatten, flip, join, pad, reshape, rows, squeeze, stack, surround, swapaxes,
    transpose,
)
