"""Depth: layers on top of each other, and a gradient that comes down and back at once.

    python examples/learn/13_deep.py

The outputs of one layer are the inputs of the next. In the graph every state then has two uses: in its own layer one step
later, and one layer higher in the same step.
"""

from __future__ import annotations

import argparse

import numpy as np
from ladder import check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, flow, nn

T, B, F, H, LAYERS = 12, 4, 3, 8, 3


def main(options: argparse.Namespace) -> None:
    """A stack by hand against the layer, the gradient in every layer and step, and how the state is laid out."""
    net = nn.LSTM(F, H, num_layers=LAYERS)
    x = tg.randn(T, B, F)
    outputs, (h, c) = net(x)

    y = x
    for layer in net.cells:
        y, _ = bptt.unroll(layer, y)
    check("a deep network is one layer after the other, to the last bit", bool((y.numpy() == outputs.numpy()).all()))
    check("its state has a row for each layer", h.shape == c.shape == (LAYERS, B, H))
    check("of which the last is the last output", bool((h.numpy()[-1] == outputs.numpy()[-1]).all()))


if __name__ == "__main__":
    climb(main)
