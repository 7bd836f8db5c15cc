"""``check``: what is right passes in silence, and what is wrong is reported in words that a beginner can act upon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes

import tinygrad_rnn as tg
from tinygrad_rnn import CheckError, Tensor, check, op
from tinygrad_rnn.op import registry


def report_of(function: Callable[..., Any], *samples: Any, **attributes: Any) -> str:
    with pytest.raises(CheckError) as caught:
        check(function, *samples, **attributes)
    return str(caught.value)


def softsign_with(**rules: Any) -> Any:
    @op
    def softsign(xp: Any, x: Any) -> Any:
        return x / (1 + abs(x))

    return softsign.vjp(**rules) if rules else softsign


# ---- operations from outside the package ----


def test_an_operation_in_under_ten_lines() -> None:
    @op
    def softsign(xp: Any, x: Any) -> Any:
        return x / (1 + abs(x))

    softsign.vjp(x=lambda g, x: g / (1 + abs(x)) ** 2)

    check(softsign)
    check(softsign, np.array([[1.0, -2.0], [0.5, 3.0]]))
    x = tg.tensor([1.0, -3.0], requires_grad=True)
    softsign(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [1 / 4, 1 / 16])


def test_an_operation_with_several_inputs_attributes_and_a_merge() -> None:
    @op
    def scaled(xp: Any, x: Any, w: Any, *, factor: float = 2.0, out: Any = None) -> Any:
        return xp.multiply(factor * x, w, out=out)

    scaled.vjp(x=lambda g, w, factor: factor * g * w, w=lambda g, x, factor: factor * g * x)
    scaled.merge(w=lambda g, x, factor: sum(f * a * b for f, a, b in zip(factor, g, x, strict=True)))
    check(scaled)
    check(scaled, np.ones((2, 3)), np.ones((2, 3)), factor=-1.5)

    for wrong in (
        lambda g, x, factor: factor[0] * g[0] * x[0],
        lambda g, x, factor: factor[0] * g[0] * x[0] + factor[-1] * g[-1] * x[-1],
    ):
        scaled.merge(w=wrong)
        assert "check(scaled): the merge for 'w' does not give the sum of what the rule gives" in report_of(scaled)


def test_an_operation_on_any_number_of_arrays() -> None:
    @op
    def total(xp: Any, *xs: Any) -> Any:
        y = xs[0] * 1.0
        for x in xs[1:]:
            y = y + x
        return y

    total.vjp(xs=lambda g: g)
    check(total)
    check(total, np.ones(3), np.ones(3), np.ones(3))
    total.vjp(xs=lambda g, k: g * (k + 1))
    assert "the rule for 'xs[1]' is wrong" in report_of(total)
    assert "the rule for 'xs[0]' is wrong" not in report_of(total)


# ---- wrong rules ----


def test_a_wrong_rule_is_reported_with_both_numbers_and_the_worst_element() -> None:
    softsign = softsign_with(x=lambda g, x: 2 * g / (1 + abs(x)) ** 2)
    report = report_of(softsign)
    assert report.startswith("check(softsign): the rule for 'x' is wrong: d/dx along a random direction is ")
    numeric, ruled = (float(part.split()[-1]) for part in report.split(" by ")[:2])
    assert ruled == pytest.approx(2 * numeric, rel=1e-3)
    assert "by finite differences" in report
    assert "by the rule (relative error 1; 1e-06 is allowed)" in report
    assert "(12 of 12 elements are wrong)" in report


def test_the_worst_element_is_found() -> None:
    def rule(g: Any, x: Any) -> Any:
        return g / (1 + abs(x)) ** 2 + 0.1 * g * (x == 2.0)

    assert "worst at x[1, 0] (1 of 4 elements are wrong)" in report_of(
        softsign_with(x=rule), np.array([[1.0, -1], [2, 3]])
    )


def test_each_wrong_input_has_a_line() -> None:
    @op
    def ratio(xp: Any, a: Any, b: Any) -> Any:
        return a / b

    ratio.vjp(a=lambda g, b: g * b, b=lambda g, a: g * a)
    lines = report_of(ratio, np.array([1.0, 2.0]), np.array([3.0, 4.0])).splitlines()
    assert [line.split(" is wrong")[0] for line in lines] == [f"check(ratio): the rule for {name!r}" for name in "ab"]


def test_a_small_error_is_found() -> None:
    assert "is wrong" in report_of(softsign_with(x=lambda g, x: g / (1 + abs(x)) ** 2 * (1 + 1e-5)))


def test_a_rule_that_says_there_is_no_slope_where_there_is_one() -> None:
    assert ", 0 by the rule (relative error 1;" in report_of(softsign_with(x=None))


def test_a_rule_that_uses_numpy_works_on_arrays_only() -> None:
    report = report_of(softsign_with(x=lambda g, x: g / np.square(1 + np.abs(x))))
    assert "the rule for 'x' works on arrays but not on Tensors" in report
    assert "use operators and tinygrad_rnn ops in it, not NumPy functions" in report
    for rule in (
        lambda g, x: np.where(x > 0, g, g) / (1 + abs(x)) ** 2,
        lambda g, x: np.sum([g], axis=0) / (1 + abs(x)) ** 2,
    ):
        assert "does not turn into a NumPy array unasked" in report_of(softsign_with(x=rule))


def test_a_rule_that_leaves_the_graph_is_wrong_at_order_two() -> None:
    def rule(g: Any, x: Any) -> Any:
        bare = x.detach() if isinstance(x, Tensor) else x
        return g / (1 + abs(bare)) ** 2

    report = report_of(softsign_with(x=rule))
    assert "the rule for 'x' has a wrong derivative (order two): d/dx of it along a random direction is " in report
    assert "0 by differentiating the rule" in report


def test_a_rule_with_two_results_is_reported() -> None:
    def rule(g: Any, x: Any) -> Any:
        return g / (1 + abs(x)) ** 2 * (2 if isinstance(x, Tensor) else 1)

    assert "the rule for 'x' gives one result on arrays and another on Tensors" in report_of(softsign_with(x=rule))


def test_a_rule_that_fails_or_has_the_wrong_shape() -> None:
    assert "the rule for 'x' failed: ZeroDivisionError: " in report_of(softsign_with(x=lambda g: g * (1 // 0)))
    report = report_of(softsign_with(x=lambda g: g.sum(axis=0)[:2]))
    assert (
        "the rule for 'x' failed: ValueError: a gradient of shape (2,) cannot belong to an input of shape (3, 4)"
        in report
    )


def test_a_missing_rule() -> None:
    expected = "check(softsign): there is no rule for 'x'; write one, softsign.vjp(x=lambda g, ...: ...), or, if it is"
    assert report_of(softsign_with()).startswith(expected)
    x = tg.tensor([1.0], requires_grad=True)
    with pytest.raises(
        TypeError, match=r"softsign: its input 'x' needs a gradient, but has no rule\. Write one, softsign\.vjp"
    ):
        softsign_with()(x)


def test_names_that_do_not_exist_are_refused_at_definition() -> None:
    with pytest.raises(TypeError, match=r"softsign\.vjp: there is no input 'z'; the inputs are x"):
        softsign_with(z=lambda g: g)
    message = (
        "softsign.vjp: the rule for 'x' asks for 'z', which it cannot have; the names that exist are g, x, x_shape, y"
    )
    with pytest.raises(TypeError, match=message):
        softsign_with(x=lambda g, z: g * z)
    with pytest.raises(TypeError, match=r"softsign\.merge: there is no input 'z'"):
        softsign_with().merge(z=lambda g: g)


@pytest.mark.parametrize("define", [tg.op, tg.op(name="three")])
def test_what_is_no_kernel_is_refused_at_definition(define: Any) -> None:
    known = set(registry)
    for wrong in (3, "three", np.tanh):
        with pytest.raises(TypeError, match=r"op: a kernel is a function .*, kernel\(xp, x\), not"):
            define(wrong)
    assert set(registry) == known


def test_an_operation_needs_a_name() -> None:
    for define in (tg.op, tg.op(name="three things")):
        with pytest.raises(TypeError, match=r"op: '(<lambda>|three things)' is no name for an operation"):
            define(lambda xp, x: 3 * x)


# ---- functions ----


def test_a_kernel_with_two_results_is_refused() -> None:
    """And not made one array of, to which no rule would fit."""

    @tg.op
    def halves(xp: Any, x: Any) -> Any:
        return x[: len(x) // 2], x[len(x) // 2 :]

    halves.vjp(x=lambda g: g)
    with pytest.raises(TypeError, match="halves: a kernel gives one array, not several"):
        halves(tg.ones(4))


def test_functions_of_tensors() -> None:
    check(lambda x: x * x)
    check(lambda x, y: (x @ y.T, {"sum": (x * y).sum()}))
    check(lambda x: tg.tanh(x), tg.randn(2, 3))
    check(lambda x: x**3, 2.0)
    check(lambda x, n: x**n, np.array([1.0, 2.0]), 3)
    check(tg.log)  # positive samples are drawn where normal ones do not do
    check(tg.softmax, np.ones((2, 3)), axis=0)
    check(tg.einsum, "ij,jk->ik", np.ones((2, 3)), np.ones((3, 2)))
    check(tg.stack, [np.ones(2), np.zeros(2)], axis=1)


def test_a_cell_with_nested_state() -> None:
    cell = tg.nn.LSTMCell(3, 2)
    check(cell, np.ones((2, 3)), (np.zeros((2, 2)), np.ones((2, 2))))


def test_a_function_that_cuts_the_graph() -> None:
    report = report_of(lambda x: x * x.detach(), np.array([1.0, 2.0]))
    assert report.startswith("check(<lambda>): the gradient for 'x' is wrong: ")
    assert "(relative error 0.5; " in report
    assert "state.1" in report_of(lambda state: state[0] * state[1].detach(), (np.ones(2), np.ones(2)))


def test_the_operation_with_the_wrong_rule_is_named_inside_a_function() -> None:
    softsign = softsign_with(x=lambda g, x: g / np.square(1 + abs(x)))
    report = report_of(lambda z: softsign(z * 2.0))
    assert "the gradient for 'z' works on arrays but not on Tensors" in report
    assert "the rule of softsign for its input 'x' failed" in report


def test_what_cannot_be_checked_says_why() -> None:
    assert "no sample is a floating-point array" in report_of(lambda x: x, 3)
    assert "it must return Tensors, not ndarray" in report_of(lambda x: x.numpy())
    assert "two calls gave different results" in report_of(lambda x: x * tg.randn(3, 4))
    assert "the result is not finite" in report_of(tg.log, np.array([-1.0, 2.0]))
    report = report_of(tg.conv2d)
    assert "it fails on random arrays of shape (3, 4)" in report
    assert "Give samples that fit, check(function, x, weight)" in report

    @op
    def doubled(xp: Any, x: Any) -> Any:
        x *= 2
        return x

    assert report_of(doubled.vjp(x=lambda g: 2 * g)) == "check(doubled): it changes its input 'x' in place"


def test_a_kernel_that_names_out_must_write_all_of_it() -> None:
    def partly(xp: Any, x: Any, *, out: Any = None) -> Any:
        if out is None:
            return xp.where(x > 0, x, 0)
        xp.copyto(out, x, where=x > 0)
        return out

    def elsewhere(xp: Any, x: Any, *, out: Any = None) -> Any:
        return xp.where(x > 0, x, 0)

    for kernel in (partly, elsewhere):
        operation = op(kernel).vjp(x=lambda g, x: g * (x > 0))
        with pytest.raises(CheckError, match="it names out=, but does not write the result there"):
            check(operation)


def test_samples_and_grad_mode_are_left_alone() -> None:
    x, y = np.ones(3, dtype=np.float32), tg.ones(3, requires_grad=True)
    with tg.no_grad():
        check(tg.multiply, x, y)
        assert not tg.is_grad_enabled()
    assert y.grad is None
    np.testing.assert_array_equal(x, np.ones(3, dtype=np.float32), strict=True)


def test_arrays_are_checked_where_they_live() -> None:
    with strict.registered() as device, tg.use_backend(device.name):
        check(tg.log)
        check(tg.linear, device.from_host(np.ones((2, 3))), device.from_host(np.ones((4, 3))))
        assert "worst at x[" in report_of(lambda x: x * x.detach())


def test_large_inputs_are_checked_too() -> None:
    check(tg.sum, np.ones((100, 100)), axis=0)
    check(lambda x: x * x, 1e6 * np.arange(1.0, 5.0))
    assert "worst at" not in report_of(lambda x: x * x.detach(), np.ones(1000))


# ---- any shapes ----

ARITHMETIC = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "power": np.power}


@pytest.mark.parametrize("name", ARITHMETIC)
@settings(max_examples=25, deadline=None)
@given(shapes=mutually_broadcastable_shapes(num_shapes=2, min_dims=0, max_dims=3, min_side=0, max_side=3))
def test_arithmetic_on_any_shapes_that_broadcast(name: str, shapes: Any) -> None:
    random = np.random.default_rng(0)
    a, b = (random.uniform(0.5, 2.0, shape) for shape in shapes.input_shapes)
    found = getattr(tg, name)(tg.tensor(a), tg.tensor(b))
    np.testing.assert_array_equal(found.numpy(), np.asarray(ARITHMETIC[name](a, b)), strict=True)
    check(getattr(tg, name), np.asarray(a), np.asarray(b))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_reductions_over_any_axes(data: st.DataObject) -> None:
    shape = data.draw(array_shapes(min_dims=1, max_dims=4, max_side=3))
    axes = data.draw(st.sets(st.integers(-len(shape), len(shape) - 1), max_size=len(shape)))
    axis = tuple(sorted({a % len(shape) for a in axes}))
    keepdims = data.draw(st.booleans())
    x = (
        np.random.default_rng(1)
        .permutation(float(np.prod(shape)) * np.linspace(0.1, 1, int(np.prod(shape))))
        .reshape(shape)
    )
    for name in ("sum", "mean", "max", "min", "var"):
        y = getattr(tg, name)(tg.tensor(x), axis=axis, keepdims=keepdims)
        np.testing.assert_allclose(y.numpy(), getattr(np, name)(x, axis=axis, keepdims=keepdims), strict=True)
        check(getattr(tg, name), x, axis=axis, keepdims=keepdims)
