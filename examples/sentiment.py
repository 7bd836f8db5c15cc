"""Sentiment, many to one: is "there is nothing to like in this movie" praise? Word order and negation decide.

    python examples/sentiment.py

The sentences are made by rule. Those of the test come in twins, one bad and one good, of exactly the same words:
"the plot is not dull it is funny" and "the plot is not funny it is dull", or "A but B" and "B but A", where the end
counts. A bag of words cannot tell twins apart, and is right about one of the two. The LSTM answers in two ways: from
its last state, and from the mean of all its states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import Bar, Options, Result, checked, columns, parse, picture, put, share_right, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("sentences judged right", full=0.98, quick=0.9, baseline="a bag of words")
GOOD = ["like", "love", "clever", "funny", "warm", "brilliant", "moving", "fresh"]
BAD = ["hate", "mock", "dull", "clumsy", "cold", "stupid", "boring", "stale"]
THINGS = ["movie", "plot", "actor", "music", "ending", "dialogue", "camera", "humour"]
FILLERS = ["really", "quite", "just", "rather", "so", "very"]
REST = ["the", "is", "it", "not", "never", "nothing", "but", "there", "to", "in", "this"]
WORDS = ["", *GOOD, *BAD, *THINGS, *FILLERS, *REST]
INDEX = {word: k for k, word in enumerate(WORDS)}
EXAMPLE = "there is nothing to like in this movie"


class Reader(nn.Module):
    """Words (T, B) to the logits of "bad" and "good", from an LSTM's last state or the mean of all."""

    def __init__(self, end: str) -> None:
        self.words = nn.Embedding(len(WORDS), 16)
        self.lstm = nn.LSTM(16, 32)
        self.head = nn.Linear(32, 2)
        self.end: Any = {"last": nn.last, "mean": nn.mean}[end]

    def forward(self, words: Tensor) -> Tensor:
        mask = words != 0
        return self.head(self.end(self.lstm(self.words(words), mask=mask).outputs, mask=mask))


class Bag(nn.Module):
    """The same from the mean of the words' vectors, through a hidden layer."""

    def __init__(self) -> None:
        self.words = nn.Embedding(len(WORDS), 16)
        self.layers = nn.Sequential(nn.Linear(16, 32), tg.tanh, nn.Linear(32, 2))

    def forward(self, words: Tensor) -> Tensor:
        return self.layers(nn.mean(self.words(words), mask=words != 0))


def clause(rng: np.random.Generator, good: bool) -> list[str]:
    """A clause, such as "the plot is never really dull", which is good."""
    negated = bool(rng.integers(2))
    word, thing, filler = rng.choice(GOOD if good != negated else BAD), rng.choice(THINGS), rng.choice(FILLERS, 1)
    filler = filler[: rng.integers(2)]
    if word in ("like", "love", "hate", "mock"):
        return ["there", "is", *["nothing"] * negated, *filler, "to", word, "in", "this", thing]
    return ["the", thing, "is", *[rng.choice(["not", "never"])] * negated, *filler, word]


def twins(rng: np.random.Generator) -> list[list[str]]:
    """Two sentences of the same words, the first bad, the second good."""
    bad, good = clause(rng, False), clause(rng, True)
    if rng.integers(2):
        return [[*good, "but", *bad], [*bad, "but", *good]]
    words = rng.choice(GOOD[2:]), rng.choice(BAD[2:])  # the adjectives
    begin, middle = ["the", rng.choice(THINGS), "is", rng.choice(["not", "never"])], ["it", "is"]
    return [[*begin, words[0], *middle, words[1]], [*begin, words[1], *middle, words[0]]]


def encode(sentences: list[list[str]]) -> np.ndarray:
    """Sentences as numbers of words (T, B), with 0 after their ends."""
    return columns([INDEX[word] for word in sentence] for sentence in sentences)


def batch(rng: np.random.Generator, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of clauses and pairs of twins, as many of each, every second sentence good; and which are good."""
    both = [make for _ in range(pairs) for make in ([clause(rng, False), clause(rng, True)], twins(rng))]
    return encode([sentence for pair in both for sentence in pair]), np.arange(4 * pairs) % 2


def learn(model: nn.Module, args: Options, seed: int) -> float:
    """Train a model on clauses and twins; returns the share of new twins that it judges right."""
    rng = np.random.default_rng(seed)

    def loss(_: int) -> Tensor:
        words, good = batch(rng, 8)
        return nn.cross_entropy(model(put(words)), put(good))

    train(model, loss, args.steps)
    sentences = encode([sentence for _ in range(500) for sentence in twins(rng)])
    with tg.no_grad():
        return share_right(model(put(sentences)), np.arange(1000) % 2)


def run(args: Options, seed: int) -> Result:
    """Learn in both ways of answering, and with the bag."""
    models: dict[str, nn.Module] = {"last": Reader("last"), "mean": Reader("mean"), "bag": Bag()}
    right = {name: learn(model, args, seed) for name, model in models.items()}
    if seed == args.seed:
        draw(args, models["last"])
    return Result(right["last"], right["bag"], f"{right['mean']:.4g} from the mean of the states")


def draw(args: Options, model: Any) -> None:
    """What the network thinks after each word, and its memory c, unit by unit."""
    sentences = [EXAMPLE.split(), ["the", "plot", "is", "not", "dull", "but", "the", "music", "is", "boring"]]
    with picture(args, "After each word: the belief, and the memory", 2, 2, size=(8, 4)) as axes, tg.no_grad():
        for column, sentence in enumerate(sentences):
            outputs, _, record = model.lstm(model.words(put(encode([sentence]))), record=True)
            belief = tg.softmax(model.head(outputs)).numpy()[:, 0, 1]
            memory = record[0]["c"].numpy()[:, 0].T
            axes[0, column].bar(range(len(sentence)), belief - 0.5, bottom=0.5, color="#d95f02")
            axes[0, column].set(ylim=(0, 1), xlim=(-0.5, len(sentence) - 0.5), xticks=[], ylabel="is it good?")
            memory = memory[np.argsort(memory[:, -1])]
            axes[1, column].imshow(memory, aspect="auto", cmap="coolwarm", vmin=-2, vmax=2)
            axes[1, column].set(ylabel="unit", yticks=[])
            axes[1, column].set_xticks(range(len(sentence)), sentence, rotation=60)


if __name__ == "__main__":
    checked(run, BAR, parse(__doc__, steps=(300, 100, "training steps")))
