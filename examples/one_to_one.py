"""One to one, the degenerate case: a recurrent network that takes one step is a network without recurrence.

    python examples/one_to_one.py

From the state 0, one step of h = tanh(V x + U h_0 + b) never uses U: the same weights in a feed-forward network give
the same numbers and learn the same, and the gradient of U is 0 all the way. The task is to tell on which of two spirals
a point lies, which a linear model, the baseline, cannot. Give the same cell more steps on the same point, and U
matters: with nothing new to read, it thinks longer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import Bar, Options, Result, checked, parse, picture, put, share_right, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn

BAR = Bar("points told apart in one step", full=0.97, quick=0.9, baseline="a linear model")
UNITS = 32


class Recurrent(nn.Module):
    """Points (B, 2) as sequences of ``steps`` equal points, and the logits of the two spirals after the last step."""

    def __init__(self, steps: int = 1):
        self.cell = nn.RNNCell(2, UNITS)
        self.head = nn.Linear(UNITS, 2)
        self.steps = steps

    def forward(self, points: Tensor) -> Tensor:
        return self.head(bptt.unroll(self.cell, tg.stack([points] * self.steps)).state)


class FeedForward(nn.Module):
    """One hidden layer of tanh units, with all weights of a recurrent network except the recurrent ones."""

    def __init__(self, twin: Recurrent):
        self.hidden = nn.Linear(2, UNITS)
        self.head = nn.Linear(UNITS, 2)
        given = twin.cell.state_dict()
        self.hidden.load_state_dict({"weight": given["weight_ih"], "bias": given["bias"]})
        self.head.load_state_dict(twin.head.state_dict())

    def forward(self, points: Tensor) -> Tensor:
        return self.head(tg.tanh(self.hidden(points)))


def spirals(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (B, 2) with a little noise, and on which of two spirals each of them lies."""
    which, along = rng.integers(0, 2, count), rng.uniform(0.2, 1, count)
    angle = 6 * along + np.pi * which
    points = along[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(0, 0.02, (count, 2))
    return 2 * points, which


def learn(model: Any, args: Options, seed: int) -> float:
    """Train on points that are the same for all models of a seed; returns the share of new ones that it tells apart."""
    rng = np.random.default_rng(seed)

    def loss(_: int) -> Tensor:
        points, which = spirals(rng, 128)
        return nn.cross_entropy(model(put(points)), put(which))

    train(model, loss, args.steps)
    points, which = spirals(rng, 2000)
    with tg.no_grad():
        return share_right(model(put(points)), which)


def run(args: Options, seed: int) -> Result:
    """Learn with one step, with the feed-forward twin, with a linear model, and with several steps."""
    one, several = Recurrent(), Recurrent(steps=4)
    twin, before = FeedForward(one), one.cell.weight_hh.numpy()
    right, right_of_twin, linear, right_of_several = (
        learn(model, args, seed) for model in (one, twin, nn.Linear(2, 2), several)
    )
    if (one.cell.weight_hh.numpy() != before).any():
        raise ArithmeticError("one step from the state 0 should leave U as it was, but U has changed")
    difference = abs(one.cell.weight_ih.numpy() - twin.hidden.weight.numpy()).max()
    if difference > 1e-4 or abs(right - right_of_twin) > 0.005:
        raise ArithmeticError(f"the twins should have learned the same, but their weights differ by {difference:.2g}")
    if seed == args.seed:
        draw(args, {"1 step": one, "without recurrence": twin, "4 steps": several})
    note = f"V as its twin's to {difference:.0e}, U untouched; {right_of_several:.4g} in 4 steps"
    return Result(right, linear, note)


def draw(args: Options, models: dict[str, nn.Module]) -> None:
    """Which points each model assigns to which spiral."""
    side = np.linspace(-2.2, 2.2, 60)
    grid = put(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2))
    points, which = spirals(np.random.default_rng(0), 300)
    with picture(args, "One step of an RNN is a feed-forward network", columns=3, size=(7, 2.7)) as axes, tg.no_grad():
        for panel, (name, model) in zip(axes, models.items(), strict=True):
            share = tg.softmax(model(grid)).numpy()[:, 1].reshape(60, 60)
            panel.contourf(side, side, share, levels=10, cmap="coolwarm", alpha=0.6)
            panel.scatter(*points.T, s=4, c=which, cmap="coolwarm")
            panel.set(title=name, xticks=[], yticks=[])


if __name__ == "__main__":
    checked(run, BAR, parse(__doc__, steps=(1000, 400, "training steps")))
