"""Numbers from English to French, unaligned many to many: an encoder, and a decoder that looks back by attention.

    python examples/translation.py

"ninety seven" is "quatre vingt dix sept" and "twenty one" is "vingt et un": a translation is not word for word, nor of
the same length. The model learns from 2,000 of the numbers below 10,000, and is tested on others. The baseline has the
same decoder and the same attention, but its encoder is a bag of words, without recurrence: to it, three hundred four
and four hundred three are the same. Whether the teacher or the model gives the next word is drawn for each word.
"""

from __future__ import annotations

import numpy as np
from common import Bar, Options, Result, checked, columns, parse, picture, put, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("of unseen numbers without an error", full=0.97, quick=0.6, baseline="a bag of words as encoder")
ONES, TENS, UNS, DIZAINES = (line.split() for line in (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen",
    "- - twenty thirty forty fifty sixty seventy eighty ninety",
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize",
    "- - vingt trente quarante cinquante soixante",
))  # fmt: skip


def english(n: int) -> list[str]:
    """The words of a number below 10,000."""
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if n >= size:
            return [ONES[n // size], name, *(english(n % size) if n % size else [])]
    return [ONES[n]] if n < 20 else [TENS[n // 10], *([ONES[n % 10]] if n % 10 else [])]


def french(n: int) -> list[str]:
    """The same in French: 71 is 60 and 11, 97 is 4 times 20 and 17; vingt and cent take an s if they come last."""
    for size, name in ((1000, "mille"), (100, "cent")):
        if n >= size:
            count, rest = divmod(n, size)
            plural = "s" if name == "cent" and count > 1 and not rest else ""
            return [*([UNS[count]] if count > 1 else []), name + plural, *(french(rest) if rest else [])]
    if n < 17:
        return [UNS[n]]
    if n < 20:
        return ["dix", UNS[n - 10]]
    if n < 80:
        tens = min(n // 10, 6)
        rest = n - 10 * tens
        return [DIZAINES[tens], *(["et"] if rest in (1, 11) else []), *(french(rest) if rest else [])]
    return ["quatre", "vingt", *french(n - 80)] if n > 80 else ["quatre", "vingts"]


END = "."
ENGLISH = sorted({word for n in range(10_000) for word in english(n)})
FRENCH = [END, *sorted({word for n in range(10_000) for word in french(n)})]  # a sentence begins and ends with END


def batch(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """English (S, B), its lengths (B,), and French (T, B), padded with END."""
    ours, theirs = [english(n) for n in numbers], [french(n) for n in numbers]
    words = columns([ENGLISH.index(word) for word in row] for row in ours)
    targets = columns([FRENCH.index(word) for word in (*row, END)] for row in theirs)
    return words, np.array([len(row) for row in ours]), targets


class Translator(nn.Module):
    """An encoder, recurrent or of single words, and a decoder that attends to its outputs."""

    def __init__(self, recurrent: bool):
        self.english = nn.Embedding(len(ENGLISH), 16)
        self.french = nn.Embedding(len(FRENCH), 16)
        self.encoder = nn.Bidirectional(nn.GRUCell(16, 32), nn.GRUCell(16, 32)) if recurrent else nn.Linear(16, 64)
        self.bridge = nn.Linear(64, 64)
        self.attention = nn.Attention(nn.GRUCell(16, 64), memory_size=64)
        self.head = nn.Linear(64, len(FRENCH))

    def encode(self, words: Tensor, lengths: np.ndarray) -> tuple[Tensor, Tensor]:
        """The outputs to attend to (S, B, 64), and the decoder's first state (B, 64)."""
        x = self.english(words)
        memory = tg.tanh(self.encoder(x)) if isinstance(self.encoder, nn.Linear) else self.encoder(x, None, lengths)[0]
        return memory, tg.tanh(self.bridge(nn.mean(memory, lengths)))

    def decoder(self, memory: Tensor, lengths: np.ndarray) -> nn.decode.Step:
        """From a French word and a state to the logits of the next word, and the next state."""
        cell = self.attention.over(memory, lengths)

        def step(tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            output, state = cell(self.french(tokens), state)
            return self.head(output), state

        return step


def learned(recurrent: bool, args: Options, seed: int, numbers: np.ndarray) -> Translator:
    """A translator, trained with one word in ten from itself instead of the teacher."""
    rng, model = np.random.default_rng(seed), Translator(recurrent)

    def loss(_: int) -> Tensor:
        words, lengths, targets = batch(rng.choice(numbers, 32))
        memory, state = model.encode(put(words), lengths)
        decoder, start = model.decoder(memory, lengths), np.zeros(len(lengths), int)
        logits = nn.teacher_forced(decoder, state, put(start), put(targets), ratio=0.9).outputs
        return nn.cross_entropy(logits, put(targets))

    train(model, loss, args.steps)
    return model


def translated(model: Translator, numbers: np.ndarray, width: int = 1) -> float:
    """The share of numbers that come out without an error, greedily or as the best of several beams."""
    words, lengths, targets = batch(numbers)
    with tg.no_grad():
        memory, state = model.encode(put(words), lengths)
        memory, rows = nn.repeat_rows(memory, width), np.repeat(lengths, width)
        step, start = model.decoder(memory, rows), np.zeros(len(lengths), int)
        if width > 1:
            written = nn.beam_search(step, state, start, len(targets), width, end=0).tokens[:, :, 0]
        else:
            written = nn.greedy(step, state, start, len(targets), end=0).tokens
    written = np.pad(written, ((0, len(targets) - len(written)), (0, 0)))
    return float((written == targets).all(axis=0).mean())


def run(args: Options, seed: int) -> Result:
    """Train both translators, and ask both for numbers that they have not seen."""
    numbers = np.random.default_rng(seed).permutation(10_000)
    models = [learned(recurrent, args, seed, numbers[:2000]) for recurrent in (True, False)]
    if seed == args.seed:
        draw(args, models[0], 3497)
    right, baseline = (translated(model, numbers[-500:]) for model in models)
    return Result(right, baseline, f"with 4 beams {translated(models[0], numbers[-500:], width=4):.4g}")


def draw(args: Options, model: Translator, number: int) -> None:
    """Where the decoder looks as it writes each word."""
    words, lengths, targets = batch(np.array([number]))
    given = np.concatenate([np.zeros((1, 1), int), targets[:-1]])
    with tg.no_grad():
        memory, state = model.encode(put(words), lengths)
        seen = nn.unroll(model.attention.over(memory), model.french(put(given)), state, record=True)
    with picture(args, "Attention", size=(5, 4.5)) as axes:
        axes.imshow(seen.record["attention"].numpy()[:, :, 0], cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(words)), [ENGLISH[k] for k in words[:, 0]], rotation=30)
        axes.set_yticks(range(len(targets)), [FRENCH[k] for k in targets[:, 0]])


if __name__ == "__main__":
    checked(run, BAR, parse(__doc__, steps=(1000, 140, "training steps of 32 numbers")))
