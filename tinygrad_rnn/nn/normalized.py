"""Cells with layer normalisation, in the two placements in use.

N(v) = (v - mean) / sqrt(var + eps), over the units of one row of the batch. Ba, Kiros and Hinton (2016) normalise the
contributions of input and state to the gates separately, each over all gates at once, and then add them. Later code
adds them first and normalises each gate by itself.
"""

from __future__ import annotations

from typing import Any

from ..ops import concatenate, layer_norm, linear, normalize, sigmoid, split, tanh
from ..tensor import Tensor
from . import init
from .cells import Gates, LSTMCell, LSTMState, WeightedCell
from .checks import check_input
from .gated import GRUCell


class NormalizedCell(WeightedCell):
    """A mixin for normalised cells, next to the class of the plain cell. A subclass defines ``add_gains``."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, eps: float = 1e-5, **options: Any):
        super().__init__(input_size, hidden_size, bias, **options)
        self.eps = eps
        self.add_gains()

    def add_gains(self) -> None:
        """Create the gains and shifts of the normalisations."""
        raise NotImplementedError

    def units(self, blocks: int, value: float = 1.0) -> Tensor:
        """A parameter with one element per unit of each block, all starting at this value."""
        return self.filled(init.constant((blocks * self.hidden_size,), value))

    def part(self, h: Any, z: Any, rows: slice) -> Tensor:
        """Only some rows of ``recur(h)``, which are normalised together with the others, + z."""
        y = self.recur(h)[..., rows]
        return y if z is None else y + z


class LayerNormLSTMCell(NormalizedCell, LSTMCell):
    """LSTM with layer normalisation placed as in the original paper (Ba, Kiros and Hinton 2016).

    i, f, g, o = a_ih * N(W_ih x_t) + a_hh * N(W_hh h_{t-1}) + b, in four blocks of rows, normalised together
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(a_c * N(c_t) + b_c)

    The gains a are ``gain_ih``, ``gain_hh`` and ``gain_c``, and start at 1; b_c is ``bias_c``. The paper adds three
    shifts to the gates, which are a single bias here.
    forget_bias, proj_size: as in ``LSTMCell``.

    >>> from tinygrad_rnn import nn, ones
    >>> output, state = nn.LayerNormLSTMCell(3, 5)(ones(2, 3))
    >>> state.c.shape
    (2, 5)
    """

    def add_gains(self) -> None:
        self.gain_ih, self.gain_hh, self.gain_c = self.units(4), self.units(4), self.units(1)
        self.bias_c = None if self.bias is None else self.units(1, 0.0)

    def input_projection(self, x: Any) -> Tensor:
        """a_ih * N(W_ih x) + b, for one step (B, F) or all steps (T, B, F)."""
        check_input(self, x)
        return layer_norm(linear(x, self.weight_ih), self.gain_ih, self.bias, self.eps)

    def recur(self, h: Any, z: Any = None, rows: slice | None = None) -> Tensor:
        """a_hh * N(W_hh h) + z, or only the given rows of it."""
        if rows is not None:
            return self.part(h, z, rows)
        return layer_norm(linear(h, self.weight_hh), self.gain_hh, z, self.eps)

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, LSTMState, Gates]:
        h, c = state
        i, f, g, o = split(self.recur(h, z), 4, axis=-1)
        i, f, g, o = sigmoid(i), sigmoid(f), self.activation(g), sigmoid(o)
        c = f * c + i * g
        h = self.project(o * tanh(layer_norm(c, self.gain_c, self.bias_c, self.eps)))
        return h, LSTMState(h, c), {"i": i, "f": f, "g": g, "o": o}


class LayerNormBasicLSTMCell(NormalizedCell, LSTMCell):
    """LSTM with each gate and the memory cell normalised, as in TensorFlow 1's cell of this name (cf. Ba et al. 2016).

    i, f, g, o = a * N(W_ih x_t + W_hh h_{t-1}) + b, in four blocks of rows, each normalised by itself
    c_t = a_c * N(sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)) + b_c
    h_t = sigmoid(o) * tanh(c_t)

    The normalised c_t is carried to the next step. The gains a are ``gain`` and ``gain_c``, and start at 1; b_c is
    ``bias_c``. TensorFlow orders the gates i, g, f, o, and its forget_bias defaults to 1.
    forget_bias, proj_size: as in ``LSTMCell``.

    >>> from tinygrad_rnn import nn, ones
    >>> output, state = nn.LayerNormBasicLSTMCell(3, 5)(ones(2, 3))
    >>> state.c.shape
    (2, 5)
    """

    def add_gains(self) -> None:
        self.gain, self.gain_c = self.units(4), self.units(1)
        self.bias_c = None if self.bias is None else self.units(1, 0.0)

    def input_projection(self, x: Any) -> Tensor:
        """W_ih x, for one step (B, F) or all steps (T, B, F)."""
        check_input(self, x)
        return linear(x, self.weight_ih)

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, LSTMState, Gates]:
        h, c = state
        a = _normalize_blocks(self.recur(h, z), 4, self.eps) * self.gain
        i, f, g, o = split(a if self.bias is None else a + self.bias, 4, axis=-1)
        i, f, g, o = sigmoid(i), sigmoid(f), self.activation(g), sigmoid(o)
        c = layer_norm(f * c + i * g, self.gain_c, self.bias_c, self.eps)
        h = self.project(o * tanh(c))
        return h, LSTMState(h, c), {"i": i, "f": f, "g": g, "o": o}


class LayerNormGRUCell(NormalizedCell, GRUCell):
    """GRU with layer normalisation placed as in the paper (Ba, Kiros and Hinton 2016, supplementary material).

    r, z = sigmoid(a_ih * N(W_ih x_t) + a_hh * N(W_hh h_{t-1}) + b), normalised together; blocks of rows: r, z, n
    n = tanh(a_in * N(W_in x_t) + b_n + r * (a_hn * N(W_hn h_{t-1}) + b_hn))
    h_t = (1 - z) * n + z * h_{t-1}

    The gains a are ``gain_ih`` and ``gain_hh``, and start at 1. Where z is 1, the state is kept, as in ``GRUCell``. In
    the paper, z = 1 replaces the state, which is equivalent with the signs of z's gains and bias flipped.

    >>> from tinygrad_rnn import nn, ones
    >>> output, h = nn.LayerNormGRUCell(3, 5)(ones(2, 3))
    >>> h.shape
    (2, 5)
    """

    resets = ("after",)

    def add_gains(self) -> None:
        self.gain_ih, self.gain_hh = self.units(3), self.units(3)

    def input_projection(self, x: Any) -> tuple[Tensor, Tensor]:
        """a_ih * N(W_ih x) + b, for one step (B, F) or all steps (T, B, F), split as by ``apart``."""
        check_input(self, x)
        return self.apart(self._normalized(linear(x, self.weight_ih), self.gain_ih, self.bias))

    def recur(self, h: Any, z: Any = None, rows: slice | None = None) -> Tensor:
        """a_hh * N(W_hh h) + z, or only the given rows of it."""
        if rows is not None:
            return self.part(h, z, rows)
        return self._normalized(linear(h, self.weight_hh), self.gain_hh, z)

    def _normalized(self, a: Any, gain: Tensor, shift: Any) -> Tensor:
        """gain * N(a) + shift, with the block of n normalised apart from the gates."""
        gates, new = split(a, (2 * self.hidden_size,), axis=-1)
        y = concatenate([normalize(gates, eps=self.eps), normalize(new, eps=self.eps)], axis=-1) * gain
        return y if shift is None else y + shift


class LayerNormPerGateGRUCell(NormalizedCell, GRUCell):
    """GRU with each gate normalised by itself, as in Sockeye's cell of this name (Hieber et al. 2017).

    r, z = sigmoid(a * N(W_ih x_t + W_hh h_{t-1} + b) + b_a), the first two of three blocks of rows: r, z, n
    n = tanh(a_n * N(W_in x_t + b_n + r * (W_hn h_{t-1} + b_hn)) + b_an)
    h_t = (1 - z) * n + z * h_{t-1}

    The gains a are ``gain`` and ``gain_n``, and start at 1; the shifts b_a and b_an are ``shift`` and ``shift_n``.

    >>> from tinygrad_rnn import nn, ones
    >>> output, h = nn.LayerNormPerGateGRUCell(3, 5)(ones(2, 3))
    >>> h.shape
    (2, 5)
    """

    resets = ("after",)

    def add_gains(self) -> None:
        self.gain, self.shift = self.units(2), self.units(2, 0.0)
        self.gain_n, self.shift_n = self.units(1), self.units(1, 0.0)

    def bias_of(self, gate: str) -> tuple[Tensor | None, slice]:
        """The shift, as the normalisation takes away most of what is added before it."""
        return (self.shift_n, slice(None)) if gate == "n" else (self.shift, super().bias_of(gate)[1])

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, Tensor, Gates]:
        h, (gates, new) = state, z
        gates, n = split(self.recur(h, gates), (2 * self.hidden_size,), axis=-1)
        gates = _normalize_blocks(gates, 2, self.eps) * self.gain + self.shift
        r, keep = split(sigmoid(gates), 2, axis=-1)
        n = self.activation(layer_norm(new + r * n, self.gain_n, self.shift_n, self.eps))
        h = n + keep * (h - n)
        return h, h, {"r": r, "z": keep, "n": n}


def _normalize_blocks(a: Any, blocks: int, eps: float) -> Tensor:
    """Apply ``normalize`` to each of several equal blocks of the last axis."""
    return normalize(a.reshape((*a.shape[:-1], blocks, a.shape[-1] // blocks)), eps=eps).reshape(a.shape)
