"""All cells of the family on one task: which of 4 symbols stood at the beginning, after 30 steps of other things?

    python examples/cells_compared.py

Each cell learns by the same batches for the same number of steps. What decides is how the gradient comes back from the
last step to the first: through a product of 30 Jacobians (the simple RNN), past gates that can stay open (LSTM and
GRU in all forms), along a path that skips, leaks or adds, or through each unit's own weight. One table, one picture.
The bar is on the share of the gated cells' answers that are right; the baseline is the simple RNN.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from common import Bar, Report, Result, checked, parse, picture, put, share_right, train

from tinygrad_rnn import Tensor, nn

BAR = Bar("right by the gated cells, in the mean", full=0.9, quick=0.6, baseline="the simple RNN")
SYMBOLS, OTHERS = 4, 4
H = 24
X = SYMBOLS + OTHERS  # features of a step, one-hot
GATED: dict[str, Callable[[], nn.Cell | nn.SequenceLayer]] = {
    "LSTM": lambda: nn.LSTMCell(X, H, forget_bias=1.0),
    "coupled LSTM": lambda: nn.CoupledLSTMCell(X, H, forget_bias=1.0),
    "peephole LSTM": lambda: nn.PeepholeLSTMCell(X, H, forget_bias=1.0),
    "GRU, reset after": lambda: nn.GRUCell(X, H),
    "GRU, reset before": lambda: nn.GRUCell(X, H, reset="before"),
    "minimal gated unit": lambda: nn.MGUCell(X, H),
    "LSTM, layer norm": lambda: nn.LayerNormLSTMCell(X, H, forget_bias=1.0),
    "GRU, layer norm": lambda: nn.LayerNormGRUCell(X, H),
    "recurrent highway": lambda: nn.RHNCell(X, H, depth=2, transform_bias=-2.0),
    "Highway(GRU)": lambda: nn.Highway(nn.GRUCell(X, X)),
    "Residual(LSTM)": lambda: nn.Residual(nn.LSTMCell(X, X, forget_bias=1.0)),
}
OTHER: dict[str, Callable[[], nn.Cell | nn.SequenceLayer]] = {
    "simple RNN": lambda: nn.RNNCell(X, H),
    "simple RNN, sigmoid": lambda: nn.RNNCell(X, H, nonlinearity="sigmoid"),
    "RNN, relu, W = I": lambda: nn.RNNCell(X, H, nonlinearity="relu", recurrent_init="identity"),
    "leaky RNN": lambda: nn.LeakyRNNCell(X, H, leak=np.geomspace(0.02, 1, H)),
    "RNN + h(t-10)": lambda: nn.SkipThroughTime(nn.RNNCell(X, H), taps=(-1, -10)),
    "h + RNN(h)": lambda: nn.ResidualRecurrence(nn.RNNCell(X, H)),
    "2 IndRNNs": lambda: nn.Stacked([nn.IndRNNCell(X, H), nn.IndRNNCell(H, H)]),
}


class Reader(nn.Module):
    """Steps (T, B) to logits (B, SYMBOLS) after the last, by any cell or layer."""

    def __init__(self, part: nn.Cell | nn.SequenceLayer):
        self.layer = part if isinstance(part, nn.SequenceLayer) else nn.Recurrent(part)
        size = self.layer.layers[-1].cell.output_size if isinstance(self.layer, nn.Stacked) else part.output_size
        self.head = nn.Linear(size, SYMBOLS)

    def forward(self, steps: np.ndarray) -> Tensor:
        return self.head(self.layer(put(np.eye(X)[steps])).outputs[-1])


def batch(rng: np.random.Generator, lag: int, count: int) -> np.ndarray:
    """(lag + 1, count): a symbol to keep, and then others that mean nothing."""
    steps = rng.integers(SYMBOLS, X, (lag + 1, count))
    steps[0] = rng.integers(SYMBOLS, size=count)
    return steps


def learned(name: str, args: argparse.Namespace, seed: int) -> tuple[float, list[float], float]:
    """A cell's share of right answers after training, its losses, and its milliseconds a training step."""
    rng, model = np.random.default_rng(seed), Reader((GATED | OTHER)[name]())

    def loss(step: int) -> Tensor:
        steps = batch(rng, args.lag, 32)
        return nn.cross_entropy(model(steps), put(steps[0]))

    begun = time.perf_counter()
    losses = train(model, loss, args.steps, title=name)
    took = (time.perf_counter() - begun) / args.steps
    test = batch(np.random.default_rng((seed, 1)), args.lag, 500)
    return share_right(model(test), test[0]), losses, 1000 * took


def run(args: argparse.Namespace, seed: int) -> Result:
    """Train every cell, and print the table."""
    found = {name: learned(name, args, seed) for name in GATED | OTHER}
    print(f"{'cell':<22}{'right':>7}{'last loss':>11}{'ms a step':>11}")
    for name, (right, losses, took) in found.items():
        print(f"{name:<22}{right:>7.3f}{np.mean(losses[-20:]):>11.4f}{took:>11.1f}")
    if seed == args.seed:
        draw(args, {name: losses for name, (_, losses, _) in found.items()})
    return Result(float(np.mean([found[name][0] for name in GATED])), found["simple RNN"][0])


def draw(args: argparse.Namespace, curves: dict[str, list[float]]) -> None:
    """Learning curves, smoothed, of the gated cells and of the others."""
    with picture(args, f"Loss while learning to recall a symbol over {args.lag} steps", columns=2, size=(9, 4)) as plots:
        for axes, names in zip(plots, (GATED, OTHER), strict=True):
            for k, name in enumerate(names):
                width = max(1, args.steps // 30)
                smooth = np.convolve(curves[name], np.ones(width) / width, "valid")
                axes.plot(smooth, label=name, color=f"C{k % 10}", ls="-" if k < 10 else "--", lw=1)
            axes.set(xlabel="training step", ylabel="nats", ylim=(0, 1.6))
            axes.legend(fontsize=6)


def main(arguments: list[str] | None = None) -> Report:
    """Run the program."""
    own = {"steps": (500, 60, "training steps of each cell"), "lag": (30, 8, "steps to remember over")}
    return checked(run, BAR, parse(__doc__, arguments, **own))


if __name__ == "__main__":
    main().exit()
