"""Losses for people: per character in nats and in bits, and as a picture of how training went."""

from __future__ import annotations

import math
import os

from .extras import import_extra
from .train import Training


def bits(nats: float) -> float:
    """A loss per character in bits.

    >>> bits(math.log(8))
    3.0
    """
    return nats / math.log(2)


def nats_and_bits(nats: float) -> str:
    """A loss per character in both units, as readable text.

    >>> nats_and_bits(1.65)
    '1.650 nats (2.380 bits per character)'
    """
    return f"{nats:.3f} nats ({bits(nats):.3f} bits per character)"


def plot_curves(training: Training, path: str | os.PathLike[str], title: str = "") -> None:
    """Draw the training and the validation curve: nats on the left, bits on the right, epochs below, steps above."""
    figure = import_extra("matplotlib.figure", "the picture of the curves").Figure(
        figsize=(8, 4.5), layout="constrained"
    )
    axes = figure.subplots()
    per_epoch = len(training.windows)
    ink, blue, orange = "0.25", "#1f77b4", "#d95f02"
    for curve, color, name, style in (
        (training.train_curve, blue, "training", {"linewidth": 1.2}),
        (training.validation_curve, orange, "validation", {"linewidth": 2, "marker": "o", "markersize": 5}),
    ):
        if curve:
            epochs, losses = [step / per_epoch for step, _ in curve], [loss for _, loss in curve]
            axes.plot(epochs, losses, color=color, label=f"{name}, {losses[-1]:.3f} nats at the end", **style)
    axes.set(xlabel="epoch", ylabel="loss per character (nats)", title=title, xlim=(0, None))
    axes.secondary_yaxis("right", functions=(bits, lambda b: b * math.log(2))).set_ylabel("bits per character")
    steps = axes.secondary_xaxis("top", functions=(lambda e: e * per_epoch, lambda s: s / per_epoch))
    steps.set_xlabel("training steps", color=ink)
    axes.grid(color="0.92")
    axes.spines[:].set_color("0.7")
    if axes.lines:  # there are none before the first window
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
