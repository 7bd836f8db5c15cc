"""LSTM: three gates and a sum, and why the sum lets the gradient through.

    python examples/learn/10_lstm.py

    i, f, o = sigmoid(...), g = tanh(...), each of W_ih x_t + W_hh h_{t-1} + b
    c_t = f * c_{t-1} + i * g           the memory: what is kept, and what is added
    h_t = o * tanh(c_t)                 what is shown of it

The memory is not multiplied by a matrix from step to step, only by its forget gate: along c, dc_t / dc_{t-1} = f_t.
(Hochreiter and Schmidhuber 1997; the forget gate: Gers, Schmidhuber and Cummins 2000)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, flow, nn

STEPS = 100


def by_equation(cell: nn.LSTMCell, x: Tensor, h: Any, c: Any) -> tuple[Tensor, Tensor]:
    """One step, by the equations above."""
    i, f, g, o = tg.split(x @ cell.weight_ih.T + h @ cell.weight_hh.T + cell.bias, 4, axis=-1)
    c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
    return tg.sigmoid(o) * tg.tanh(c), c


def main(options: Options) -> None:
    """The equations, the highway, and what is left of a gradient after 100 steps."""
    xs = tg.randn(STEPS, 8, 4, dtype="float64")
    lstm = nn.LSTMCell(4, 16, dtype="float64")
    h = c = tg.zeros(8, 16, dtype="float64")
    for x in xs:
        h, c = by_equation(lstm, x, h, c)
    run = bptt.unroll(lstm, xs, record=True)
    check("nn.LSTMCell computes these equations", np.allclose(c.numpy(), run.state.c.numpy(), rtol=1e-12))

    # The highway alone: the gates are constants with respect to the previous state, as in 1997.
    start = nn.LSTMState(tg.zeros(8, 16, dtype="float64"), tg.zeros(8, 16, dtype="float64", requires_grad=True))
    along = bptt.unroll(bptt.GatesDetached(lstm), xs, start, record=True)
    carried = tg.grad(along.state.c.sum(), start.c).numpy()
    product = along.record["f"].numpy().prod(axis=0)
    print(f"after {STEPS} steps of forget gates near 1/2, {carried.mean():.1e} of the gradient is left")
    check("along the memory, dc_T / dc_0 is the product of the forget gates", np.allclose(carried, product, rtol=1e-9))

    print(f"\nnorm of dL/dh_t or dL/dc_t, t = {STEPS - 1}, {STEPS // 2}, 0, and what is left of the first at the last")
    left = {}
    candidates: dict[str, nn.Cell] = {
        "RNN": nn.RNNCell(4, 16, dtype="float64"),
        "LSTM": lstm,
        "LSTM, forget bias 5": nn.LSTMCell(4, 16, dtype="float64", forget_bias=5.0),
    }
    for name, cell in candidates.items():
        run = bptt.unroll(cell, xs, record=True)
        found = flow.gradient_norms(run.outputs[-1].sum(), run).norms
        norms = found["c"] if "c" in found else found["h"]
        left[name] = norms[0] / norms[-1]
        print(f"{name:<20} {norms[-1]:.1e}  {norms[STEPS // 2]:.1e}  {norms[0]:.1e}  {left[name]:.1e}")
    check("a simple network has nothing left", left["RNN"] < 1e-10)
    check("nor has an LSTM whose forget gates are half shut", left["LSTM"] < 1e-10)
    check("one that begins with its forget gates open has", left["LSTM, forget bias 5"] > 0.1)


if __name__ == "__main__":
    climb(main)
