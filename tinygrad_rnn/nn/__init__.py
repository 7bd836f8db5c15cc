"""Modules, cells, layers and losses."""

from . import init
from .attention import AdditiveAttention, Attention
from .cell_dropout import CellDropout, RecurrentDropout, VariationalDropout, VariationalState, Zoneout
from .cells import Cell, LSTMCell, LSTMState, RNNCell, WeightedCell
from .convolution import Conv1d, Conv2d, MaxPool2d
from .ctc import ctc_greedy_decode, ctc_loss
from .decode import Beams, Written, beam_search, greedy, roll_out, sample, teacher_forced
from .gated import CoupledLSTMCell, GRUCell, MGUCell, MinGRUCell, PeepholeLSTMCell, RHNCell
from .interop import load_torch_state_dict, torch_state_dict
from .layers import Dropout, Embedding, LayerNorm, Linear, ModuleList, Sequential
from .losses import binary_cross_entropy_with_logits, cross_entropy, huber_loss, mse_loss, nll_loss
from .module import Module, functional_call, parameter
from .normalized import LayerNormBasicLSTMCell, LayerNormGRUCell, LayerNormLSTMCell, LayerNormPerGateGRUCell
from .recurrent import Bidirectional, Recurrent, SequenceLayer, Stacked
from .rnn import GRU, LSTM, RNN
from .sequences import last, length_mask, mean, padded
from .states import repeat_rows, reset, take_rows
from .ungated import IndRNNCell, LeakyRNNCell
from .unrolling import Recorded, Unrolled, unroll
from .wrappers import Highway, Residual, ResidualRecurrence, SkipState, SkipThroughTime, Wrapper

# fmt: off
__all__ = [
    "GRU", "LSTM", "RNN", "AdditiveAttention", "Attention", "Beams", "Bidirectional", "Cell", "CellDropout",
    "Conv1d", "Conv2d", "CoupledLSTMCell", "Dropout", "Embedding", "GRUCell", "Highway", "IndRNNCell", "LSTMCell",
    "LSTMState", "LayerNorm", "LayerNormBasicLSTMCell", "LayerNormGRUCell", "LayerNormLSTMCell",
    "LayerNormPerGateGRUCell", "LeakyRNNCell", "Linear", "MGUCell", "MaxPool2d", "MinGRUCell", "Module", "ModuleList",
    "PeepholeLSTMCell", "RHNCell", "RNNCell", "Recorded", "Recurrent", "RecurrentDropout", "Residual",
    "ResidualRecurrence", "SequenceLayer", "Sequential", "SkipState", "SkipThroughTime", "Stacked", "Unrolled",
    "VariationalDropout", "VariationalState", "WeightedCell", "Wrapper", "Written", "Zoneout", "beam_search",
    "binary_cross_entropy_with_logits", "cross_entropy", "ctc_greedy_decode", "ctc_loss", "functional_call",
    "greedy", "huber_loss", "init", "last", "length_mask", "load_torch_state_dict", "mean", "mse_loss", "nll_loss",
    "padded", "parameter", "repeat_rows", "reset", "roll_out", "sample", "take_rows", "teacher_forced",
    "torch_state_dict", "unroll",
]
# fmt: on


def __getattr__(name: str) -> object:
    from ..hints import LAYERS, missing

    raise missing(name, f"module {__name__!r}", LAYERS.get(name))
