"""A cell of your own: two methods made of ordinary operations, and everything that takes a cell accepts it.

    python examples/learn/15_own_cell.py

This one turns pairs of numbers, (a, b), by an angle that it learns for each pair, and adds the input:

    a_t = cos(angle) a_{t-1} - sin(angle) b_{t-1} + W_a x_t
    b_t = sin(angle) a_{t-1} + cos(angle) b_{t-1} + W_b x_t

A turn changes no length, so no gradient vanishes or explodes, however far back it goes. (Unitary recurrent
networks: Arjovsky, Shah and Bengio 2016)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, flow, nn, optim


class TurnCell(nn.Cell):
    """H pairs, each turned by an angle of its own in every step; the output is all 2H numbers."""

    def __init__(self, input_size: int, pairs: int, dtype: Any = None):
        self.input_size, self.hidden_size, self.output_size = input_size, pairs, 2 * pairs
        self.weight = nn.parameter(nn.init.fan_in_uniform((2 * pairs, input_size), input_size), dtype)
        self.angle = nn.parameter(nn.init.uniform((pairs,), 0.1), dtype)

    def input_projection(self, x: Any) -> Tensor:
        """W x, which does not recur: one product for all steps."""
        return tg.linear(x, self.weight)

    def step(self, z: Any, state: Any) -> tuple[Tensor, Tensor]:
        """Turn every pair, and add."""
        a, b = tg.split(state, 2, axis=-1)
        cos, sin = tg.cos(self.angle), tg.sin(self.angle)
        h = tg.concatenate([cos * a - sin * b, sin * a + cos * b], axis=-1) + z
        return h, h


def sequences(count: int) -> tuple[Tensor, Tensor]:
    """Sequences (T, B, 1) that begin with 1 or -1, with 150 steps of noise after it; and 1 or 0 for which, (B, 1)."""
    first = (tg.rand(1, count, 1) > 0.5).astype("float32")
    return tg.concatenate([2 * first - 1, 0.1 * tg.randn(150, count, 1)]), first[0]


def remember(cell: nn.Cell, updates: int) -> float:
    """Learn to say how a sequence began; returns the share that is right about new ones."""
    layer, head = nn.Recurrent(cell), nn.Linear(cell.output_size, 1)
    optimizer = optim.Adam([*layer.parameters(), *head.parameters()], lr=0.01)
    for _ in range(updates):
        x, began = sequences(32)
        loss = nn.binary_cross_entropy_with_logits(head(layer(x).outputs[-1]), began)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, began = sequences(1000)
    return float(((head(layer(x).outputs[-1]).numpy() > 0) == (began.numpy() > 0)).mean())


def main(options: Options) -> None:
    """Its derivative, its gradient over a thousand steps, its use with other layers, and what it is good for."""
    cell = TurnCell(3, 4, dtype="float64")
    z, state = cell.input_projection(tg.randn(2, 3, dtype="float64")), tg.randn(2, 8, dtype="float64")
    tg.check(cell.step, z, state)
    print("holds: tg.check finds nothing wrong with a step")

    run = bptt.unroll(cell, tg.randn(1000, 2, 3, dtype="float64"), record=True)
    norms = flow.gradient_norms(run.outputs[-1].sum(), run).norms["h"]
    check("over 1000 steps the gradient keeps its length, to 12 digits", np.allclose(norms, norms[-1], rtol=1e-12))

    both = nn.Stacked([nn.Bidirectional(TurnCell(3, 4), TurnCell(3, 4)), nn.LSTMCell(16, 5)])
    outputs, _ = both(tg.randn(7, 2, 3), lengths=[7, 4])
    check("it runs both ways, with lengths, and below an LSTM", outputs.shape == (7, 2, 5))

    updates = 15 if options.quick else 30
    simple, turning = remember(nn.RNNCell(1, 16), updates), remember(TurnCell(1, 8), updates)
    print(f"150 steps ago, after {updates} updates: an RNN has {simple:.0%} right, turning pairs {turning:.0%}")
    check("turning pairs remember", turning > 0.95)
    check("the RNN guesses (with three times the learning rate it finds a way, too: a unit that latches)", simple < 0.7)


if __name__ == "__main__":
    climb(main)
