"""The trap for values that are not finite: each word of its report, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn, tape
from tinygrad_rnn.op import registry

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@tg.op
def poisoned(xp: Any, x: Any) -> Any:
    """The identity, with a derivative that is nowhere finite at 3."""
    return x * 1


poisoned.vjp(x=lambda g, x: g / (x != 3))
del registry["poisoned"]  # not for the laws over all ops


def report(run: Callable[[], Any]) -> str:
    with pytest.raises(FloatingPointError) as caught, tg.detect_anomaly():
        run()
    return str(caught.value)


# ---- forward ----


def test_forward_every_word() -> None:
    """Op, time step, source line, ranges of the inputs, where, what stood there, and what was finite last."""
    x = tg.tensor([[8.0, 4.0], [2.0, 1.0]])

    def run() -> None:
        h, w = x, tg.tensor(1.0, requires_grad=True)
        with tape.timeline() as mark:
            for t in range(9):
                mark(t)
                h = tg.log(h - 1) * w  # log 0 in the first step

    told = report(run)
    assert told.startswith("log made f32[2,2] in [0, 1.95] with 1 not finite from x f32[2,2] in [0, 7], time step 0, ")
    assert "test_anomaly.py:" in told
    assert told.endswith("; first at [1, 1], with 1 of the 2 in its row finite, where x = 0")


def test_forward_the_last_finite_neighbour_is_the_step_before() -> None:
    def run() -> None:
        h = tg.tensor([2.0, 30.0], requires_grad=True)
        with tape.timeline() as mark:
            for t in range(9):
                mark(t)
                a = tg.exp(h * 0.1)
                h = tg.exp(a * h)

    told = report(run)
    assert told.startswith("exp made f32[2] in [1")
    assert ", time step 0, " in told
    assert "before that" not in told  # it is the second exp of its step, and the first step

    def later() -> None:
        h = tg.tensor([2.0, 3.0], requires_grad=True)
        with tape.timeline() as mark:
            for t in range(9):
                mark(t)
                tg.exp(h * 0)
                h = tg.exp(h)

    told = report(later)
    assert ", time step 2, " in told
    assert told.endswith("; before that it made f32[2] in [1.62e+03, 5.28e+08] in time step 1")


def test_forward_only_the_same_use_is_a_neighbour() -> None:
    """Not another operation of that name, be it in a time step or of other lines, nor one of another shape."""
    x, bad = tg.ones(5, 2, 3), np.full((4, 4), np.inf, "float32")

    def after_the_loop() -> None:
        outputs, _ = bptt.unroll(nn.RNNCell(3, 4), x)
        tg.linear(outputs[-1], bad)

    def of_another_line() -> None:
        tg.linear(tg.ones(2, 4), tg.eye(4))
        tg.linear(tg.ones(2, 4), bad)

    def of_another_shape() -> None:
        for rows, weight in ((2, np.eye(4)), (3, bad)):
            tg.linear(tg.ones(rows, 4), weight)

    for run in (after_the_loop, of_another_line, of_another_shape):
        told = report(run)
        assert told.startswith("linear made f")
        assert "before that" not in told


def test_forward_a_broadcast_input_is_told_at_its_own_place() -> None:
    a, b = tg.ones(2, 3, requires_grad=True), tg.tensor([[2.0], [0.0]])
    assert report(lambda: a / b).endswith("; first at [1, 0], with 0 of the 3 in its row finite, where a = 1, b = 0")
    assert "first at" not in report(lambda: tg.tensor(0.0, requires_grad=True).log())


def test_forward_what_came_in_is_told_apart_from_what_was_born() -> None:
    x = tg.tensor([1.0, np.nan], requires_grad=True)
    assert "log made f32[2] in [0, 0] with 1 not finite (it came in with an input) from x" in report(lambda: x.log())


def test_forward_outside_of_time_steps_and_without_an_optional_input() -> None:
    x, w = np.ones((1, 1), "float32"), tg.tensor([[1e30]], requires_grad=True)
    told = report(lambda: [tg.linear(scale * x, w) for scale in (1, np.float32(1e30))])
    assert told.startswith(
        "linear made f32[1,1] with 1 not finite from x f32[1,1] in [1e+30, 1e+30], weight f32[1,1] in [1e+30, 1e+30], "
        "test_anomaly.py:"
    )
    assert told.endswith("; before that it made f32[1,1] in [1e+30, 1e+30]")


def test_forward_in_no_grad_and_of_many_inputs() -> None:
    def run() -> None:
        with tg.no_grad():
            tg.concatenate([tg.ones(2), tg.tensor([np.inf, 1.0])])

    assert "concatenate made f32[4] in [1, 1] with 1 not finite (it came in with an input) from xs[0] f32[2]" in report(
        run
    )


def test_forward_integers_and_booleans_are_finite() -> None:
    with tg.detect_anomaly():
        x = tg.arange(3)
        assert ((x + 1) == 2).tolist() == [False, True, False]


# ---- backward ----


def test_backward_every_word() -> None:
    def run() -> None:
        h = tg.tensor([1.0, 2.0], requires_grad=True)
        with tape.timeline() as mark:
            for t in range(3):
                mark(t)
                h = poisoned(h + 1)
        h.sum().backward()

    told = report(run)
    line = run.__code__.co_firstlineno + 5
    assert told.startswith(
        "backward: the rule of poisoned for 'x' made f32[2] in [1, 1] with 1 not finite from g f32[2] "
    )
    assert "in [1, 1], x f32[2] in [3, 4], at poisoned#" in told
    assert (
        f", time step 1, test_anomaly.py:{line}; first at [0], with 1 of the 2 in its row finite, where g = 1, x = 3"
        in told
    )


def test_backward_through_a_graph_that_is_kept() -> None:
    x = tg.tensor([3.0], requires_grad=True)
    told = report(lambda: poisoned(x).sum().backward(retain_graph=True))
    assert "with 1 not finite from x f32[1] in [3, 3], at poisoned#" in told


def test_backward_that_is_recorded_itself() -> None:
    """The rule is then made of operations: the one that went wrong is named, and the one whose rule it belongs to."""
    x = tg.tensor([3.0], requires_grad=True)

    def run() -> None:
        y = poisoned(x)
        y.sum().backward(create_graph=True)

    told = report(run)
    assert told.startswith("divide made f32[1] with 1 not finite from a f32[1] in [1, 1], b bool[1] in [0, 0]")
    assert ", where a = 1, b = 0; on the way back through poisoned#" in told
    assert told.endswith(f", test_anomaly.py:{run.__code__.co_firstlineno + 1}")


def test_backward_a_merge_names_all_uses() -> None:
    """The sum over time overflows though no part of it does, so there is no single step to blame."""
    w = tg.tensor(np.full((1, 1), 1e-10, "float32"), requires_grad=True)

    def run() -> None:
        total: Any = 0.0
        with tape.timeline() as mark:
            for t in range(4):
                mark(t)
                total = total + tg.linear(tg.tensor([[1e38]]), w).sum()
        total.backward()

    told = report(run)
    line = run.__code__.co_firstlineno + 5
    assert told.startswith(
        "backward: the rule of linear for 'weight' made f32[1,1] with 1 not finite, on the way to leaf#"
    )
    assert (
        f": 4 uses, the first time step 0, test_anomaly.py:{line}, the last time step 3, test_anomaly.py:{line}" in told
    )


def test_backward_uses_of_an_earlier_window_are_forgotten() -> None:
    w = tg.tensor(np.full((1, 1), 1e-10, "float32"), requires_grad=True)

    def run() -> None:
        for x in (1.0, 2e38):
            (tg.linear(tg.tensor([[x]]), w) + tg.linear(tg.tensor([[x]]), w)).sum().backward()

    assert ": 2 uses, " in report(run)


def test_backward_a_merge_for_what_was_computed_names_its_operation() -> None:
    w = tg.tensor(np.full((1, 1), 1e-10, "float32"), requires_grad=True)

    def run() -> None:
        double = w * 2
        (tg.linear(tg.tensor([[1e38]]), double) + 3 * tg.linear(tg.tensor([[1e38]]), double)).sum().backward()

    assert "made f32[1,1] with 1 not finite, on the way to multiply#" in report(run)


def test_backward_a_gradient_that_came_in() -> None:
    x = tg.tensor([1.0], requires_grad=True)
    told = report(lambda: (x * 2).backward(np.array([np.nan], "float32")))
    assert "the rule of multiply for 'a' made f32[1] with 1 not finite (it came in with the gradient g)" in told


# ---- off by default, and gone afterwards ----


def test_off_by_default_and_after_the_block() -> None:
    x = tg.tensor([0.0], requires_grad=True)
    assert x.log().tolist() == [-np.inf]
    with pytest.raises(FloatingPointError), tg.detect_anomaly():
        x.log()
    assert tape.state.watchers == ()
    assert x.log().tolist() == [-np.inf]


def test_a_sound_model_passes_and_gives_the_same() -> None:
    cell = nn.LSTMCell(3, 5)
    xs = tg.randn(6, 2, 3)
    gradients = []
    for _ in range(2):
        cell.zero_grad()
        bptt.unroll(cell, xs)[0].sum().backward()
        gradients.append([p.grad.numpy() for p in cell.parameters() if p.grad is not None])
        with tg.detect_anomaly():
            bptt.unroll(cell, xs)[0].sum().backward()
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_array_equal(a, b)


def test_infinities_that_stand_in_the_code_are_no_anomaly() -> None:
    mask, scores = np.array([[True, False], [True, True]]), tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    with tg.detect_anomaly():
        tg.softmax(tg.where(mask, scores, -np.inf).reshape(2, 2) + 1.0).sum().backward()
        nn.MaxPool2d(2, 2, 1)(tg.ones(1, 1, 4, 4))
        added = tg.tensor(np.where([[True, False], [True, True]], 0, -np.inf).astype(np.float32))
        tg.softmax(scores + added).sum().backward()
        tg.where(mask, scores, -np.inf).astype(np.float64)
        tg.where(np.array([[False, False], [True, True]]), scores, -np.inf).max(axis=1)
    assert "add made" in report(lambda: scores + np.array([1.0, -np.inf]))
    assert "(it came in with an input)" in report(lambda: tg.tensor([1.0, np.inf]) + tg.zeros(2))  # which masks nothing
    assert "subtract made f32[2,2]" in report(lambda: tg.where(mask, scores, -np.inf) - tg.where(mask, scores, -np.inf))
    assert "exp made f32[2,2]" in report(lambda: tg.exp(1000.0 * scores))


def test_an_overflow_beside_a_mask_is_an_anomaly() -> None:
    masked = lambda: tg.where(np.array([True, False]), tg.tensor([1e200, 1.0], dtype="float64"), -np.inf)  # noqa: E731
    assert "multiply made f64[2]" in report(lambda: masked() * 1e200)
    with tg.detect_anomaly():
        masked() * 2.0
