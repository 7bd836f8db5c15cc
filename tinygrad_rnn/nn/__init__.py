"""Modules, cells, layers and losses."""

from . import init
from .cells import Cell, LSTMCell, LSTMState, RNNCell
from .layers import Conv2d, Dropout, Embedding, LayerNorm, Linear, MaxPool2d, Sequential
from .losses import binary_cross_entropy_with_logits, cross_entropy, mse_loss, nll_loss
from .module import Module, parameter
from .recurrent import Unrolled, unroll

__all__ = [
    "Cell",
    "Conv2d",
    "Dropout",
    "Embedding",
    "LSTMCell",
    "LSTMState",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "Module",
    "RNNCell",
    "Sequential",
    "Unrolled",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "init",
    "mse_loss",
    "nll_loss",
    "parameter",
    "unroll",
]
