"""The other things that are called truncated: without bias at random, and through the memory cell alone."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from closeness import close, drawn
from recurrences import CELLS, gradients, model

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, flow, nn


class Scripted:
    """Random numbers that decide as a pattern says: below any probability for an end, above it to go on."""

    def __init__(self, pattern: tuple[bool, ...]):
        self.decisions = iter(pattern)

    def random(self) -> float:
        return -1.0 if next(self.decisions, False) else 1.0


def by_length(since: int) -> float:
    return 0.7 / since


@pytest.mark.parametrize("stop_probability", [0.3, 0.9, 0.0, by_length])
@pytest.mark.parametrize("name", ["rnn", "lstm", "own"])
def test_the_expected_gradient_is_the_whole_one(name: str, stop_probability: Any) -> None:
    """Over all patterns of ends in 6 steps, weighted by their probabilities."""
    module, step = model(CELLS[name]())
    xs = drawn(6, 2)
    expected = {key: np.zeros(p.shape) for key, p in module.named_parameters()}
    total = 0.0
    for pattern in product([False, True], repeat=5):
        since, probability = 1, 1.0
        for ends in pattern:
            p = stop_probability(since) if callable(stop_probability) else stop_probability
            probability *= p if ends else 1 - p
            since = 1 if ends else since + 1
        if not probability:
            continue
        total += probability
        stream = bptt.randomly_truncated(step, xs, None, stop_probability, Scripted(pattern))
        lengths = []
        for window in stream:
            lengths.append(window.steps)
            window.backward(window.steps)
        assert np.cumsum(lengths)[:-1].tolist() == [t + 1 for t, ends in enumerate(pattern) if ends]
        for key, g in gradients(module).items():
            expected[key] += probability * g
    assert total == pytest.approx(1)
    whole = flow.gradient_by_lag(step, xs, None, module).gradients
    for key, g in expected.items():
        close(g, whole[key], 1e-12)


def test_what_passes_an_end_that_might_have_been_is_enlarged() -> None:
    """Each entry of the lag map, times 1 / (1 - p) for each step between use and loss, and 0 across an end."""
    module, step = model(CELLS["gru"]())
    xs, p, ends = drawn(7, 2), 0.25, (False, False, True, False, False, False)
    factors = np.tril(np.ones((7, 7)))
    for t, s in zip(*np.tril_indices(7), strict=True):
        factors[t, s] = 0 if any(ends[s:t]) else (1 - p) ** -float(t - s)
    for window in bptt.randomly_truncated(step, xs, None, p, Scripted(ends)):
        window.backward(window.steps)
    expected = flow.gradient_by_lag(step, xs, None, module, keep=True).masked(factors)
    for key, g in gradients(module).items():
        close(g, expected[key], 1e-12)


def test_enlarging_changes_no_value() -> None:
    _, step = model(CELLS["lstm"]())
    xs = drawn(30, 2)
    windows = bptt.randomly_truncated(step, xs, None, 0.2, np.random.default_rng(0))
    found = np.concatenate([window.losses.numpy() for window in windows])
    (whole,) = bptt.truncated(step, xs, None, 30)
    np.testing.assert_array_equal(found, whole.losses.numpy())


def test_a_state_may_hold_the_logarithm_of_0() -> None:
    w = tg.tensor(np.array([0.1, 0.2]), requires_grad=True)

    def step(x: Any, logs: Any) -> Any:
        logs = logs + w * x
        return tg.exp(logs).sum(), logs

    found = []
    for stream in (bptt.truncated, lambda *args: bptt.randomly_truncated(*args[:3], 0.3, Scripted([False, False]))):
        (window,) = stream(step, [1.0, 2.0, 3.0], tg.tensor(np.array([0.0, -np.inf])), 3)
        window.backward()
        found.append((window.loss.item(), w.grad.numpy()))
        w.grad = None
    assert found[0][0] == found[1][0]
    assert found[0][1][1] == found[1][1][1] == 0 < found[0][1][0] < found[1][1][0]


@pytest.mark.parametrize("p", [1.0, -0.1, float("nan"), lambda since: 1.0])
def test_probabilities_are_checked(p: Any) -> None:
    _, step = model(CELLS["rnn"]())
    with pytest.raises(ValueError, match=r"the probability to stop must be in \[0, 1\)"):
        bptt.randomly_truncated(step, drawn(3, 2), None, p, np.random.default_rng(0))


# ---- the LSTM of 1997 ----


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def test_only_the_memory_carries_the_gradient_back() -> None:
    """By hand: the error goes from c_t to c_{t-1} times f_t, and in each step changes the weights of the gates."""
    cell = nn.LSTMCell(2, 3, dtype="float64")
    xs = drawn(8, 2)

    def step(x: Any, state: Any) -> tuple[Tensor, Any]:
        h, state = bptt.GatesDetached(cell)(x, state)
        return (h * h).sum() / 2, state

    start = nn.LSTMState(tg.zeros(3, dtype="float64"), tg.zeros(3, dtype="float64"))
    (window,) = bptt.truncated(step, xs, start, 8)
    window.backward(8)

    w, u, b = (p.data for p in (cell.weight_ih, cell.weight_hh, cell.bias))
    h = c = np.zeros(3)
    steps = []
    for x in xs:
        i, f, g, o = np.split(w @ x + u @ h + b, 4)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        before, h_before = c, h
        c = f * c + i * g
        h = o * np.tanh(c)
        steps.append((x, h_before, before, i, f, g, o, c, h))
    dw, du, db, dc = np.zeros_like(w), np.zeros_like(u), np.zeros_like(b), np.zeros(3)
    for x, h_before, before, i, f, g, o, c, h in reversed(steps):
        dc = dc + h * o * (1 - np.tanh(c) ** 2)
        do = h * np.tanh(c)
        gates = [dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g**2), do * o * (1 - o)]
        da = np.concatenate(gates)
        dw += np.outer(da, x)
        du += np.outer(da, h_before)
        db += da
        dc = dc * f
    close(cell.weight_ih.grad, dw, 1e-12)
    close(cell.weight_hh.grad, du, 1e-12)
    close(cell.bias.grad, db, 1e-12)


def test_with_the_forget_gate_open_the_error_is_constant() -> None:
    """What 1997 was about: over 60 steps no error is lost, while the whole gradient of the gates is another one."""
    cell = nn.LSTMCell(1, 4, dtype="float64", forget_bias=50.0)
    xs = drawn(60, 1)

    def step(x: Any, pair: Any) -> tuple[Tensor, Any]:
        t, state = pair
        _, state = bptt.GatesDetached(cell)(x, state)
        return (state.c.sum() if t == 59 else tg.zeros(())), (t + 1, state)

    c0 = nn.parameter(np.zeros(4))
    (window,) = bptt.truncated(step, xs, (0, nn.LSTMState(tg.zeros(4, dtype="float64"), c0)), 60)
    window.backward(60)
    close(c0.grad, np.ones(4), 1e-12)


def test_the_values_are_those_of_the_cell() -> None:
    for kind in (nn.LSTMCell, nn.CoupledLSTMCell, nn.LayerNormLSTMCell):
        cell = kind(2, 3, dtype="float64")
        xs = drawn(5, 4, 2)
        found, expected = bptt.unroll(bptt.GatesDetached(cell), xs), bptt.unroll(cell, xs)
        np.testing.assert_array_equal(found.outputs.numpy(), expected.outputs.numpy())


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.RNNCell, nn.PeepholeLSTMCell, nn.LayerNormBasicLSTMCell, None])
def test_cells_with_other_ways_back_are_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="an LSTM cell without peepholes"):
        bptt.GatesDetached(kind and kind(2, 3))
