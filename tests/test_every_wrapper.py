"""Every wrapper goes round every cell that it says it takes, and skips are added where a GRU has W_hh h."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn

CELLS = [c for c in vars(nn).values() if inspect.isclass(c) and issubclass(c, nn.WeightedCell)]
CELLS.remove(nn.WeightedCell)
WRAPPERS: list[Callable[[Any], Any]] = [
    *(nn.CellDropout, nn.Highway, nn.RecurrentDropout, nn.Residual),
    *(nn.ResidualRecurrence, nn.SkipThroughTime, nn.Zoneout),
    partial(nn.VariationalDropout, input=0.2, recurrent=0.2, output=0.2),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda w: getattr(w, "__name__", "VariationalDropout"))
def test_every_wrapper_goes_round_every_cell(wrap: Callable[[Any], Any], cell: Any) -> None:
    """Six steps, so that taps reach past the beginning, with a gradient for every parameter."""
    if wrap is nn.ResidualRecurrence and issubclass(cell, nn.LSTMCell):
        with pytest.raises(TypeError, match="output is its state"):
            nn.unroll(wrap(cell(5, 5)), tg.randn(6, 2, 5))
        return
    wrapped = wrap(cell(5, 5))
    outputs, _ = nn.unroll(wrapped, tg.randn(6, 2, 5))
    outputs.sum().backward()
    assert outputs.shape == (6, 2, 5)
    assert all(p.grad is not None and np.isfinite(p.grad.numpy()).all() for p in wrapped.parameters())


@pytest.mark.parametrize("reset", ["after", "before"])
def test_skips_round_a_gru_are_what_the_equations_say(reset: str) -> None:
    gru = nn.GRUCell(3, 4, reset=reset)
    skip = nn.SkipThroughTime(gru, taps=(-1, -2))
    skip.to(dtype="float64")
    w_ih, w_hh, w_skip, b = (p.data for p in (gru.weight_ih, gru.weight_hh, skip.weights[0], gru.bias))
    b_hn = gru.bias_hn.data if gru.bias_hn is not None else 0.0
    xs = np.random.default_rng(0).standard_normal((5, 2, 3))

    def sigmoid(a: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-a))

    def recurrent(h: np.ndarray, past: np.ndarray, rows: slice) -> np.ndarray:
        return h @ w_hh[rows].T + past @ w_skip[rows].T

    gates, new = slice(0, 8), slice(8, 12)
    h = past = np.zeros((2, 4))
    expected = []
    for x in xs:
        z = x @ w_ih.T + b
        r, keep = np.split(sigmoid(z[:, gates] + recurrent(h, past, gates)), 2, axis=1)
        if reset == "after":
            n = np.tanh(z[:, new] + r * (recurrent(h, past, new) + b_hn))
        else:
            n = np.tanh(z[:, new] + (r * h) @ w_hh[new].T + past @ w_skip[new].T)
        h, past = (1 - keep) * n + keep * h, h
        expected.append(h)
    np.testing.assert_allclose(nn.unroll(skip, tg.tensor(xs)).outputs.numpy(), expected, rtol=1e-12, atol=1e-12)
