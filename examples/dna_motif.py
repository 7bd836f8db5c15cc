"""Does a stretch of DNA hold a motif? Many to one, where the letters are the same and only their order tells.

    python examples/dna_motif.py

The motif is the TATA box, TATA(A|T)A(A|T), somewhere among random letters. Stretches without it are made by shuffling
stretches with it, so counting letters does not help: a bag of letters can only guess. A GRU reads letter by letter,
learns on 60 letters, and is then tested on 300 as well.
"""

from __future__ import annotations

import numpy as np
from common import Bar, Options, Result, checked, parse, picture, put, share_right, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("stretches judged right", full=0.97, quick=0.85, baseline="a bag of letters")
LETTERS = "ACGT"
MOTIFS = np.array([[LETTERS.index(c) for c in f"TATA{x}A{y}"] for x in "AT" for y in "AT"])
WIDTH = MOTIFS.shape[1]


class Reader(nn.Module):
    """Letters (T, B) to the logits of "no motif" and "motif" after each of them; the last is the answer."""

    def __init__(self) -> None:
        self.letters = nn.Embedding(len(LETTERS), 8)
        self.gru = nn.GRU(8, 32)
        self.head = nn.Linear(32, 2)

    def forward(self, letters: Tensor) -> Tensor:
        return self.head(self.gru(self.letters(letters)).outputs)


class Bag(nn.Module):
    """The same answer from how often each letter occurs."""

    def __init__(self) -> None:
        self.layers = nn.Sequential(nn.Linear(len(LETTERS), 32), tg.tanh, nn.Linear(32, 2))

    def forward(self, letters: Tensor) -> Tensor:
        shares = [tg.mean(tg.astype(tg.equal(letters, k), dtype="float32"), axis=0) for k in range(len(LETTERS))]
        return self.layers(tg.stack(shares, axis=1))[None]


def holds(letters: np.ndarray) -> np.ndarray:
    """Which columns of letters (T, B) hold a motif."""
    windows = np.lib.stride_tricks.sliding_window_view(letters, WIDTH, axis=0)  # (T - 6, B, 7)
    return (windows[:, :, None] == MOTIFS).all(axis=-1).any(axis=(0, 2))


def stretches(rng: np.random.Generator, length: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Letters (T, B), whether each column holds a motif (every other one does), and where its motif begins.

    All columns are made with a motif. Half of them are then shuffled, until they hold none.
    """
    letters, begins = rng.integers(0, len(LETTERS), (length, count)), rng.integers(0, length - WIDTH + 1, count)
    letters[begins + np.arange(WIDTH)[:, None], np.arange(count)] = MOTIFS[rng.integers(0, len(MOTIFS), count)].T
    wanted = np.arange(count) % 2
    while len(wrong := np.flatnonzero(holds(letters) > wanted)):
        letters[:, wrong] = rng.permuted(letters[:, wrong], axis=0)
    return letters, wanted, begins


def learn(model: nn.Module, args: Options, rng: np.random.Generator) -> tuple[float, float]:
    """Train on stretches of up to --length letters, short ones first.

    Returns the shares of new stretches that it judges right, of that length and five times as long.
    """

    def loss(step: int) -> Tensor:
        letters, wanted, _ = stretches(rng, min(args.length, 10 + 150 * step // args.steps), 64)
        return nn.cross_entropy(model(put(letters))[-1], put(wanted))

    def right(length: int) -> float:
        letters, wanted, _ = stretches(rng, length, 1000)
        return share_right(model(put(letters))[-1], wanted)

    train(model, loss, args.steps)
    with tg.no_grad():
        return right(args.length), right(5 * args.length)


def run(args: Options, seed: int) -> Result:
    """Learn with the GRU and with the bag of letters."""
    if args.length < 10:
        raise ValueError(f"--length {args.length} leaves no room around a motif; at least 10 letters are needed")
    rng, gru, bag = np.random.default_rng(seed), Reader(), Bag()
    right, right_on_long = learn(gru, args, rng)
    right_of_bag, _ = learn(bag, args, rng)
    if seed == args.seed:
        draw(args, gru, np.random.default_rng(seed))
    return Result(right, right_of_bag, f"{right_on_long:.4g} on {5 * args.length} letters")


def draw(args: Options, model: nn.Module, rng: np.random.Generator) -> None:
    """What the network thinks after each letter of two stretches, one with a motif, one without."""
    letters, wanted, begins = stretches(rng, args.length, 2)
    with tg.no_grad():
        belief = tg.softmax(model(put(letters))).numpy()[:, :, 1]
    with picture(args, "Is there a motif? After each letter", rows=2, size=(8, 3.2)) as axes:
        for panel, column, has, begin in zip(axes, range(2), wanted, begins, strict=True):
            panel.step(range(args.length), belief[:, column], where="mid")
            if has:
                panel.axvspan(begin - 0.5, begin + WIDTH - 0.5, color="#fdd0a2")
            panel.set(ylim=(-0.05, 1.05), xlim=(-0.5, args.length - 0.5), ylabel="with motif" if has else "without")
            panel.set_xticks(range(args.length), [LETTERS[k] for k in letters[:, column]], fontsize=7)
            panel.tick_params(length=0)


if __name__ == "__main__":
    own = {"steps": (300, 120, "training steps"), "length": (60, 40, "letters of a stretch")}
    checked(run, BAR, parse(__doc__, **own))
