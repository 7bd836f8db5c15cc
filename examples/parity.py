"""Parity, many to one: is the number of ones even? An LSTM learns it on short strings, and is asked about long ones.

    python examples/parity.py

One bit flipped anywhere flips the answer, so nothing short of reading all of them helps. A bag of bits knows how many
ones there are, and learns the answer for each count by heart: it is lost where the counts are new. Two states are
enough for strings of any length, and a network that has found them does not care how long a string is.
"""

from __future__ import annotations

import numpy as np
from common import Bar, Options, Result, checked, parse, picture, put, share_right, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("right on strings of 500 bits", full=0.99, quick=0.95, baseline="a bag of bits")
LENGTHS = (5, 10, 20, 50, 100, 200, 500)
SHORT = 20  # the longest in training


class Reader(nn.Module):
    """Bits (T, B) to the logits of odd and even, after the last of them."""

    def __init__(self) -> None:
        self.lstm = nn.LSTM(1, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, bits: Tensor) -> Tensor:
        return self.head(nn.last(self.lstm(bits[:, :, None]).outputs))


class Bag(nn.Module):
    """The same answer from the number of ones alone, which has a pair of logits for each count."""

    def __init__(self) -> None:
        self.logits = nn.Embedding(max(LENGTHS) + 1, 2)

    def forward(self, bits: Tensor) -> Tensor:
        return self.logits(tg.astype(tg.sum(bits, axis=0), dtype="int64"))


def strings(rng: np.random.Generator, length: int, count: int) -> tuple[Tensor, np.ndarray]:
    """Random bits (T, B), and for each string 1 if the number of ones is even."""
    bits = rng.integers(0, 2, (length, count))
    return put(bits.astype(np.float32)), 1 - bits.sum(axis=0) % 2


def learn(model: nn.Module, args: Options, rng: np.random.Generator) -> list[float]:
    """Train on strings of up to 20 bits, short ones first; returns the shares judged right of each of LENGTHS."""

    def loss(step: int) -> Tensor:
        longest = min(SHORT, 2 + SHORT * step // (args.steps // 2 + 1))
        bits, even = strings(rng, rng.integers(1, longest + 1), 64)
        return nn.cross_entropy(model(bits), put(even))

    train(model, loss, args.steps)
    with tg.no_grad():
        return [share_right(model(bits), even) for bits, even in (strings(rng, n, 500) for n in LENGTHS)]


def run(args: Options, seed: int) -> Result:
    """Learn with the LSTM and with the bag of bits."""
    rng, lstm, bag = np.random.default_rng(seed), Reader(), Bag()
    right = learn(lstm, args, rng)
    right_of_bag = learn(bag, args, rng)
    if seed == args.seed:
        with picture(args, "Is the number of ones even?") as axes:
            axes.semilogx(LENGTHS, right, "o-", label="LSTM")
            axes.semilogx(LENGTHS, right_of_bag, "s--", label=BAR.baseline)
            axes.axvspan(LENGTHS[0], SHORT, color="0.92", label="lengths it was trained on")
            axes.set(xlabel="length of the string", ylabel="share judged right", xticks=LENGTHS, xticklabels=LENGTHS)
            axes.legend()
    return Result(right[-1], right_of_bag[-1])


if __name__ == "__main__":
    checked(run, BAR, parse(__doc__, steps=(2000, 500, "training steps")))
