"""Every wrapper goes round every cell that it says it takes, with a learned state or one given, and skips are right."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from cell_equations import F64, H
from wrapped import B, T, inputs

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn
from tinygrad_rnn.tree import tree_leaves

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
    unfit = ""
    if wrap is nn.ResidualRecurrence and issubclass(cell, nn.LSTMCell):
        unfit = "output is its state"
    if wrap in (nn.SkipThroughTime, WRAPPERS[-1]) and cell is nn.MinGRUCell:
        unfit = "the step of MinGRUCell makes no use of self.recur"
    if unfit:
        with pytest.raises(TypeError, match=unfit):
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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        *(nn.Residual, nn.Highway, nn.Zoneout, nn.CellDropout, nn.RecurrentDropout, nn.SkipThroughTime),
        lambda cell: nn.SkipThroughTime(cell, taps=(-1,)),
        lambda cell: nn.VariationalDropout(cell, input=0.3, recurrent=0.3, output=0.3),
        lambda cell: nn.Residual(nn.Zoneout(nn.VariationalDropout(cell, recurrent=0.3), (0.1, 0.5))),
    ],
)
def test_the_initial_state_is_learned_round_any_wrapper(wrap: Any, training: bool) -> None:
    """Made in one mode, it works in the other; masks are drawn anew for each sequence, and are not learned."""
    layer = nn.Recurrent(wrap(nn.LSTMCell(H, H, **F64)).train(training), h0="learned")
    learned = [p for p in tree_leaves(layer.h0) if p is not None]
    assert all(p.requires_grad and p.dtype == np.float64 for p in learned)
    for mode in (training, not training):
        outputs, state = layer.train(mode)(inputs(H), lengths=[T, 1])
        again = layer(inputs(H), bptt.detach(state))
        (outputs.sum() + again.outputs.sum()).backward()
    assert all(p.grad is not None and p.grad.data.any() for p in learned)
    assert nn.Bidirectional(layer.cell, layer.cell, h0="learned")(inputs(H)).outputs.shape == (T, B, 2 * H)


@pytest.mark.parametrize("wrap", [nn.Residual, nn.Highway, nn.Zoneout, nn.CellDropout])
def test_a_cell_with_no_initial_state_may_be_wrapped_and_given_one(wrap: Any) -> None:
    class Sum:
        input_size = output_size = 2

        def input_projection(self, x: Any) -> Any:
            return x

        def step(self, z: Any, state: Any) -> tuple[Any, Any]:
            return z + state, z + state

    outputs, state = nn.unroll(wrap(Sum()).eval(), tg.ones(3, 1, 2), tg.zeros(1, 2))
    assert outputs.shape == (3, 1, 2)
    assert nn.Recurrent(wrap(Sum()))(tg.ones(3, 1, 2), state).outputs.shape == (3, 1, 2)
    with pytest.raises(ValueError, match="Sum: it has no initial_state, so a state must be given"):
        nn.unroll(wrap(Sum()), tg.ones(3, 1, 2))
