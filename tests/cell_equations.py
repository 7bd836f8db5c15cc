"""Every cell's equations once more, one gate at a time, in plain NumPy: what the cells are tested against.

``step(p, x, state)`` returns (output, state, gates), with ``p`` the parameters by name and ``state`` a tuple of arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygrad_rnn import nn

D, H = 3, 4
Arrays = dict[str, np.ndarray]
State = tuple[np.ndarray, ...]
Result = tuple[np.ndarray, State, Arrays]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0)


def block(p: Arrays, k: int, name: str) -> np.ndarray:
    """The rows of gate k of a parameter; 0 where there is none."""
    return p[name][k * H : (k + 1) * H] if name in p else np.zeros(H)


def gate(p: Arrays, k: int, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """W_ih x + W_hh h + b, for the rows of gate k."""
    return x @ block(p, k, "weight_ih").T + h @ block(p, k, "weight_hh").T + block(p, k, "bias")


def normed(a: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    mean = a.sum(-1, keepdims=True) / a.shape[-1]
    return (a - mean) / np.sqrt(((a - mean) ** 2).sum(-1, keepdims=True) / a.shape[-1] + eps)


def simple(p: Arrays, x: np.ndarray, s: State, f: Any = np.tanh) -> Result:
    h = f(gate(p, 0, x, s[0]))
    return h, (h,), {}


def lstm(p: Arrays, x: np.ndarray, s: State) -> Result:
    h, c = s
    i, f, g, o = (gate(p, k, x, h) for k in range(4))
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * c + i * g
    h = o * np.tanh(c)
    if "weight_hr" in p:
        h = h @ p["weight_hr"].T
    return h, (h, c), {"i": i, "f": f, "g": g, "o": o}


def coupled(p: Arrays, x: np.ndarray, s: State) -> Result:
    h, c = s
    f, g, o = sigmoid(gate(p, 0, x, h)), np.tanh(gate(p, 1, x, h)), sigmoid(gate(p, 2, x, h))
    c = f * c + (1 - f) * g
    h = o * np.tanh(c)
    return h, (h, c), {"f": f, "g": g, "o": o}


def peephole(p: Arrays, x: np.ndarray, s: State) -> Result:
    h, c = s
    i = sigmoid(gate(p, 0, x, h) + c * p["peephole_i"])
    f = sigmoid(gate(p, 1, x, h) + c * p["peephole_f"])
    g = np.tanh(gate(p, 2, x, h))
    c = f * c + i * g
    o = sigmoid(gate(p, 3, x, h) + c * p["peephole_o"])
    h = o * np.tanh(c)
    return h, (h, c), {"i": i, "f": f, "g": g, "o": o}


def gru_after(p: Arrays, x: np.ndarray, s: State) -> Result:
    (h,) = s
    r, z = sigmoid(gate(p, 0, x, h)), sigmoid(gate(p, 1, x, h))
    inner = h @ block(p, 2, "weight_hh").T + p.get("bias_hn", np.zeros(H))
    n = np.tanh(x @ block(p, 2, "weight_ih").T + block(p, 2, "bias") + r * inner)
    h = (1 - z) * n + z * h
    return h, (h,), {"r": r, "z": z, "n": n}


def gru_before(p: Arrays, x: np.ndarray, s: State) -> Result:
    (h,) = s
    r, z = sigmoid(gate(p, 0, x, h)), sigmoid(gate(p, 1, x, h))
    n = np.tanh(gate(p, 2, x, r * h))
    h = (1 - z) * n + z * h
    return h, (h,), {"r": r, "z": z, "n": n}


def minimal(p: Arrays, x: np.ndarray, s: State) -> Result:
    (h,) = s
    f = sigmoid(gate(p, 0, x, h))
    n = np.tanh(gate(p, 1, x, f * h))
    h = (1 - f) * h + f * n
    return h, (h,), {"f": f, "n": n}


def minimal_gru(p: Arrays, x: np.ndarray, s: State) -> Result:
    z, n = sigmoid(x @ block(p, 0, "weight_ih").T + block(p, 0, "bias")), x @ block(p, 1, "weight_ih").T
    n = n + block(p, 1, "bias")
    h = (1 - z) * s[0] + z * n
    return h, (h,), {"z": z, "n": n}


RATES = np.array([0.1, 0.3, 0.7, 1.0])


def leaky(p: Arrays, x: np.ndarray, s: State) -> Result:
    n = np.tanh(gate(p, 0, x, s[0]))
    h = (1 - RATES) * s[0] + RATES * n
    return h, (h,), {"n": n}


def independent(p: Arrays, x: np.ndarray, s: State) -> Result:
    h = relu(x @ p["weight_ih"].T + s[0] @ np.diag(p["weight_hh"]) + p["bias"])
    return h, (h,), {}


def highway(p: Arrays, x: np.ndarray, s: State) -> Result:
    (h,) = s
    gates: Arrays = {}
    for k in range(3):
        if k == 0:
            a, b = gate(p, 0, x, h), gate(p, 1, x, h)
        else:
            above = h @ p[f"weights_above.{k - 1}"].T + p[f"biases_above.{k - 1}"]
            a, b = above[:, :H], above[:, H:]
        new, t = np.tanh(a), sigmoid(b)
        h = new * t + h * (1 - t)
        gates |= {f"h{k + 1}": new, f"t{k + 1}": t}
    return h, (h,), gates


def norm_lstm(p: Arrays, x: np.ndarray, s: State) -> Result:
    h, c = s
    a = p["gain_hh"] * normed(h @ p["weight_hh"].T) + p["gain_ih"] * normed(x @ p["weight_ih"].T) + p["bias"]
    i, f, g, o = sigmoid(a[:, :H]), sigmoid(a[:, H : 2 * H]), np.tanh(a[:, 2 * H : 3 * H]), sigmoid(a[:, 3 * H :])
    c = f * c + i * g
    h = o * np.tanh(p["gain_c"] * normed(c) + p["bias_c"])
    return h, (h, c), {"i": i, "f": f, "g": g, "o": o}


def norm_basic_lstm(p: Arrays, x: np.ndarray, s: State) -> Result:
    h, c = s

    def inner(k: int) -> np.ndarray:
        a = x @ block(p, k, "weight_ih").T + h @ block(p, k, "weight_hh").T
        return block(p, k, "gain") * normed(a) + block(p, k, "bias")

    i, f, g, o = sigmoid(inner(0)), sigmoid(inner(1)), np.tanh(inner(2)), sigmoid(inner(3))
    c = p["gain_c"] * normed(f * c + i * g) + p["bias_c"]
    h = o * np.tanh(c)
    return h, (h, c), {"i": i, "f": f, "g": g, "o": o}


def norm_gru(p: Arrays, x: np.ndarray, s: State) -> Result:
    (h,) = s
    two = slice(0, 2 * H)
    of_x, of_h = normed(x @ p["weight_ih"][two].T), normed(h @ p["weight_hh"][two].T)
    gates = sigmoid(p["gain_ih"][two] * of_x + p["gain_hh"][two] * of_h + p["bias"][two])
    r, z = gates[:, :H], gates[:, H:]
    new = block(p, 2, "gain_ih") * normed(x @ block(p, 2, "weight_ih").T) + block(p, 2, "bias")
    n = np.tanh(new + r * (block(p, 2, "gain_hh") * normed(h @ block(p, 2, "weight_hh").T) + p["bias_hn"]))
    h = (1 - z) * n + z * h
    return h, (h,), {"r": r, "z": z, "n": n}


def norm_per_gate_gru(p: Arrays, x: np.ndarray, s: State) -> Result:
    (h,) = s
    r, z = (sigmoid(block(p, k, "gain") * normed(gate(p, k, x, h)) + block(p, k, "shift")) for k in range(2))
    inner = x @ block(p, 2, "weight_ih").T + block(p, 2, "bias")
    inner = inner + r * (h @ block(p, 2, "weight_hh").T + p["bias_hn"])
    n = np.tanh(p["gain_n"] * normed(inner) + p["shift_n"])
    h = (1 - z) * n + z * h
    return h, (h,), {"r": r, "z": z, "n": n}


class Case(NamedTuple):
    """How to make a cell, and its equations."""

    make: Any
    step: Any


F64: dict[str, Any] = {"dtype": "float64"}
CASES = {
    "tanh": Case(lambda: nn.RNNCell(D, H, **F64), simple),
    "relu": Case(lambda: nn.RNNCell(D, H, nonlinearity="relu", **F64), lambda p, x, s: simple(p, x, s, relu)),
    "sigmoid": Case(lambda: nn.RNNCell(D, H, nonlinearity="sigmoid", **F64), lambda p, x, s: simple(p, x, s, sigmoid)),
    "sine": Case(
        lambda: nn.RNNCell(D, H, nonlinearity=lambda x: x.sin(), **F64), lambda p, x, s: simple(p, x, s, np.sin)
    ),
    "lstm": Case(lambda: nn.LSTMCell(D, H, **F64), lstm),
    "lstm without bias": Case(lambda: nn.LSTMCell(D, H, bias=False, **F64), lstm),
    "projected lstm": Case(lambda: nn.LSTMCell(D, H, proj_size=2, **F64), lstm),
    "coupled lstm": Case(lambda: nn.CoupledLSTMCell(D, H, **F64), coupled),
    "peephole lstm": Case(lambda: nn.PeepholeLSTMCell(D, H, **F64), peephole),
    "gru after": Case(lambda: nn.GRUCell(D, H, **F64), gru_after),
    "gru after without bias": Case(lambda: nn.GRUCell(D, H, bias=False, **F64), gru_after),
    "gru before": Case(lambda: nn.GRUCell(D, H, reset="before", **F64), gru_before),
    "minimal": Case(lambda: nn.MGUCell(D, H, **F64), minimal),
    "minimal gru": Case(lambda: nn.MinGRUCell(D, H, **F64), minimal_gru),
    "leaky": Case(lambda: nn.LeakyRNNCell(D, H, leak=RATES, **F64), leaky),
    "independent": Case(lambda: nn.IndRNNCell(D, H, **F64), independent),
    "highway": Case(lambda: nn.RHNCell(D, H, depth=3, **F64), highway),
    "normalized lstm": Case(lambda: nn.LayerNormLSTMCell(D, H, **F64), norm_lstm),
    "normalized basic lstm": Case(lambda: nn.LayerNormBasicLSTMCell(D, H, **F64), norm_basic_lstm),
    "normalized gru": Case(lambda: nn.LayerNormGRUCell(D, H, **F64), norm_gru),
    "gru normalized per gate": Case(lambda: nn.LayerNormPerGateGRUCell(D, H, **F64), norm_per_gate_gru),
}
