"""Truncated BPTT: one name for three things. Which loss still teaches which use of the weights?

    python examples/learn/09_truncation.py

1. Cut in time. The state goes on and the gradient does not: windows of k1 steps, whose gradient reaches k2 steps back.
2. Cut at random. Windows end by chance, and what passes a place where one could have ended is scaled up: unbiased.
3. Cut by path. The LSTM of 1997 sent errors back without limit, but only along its memory, not through its gates.

A map has a row for the loss of each step t and a column for the use of the weights in each step s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn

T, K = 8, 4
Windows = Callable[[Any, Any, np.random.Generator], Iterator[bptt.Window]]
SCHEMES: dict[str, tuple[Windows, Callable[[Any, Any], Any] | None]] = {  # and which uses s <= t they reach, if fixed
    "whole": (lambda step, xs, rng: bptt.truncated(step, xs, None, len(xs)), lambda t, s: True),
    "chunks": (lambda step, xs, rng: bptt.truncated(step, xs, None, K), lambda t, s: s // K == t // K),
    "overlapping": (lambda step, xs, rng: bptt.truncated(step, xs, None, K // 2, K), lambda t, s: s // 2 > t // 2 - 2),
    "random": (lambda step, xs, rng: bptt.randomly_truncated(step, xs, None, 1 / K, rng), None),
}


def reach(windows: Windows, seed: int) -> np.ndarray:
    """(T, T), at [t, s] the gradient of loss t for the weight of step s, in h_s = w_s h_{s-1} with all w_s = 1."""
    rows = []
    for wanted in range(T):
        w = tg.ones(T, requires_grad=True)

        def step(s: int, h: Any, wanted: int = wanted, w: Tensor = w) -> tuple[Tensor, Any]:
            h = w[s] if h is None else w[s] * h
            return (h if s == wanted else tg.zeros(())), h

        for window in windows(step, range(T), np.random.default_rng(seed)):
            if window.start <= wanted < window.stop:
                window.backward(window.steps)
        rows.append(np.zeros(T) if w.grad is None else w.grad.numpy())
    return np.array(rows)


def gradient(scheme: str, cell: nn.Cell, xs: Tensor, rng: np.random.Generator) -> np.ndarray:
    """The gradient of the mean loss by a scheme. The task: repeat the input of three steps ago."""

    def step(t: int, state: Any) -> tuple[Tensor, Any]:
        h, state = cell(xs[t], state)
        return nn.mse_loss(h[:, :1], xs[t - 3]), state

    cell.zero_grad()
    for window in SCHEMES[scheme][0](step, range(3, len(xs)), rng):
        window.backward(window.steps / (len(xs) - 3))
    return np.concatenate([p.grad.numpy().ravel() for p in cell.parameters() if p.grad is not None])


def main(options: Options) -> None:
    """The maps, and how far each scheme is from the whole gradient of an LSTM."""
    t, s = np.indices((T, T))
    for scheme, (windows, reached) in SCHEMES.items():
        seen = reach(windows, options.seed)
        print(f"\n{scheme}\n" + "\n".join("  " + " ".join(f"{g:3.1f}" if g else " . " for g in row) for row in seen))
        if reached is not None:
            check("this is what its definition says", bool((seen == ((s <= t) & reached(t, s))).all()))

    rng, xs = np.random.default_rng(options.seed), tg.randn(30, 8, 1, dtype="float64")
    cell = nn.LSTMCell(1, 6, dtype="float64")
    whole = gradient("whole", cell, xs, rng)
    draws = np.array([gradient("random", cell, xs, rng) for _ in range(40 if options.quick else 400)])
    found = {scheme: gradient(scheme, cell, xs, rng) for scheme in ("chunks", "overlapping")}
    found["LSTM of 1997"] = gradient("whole", bptt.GatesDetached(cell), xs, rng)
    found["random, once"], found[f"random, mean of {len(draws)}"] = draws[0], draws.mean(axis=0)
    distances = {name: np.linalg.norm(g - whole) / np.linalg.norm(whole) for name, g in found.items()}
    print("\ndistance from the whole gradient, relative")
    for name, distance in distances.items():
        print(f"  {name:<22}{distance:.3f}")
    check("a longer reach, a smaller error", distances["overlapping"] < distances["chunks"])
    shares = draws @ whole / (whole @ whole)
    error = shares.std() / np.sqrt(len(shares))
    print(f"random ends have {shares.mean():.3f} +- {error:.3f} of the whole gradient in the mean")
    check("that is all of it, within 5 standard errors", abs(shares.mean() - 1) < 5 * error)


if __name__ == "__main__":
    climb(main)
