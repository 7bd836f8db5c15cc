"""Tomorrow's temperature from a window of days, by regression: an RNN, persistence, and MLPs that cannot tell order.

    python examples/temperature.py
    python examples/temperature.py --file temperatures.txt        (one number a line; there is then no bar)

An MLP on a sliding window has weights of its own for each day, and no notion of order: permute the days of all windows,
and its weights with them, and every step of training comes out the same. Its loss is shown for both. An RNN loses
something if the days are permuted. An MLP whose windows are shuffled one by one loses all order. The series is made by
rule: a year, weather that swings back after some days, and rounding to whole degrees.
"""

from __future__ import annotations

import numpy as np
from common import Bar, Options, Result, checked, parse, picture, put, train

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.text import read_text

BAR = Bar("degrees off, root mean square", full=2.4, quick=2.7, baseline="an MLP on shuffled windows", lower=True)
WINDOW, NOISE = 8, 2.0
ORDER = np.array([3, 6, 0, 5, 1, 7, 2, 4])  # in which the permuted windows are read


def degrees(rng: np.random.Generator, days: int) -> np.ndarray:
    """A series of whole degrees. No forecast can be off by less than NOISE and a little for rounding, in the mean."""
    weather, noise = np.zeros(days), rng.normal(0, NOISE, days)
    for t in range(2, days):
        weather[t] = 1.5 * weather[t - 1] - 0.85 * weather[t - 2] + noise[t]
    return np.round(45 - 15 * np.cos(2 * np.pi * np.arange(days) / 365) + weather)


def read(path: str) -> np.ndarray:
    """The numbers of a file."""
    text = read_text(path)
    try:
        series = np.array([float(word) for word in text.split()])
    except ValueError:
        raise ValueError(f"{path}: a text file with one number a line is needed") from None
    if len(series) < 20 * WINDOW or not np.isfinite(series).all() or np.ptp(series) == 0:
        raise ValueError(f"{path}: at least {20 * WINDOW} numbers, finite and not all the same, are needed")
    return series


class Perceptron(nn.Module):
    """Windows (T, B) to tomorrow (B,), all days at once."""

    def __init__(self) -> None:
        self.hidden = nn.Linear(WINDOW, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, windows: Tensor) -> Tensor:
        return self.head(tg.tanh(self.hidden(windows.T)))[:, 0]


class Network(nn.Module):
    """Windows (T, B) to tomorrow (B,), a day at a time."""

    def __init__(self) -> None:
        self.rnn = nn.RNN(1, 16)
        self.head = nn.Linear(16, 1)

    def forward(self, windows: Tensor) -> Tensor:
        return self.head(self.rnn(windows[:, :, None]).outputs[-1])[:, 0]


def permuted(windows: np.ndarray) -> np.ndarray:
    """The days of all windows in the same other order; tomorrow, the last row, stays."""
    return np.concatenate([windows[ORDER], windows[-1:]])


def shuffled(windows: np.ndarray) -> np.ndarray:
    """The days of each window in an order of its own; tomorrow stays."""
    return np.concatenate([np.random.default_rng(0).permuted(windows[:-1], axis=0), windows[-1:]])


def fit(model: nn.Module, windows: np.ndarray, steps: int, seed: int) -> None:
    """Train on windows (WINDOW + 1, N), whose last row is to be predicted."""
    rng = np.random.default_rng(seed)

    def loss(_: int) -> Tensor:
        batch = windows[:, rng.integers(windows.shape[1], size=64)]
        return nn.mse_loss(model(put(batch[:-1])), put(batch[-1]))

    train(model, loss, steps)


def run(args: Options, seed: int) -> Result:
    """Train all models on the first four fifths of the series, and compare them on the rest."""
    series = read(args.file) if args.file else degrees(np.random.default_rng(seed), 4000)
    split = len(series) * 4 // 5
    mean, scale = series[:split].mean(), series[:split].std()
    windows = np.lib.stride_tricks.sliding_window_view((series - mean) / scale, WINDOW + 1).T
    truth, found = series[split + WINDOW :], {"persistence": series[split + WINDOW - 1 : -1]}
    for name, kind, see in (
        ("RNN", Network, np.asarray),
        ("RNN, permuted", Network, permuted),
        ("MLP", Perceptron, np.asarray),
        ("MLP, permuted", Perceptron, permuted),
        ("MLP, shuffled", Perceptron, shuffled),
    ):
        tg.manual_seed(seed)
        model = kind()
        if name == "MLP, permuted":  # its weights move with their days
            weights = model.state_dict()
            model.load_state_dict({**weights, "hidden.weight": weights["hidden.weight"][:, ORDER]})
        fit(model, see(windows[:, : split - WINDOW]), args.steps, seed)
        with tg.no_grad():
            found[name] = mean + scale * model(put(see(windows[:, split:])[:-1])).numpy()
    off = {name: float(np.sqrt(np.mean((p - truth) ** 2))) for name, p in found.items()}
    if abs(off["MLP"] - off["MLP, permuted"]) > 0.01 * off["MLP"]:
        raise ArithmeticError(
            f"the MLP can tell order: {off['MLP']:.4g} degrees off, {off['MLP, permuted']:.4g} permuted"
        )
    if seed == args.seed:
        draw(args, truth[:60], {name: p[:60] for name, p in found.items()})
    return Result(off["RNN"], off["MLP, shuffled"], ", ".join(f"{name} {value:.3f}" for name, value in off.items()))


def draw(args: Options, truth: np.ndarray, found: dict[str, np.ndarray]) -> None:
    """Two months of the test."""
    with picture(args, "Each day's temperature, predicted from the days before", size=(8, 3.3)) as axes:
        axes.plot(truth, "k.-", lw=0.8, label="measured")
        for name, style in (("RNN", "C3"), ("persistence", "C0:"), ("MLP, shuffled", "C1--")):
            axes.plot(found[name], style, label=name)
        axes.set(xlabel="day", ylabel="degrees")
        axes.legend(fontsize="small")


if __name__ == "__main__":
    args = parse(__doc__, steps=(3000, 400, "training steps of 64 windows"), file=(None, None, "one number a line"))
    checked(run, BAR._replace(full=np.inf, quick=np.inf) if args.file else BAR, args)
