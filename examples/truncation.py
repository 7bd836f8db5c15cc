"""What "truncated" means: the schemes that carry this name, which gradient each computes, and what it costs in bias.

    python examples/truncation.py                      # the maps as text, then the bias of each on an LSTM
    python examples/truncation.py --plot maps.png      # the maps as a picture

A map shows for the loss of step t (down) whether the use of the parameters in step s (across) learns from it. It is
found by giving each step a weight of its own, and is held here against the definition of each scheme.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn

K = 4  # steps; every scheme is shown for this length
Windows = Iterator[bptt.Window]
SCHEMES: dict[str, Callable[[Any, Any, Any, np.random.Generator], Windows]] = {
    "whole BPTT": lambda step, xs, state, rng: bptt.truncated(step, xs, state, len(xs)),
    "chunks": lambda step, xs, state, rng: bptt.truncated(step, xs, state, K),
    "BPTT(h; h')": lambda step, xs, state, rng: bptt.truncated(step, xs, state, K // 2, K),
    "BPTT(h)": lambda step, xs, state, rng: bptt.truncated(step, xs, state, 1, K),
    "ARTBP": lambda step, xs, state, rng: bptt.randomly_truncated(step, xs, state, 1 / K, rng),
}
DEFINITIONS: dict[str, Callable[[int, int], bool]] = {  # whether loss t reaches the use in step s, counted from 0
    "whole BPTT": lambda t, s: s <= t,
    "chunks": lambda t, s: t // K * K <= s <= t,
    "BPTT(h; h')": lambda t, s: (t // (K // 2) + 1) * (K // 2) - K <= s <= t,
    "BPTT(h)": lambda t, s: t - K < s <= t,
}


def reach(scheme: str, steps: int, seed: int) -> np.ndarray:
    """(T, T), at [t, s] the gradient of loss t for the weight of step s, in h_s = w_s h_{s-1} with all w_s = 1."""
    rows = []
    for wanted in range(steps):
        w = nn.parameter(np.ones(steps))

        def step(s: int, h: Any, wanted: int = wanted, w: Tensor = w) -> tuple[Tensor, Any]:
            h = w[s] * h
            return (h if s == wanted else tg.zeros(())), h

        for window in SCHEMES[scheme](step, range(steps), tg.ones((), dtype="float64"), np.random.default_rng(seed)):
            if window.start <= wanted < window.stop:
                window.backward(window.steps)
        rows.append(np.zeros(steps) if w.grad is None else w.grad.numpy())
    return np.array(rows)


def gradient(scheme: str, cell: nn.Cell, xs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a scheme makes of the gradient of the mean loss, as one vector: say what was heard three steps ago."""
    parameters = list(cell.parameters())
    for p in parameters:
        p.grad = None

    def step(pair: Any, state: Any) -> tuple[Tensor, Any]:
        x, target = pair
        h, state = cell(x, state)
        return nn.mse_loss(h[:, :1], target), state

    for window in SCHEMES[scheme](step, list(zip(xs[3:], xs[:-3], strict=True)), None, rng):
        window.backward(window.steps / (len(xs) - 3))
    return np.concatenate([p.grad.numpy().ravel() for p in parameters if p.grad is not None])


def compare(seed: int, draws: int) -> None:
    """Print for each scheme how much of an LSTM's whole gradient it has, and how far from it it is."""
    tg.manual_seed(seed)
    rng = np.random.default_rng(seed)
    cell, xs = nn.LSTMCell(1, 6, dtype="float64", forget_bias=1.0), rng.standard_normal((35, 8, 1))
    whole = gradient("whole BPTT", cell, xs, rng)
    drawn = np.array([gradient("ARTBP", cell, xs, rng) for _ in range(draws)])
    found = {name: gradient(name, cell, xs, rng) for name in ("chunks", "BPTT(h; h')", "BPTT(h)")}
    found["LSTM of 1997"] = gradient("whole BPTT", bptt.GatesDetached(cell), xs, rng)
    found[f"ARTBP, mean of {draws}"] = drawn.mean(axis=0)
    errors = {name: np.linalg.norm(g - whole) / np.linalg.norm(whole) for name, g in found.items()}
    print(f"\n{'scheme':<24}{'share of the gradient':<26}distance, relative")
    for name, g in found.items():
        print(f"{name:<24}{g @ whole / (whole @ whole):<26.3f}{errors[name]:.3f}")
    shares = drawn @ whole / (whole @ whole)
    error = np.std(shares) / np.sqrt(draws)
    print(f"{'':<24}+- {error:.3f}")
    assert errors["BPTT(h)"] < errors["chunks"]
    assert abs(shares.mean() - 1) < 5 * error
    print("A longer reach, a smaller error; only ARTBP has none in the mean, and pays for it with noise.")


def plot(maps: dict[str, np.ndarray], path: Path) -> None:
    """The maps side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(maps), 3.2), layout="constrained")
    highest = max(found.max() for found in maps.values())
    for axes, (scheme, found) in zip(figure.subplots(1, len(maps)), maps.items(), strict=True):
        axes.imshow(np.where(found > 0, found, np.nan), cmap="viridis_r", vmin=0, vmax=highest)
        axes.set(title=scheme, xlabel="use in step s", ylabel="loss of step t")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Print the maps, check them, and measure the bias."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer draws")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="file for a picture of the maps")
    options = parser.parse_args()
    maps = {scheme: reach(scheme, 2 * K, options.seed) for scheme in SCHEMES}
    for scheme, found in maps.items():
        print(f"\n{scheme}\n" + "\n".join("  " + " ".join(f"{g:3.1f}" if g else " . " for g in row) for row in found))
        if scheme in DEFINITIONS:
            assert (found == np.fromfunction(np.vectorize(DEFINITIONS[scheme]), found.shape)).all()
    compare(options.seed, draws=100 if options.quick else 1000)
    if options.plot:
        plot(maps, options.plot)


if __name__ == "__main__":
    main()
