"""Is it raining? Aligned many to many: the probability of rain after each overheard word, by a GRU.

    python examples/rain.py

Somebody without a window hears one word an hour. The weather goes from sun to clouds to rain and back, and what people
say depends on it: a hidden Markov model, so that Bayes' rule gives the best probability that anyone can have (the
forward algorithm, "filtering"). The network is told neither the model nor that there is one, only the words, and
whether it rained. The measure is how many nats per word its cross-entropy lies above that of Bayes' filter.
"""

from __future__ import annotations

import numpy as np
from common import Bar, Options, Result, checked, parse, picture, put, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("nats above Bayes' filter", full=0.005, quick=0.02, baseline="an MLP on the present word", lower=True)
HOURS = 40
SUN, CLOUDS, RAIN = range(3)
NEXT = np.array([[0.92, 0.08, 0.0], [0.06, 0.86, 0.08], [0.0, 0.10, 0.90]])  # from row to column
WORDS = {  # how often each is said when there is sun, when there are clouds, and when it rains
    "sunglasses": (6, 1, 0.2),
    "lovely": (5, 2, 1),
    "ice cream": (6, 2, 0.5),
    "grey": (0.3, 4, 3),
    "umbrella": (0.5, 3, 6),
    "puddle": (1, 2, 6),
    "wet": (0.5, 1, 5),
    "lunch": (5, 5, 5),
    "hello": (5, 5, 5),
    "Monday": (4, 4, 4),
}
SAY = np.array(list(WORDS.values())).T
SAY /= SAY.sum(axis=1, keepdims=True)  # the probabilities of the words, a row for each weather


def overheard(rng: np.random.Generator, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Words and whether it rains, (HOURS, days) each."""
    weather = np.empty((HOURS, days), int)
    weather[0] = rng.integers(0, 3, days)
    for t in range(1, HOURS):
        weather[t] = drawn(rng, NEXT[weather[t - 1]])
    return drawn(rng, SAY[weather]), weather == RAIN


def drawn(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
    """An index from each distribution in the last axis."""
    return (rng.random((*p.shape[:-1], 1)) > p.cumsum(axis=-1)[..., :-1]).sum(axis=-1)


def bayes(words: np.ndarray) -> np.ndarray:
    """The exact probability of rain, given the words so far."""
    belief, found = np.full((words.shape[1], 3), 1 / 3), []
    for t, word in enumerate(words):
        belief = (belief @ NEXT if t else belief) * SAY[:, word].T
        belief /= belief.sum(axis=1, keepdims=True)
        found.append(belief[:, RAIN])
    return np.array(found)


def surprise(p: np.ndarray, rain: np.ndarray) -> float:
    """The mean cross-entropy of probabilities, in nats."""
    return float(-np.log(np.where(rain, p, 1 - p)).mean())


class Listener(nn.Module):
    """Words (T, B) to the logits of rain (T, B); without memory, each word is judged by itself."""

    def __init__(self, memory: bool):
        self.embedding = nn.Embedding(len(WORDS), 8)
        self.middle = nn.GRU(8, 16, reset="before") if memory else nn.Linear(8, 16)
        self.head = nn.Linear(16, 1)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words)
        h = self.middle(x).outputs if isinstance(self.middle, nn.GRU) else tg.tanh(self.middle(x))
        return self.head(h)[..., 0]


def learned(memory: bool, steps: int, seed: int, words: np.ndarray) -> np.ndarray:
    """The probabilities that a trained listener gives for the words of a test."""
    rng, model = np.random.default_rng(seed), Listener(memory)

    def loss(_: int) -> Tensor:
        heard, rain = overheard(rng, days=32)
        return nn.binary_cross_entropy_with_logits(model(put(heard)), put(rain))

    train(model, loss, steps)
    with tg.no_grad():
        return tg.sigmoid(model(put(words))).numpy().astype(float)


def run(args: Options, seed: int) -> Result:
    """Train both listeners, and compare them with Bayes' filter on new words."""
    words, rain = overheard(np.random.default_rng((seed, 1)), days=1000)
    best = bayes(words)
    gru, mlp = (learned(memory, args.steps, seed, words) for memory in (True, False))
    if seed == args.seed:
        draw(args, words[:, 0], {"Bayes' filter": best[:, 0], "GRU": gru[:, 0], "MLP": mlp[:, 0]}, rain[:, 0])
    floor = surprise(best, rain)
    note = f"Bayes {floor:.3f} nats, the GRU's probabilities are {abs(gru - best).mean():.3f} from its on average"
    return Result(surprise(gru, rain) - floor, surprise(mlp, rain) - floor, note)


def draw(args: Options, words: np.ndarray, curves: dict[str, np.ndarray], rain: np.ndarray) -> None:
    """The probabilities of one day, with the words that were heard."""
    with picture(args, "P(rain | the words so far)", size=(8, 3.6)) as axes:
        axes.fill_between(range(HOURS), rain, step="mid", alpha=0.15, label="it rained")
        for (name, p), style in zip(curves.items(), ("k-", "C3--", "C1:"), strict=True):
            axes.plot(p, style, label=name)
        axes.set_xticks(range(HOURS), [list(WORDS)[word] for word in words], rotation=90, fontsize=7)
        axes.set(ylim=(0, 1), ylabel="probability of rain")
        axes.legend(fontsize="small", loc="upper right")


if __name__ == "__main__":
    checked(run, BAR, parse(__doc__, steps=(3000, 170, "training steps of 32 days")))
