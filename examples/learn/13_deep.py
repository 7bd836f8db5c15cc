"""Depth: layers on top of each other, and a gradient that flows down and back at the same time.

    python examples/learn/13_deep.py

The outputs of one layer are the inputs of the next. In the graph every state then has two uses: in its own layer one
step later, and in the layer above in the same step. From the last output a gradient reaches a state along every path of
steps back and layers down: there are (lag + depth over depth) of them, as on a chessboard.
"""

from __future__ import annotations

from math import comb

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, flow, nn

T, B, F, H, LAYERS = 8, 4, 3, 6, 3


def main(options: Options) -> None:
    """A stack by hand against the layer, the layout of the state, and the gradient in every layer and step."""
    net, x = nn.LSTM(F, H, num_layers=LAYERS), tg.randn(T, B, F)
    outputs, (h, c) = net(x)
    y = x
    for _, cell in net.cells():
        y, _ = bptt.unroll(cell, y)
    same = np.array_equal if options.backend == "numpy" else np.allclose  # other devices add in other orders
    check("a deep network is one layer after the other", same(y.numpy(), outputs.numpy()))
    check("its state has a row for each layer", h.shape == c.shape == (LAYERS, B, H))
    check("of which the last is the last output", bool((h.numpy()[-1] == outputs.numpy()[-1]).all()))

    # Linear units of weight 1 only count: the gradient in a state is the number of paths that lead to it.
    count = nn.RNN(1, 1, num_layers=LAYERS, bias=False, nonlinearity=lambda a: a, dtype="float64")
    for p in count.parameters():
        p.data = tg.ones(1, 1, dtype="float64").data
    run = count(tg.ones(T, 1, 1, dtype="float64"), record=True)
    print("\npaths from the last output to the state of layer l in step t")
    for layer in reversed(range(LAYERS)):
        paths = flow.gradient_norms(run.outputs[-1].sum(), run.record[layer]).norms["h"]
        print(f"  layer {layer}  " + " ".join(f"{n:4.0f}" for n in paths))
        depth = LAYERS - 1 - layer
        expected = [comb(T - 1 - t + depth, depth) for t in range(T)]
        check(f"in layer {layer} there are (lag + {depth} over {depth})", paths.tolist() == expected)

    deep = nn.Stacked([nn.GRUCell(F, H), nn.Bidirectional(nn.GRUCell(H, 4), nn.GRUCell(H, 4)), nn.LSTMCell(8, 2)])
    outputs, states = deep(x, lengths=[8, 5, 2, 7])
    print(f"\nlayers need not be alike: {outputs.shape}, and {len(states)} states")
    y = outputs.numpy()
    check("each row's outputs end with its own length", not y[2:, 2].any() and y[7, 0].all())


if __name__ == "__main__":
    climb(main)
