"""Named entities, aligned many to many: is a word part of a person's name? A deep bidirectional LSTM reads both ways.

    python examples/entities.py

There are no capitals, as if a machine had taken dictation: "rose said that ..." has a name, "rose petals fell" has
none, and in "rose needs more time , anna said about ..." only the last word decides, the gardener or the garden. A
network that reads forward has to answer before it knows; whatever its size, it can only guess. Sentences are made by
rule and of unequal length (``lengths``); those of the test are drawn separately.
"""

from __future__ import annotations

import numpy as np
from common import Bar, Options, Result, checked, columns, parse, picture, put, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("F1 on words that may be a name or not", full=0.97, quick=0.85, baseline="reading forward only")
LISTS = {  # BOTH may be a name or not; words in capitals in a pattern are drawn from these
    "BOTH": "rose mark will grant hope bill grace may pearl daisy lily jack harry dawn summer ginger",
    "FIRST": "anna pavlos hermione patrick maria george nadia omar ingrid kofi mei boris",
    "LAST": "granger papas smith tanaka okafor novak silva berg rossi khan",
    "THING": "garden soup engine roof bridge letter piano river story window kitchen spell",
    "WHO": "gardener teacher girl neighbour baker pilot boy nurse singer cousin",
    "SAID": "said wrote thought knew hoped",
    "DID": "invented painted repaired found liked sold forgot",
    "NEED": "needs wants lacks deserves",
    "WHAT": "time care light money water work",
    "HOW": "old new small cold strange red",
}
PATTERNS = (  # a word with a * is to be found
    "BOTH* SAID that the THING NEED WHAT",
    "BOTH* LAST* and FIRST* LAST* DID a HOW THING",
    "BOTH* and BOTH* DID the THING of FIRST*",
    "FIRST* LAST* SAID that BOTH* NEED WHAT",
    "a HOW BOTH is in the THING",
    "the WHO DID a BOTH and a THING",
    "BOTH or THING , the WHO SAID , NEED WHAT",
    "BOTH* or FIRST* , the WHO SAID , NEED WHAT",
    "BOTH* NEED more WHAT , FIRST* SAID about the WHO",
    "BOTH NEED more WHAT , FIRST* SAID about the THING",
    "BOTH THING and BOTH WHAT are HOW , SAID FIRST*",
    "BOTH* LAST* is HOW , SAID the WHO",
    "BOTH of the THING is HOW",
    "the HOW THING NEED WHAT , SAID FIRST* LAST*",
    "the WHO of FIRST* SAID that a BOTH DID WHAT",
)
CHOICES = {name: words.split() for name, words in LISTS.items()}
FIXED = {word for pattern in PATTERNS for word in pattern.replace("*", "").split() if word not in CHOICES}
VOCABULARY = sorted(FIXED.union(*CHOICES.values()))
NUMBER = {word: k for k, word in enumerate(VOCABULARY)}
Sentences = tuple[np.ndarray, np.ndarray, np.ndarray]


def sentences(rng: np.random.Generator, count: int) -> Sentences:
    """Words (T, B), which of them are in names (T, B), and lengths (B,)."""
    rows = [PATTERNS[k].split() for k in rng.integers(len(PATTERNS), size=count)]
    choices = [[CHOICES.get(part.rstrip("*"), [part]) for part in row] for row in rows]
    words = columns([NUMBER[those[rng.integers(len(those))]] for those in row] for row in choices)
    names = columns([part.endswith("*") for part in row] for row in rows) > 0
    return words, names, np.array([len(row) for row in rows])


class Tagger(nn.Module):
    """Words (T, B) to logits (T, B) of being in a name; two layers of LSTM, which read both ways or forward only."""

    def __init__(self, both_ways: bool):
        self.embedding = nn.Embedding(len(VOCABULARY), 16)
        self.lstm = nn.LSTM(16, 16 if both_ways else 32, num_layers=2, bidirectional=both_ways, forget_bias=1.0)
        self.head = nn.Linear(32, 1)

    def forward(self, words: Tensor, lengths: np.ndarray) -> Tensor:
        return self.head(self.lstm(self.embedding(words), lengths=lengths).outputs)[..., 0]


def learned(both_ways: bool, steps: int, seed: int, test: Sentences) -> np.ndarray:
    """The probabilities that a trained tagger gives for the words of a test."""
    rng, model = np.random.default_rng(seed), Tagger(both_ways)

    def loss(_: int) -> Tensor:
        words, names, lengths = sentences(rng, 32)
        real = nn.length_mask(lengths, len(words))
        return nn.binary_cross_entropy_with_logits(model(put(words), lengths), put(names), mask=put(real))

    train(model, loss, steps)
    with tg.no_grad():
        return tg.sigmoid(model(put(test[0]), test[2])).numpy()


def f1(found: np.ndarray, names: np.ndarray) -> float:
    """The harmonic mean of precision and recall."""
    return float(2 * (found & names).sum() / (found.sum() + names.sum()))


def run(args: Options, seed: int) -> Result:
    """Train both taggers, and compare them on new sentences."""
    test = words, names, lengths = sentences(np.random.default_rng((seed, 1)), 1000)
    both, forward = (learned(way, args.steps, seed, test) for way in (True, False))
    real = nn.length_mask(lengths, len(words))
    if seed == args.seed:  # "... needs more ...", once with a name in front and once without
        alike = [int(np.argmax((words[2] == NUMBER["more"]) & (names[0] == is_name))) for is_name in (True, False)]
        draw(args, [([VOCABULARY[w] for w in words[: lengths[b], b]], forward[:, b], both[:, b]) for b in alike])
    whole = (((both > 0.5) == names) | ~real).all(axis=0).mean()
    either = real & np.isin(words, [NUMBER[word] for word in CHOICES["BOTH"]])
    note = f"{100 * whole:.1f} % of whole sentences without an error"
    return Result(f1(both[either] > 0.5, names[either]), f1(forward[either] > 0.5, names[either]), note)


def draw(args: Options, shown: list[tuple[list[str], np.ndarray, np.ndarray]]) -> None:
    """Two sentences that begin alike, as both taggers see them."""
    with picture(args, "P(the word is in a name)", rows=len(shown), size=(9, 3.2)) as plots:
        for axes, (words, *found) in zip(plots, shown, strict=True):
            grid = np.array(found)[:, : len(words)]
            axes.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            axes.set_yticks([0, 1], ["forward", "both ways"])
            axes.set_xticks(range(len(words)), words, rotation=30)
            for (y, x), p in np.ndenumerate(grid):
                axes.text(x, y, f"{p:.2f}", ha="center", va="center", color="w" if p > 0.5 else "k", fontsize=8)


if __name__ == "__main__":
    checked(run, BAR, parse(__doc__, steps=(3000, 150, "training steps of 32 sentences")))
