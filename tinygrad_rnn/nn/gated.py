"""More cells with gates: the GRU and smaller ones, variants of the LSTM, and recurrent highways."""

from __future__ import annotations

from typing import Any

from ..backend import DTypeLike
from ..create import zeros_beside
from ..ops import broadcast_to, concatenate, linear, sigmoid, split, tanh
from ..tensor import Tensor
from .cells import Gates, LSTMCell, LSTMState, WeightedCell
from .checks import check_sizes


class CoupledLSTMCell(LSTMCell):
    """LSTM with coupled input and forget gates, i = 1 - f (CIFG of Greff et al. 2016).

    f, g, o = W_ih x_t + W_hh h_{t-1} + b, in three blocks of rows
    c_t = sigmoid(f) * c_{t-1} + (1 - sigmoid(f)) * tanh(g)
    h_t = sigmoid(o) * tanh(c_t)

    forget_bias, proj_size: as in ``LSTMCell``.

    >>> from tinygrad_rnn import nn, ones
    >>> output, state = nn.CoupledLSTMCell(3, 5)(ones(2, 3))
    >>> state.c.shape
    (2, 5)
    """

    blocks = 3
    gate_names = ("f", "g", "o")
    keeps = {"f": 1}

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, LSTMState, Gates]:
        h, c = state
        f, g, o = split(self.recur(h, z), 3, axis=-1)
        f, g, o = sigmoid(f), self.activation(g), sigmoid(o)
        c = g + f * (c - g)
        h = self.project(o * tanh(c))
        return h, LSTMState(h, c), {"f": f, "g": g, "o": o}


class PeepholeLSTMCell(LSTMCell):
    """LSTM with peepholes: the gates of each unit see its own memory cell (Gers and Schmidhuber 2000).

    i, f, g, o = W_ih x_t + W_hh h_{t-1} + b, in four blocks of rows
    c_t = sigmoid(f + p_f * c_{t-1}) * c_{t-1} + sigmoid(i + p_i * c_{t-1}) * tanh(g)
    h_t = sigmoid(o + p_o * c_t) * tanh(c_t)

    The weights p are ``peephole_i``, ``peephole_f`` and ``peephole_o``. The output gate sees the new c_t.
    forget_bias, proj_size: as in ``LSTMCell``.

    >>> from tinygrad_rnn import nn, ones
    >>> output, state = nn.PeepholeLSTMCell(3, 5)(ones(2, 3))
    >>> state.c.shape
    (2, 5)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **options: Any):
        super().__init__(input_size, hidden_size, bias, **options)
        self.peephole_i, self.peephole_f, self.peephole_o = (self.drawn((hidden_size,)) for _ in range(3))

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, LSTMState, Gates]:
        h, c = state
        i, f, g, o = split(self.recur(h, z), 4, axis=-1)
        i, f, g = sigmoid(i + self.peephole_i * c), sigmoid(f + self.peephole_f * c), self.activation(g)
        c = f * c + i * g
        o = sigmoid(o + self.peephole_o * c)
        h = self.project(o * tanh(c))
        return h, LSTMState(h, c), {"i": i, "f": f, "g": g, "o": o}


class GRUCell(WeightedCell):
    """Gated recurrent unit, with the reset gate after the recurrent product (cuDNN, PyTorch) or before it.

    r, z = sigmoid(W_ih x_t + W_hh h_{t-1} + b), the first two of three blocks of rows: r, z, n
    reset="after":   n = tanh(W_in x_t + b_n + r * (W_hn h_{t-1} + b_hn))
    reset="before":  n = tanh(W_in x_t + b_n + W_hn (r * h_{t-1}))  (Cho et al. 2014)
    h_t = (1 - z) * n + z * h_{t-1}

    Where z is 1, the state is kept. With "after", n has two biases that cannot be merged, because r multiplies only
    b_hn. It is the block of n in PyTorch's ``bias_hh``, and the parameter ``bias_hn`` here.

    >>> from tinygrad_rnn import nn, ones
    >>> output, h = nn.GRUCell(3, 5)(ones(2, 3))
    >>> h.shape
    (2, 5)
    """

    blocks = 3
    gate_names = ("r", "z", "n")
    keeps = {"z": 1}
    usual = {"reset": "after"}
    resets: tuple[str, ...] = ("after", "before")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        dtype: DTypeLike = None,
        backend: str | None = None,
        *,
        reset: str = "after",
    ):
        if reset not in self.resets:
            known = " or ".join(map(repr, self.resets))
            raise ValueError(f"{type(self).__name__}: reset is {known} the product, not {reset!r}")
        super().__init__(input_size, hidden_size, bias, dtype, backend)
        self.reset = reset
        self.bias_hn = self.drawn((hidden_size,)) if bias and reset == "after" else None

    def input_projection(self, x: Any) -> tuple[Tensor, Tensor]:
        """W_ih x + b, for one step or all steps, split as by ``apart``."""
        return self.apart(super().input_projection(x))

    def apart(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Split z into the part to add to W_hh h_{t-1}, for "after" with b_hn in n's place, and the block of n."""
        gates, new = split(z, (2 * self.hidden_size,), axis=-1)
        if self.reset == "before":
            return gates, new
        bias = zeros_beside(new, (1,)) if self.bias_hn is None else self.bias_hn
        return concatenate([gates, broadcast_to(bias, shape=new.shape)], axis=-1), new

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, Tensor, Gates]:
        h, (gates, new), two = state, z, 2 * self.hidden_size
        if self.reset == "before":
            r, keep = split(sigmoid(self.recur(h, gates, slice(two))), 2, axis=-1)
            n = self.activation(self.recur(r * h, new, slice(two, None)))
        else:
            r, keep, n = split(self.recur(h, gates), 3, axis=-1)
            r, keep = sigmoid(r), sigmoid(keep)
            n = self.activation(new + r * n)
        h = n + keep * (h - n)
        return h, h, {"r": r, "z": keep, "n": n}


class RHNCell(WeightedCell):
    """Recurrent highway network: ``depth`` highway layers within one time step (Zilly et al. 2017).

    s_0 = h_{t-1};  for k = 1, ..., depth:
    h, t = W_ih x_t [if k = 1] + W_hh,k s_{k-1} + b_k, in two blocks of rows
    s_k = sigmoid(t) * tanh(h) + (1 - sigmoid(t)) * s_{k-1}
    h_t = s_depth

    W_hh,1 and b_1 are ``weight_hh`` and ``bias``; the other layers have ``weights_above`` and ``biases_above``.
    transform_bias: added to the initial biases of t; below 0, it carries the past through (-2 to -4 in the paper).

    >>> from tinygrad_rnn import nn, ones
    >>> output, h = nn.RHNCell(3, 5, depth=4)(ones(2, 3))
    >>> h.shape
    (2, 5)
    """

    blocks = 2
    usual = {"depth": None}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        depth: int = 3,
        transform_bias: float = 0.0,
        **options: Any,
    ):
        check_sizes(self, 1, depth=depth)
        if transform_bias and not bias:
            raise ValueError(f"RHNCell: transform_bias={transform_bias} needs bias=True")
        super().__init__(input_size, hidden_size, bias, **options)
        self.depth = depth
        self.weights_above = [self.drawn((2 * hidden_size, hidden_size)) for _ in range(1, depth)]
        self.biases_above = [self.drawn((2 * hidden_size,)) if bias else None for _ in range(1, depth)]
        for b in (self.bias, *self.biases_above):
            if b is not None:
                b.array[hidden_size:] += transform_bias

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, Tensor, Gates]:
        s = state
        gates: Gates = {}
        for k in range(self.depth):
            h, t = split(self.recur(s, z if k == 0 else self.biases_above[k - 1], layer=k), 2, axis=-1)
            h, t = self.activation(h), sigmoid(t)
            s = s + t * (h - s)
            gates |= {f"h{k + 1}": h, f"t{k + 1}": t}
        return s, s, gates

    def recur(self, h: Any, z: Any = None, rows: slice | None = None, layer: int = 0) -> Tensor:
        """W_hh,k s + z, or only the given rows of W_hh,k."""
        weight = self.weights_above[layer - 1] if layer else self.weight_hh
        return linear(h, weight if rows is None else weight[rows], z)


class MGUCell(WeightedCell):
    """Minimal gated unit: a GRU with one gate for both reset and update (Zhou et al. 2016).

    f = sigmoid(W_if x_t + W_hf h_{t-1} + b_f), the first of two blocks of rows: f, n
    n = tanh(W_in x_t + W_hn (f * h_{t-1}) + b_n)
    h_t = (1 - f) * h_{t-1} + f * n

    >>> from tinygrad_rnn import nn, ones
    >>> output, h = nn.MGUCell(3, 5)(ones(2, 3))
    >>> h.shape
    (2, 5)
    """

    blocks = 2
    gate_names = ("f", "n")
    keeps = {"f": -1}

    def input_projection(self, x: Any) -> tuple[Tensor, ...]:
        """W_ih x + b, for one step (B, F) or all steps (T, B, F), split into f and n."""
        return split(super().input_projection(x), 2, axis=-1)

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, Tensor, Gates]:
        h, (gate, new), one = state, z, self.hidden_size
        f = sigmoid(self.recur(h, gate, slice(one)))
        n = self.activation(self.recur(f * h, new, slice(one, None)))
        h = h + f * (n - h)
        return h, h, {"f": f, "n": n}


class MinGRUCell(WeightedCell):
    """Minimal GRU, whose gates do not see the state, so that it is linear in it (Feng et al. 2024).

    z = sigmoid(W_iz x_t + b_z), the first of two blocks of rows: z, n
    n = W_in x_t + b_n
    h_t = (1 - z) * h_{t-1} + z * n

    ``bptt.scanned`` computes all time steps at once.

    >>> from tinygrad_rnn import bptt, nn, ones
    >>> layer = nn.Recurrent(nn.MinGRUCell(3, 5)).unrolled_by(bptt.scanned)
    >>> layer(ones(7, 2, 3)).outputs.shape
    (7, 2, 5)
    """

    blocks = 2
    gate_names = ("z", "n")
    keeps = {"z": -1}
    activation = staticmethod(lambda n: n)

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **options: Any):
        super().__init__(input_size, hidden_size, bias, **options)
        del self.weight_hh

    def gated(self, z: Any) -> tuple[Tensor, Tensor]:
        """The gate z and the candidate n, for one step or all steps."""
        z, n = split(z, 2, axis=-1)
        return sigmoid(z), self.activation(n)

    def linear(self, z: Any) -> tuple[Tensor, Tensor]:
        """a and b in h_t = a * h_{t-1} + b, for one step or all steps."""
        z, n = self.gated(z)
        return 1 - z, z * n

    def full_step(self, z: Any, state: Any) -> tuple[Tensor, Tensor, Gates]:
        z, n = self.gated(z)
        h = (1 - z) * state + z * n
        return h, h, {"z": z, "n": n}
