"""Captions, one to many: a picture of two shapes becomes "a red circle left of a blue square".

    python examples/captions.py

A CNN makes of the picture the state that an LSTM starts from, and the LSTM writes until it says "." A caption counts if
all of it is true of the picture: colours, shapes, and how they lie. The baseline has the same parts, but takes the mean
of what the CNN saw over all places: a bag of features, which knows what is there, and not where.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import Bar, Report, Result, checked, parse, picture, put, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("captions that are true", full=0.9, quick=0.6, baseline="a bag of features")
SIDE, SIZE = 16, 6  # of the picture and of a shape, in pixels
COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
SHAPES = ("circle", "square", "cross")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
WORDS = [".", "a", *COLOURS, *SHAPES, *OPPOSITE, "of"]
STENCILS = np.zeros((len(SHAPES), SIZE, SIZE))
ACROSS = abs(np.arange(SIZE) - (SIZE - 1) / 2)
STENCILS[0] = np.hypot(ACROSS[:, None], ACROSS) < SIZE / 2
STENCILS[1] = 1
STENCILS[2] = np.minimum(ACROSS[:, None], ACROSS) < 1


class Captioner(nn.Module):
    """Pictures (B, 3, H, W) to the state that ``step`` writes from; with ``bag``, places are forgotten."""

    def __init__(self, bag: bool) -> None:
        self.eye = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, padding=1), tg.relu, nn.Conv2d(16, 16, 3, 2, padding=1), tg.relu
        )
        self.begin = nn.Linear(16 * (1 if bag else (SIDE // 4) ** 2), 64)
        self.words, self.cell, self.head = nn.Embedding(len(WORDS), 16), nn.LSTMCell(16, 64), nn.Linear(64, len(WORDS))
        self.bag = bag

    def forward(self, pictures: Tensor) -> nn.LSTMState:
        seen = self.eye(pictures)
        seen = tg.mean(seen, axis=(2, 3)) if self.bag else seen.reshape(len(seen), -1)
        h = tg.tanh(self.begin(seen))
        return nn.LSTMState(h, h)

    def step(self, words: Tensor, state: nn.LSTMState) -> tuple[Tensor, nn.LSTMState]:
        """The logits of the words that come next, and the next state."""
        output, state = self.cell(self.words(words), state)
        return self.head(output), state


def caption(things: list[str], relation: str) -> str:
    """The two things, the first of which lies ``relation`` the second."""
    return f"a {things[0]} {relation}{' of' if relation in ('left', 'right') else ''} a {things[1]} ."


def scenes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Pictures (B, 3, H, W) of two different shapes with noise, and for each the two captions that are true of it."""
    pictures, captions = rng.normal(0, 0.05, (count, 3, SIDE, SIDE)), []
    kinds = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    for canvas in pictures:
        things = [kinds[k] for k in rng.choice(len(kinds), 2, replace=False)]
        upright = rng.integers(2)
        near, far = rng.integers(0, 3, 2) + (0, SIDE // 2)  # along the line that they lie on
        aside = rng.integers(1, SIDE - SIZE - 1) + rng.integers(-1, 2, 2)  # and across it
        for thing, along, across in zip(things, (near, far), aside, strict=True):
            colour, shape = thing.split()
            top, left = (along, across) if upright else (across, along)
            stencil = STENCILS[SHAPES.index(shape)]
            canvas[:, top : top + SIZE, left : left + SIZE] += stencil * np.array(COLOURS[colour])[:, None, None]
        relation = "above" if upright else "left"
        captions.append((caption(things, relation), caption(things[::-1], OPPOSITE[relation])))
    return pictures, captions


def encode(captions: list[str]) -> np.ndarray:
    """Captions as numbers of words (T, B), with "." after their ends as well."""
    rows = [[WORDS.index(word) for word in text.split()] for text in captions]
    return np.array([row + [0] * (8 - len(row)) for row in rows]).T


def write(model: Captioner, pictures: np.ndarray) -> list[str]:
    """The likeliest caption, word by word."""
    with tg.no_grad():
        start = np.zeros(len(pictures), int)
        tokens, lengths, _ = nn.greedy(model.step, model(put(pictures)), start, 8, end=0)
    return [" ".join([*(WORDS[k] for k in row[:n]), "."]) for row, n in zip(tokens.T, lengths, strict=True)]


def learn(args: argparse.Namespace, seed: int, bag: bool) -> tuple[Captioner, float]:
    """A trained model, and how many of its captions of new pictures are true."""
    rng, model = np.random.default_rng(seed), Captioner(bag)

    def loss_of(_: int) -> Tensor:
        pictures, captions = scenes(rng, 32)
        targets = encode([both[rng.integers(2)] for both in captions])
        start = np.zeros(targets.shape[1], int)
        return nn.cross_entropy(
            nn.teacher_forced(model.step, model(put(pictures)), start, put(targets)).outputs, put(targets)
        )

    train(model, loss_of, args.steps, lr=5e-3, title=f"seed {seed}{', bag' * bag}")
    pictures, captions = scenes(rng, 500)
    true = [text in both for text, both in zip(write(model, pictures), captions, strict=True)]
    return model, float(np.mean(true))


def run(args: argparse.Namespace, seed: int) -> Result:
    """Learn with and without knowing places."""
    model, true = learn(args, seed, bag=False)
    _, of_bag = learn(args, seed, bag=True)
    if seed == args.seed:
        pictures, captions = scenes(np.random.default_rng(seed + 1), 8)
        with picture(args, rows=2, columns=4, size=(9, 4.5)) as axes:
            written = write(model, pictures)
            for panel, image, text, both in zip(axes.ravel(), pictures, written, captions, strict=True):
                panel.imshow(image.transpose(1, 2, 0).clip(0, 1))
                panel.set(xticks=[], yticks=[])
                words, colour = text.rstrip(" .").split(), "black" if text in both else "red"
                panel.set_xlabel(f"{' '.join(words[:3])}\n{' '.join(words[3:])}", color=colour, fontsize="small")
    return Result(true, of_bag)


def main(arguments: list[str] | None = None) -> Report:
    """Run the program."""
    return checked(run, BAR, parse(__doc__, arguments, steps=(1000, 400, "training steps")))


if __name__ == "__main__":
    main().exit()
