"""Exons in DNA, aligned many to many: which bases code, by a bidirectional GRU against an MLP on a window.

    python examples/exons.py

An intron begins with GTA, the donor, and ends with the next CAG, the acceptor. A CAG outside an intron means nothing,
nor does a GTA inside one, and both are scattered about. So what a base is can depend on a signal many bases before it,
and a window of 21 bases often does not reach that far. The G of a donor already belongs to the intron, but only the
next two bases tell, so the network has to read both ways.
"""

from __future__ import annotations

import numpy as np
from common import Bar, Options, Result, checked, parse, picture, put, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

BAR = Bar("of bases told right", full=0.99, quick=0.9, baseline="an MLP on a window of 21 bases")
LENGTH, DONOR, ACCEPTOR, REACH = 60, "GTA", "CAG", 10
BASES = "ACGT"


def gene(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Random bases, with donors and acceptors scattered among them, and which bases are exons by the rule."""
    bases = list(rng.choice(list(BASES), LENGTH))
    for signal, count in ((DONOR, 2), (ACCEPTOR, 2)):
        for start in rng.integers(LENGTH - len(signal), size=count):
            bases[start : start + len(signal)] = signal
    dna = "".join(bases)
    return dna, spliced(dna)


def spliced(dna: str) -> np.ndarray:
    """Which bases are in exons: all except those from a donor to the end of the next acceptor."""
    exon, at = np.ones(len(dna), bool), 0
    while (start := dna.find(DONOR, at)) >= 0:
        end = dna.find(ACCEPTOR, start + len(DONOR))
        at = len(dna) if end < 0 else end + len(ACCEPTOR)
        exon[start:at] = False
    return exon


def genes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bases as numbers and which are exons, (LENGTH, count) each."""
    drawn = [gene(rng) for _ in range(count)]
    bases = np.array([[BASES.index(base) for base in dna] for dna, _ in drawn]).T
    return bases, np.array([exon for _, exon in drawn]).T


class Splicer(nn.Module):
    """Bases (T, B) to logits (T, B) of being in an exon, from all that comes before and after."""

    def __init__(self) -> None:
        self.gru = nn.Bidirectional(nn.GRUCell(4, 32), nn.GRUCell(4, 32))
        self.head = nn.Linear(64, 1)

    def forward(self, bases: Tensor) -> Tensor:
        return self.head(self.gru(tg.eye(4, backend=bases.backend)[bases]).outputs)[..., 0]


class Window(nn.Module):
    """The same from REACH bases on either side; beyond the ends there are zeros."""

    def __init__(self) -> None:
        self.hidden = nn.Linear(4 * (2 * REACH + 1), 128)
        self.head = nn.Linear(128, 1)

    def forward(self, bases: Tensor) -> Tensor:
        x = tg.pad(tg.eye(4, backend=bases.backend)[bases], ((REACH, REACH), (0, 0), (0, 0)))
        near = tg.concatenate([x[k : k + len(bases)] for k in range(2 * REACH + 1)], axis=-1)
        return self.head(tg.relu(self.hidden(near)))[..., 0]


def learned(model: nn.Module, steps: int, seed: int, bases: np.ndarray) -> np.ndarray:
    """Train a model; returns its probabilities for the bases of a test."""
    rng = np.random.default_rng(seed)

    def loss(_: int) -> Tensor:
        dna, exon = genes(rng, 16)
        return nn.binary_cross_entropy_with_logits(model(put(dna)), put(exon))

    train(model, loss, steps, lr=2e-2)
    with tg.no_grad():
        return tg.sigmoid(model(put(bases))).numpy()


def run(args: Options, seed: int) -> Result:
    """Train both models, and compare them on new genes."""
    bases, exon = genes(np.random.default_rng((seed, 1)), 300)
    gru, mlp = (learned(model, args.steps, seed, bases) for model in (Splicer(), Window()))
    if seed == args.seed:
        shown = int(abs(exon.mean(axis=0) - 0.5).argmin())
        draw(args, bases[:, shown], exon[:, shown], gru[:, shown], mlp[:, shown])
    whole = ((gru > 0.5) == exon).all(axis=0).mean()
    right, baseline = (float(((p > 0.5) == exon).mean()) for p in (gru, mlp))
    note = f"{100 * whole:.1f} % of whole genes without an error; {exon.mean():.2f} are exons"
    return Result(right, baseline, note)


def draw(args: Options, bases: np.ndarray, *tracks: np.ndarray) -> None:
    """One gene: the truth, and what both models say."""
    with picture(args, "P(the base is in an exon)", rows=3, size=(9, 3.4)) as plots:
        for axes, track, name in zip(plots, tracks, ("rule", "GRU", "MLP"), strict=True):
            axes.fill_between(range(LENGTH), track, step="mid", color="C2" if name == "rule" else "C0", alpha=0.6)
            axes.set(ylim=(0, 1), xlim=(-0.5, LENGTH - 0.5), ylabel=name)
            axes.set_xticks([])
        plots[-1].set_xticks(range(LENGTH), [BASES[base] for base in bases], fontsize=5)
        plots[-1].tick_params(length=0)


if __name__ == "__main__":
    checked(run, BAR, parse(__doc__, steps=(800, 200, "training steps of 16 genes")))
