"""An autograd engine written from scratch, made for recurrence.

``Tensor`` is a NumPy or CuPy array on a reverse-mode tape. RNN, LSTM and GRU cells are made of ordinary operations, so
unrolling them gives backpropagation through time.
"""

# fmt: off
# isort: off
import typing

from . import backend, bptt, flow, nn, ops, optim, tape
from .anomaly import detect_anomaly
from .backend import (
    BackendError, available_backends, manual_seed, random_state, set_backend, set_random_state, use_backend,
)
from .check import CheckError, check
from .clip import ClipReport, clip_grad_norm_, clip_grad_value_, clip_message
from .compare import Comparison, compare_backends
from .create import arange, eye, full, full_like, linspace, ones, ones_like, rand, randn, zeros, zeros_like
from .draw import draw
from .grad import grad, hvp, jacobian, jvp, vjp
from .grad_mode import enable_grad, is_grad_enabled, no_grad
from .io import CheckpointError, load, save
from .lint import Finding, Findings, lint
from .op import op
from .ops import (
    absolute, add, all, any, argmax, argmin, argsort, astype, bitwise_and, bitwise_or, bitwise_xor, broadcast_to, ceil,
    clip, concatenate, conv2d, cos, cross_entropy, cumsum, divide, dropout, einsum, embedding, equal, exp, expand_dims,
    expm1, flatten, flip, floor, floor_divide, greater, greater_equal, invert, isfinite, isinf, isnan, layer_norm, less,
    less_equal, linear, linear_scan, log, log1p, log_softmax, logaddexp, logsumexp, matmul, max, max_pool2d, maximum,
    mean, min, minimum, multiply, negative, normalize, not_equal, outer, pad, power, prod, reciprocal, relu, remainder,
    repeat, reshape, roll, round, sigmoid, sign, sin, softmax, softplus, sort, split, sqrt, square, squeeze, stack, std,
    subtract, sum, swapaxes, take_along_axis, tanh, tile, transpose, tril, triu, var, where,
)
from .ops import absolute as abs
from .record import Watcher
from .replay import Captured, capture
from .tape import CaptureError, GraphError, watching
from .tensor import Tensor, tensor
from .whereabouts import ShapeError

__all__ = [
    "BackendError", "CaptureError", "Captured", "CheckError", "CheckpointError", "ClipReport", "Comparison", "Finding",
    "Findings", "GraphError", "ShapeError", "Tensor", "Watcher", "abs", "absolute", "add", "all", "any", "arange",
    "argmax", "argmin", "argsort", "astype", "available_backends", "backend", "bitwise_and", "bitwise_or",
    "bitwise_xor", "bptt", "broadcast_to", "capture", "ceil", "check", "clip", "clip_grad_norm_", "clip_grad_value_",
    "clip_message", "compare_backends", "concatenate", "conv2d", "cos", "cross_entropy", "cumsum", "detect_anomaly",
    "divide", "draw", "dropout", "einsum", "embedding", "enable_grad", "equal", "exp", "expand_dims", "expm1", "eye",
    "flatten", "flip", "floor", "floor_divide", "flow", "full", "full_like", "grad", "greater", "greater_equal", "hvp",
    "invert", "is_grad_enabled", "isfinite", "isinf", "isnan", "jacobian", "jvp", "layer_norm", "less", "less_equal",
    "linear", "linear_scan", "linspace", "lint", "load", "log", "log1p", "log_softmax", "logaddexp", "logsumexp",
    "manual_seed", "matmul", "max", "max_pool2d", "maximum", "mean", "min", "minimum", "multiply", "negative", "nn",
    "no_grad", "normalize", "not_equal", "ones", "ones_like", "op", "ops", "optim", "outer", "pad", "power", "prod",
    "rand", "randn", "random_state", "reciprocal", "relu", "remainder", "repeat", "reshape", "roll", "round", "save",
    "set_backend", "set_random_state", "sigmoid", "sign", "sin", "softmax", "softplus", "sort", "split", "sqrt",
    "square", "squeeze", "stack", "std", "subtract", "sum", "swapaxes", "take_along_axis", "tanh", "tape", "tensor",
    "tile", "transpose", "tril", "triu", "use_backend", "var", "vjp", "watching", "where", "zeros", "zeros_like",
]
# fmt: on

if typing.TYPE_CHECKING:  # else on demand
    from . import curves as curves, tasks as tasks, text as text, train as train


def __getattr__(name: str) -> str:
    if name == "__version__":  # read on demand: this import would double the package's import time
        from importlib.metadata import version

        return version("tinygrad-rnn")
    if name in ("curves", "tasks", "text", "train"):  # likewise
        from importlib import import_module

        return import_module(f"{__name__}.{name}")  # type: ignore[return-value]
    from .hints import TENSORS, missing

    raise missing(name, f"module {__name__!r}", TENSORS.get(name))
