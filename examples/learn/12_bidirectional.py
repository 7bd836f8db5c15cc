"""Both directions: some answers depend on what comes later.

    python examples/learn/12_bidirectional.py

In "He needs to work more, Pavlos said about Patrick" only the end says who he is. A bidirectional network reads a
sequence twice, forwards and backwards, and each output is made of both. (Schuster and Paliwal 1997)
A sequence that is shorter than others in its batch is read backwards from its own end, not from that of the padding.
"""

from __future__ import annotations

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim


class Tagger(nn.Module):
    """A layer over time, and for each step the score that the next symbol is a 1."""

    def __init__(self, layer: nn.SequenceLayer, features: int):
        self.layer, self.head = layer, nn.Linear(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (T, B, 1)."""
        return self.head(self.layer(x).outputs)


def random_bits(count: int) -> Tensor:
    """Sequences (T, B, 1) of zeros and ones, of which the past does not tell the future."""
    return (tg.rand(13, count, 1) > 0.5).astype("float32")


def train(model: Tagger, updates: int) -> float:
    """Learn to predict the next symbol at each step; returns the share that is right in new sequences."""
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    for _ in range(updates):
        bits = random_bits(32)
        loss = nn.binary_cross_entropy_with_logits(model(bits)[:-1], bits[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bits = random_bits(1000)
    return float(((model(bits)[:-1].numpy() > 0) == (bits[1:].numpy() > 0.5)).mean())


def main(options: Options) -> None:
    """What a bidirectional layer computes, and what it can learn that a forward one cannot."""
    forwards, backwards = nn.GRUCell(3, 5, dtype="float64"), nn.GRUCell(3, 5, dtype="float64")
    layer = nn.Bidirectional(forwards, backwards)
    x, lengths = tg.randn(7, 2, 3, dtype="float64"), [7, 4]
    outputs = layer(x, lengths=lengths).outputs.numpy()

    for row, length in enumerate(lengths):
        there = nn.unroll(forwards, x[:length, row : row + 1]).outputs.numpy()
        again = nn.unroll(backwards, tg.flip(x[:length, row : row + 1], axis=0)).outputs.numpy()[::-1]
        apart = abs(outputs[:length, row : row + 1] - np.concatenate([there, again], axis=-1)).max()
        check(f"row {row} is read both ways within its own {length} steps", apart < 1e-14)
    check("and is 0 in the padding", not outputs[4:, 1].any())

    updates = 70 if options.quick else 300
    one_way = train(Tagger(nn.Recurrent(nn.GRUCell(1, 16)), 16), updates)
    both_ways = train(Tagger(nn.Bidirectional(nn.GRUCell(1, 16), nn.GRUCell(1, 16)), 32), updates)
    print(f"the next of a row of random bits: {one_way:.0%} right forwards only, {both_ways:.0%} both ways")
    check("forwards it is a guess", 0.45 < one_way < 0.55)
    check("who reads backwards too has seen it", both_ways > 0.99)


if __name__ == "__main__":
    climb(main)
