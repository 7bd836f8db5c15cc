"""Captions, one to many: a picture of two shapes becomes "a red circle left of a blue square".

    python examples/captions.py

A CNN turns the picture into the first state of an LSTM, which writes until it says "." A caption counts only if every
word is right: colours, shapes, how they lie, and the left or upper one first. The baseline has the same parts, but
averages the CNN's features over all places: a bag of features, which knows what is there, but not where, except for
what a convolution can tell near an edge.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import Bar, Options, Result, checked, columns, parse, picture, put, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("captions without an error", full=0.95, quick=0.4, baseline="a bag of features")
SIDE, SIZE = 16, 6  # of the picture and of a shape, in pixels
COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
SHAPES = ("circle", "square", "cross")
WORDS = [".", "a", *COLOURS, *SHAPES, "left", "of", "above"]
LONGEST = 9  # words, with the end
STENCILS = np.zeros((len(SHAPES), SIZE, SIZE))
ACROSS = abs(np.arange(SIZE) - (SIZE - 1) / 2)
STENCILS[0] = np.hypot(ACROSS[:, None], ACROSS) < SIZE / 2
STENCILS[1] = 1
STENCILS[2] = np.minimum(ACROSS[:, None], ACROSS) < 1


class Captioner(nn.Module):
    """Pictures (B, 3, H, W) to the state that ``step`` writes from; with ``bag``, places are forgotten."""

    def __init__(self, bag: bool) -> None:
        self.eye = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, padding=1), tg.tanh, nn.Conv2d(16, 16, 3, 2, padding=1), tg.tanh
        )
        self.seen = nn.Linear(16 * (1 if bag else (SIDE // 4) ** 2), 64)
        self.words = nn.Embedding(len(WORDS), 64)
        self.cell = nn.LSTMCell(64, 64)
        self.head = nn.Linear(64, len(WORDS))
        self.bag = bag

    def forward(self, pictures: Tensor) -> tuple[Tensor, nn.LSTMState]:
        features = self.eye(2 * pictures - 0.5)
        features = tg.mean(features, axis=(2, 3)) if self.bag else features.reshape(len(features), -1)
        seen = tg.tanh(self.seen(features))
        return seen, nn.LSTMState(seen, seen)

    def step(self, words: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The logits of the next words, and the next state; each step sees the picture again."""
        seen, state = state
        output, state = self.cell(self.words(words) + seen, state)
        return self.head(output), (seen, state)


def scenes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[str]]:
    """Pictures (B, 3, H, W) of two different shapes with noise, and their captions."""
    pictures, captions = rng.normal(0, 0.05, (count, 3, SIDE, SIDE)), []
    kinds = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    for canvas in pictures:
        things = [kinds[k] for k in rng.choice(len(kinds), 2, replace=False)]
        upright = rng.integers(2)
        near, far = rng.integers(0, 3, 2) + np.array([0, SIDE // 2])  # along the line that they lie on
        aside = rng.integers(3, SIDE - SIZE - 2, 2)  # and across it
        for thing, along, across in zip(things, (near, far), aside, strict=True):
            colour, shape = thing.split()
            top, left = (along, across) if upright else (across, along)
            stencil = STENCILS[SHAPES.index(shape)]
            canvas[:, top : top + SIZE, left : left + SIZE] += stencil * np.array(COLOURS[colour])[:, None, None]
        captions.append(f"a {things[0]} {'above' if upright else 'left of'} a {things[1]} .")
    return pictures, captions


def encode(captions: list[str]) -> np.ndarray:
    """Captions as numbers of words (T, B), with "." after their ends as well."""
    return columns([WORDS.index(word) for word in text.split()] for text in captions)


def write(model: Captioner, pictures: np.ndarray) -> list[str]:
    """The likeliest caption, word by word."""
    with tg.no_grad():
        start = np.zeros(len(pictures), int)
        tokens, lengths, _ = nn.greedy(model.step, model(put(pictures)), start, LONGEST, end=0)
    return [" ".join([*(WORDS[k] for k in row[:n]), "."]) for row, n in zip(tokens.T, lengths, strict=True)]


def learn(args: Options, seed: int, bag: bool) -> tuple[Captioner, float]:
    """A trained model, and the share of new pictures that it captions without an error."""
    rng, model = np.random.default_rng(seed), Captioner(bag)

    def loss(_: int) -> Tensor:
        pictures, captions = scenes(rng, 32)
        targets = encode(captions)
        start, state = put(np.zeros(len(captions), int)), model(put(pictures))
        logits = nn.teacher_forced(model.step, state, start, put(targets)).outputs
        return nn.cross_entropy(logits, put(targets))

    train(model, loss, args.steps, lr=5e-3)
    pictures, captions = scenes(rng, 500)
    return model, float(np.mean(np.array(write(model, pictures)) == captions))


def run(args: Options, seed: int) -> Result:
    """Learn with and without knowing places."""
    model, true = learn(args, seed, bag=False)
    _, of_bag = learn(args, seed, bag=True)
    if seed == args.seed:
        pictures, captions = scenes(np.random.default_rng(seed + 1), 8)
        with picture(args, rows=2, columns=4, size=(9, 4.5)) as axes:
            written = write(model, pictures)
            for panel, image, text, truth in zip(axes.ravel(), pictures, written, captions, strict=True):
                panel.imshow(image.transpose(1, 2, 0).clip(0, 1))
                panel.set(xticks=[], yticks=[])
                words, colour = text.rstrip(" .").split(), "black" if text == truth else "red"
                panel.set_xlabel(f"{' '.join(words[:3])}\n{' '.join(words[3:])}", color=colour, fontsize="small")
    return Result(true, of_bag)


if __name__ == "__main__":
    checked(run, BAR, parse(__doc__, steps=(2000, 450, "training steps")))
