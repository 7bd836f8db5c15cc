"""GRU: two gates, no second state, and a straight line from h_{t-1} to h_t.

    python examples/learn/11_gru.py

    r, z = sigmoid(W_ih x_t + W_hh h_{t-1} + b)               reset and update, the first two of three blocks
    n = tanh(W_in x_t + b_n + r * (W_hn h_{t-1} + b_hn))      what is new; reset after the product (cuDNN, PyTorch)
    n = tanh(W_in x_t + b_n + W_hn (r * h_{t-1}))             or before it (Cho et al. 2014)
    h_t = (1 - z) * n + z * h_{t-1}

Which way z points differs from paper to paper. Here, as in the first one, a z of 1 keeps the state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, flow, nn

H = 16


def by_equation(cell: nn.GRUCell, x: Tensor, h: Any) -> Tensor:
    """One step, by the equations above."""
    w_r, w_z, w_n = tg.split(cell.weight_hh, 3)
    x_r, x_z, x_n = tg.split(x @ cell.weight_ih.T + cell.bias, 3, axis=-1)
    r, z = tg.sigmoid(x_r + h @ w_r.T), tg.sigmoid(x_z + h @ w_z.T)
    n = tg.tanh(x_n + ((r * h) @ w_n.T if cell.reset == "before" else r * (h @ w_n.T + cell.bias_hn)))
    return (1 - z) * n + z * h


def main(options: Options) -> None:
    """The equations of both forms, what z = 1 does, and how the two forms are related."""
    xs = tg.randn(50, 8, 4, dtype="float64")
    for reset in ("after", "before"):
        cell, h = nn.GRUCell(4, H, dtype="float64", reset=reset), tg.zeros(8, H, dtype="float64")
        for x in xs:
            h = by_equation(cell, x, h)
        found = bptt.unroll(cell, xs).state
        check(f'reset="{reset}" computes its equations', np.allclose(h.numpy(), found.numpy(), rtol=1e-11))

    # The two forms agree where r does nothing: with r = 1, and without the bias b_hn that r multiplies.
    after, before = nn.GRUCell(4, H, dtype="float64"), nn.GRUCell(4, H, dtype="float64", reset="before")
    assert after.bias_hn is not None
    after.bias_hn.data = tg.zeros(H, dtype="float64").data
    before.load_state_dict({name: p for name, p in after.state_dict().items() if name != "bias_hn"})
    apart = abs(bptt.unroll(after, xs).state.numpy() - bptt.unroll(before, xs).state.numpy()).max()
    check(f"with the same weights the two forms differ, here by {apart:.2f}", apart > 0.01)
    for cell in (after, before):
        nn.init.gate_bias_(cell, "r", 50.0)
    same = np.allclose(bptt.unroll(after, xs).state.numpy(), bptt.unroll(before, xs).state.numpy(), rtol=1e-11)
    check("where r is 1 they are the same network", same)

    print("\nnorm of dL/dh_t at the last step and at the first")
    kept = {}
    for name, z in (("z near 1/2", 0.0), ("z near 1", 6.0)):
        cell = nn.init.gate_bias_(nn.GRUCell(4, H, dtype="float64"), "z", z)
        run = bptt.unroll(cell, xs, record=True)
        norms = flow.gradient_norms(run.outputs[-1].sum(), run).norms["h"]
        kept[name] = norms[0] / norms[-1]
        print(f"  {name:<12} {norms[-1]:.1e}  {norms[0]:.1e}")
    check("where z is near 1, the gradient lives", kept["z near 1"] > 0.1)
    check("where it is not, the gradient vanishes", kept["z near 1/2"] < 1e-4)

    count = [sum(p.size for p in cell.parameters()) for cell in (nn.RNNCell(4, H), nn.GRUCell(4, H), nn.LSTMCell(4, H))]
    print(f"\n{count} parameters: RNN, GRU, LSTM")
    check("1, 3 and 4 blocks, and the GRU's bias b_hn", count == [count[0], 3 * count[0] + H, 4 * count[0]])


if __name__ == "__main__":
    climb(main)
