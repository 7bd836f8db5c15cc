"""Sound to letters, unaligned many to many: spectrogram, GRU, and CTC, which finds out where each letter is.

    python examples/speech.py

A letter is spoken as two of four tones, one after the other, of random length, loudness and pitch, in noise. All that
is known of a recording is what was said, not when. Each frame gives letters and the blank a probability, and CTC adds
up all ways to read the frames as the word (Graves et al. 2006). A classifier that judges each frame by itself hears
tones, but not which came first. Errors are the letters to insert, delete or change, per letter spoken.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from common import Bar, Options, Result, checked, parse, picture, put, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("letter errors", full=0.03, quick=0.2, baseline="frame by frame", lower=True)
RATE, FRAME, HOP = 4000, 128, 64  # samples per second, per frame, and from frame to frame
TONES = (400, 600, 900, 1300)  # Hz
LETTERS = dict(zip("abcdefghijkl", permutations(TONES, 2), strict=True))
BLANK = "_"  # class 0
CLASSES = BLANK + "".join(LETTERS)
BINS = 48  # of the spectrum, up to 1,500 Hz


def spoken(rng: np.random.Generator, word: str) -> np.ndarray:
    """The samples of a word: two tones a letter, and pauses between, before and after."""
    parts = [np.zeros(rng.integers(0, 2 * HOP))]
    for letter in word:
        for tone in LETTERS[letter]:
            t = np.arange(rng.integers(2 * HOP, 3 * HOP)) / RATE
            parts.append(rng.uniform(0.5, 1) * np.sin(2 * np.pi * (tone * rng.uniform(0.97, 1.03) * t + rng.random())))
        parts.append(np.zeros(rng.integers(0, 2 * HOP)))
    samples = np.concatenate([*parts, np.zeros(FRAME)])
    return samples + rng.normal(0, 0.2, samples.shape)


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """The logarithm of each frame's spectrum, (T, BINS)."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    return np.log(0.1 + abs(np.fft.rfft(frames * np.hanning(FRAME))[:, :BINS])) / 2


def recordings(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Spectrograms (T, B, BINS), their lengths (B,), and what was said."""
    words = ["".join(rng.choice(list(LETTERS), rng.integers(2, 5))) for _ in range(count)]
    rows = [spectrogram(spoken(rng, word)) for word in words]
    return *nn.padded(rows), words


class Listener(nn.Module):
    """Frames (T, B, BINS) to log-probabilities (T, B, classes), with memory or frame by frame."""

    def __init__(self, memory: bool):
        self.middle = nn.GRU(BINS, 48) if memory else nn.Linear(BINS, 48)
        self.head = nn.Linear(48, len(CLASSES))

    def forward(self, frames: Tensor) -> Tensor:
        h = self.middle(frames).outputs if isinstance(self.middle, nn.GRU) else tg.tanh(self.middle(frames))
        return tg.log_softmax(self.head(h), axis=-1)


def learned(memory: bool, steps: int, seed: int) -> Listener:
    """A listener, trained by CTC on recordings that are all new."""
    rng, model = np.random.default_rng(seed), Listener(memory)

    def loss(_: int) -> Tensor:
        frames, lengths, words = recordings(rng, 16)
        letters = np.array([CLASSES.index(letter) for letter in "".join(words)])
        return nn.ctc_loss(model(put(frames)), put(letters), lengths, np.array([len(word) for word in words]))

    train(model, loss, steps, lr=2e-2)
    return model


def edits(a: str, b: str) -> int:
    """The fewest letters to insert, delete or change to turn a into b (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def run(args: Options, seed: int) -> Result:
    """Train both listeners, and count their errors on new recordings."""
    frames, lengths, words = recordings(np.random.default_rng((seed, 1)), 300)
    errors, note = [], ""
    for memory in (True, False):
        model = learned(memory, args.steps, seed)
        with tg.no_grad():
            scores = model(put(frames))
        heard = ["".join(CLASSES[k] for k in row) for row in nn.ctc_greedy_decode(scores, lengths)]
        errors.append(sum(map(edits, heard, words)) / len("".join(words)))
        if memory:
            note = f"{100 * np.mean(np.array(heard) == words):.1f} % of words without an error, such as {heard[0]!r}"
            longest = int(lengths.argmax())
            if seed == args.seed:
                draw(args, frames[:, longest], np.exp(scores.numpy()[:, longest]), words[longest])
    return Result(errors[0], errors[1], note)


def draw(args: Options, frames: np.ndarray, p: np.ndarray, word: str) -> None:
    """One recording, and the letters that are heard in it."""
    with picture(args, f'"{word}": spectrogram, and the probability of each letter', rows=2, size=(7, 4)) as plots:
        extent = (0, len(frames), 0, BINS * RATE / FRAME)
        plots[0].imshow(frames.T, origin="lower", aspect="auto", extent=extent, interpolation="nearest")
        plots[0].set(ylabel="Hz")
        for k, letter in enumerate(CLASSES):
            name, style = letter if letter in word else None, "k:" if letter == BLANK else "-"
            plots[1].plot(p[:, k], style, label="blank" if letter == BLANK else name, lw=1.2)
        plots[1].set(xlabel=f"frame of {1000 * HOP // RATE} ms", ylabel="probability", xlim=(0, len(frames)))
        plots[1].legend(fontsize="small", ncols=5, loc="center right")


if __name__ == "__main__":
    checked(run, BAR, parse(__doc__, steps=(1200, 250, "training steps of 16 recordings")))
