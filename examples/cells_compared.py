"""All cells of the family on one task: which of 4 symbols stood at the beginning, after 50 steps of other things?

    python examples/cells_compared.py

Each cell learns from the same batches for the same number of steps. What decides is how the gradient gets back from the
last step to the first: through a product of 50 Jacobians (the simple RNN), past gates that can stay open (LSTM and
GRU in all forms), along a path that skips, leaks or adds, or through each unit's own weight. One table, one picture.
The bar is on the share of right answers of the gated cells; the baseline is the simple RNN.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from common import Bar, Options, Result, checked, parse, picture, put, share_right, train

from tinygrad_rnn import Tensor, nn

BAR = Bar("right by the gated cells, in the mean", full=0.95, quick=0.5, baseline="the simple RNN")
SYMBOLS, OTHERS, H = 4, 4, 24
X = SYMBOLS + OTHERS  # features of a step, one-hot
Part = nn.Cell | list[nn.Cell]


def biased(cell: nn.WeightedCell, gate: str, by: float) -> nn.WeightedCell:
    """The cell with a number added to the biases of one of its gates, which thus begins open or closed."""
    bias, rows = cell.bias_of(gate)
    assert bias is not None
    return nn.init.gate_bias_(cell, gate, bias.numpy()[rows] + by)


# Gates begin so that each step forgets about 1 / lag of the memory, and adds as little (Tallec and Ollivier 2018).
GATED: dict[str, Callable[[float], Part]] = {
    "LSTM": lambda k: biased(nn.LSTMCell(X, H, forget_bias=k), "i", -k),
    "coupled LSTM": lambda k: nn.CoupledLSTMCell(X, H, forget_bias=k),
    "peephole LSTM": lambda k: biased(nn.PeepholeLSTMCell(X, H, forget_bias=k), "i", -k),
    "LSTM, layer norm": lambda k: biased(nn.LayerNormLSTMCell(X, H, forget_bias=k), "i", -k),
    "Residual(LSTM)": lambda k: nn.Residual(biased(nn.LSTMCell(X, X, forget_bias=k), "i", -k)),
    "GRU, reset after": lambda k: biased(nn.GRUCell(X, H), "z", k),
    "GRU, reset before": lambda k: biased(nn.GRUCell(X, H, reset="before"), "z", k),
    "GRU, layer norm": lambda k: biased(nn.LayerNormGRUCell(X, H), "z", k),
    "Highway(GRU)": lambda k: nn.Highway(biased(nn.GRUCell(X, X), "z", k), transform_bias=1.0),
    "minimal gated unit": lambda k: biased(nn.MGUCell(X, H), "f", -k),
    "recurrent highway": lambda k: nn.RHNCell(X, H, depth=2, transform_bias=-k),
}
OTHER: dict[str, Callable[[float], Part]] = {
    "simple RNN": lambda k: nn.RNNCell(X, H),
    "simple RNN, sigmoid": lambda k: nn.RNNCell(X, H, nonlinearity="sigmoid"),
    "RNN, relu, W = I": lambda k: nn.RNNCell(X, H, nonlinearity="relu", recurrent_init="identity"),
    "leaky RNN": lambda k: nn.LeakyRNNCell(X, H, leak=np.geomspace(0.01, 1, H)),
    "RNN + h(t-10)": lambda k: nn.SkipThroughTime(nn.RNNCell(X, H), taps=(-1, -10)),
    "h + RNN(h)": lambda k: nn.ResidualRecurrence(nn.RNNCell(X, H)),
    "2 IndRNNs": lambda k: [nn.IndRNNCell(X, H), nn.IndRNNCell(H, H)],
}


class Reader(nn.Module):
    """Steps (T, B) to logits (B, SYMBOLS) after the last, by one cell, or by a stack of several."""

    def __init__(self, part: Part):
        cells = part if isinstance(part, list) else [part]
        self.layer = nn.Stacked(cells)
        self.head = nn.Linear(cells[-1].output_size, SYMBOLS)

    def forward(self, steps: np.ndarray) -> Tensor:
        return self.head(self.layer(put(np.eye(X)[steps])).outputs[-1])


def batch(rng: np.random.Generator, lag: int, count: int) -> np.ndarray:
    """(lag + 1, count): a symbol to remember, and then others that mean nothing."""
    steps = rng.integers(SYMBOLS, X, (lag + 1, count))
    steps[0] = rng.integers(SYMBOLS, size=count)
    return steps


def learned(name: str, args: Options, seed: int) -> tuple[float, list[float], float]:
    """A cell's share of right answers after training, its losses, and its milliseconds per training step."""
    rng, model = np.random.default_rng(seed), Reader((GATED | OTHER)[name](float(np.log(args.lag))))

    def loss(_: int) -> Tensor:
        steps = batch(rng, args.lag, 32)
        return nn.cross_entropy(model(steps), put(steps[0]))

    begun = time.perf_counter()
    losses = train(model, loss, args.steps, title=name)
    took = (time.perf_counter() - begun) / args.steps
    test = batch(np.random.default_rng((seed, 1)), args.lag, 500)
    return share_right(model(test), test[0]), losses, 1000 * took


def run(args: Options, seed: int) -> Result:
    """Train every cell, and print the table."""
    found = {name: learned(name, args, seed) for name in GATED | OTHER}
    print(f"{'cell':<22}{'right':>7}{'last loss':>11}{'ms a step':>11}")
    for name, (right, losses, took) in found.items():
        print(f"{name:<22}{right:>7.3f}{np.mean(losses[-20:]):>11.4f}{took:>11.1f}")
    if seed == args.seed:
        draw(args, {name: losses for name, (_, losses, _) in found.items()})
    return Result(float(np.mean([found[name][0] for name in GATED])), found["simple RNN"][0])


def draw(args: Options, curves: dict[str, list[float]]) -> None:
    """Learning curves, smoothed, of the gated cells and of the others."""
    title = f"Loss while learning to recall a symbol over {args.lag} steps"
    with picture(args, title, columns=2, size=(8, 3.5)) as plots:
        for axes, names in zip(plots, (GATED, OTHER), strict=True):
            for k, name in enumerate(names):
                width = max(1, args.steps // 15)
                smooth = np.convolve(curves[name], np.ones(width) / width, "valid")
                axes.plot(smooth, label=name, color=f"C{k % 10}", ls="-" if k < 10 else "--", lw=1)
            axes.set(xlabel="training step", ylabel="nats", ylim=(0, 1.6))
            axes.legend(fontsize=6)


if __name__ == "__main__":
    own = {"steps": (400, 100, "training steps of each cell"), "lag": (50, 20, "steps to remember over")}
    checked(run, BAR, parse(__doc__, **own))
