"""Vanishing and exploding gradients: the norm of the gradient in each state, made visible.

    python examples/learn/07_vanishing_exploding.py

On its way from h_t to h_{t-1} a gradient is multiplied by the transposed Jacobian of one step, W_hh^T diag(tanh').
If that shortens it a little in every step, it vanishes exponentially; if it lengthens it, it explodes exponentially.
(Hochreiter 1991; Bengio, Simard and Frasconi 1994; Pascanu, Mikolov and Bengio 2013)
"""

from __future__ import annotations

import numpy as np
from ladder import Options, check, climb

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, flow, nn

STEPS, HIDDEN = 50, 32


def norms(cell: nn.Cell, xs: Tensor) -> np.ndarray:
    """||dL / dh_t|| for t = 0, ..., T - 1, with a loss on the last output only."""
    run = bptt.unroll(cell, xs, record=True)
    return flow.gradient_norms(run.outputs[-1].sum(), run).norms["h"]


def show(name: str, found: np.ndarray) -> None:
    """A bar for every tenth step: ten characters for the norm at the end, and one more or less for each factor of 2."""
    print(name)
    for t in range(STEPS - 1, -1, -10):
        length = int(10 + np.log2(found[t] / found[-1])) if found[t] > 0 else 0
        print(f"  step {t:2d}  {found[t]:9.2e}  {'#' * max(0, min(length, 60))}")


def main(options: Options) -> None:
    """Scaled rotations, for which the answer is known, and then networks with tanh."""
    xs = 0.1 * tg.randn(STEPS, 4, 8, dtype="float64")
    lags = np.arange(STEPS)[::-1]  # how many steps lie between h_t and the last state
    rotation = np.linalg.qr(np.random.default_rng(options.seed).standard_normal((HIDDEN, HIDDEN)))[0]

    def cell(scale: float, nonlinearity: str) -> nn.RNNCell:
        made = nn.RNNCell(8, HIDDEN, dtype="float64", nonlinearity=(lambda a: a) if nonlinearity == "none" else "tanh")
        made.weight_hh.data = tg.tensor(scale * rotation, backend=options.backend)
        return made

    for scale in (0.8, 1.0, 1.25):
        found = norms(cell(scale, "none"), xs)
        show(f"linear, all singular values {scale}", found)
        check(f"the norm is {scale}^lag times the last one", np.allclose(found, found[-1] * scale**lags, rtol=1e-9))

    # tanh' is at most 1, so tanh can only shorten: the singular values of W_hh bound the rate from above.
    for scale in (0.8, 1.0, 3.0):
        found = norms(cell(scale, "tanh"), xs)
        show(f"tanh, all singular values {scale}", found)
        bound = found[-1] * scale**lags
        check(f"nowhere is it longer than {scale}^lag times the last one", bool((found <= bound * (1 + 1e-9)).all()))
        if scale == 1.0:
            check("even a rotation loses its gradient to tanh", found[0] < 0.5 * found[-1])
        if scale == 3.0:
            check("large weights make it explode all the same", found[0] > 1e3 * found[-1])


if __name__ == "__main__":
    climb(main)
