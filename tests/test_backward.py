"""The walk back: gradients of gradients, horizons, accumulation, many uses of one array, dtypes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graphs import assert_equal, gradients, leaf

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn, tape
from tinygrad_rnn.tape import GraphError

# ---- gradients of gradients ----


def sine(x: Tensor) -> Tensor:
    return x.sin()


def exponential(x: Tensor) -> Tensor:
    return x.exp()


def power(x: Tensor) -> Tensor:
    return x**5


def product(x: Tensor) -> Tensor:
    return x * x * x * x * x


@pytest.mark.parametrize(
    ("function", "derivatives"),
    [
        (sine, [np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x), np.sin]),
        (exponential, [np.exp] * 4),
        (power, [lambda x, k=k: math.perm(5, k) * x ** (5 - k) for k in range(1, 5)]),
        (product, [lambda x, k=k: math.perm(5, k) * x ** (5 - k) for k in range(1, 5)]),
    ],
)
def test_four_orders_of_derivatives(
    function: Callable[[Tensor], Tensor], derivatives: list[Callable[[np.ndarray], np.ndarray]]
) -> None:
    x = tg.tensor(np.array([0.3, -1.2, 2.0]), requires_grad=True)
    y = function(x)
    for derivative in derivatives:
        y = tg.grad(y.sum(), x, create_graph=True)
        np.testing.assert_allclose(y.numpy(), derivative(x.data), rtol=1e-12)


def test_four_orders_by_backward() -> None:
    x = tg.tensor(np.array(0.7), requires_grad=True)
    y = x.sin()
    for derivative in (np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x), np.sin):
        x.grad = None
        y.backward(create_graph=True)
        assert x.grad is not None
        y = x.grad
        np.testing.assert_allclose(y.numpy(), derivative(0.7), rtol=1e-12)


def test_create_graph_records_even_within_no_grad() -> None:
    x = tg.tensor(2.0, requires_grad=True)
    y = x**3
    with tg.no_grad():
        g = tg.grad(y, x, create_graph=True)
    assert tg.grad(g, x).item() == 12.0


@pytest.mark.parametrize("retain", [None, True, False])
def test_recorded_gradients_lead_on_to_what_they_were_made_from(retain: bool | None) -> None:
    """Also if the first graph is not kept: then the second derivative is right or refused, never without a part."""
    w = leaf(3)
    g = tg.grad((w**3).sum(), w, create_graph=True, retain_graph=retain)
    total = (w * 5).sum() + (g * g).sum()
    try:
        total.backward()
    except GraphError:
        assert retain is False
    else:
        np.testing.assert_allclose(gradients(w)[0], 5 + 36 * w.data**3, rtol=1e-12)


def test_a_walk_without_create_graph_records_nothing() -> None:
    x = leaf(3)
    x.sin().sum().backward()
    assert not x.grad.requires_grad


# ---- horizons ----


def run_cell(cell: nn.Module, xs: np.ndarray, cut: int, detach: bool) -> tuple[Tensor, int]:
    """The sum of outputs from step ``cut`` on, and the mark set there; with ``detach`` the state is cut there too."""
    state = cell.initial_state(Tensor.wrap(np.zeros((xs.shape[1], 1))))
    loss, mark = None, 0
    for t, x in enumerate(xs):
        if t == cut:
            mark = tape.mark(t)
            state = bptt.detach(state) if detach else state
        output, state = cell(x, state)
        if t >= cut:
            loss = output.sum() if loss is None else loss + (output * output).sum()
    tape.mark()  # what follows is outside of any time step
    assert loss is not None
    return loss, mark


@pytest.mark.parametrize("cell_class", [nn.RNNCell, nn.LSTMCell])
@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_horizon_equals_a_detach(cell_class: Any, cut: int) -> None:
    cell = cell_class(3, 4, dtype="float64")
    xs = np.random.default_rng(1).standard_normal((10, 2, 3))
    run_cell(cell, xs, cut, detach=True)[0].backward()
    expected = gradients(*cell.parameters())
    loss, mark = run_cell(cell, xs, cut, detach=False)
    loss.backward(horizon=mark)
    assert_equal(gradients(*cell.parameters()), expected)


def test_a_horizon_reaches_leaves_however_old() -> None:
    w = leaf(3)
    h = w * 1.0
    mark = tape.mark()
    (h * w).sum().backward(horizon=mark)
    assert_equal(gradients(w), [h.numpy()])  # not 2 w: the older multiplication was not entered


def test_a_horizon_keeps_the_older_part_of_the_graph() -> None:
    w = leaf(3)
    h = w.sin()
    mark = tape.mark()
    (h * 2).sum().backward(horizon=mark)
    assert w.grad is None
    h.sum().backward()
    assert_equal(gradients(w), [np.cos(w.data)])


def test_a_horizon_with_create_graph() -> None:
    w = leaf(3)
    h = w * 3.0
    mark = tape.mark()
    (h * w * w).sum().backward(horizon=mark, create_graph=True)
    np.testing.assert_allclose(w.grad.numpy(), 2 * h.data * w.data, rtol=1e-14)
    (again,) = tg.grad([w.grad.sum()], [w])  # h is reached again: it is part of the graph, only not of the first walk
    np.testing.assert_allclose(again.numpy(), 2 * h.data + 6 * w.data, rtol=1e-14)


@pytest.mark.parametrize("wrong", ["3", 0.5, tg.ones(3)])
def test_a_horizon_that_is_no_moment_leaves_the_graph_whole(wrong: Any) -> None:
    w, mark = leaf(3), np.int64(tape.mark())
    loss = (w * w).sum()
    with pytest.raises(TypeError, match=r"the horizon is a moment, as tape\.mark\(\) gives it, not "):
        loss.backward(horizon=wrong)
    loss.backward(horizon=mark)
    assert_equal(gradients(w), [2 * w.data])


# ---- accumulation ----


def test_backward_adds_to_what_is_there() -> None:
    x = leaf(3)
    x.sin().sum().backward()
    assert x.grad is not None
    held = x.grad
    (x * x).sum().backward()
    assert x.grad is held  # the buffer is added to
    np.testing.assert_allclose(held.numpy(), np.cos(x.data) + 2 * x.data, rtol=1e-15)


@pytest.mark.parametrize("shape", [(), (1,), (2, 0)])
def test_gradients_stay_arrays_as_they_gather(shape: tuple[int, ...]) -> None:
    """NumPy makes scalars of the sums of arrays without axes."""
    x = leaf(*shape)
    for _ in range(3):
        (x * x + x).sum().backward()
        assert isinstance(x.grad.data, np.ndarray)
    np.testing.assert_allclose(gradients(x)[0], 6 * x.data + 3, rtol=1e-12)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(
    "combine",
    [
        lambda x, z: (x + z).sum(),
        lambda x, z: (x.T + z.T).sum(),
        lambda x, z: ((x + z).reshape(9) * np.arange(9.0)).sum(),
        lambda x, z: tg.where(True, x + z, x).sum(),
        lambda x, z: (tg.concatenate([x, z])[0:6] * np.arange(3.0)).sum(),
        lambda x, z: (tg.stack([x, z]) * np.ones((2, 3, 3))).sum(),
        lambda x, z: (x.broadcast_to(shape=(3, 3)) + z).sum(),
    ],
)
def test_no_two_leaves_share_a_gradient_buffer(combine: Callable[[Tensor, Tensor], Tensor], create_graph: bool) -> None:
    x, z = leaf(3, 3), leaf(3, 3)
    combine(x, z).backward(create_graph=create_graph)
    before = z.grad.numpy()
    x.grad.data[...] = 7.0  # must be writeable, too
    assert_equal([z.grad.numpy()], [before])


@pytest.mark.parametrize("function", [lambda x: x, lambda x: tg.layer_norm(np.ones(3), bias=x)])
def test_the_gradient_that_backward_starts_from_is_not_shared(function: Callable[[Tensor], Tensor]) -> None:
    x, seed = leaf(3), tg.ones(3, dtype="float64")
    function(x).backward(seed)
    x.grad.data[...] = 7.0
    assert_equal([seed.numpy()], [np.ones(3)])


def test_accumulation_onto_a_gradient_with_history() -> None:
    """A gradient that can be differentiated is part of a graph: adding to it must not change what that graph saved."""
    x = tg.tensor(np.array(2.0), requires_grad=True)
    (x**3).backward(create_graph=True)
    first = x.grad
    assert first is not None
    square = first * first  # (3 x^2)^2
    (x * 10.0).backward()
    assert x.grad.item() == 22.0
    try:
        slope = tg.grad(square, x).item()
    except GraphError:
        return  # refused: good as well
    assert slope == 36 * 2.0**3


def test_clipping_of_gradients_with_history_scales_each_once() -> None:
    x, z = leaf(3), leaf(3)
    ((x + z) * 3).sum().backward(create_graph=True)
    tg.clip_grad_norm_([x, z], 1.0)
    found = gradients(x, z)
    np.testing.assert_allclose(np.concatenate(found), np.full(6, 6**-0.5), rtol=1e-12)


# ---- many uses of one array ----


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("state_needs_gradient", [False, True])
def test_a_weight_used_at_every_step(steps: int, state_needs_gradient: bool) -> None:
    """The first use meets a state with or without gradient, the later ones meet one that has: all are summed."""
    w, h0 = leaf(4, 4), tg.randn(2, 4, dtype="float64", requires_grad=state_needs_gradient)
    h = h0
    for _ in range(steps):
        h = tg.linear(h, w).tanh()
    h.sum().backward()

    hs = [h0.data]
    for _ in range(steps):
        hs.append(np.tanh(hs[-1] @ w.data.T))
    g, g_w = np.ones((2, 4)), np.zeros((4, 4))
    for t in reversed(range(steps)):
        g = g * (1 - hs[t + 1] ** 2)
        g_w += g.T @ hs[t]
        g = g @ w.data
    np.testing.assert_allclose(gradients(w)[0], g_w, rtol=1e-12, atol=1e-14)
    if state_needs_gradient:
        np.testing.assert_allclose(gradients(h0)[0], g, rtol=1e-12, atol=1e-14)


def test_a_weight_used_in_different_ways_at_once() -> None:
    """Products on either side, a linear map, a slice and a plain sum, with batches of different lengths."""
    w, x, y = leaf(3, 3), np.arange(6.0).reshape(2, 3), np.ones((4, 5, 3))
    total = (tg.linear(x, w).sum() + tg.linear(y, w).sum() + (x @ w).sum() + (w @ w).sum()) + w[1].sum() + w.sum()
    total.backward()
    ones = np.ones((3, 3))
    expected = (
        np.ones((2, 3)).T @ x
        + np.ones((20, 3)).T @ y.reshape(20, 3)
        + x.T @ np.ones((2, 3))
        + ones @ w.data.T
        + w.data.T @ ones
        + ones
    )
    expected[1] += 1
    np.testing.assert_allclose(gradients(w)[0], expected, rtol=1e-12)


def test_a_merged_weight_differentiated_twice() -> None:
    w, x = leaf(3, 3), np.arange(6.0).reshape(2, 3) / 6

    def twice(w: Tensor) -> Tensor:
        return tg.linear(tg.linear(x, w).tanh(), w).tanh().sum()

    direction, eps = np.random.default_rng(0).standard_normal((3, 3)), 1e-5
    (g,) = tg.grad([twice(w)], [w], create_graph=True)
    (hessian_vector,) = tg.grad([g], [w], [direction])
    ends = []
    for sign in (1, -1):
        shifted = tg.tensor(w.data + sign * eps * direction, requires_grad=True)
        ends.append(tg.grad(twice(shifted), shifted).numpy())
    np.testing.assert_allclose(hessian_vector.numpy(), (ends[0] - ends[1]) / (2 * eps), rtol=1e-6, atol=1e-9)


KEYS: dict[str, Any] = {
    "first": 0,
    "last": -1,
    "same as last": 5,
    "NumPy integer": np.int64(2),
    "head": slice(0, 3),
    "overlapping": slice(2, 5),
    "negative": slice(-4, None),
    "backwards": slice(None, None, -2),
    "nothing": slice(3, 3),
    "everything": ...,
    "new axis": (None, 1),
    "column": (slice(None), 1),
    "element": (2, -1),
    "repeated rows": np.array([0, 0, 2, -1]),
    "list": [1, 1, 1],
    "grid of rows": np.array([[0, 1], [1, 0]]),
    "pairs": (np.array([0, 1, 1]), np.array([1, 2, 2])),
    "slice and rows": (slice(1, 4), np.array([0, 0])),
    "rows of a mask": np.array([True, False, True, False, False, True]),
    "mask of elements": np.arange(18).reshape(6, 3) % 4 == 0,
    "mask and column": (np.array([True, False, True, False, False, True]), 1),
    "empty mask": np.zeros(6, bool),
}


@pytest.mark.parametrize("names", [*([name] for name in KEYS), list(KEYS), ["last", "same as last"], ["first"] * 3])
def test_slices_of_one_leaf_sum_up(names: list[str]) -> None:
    x = leaf(6, 3)
    rng = np.random.default_rng(3)
    expected, total = np.zeros((6, 3)), (x * 0.0).sum()
    for name in names:
        key = KEYS[name]
        weights = rng.standard_normal(x.data[key].shape)
        np.add.at(expected, key, weights)
        total = total + (x[key] * weights).sum()
    total.backward()
    np.testing.assert_allclose(gradients(x)[0], expected, rtol=1e-12, atol=1e-14)


def test_slices_by_tensors_and_by_every_row() -> None:
    x = leaf(6, 3)
    rows = [x[t] * float(t + 1) for t in range(6)] + [x[tg.tensor([1, 1])].sum(axis=0), x[tg.tensor(-2)]]
    tg.stack(rows).sum().backward()
    np.testing.assert_array_equal(gradients(x)[0][:, 0], [1, 2 + 2, 3, 4, 5 + 1, 6])


def test_slices_of_a_tensor_that_is_no_leaf() -> None:
    x = leaf(6, 3)
    y = x.sin()
    (y[0] * y[-1] + y[0:2].sum(axis=0)).sum().backward()
    weights = np.zeros((6, 3))
    weights[:2] += 1
    weights[0] += np.sin(x.data[-1])
    weights[-1] += np.sin(x.data[0])
    np.testing.assert_allclose(gradients(x)[0], weights * np.cos(x.data), rtol=1e-12)


# ---- dtypes ----


def test_each_leaf_gets_gradients_of_its_own_dtype() -> None:
    narrow, wide = leaf(4, 3, dtype=np.float32), leaf(5, 3)
    h = tg.linear(wide, narrow)
    assert h.dtype == np.float64
    (tg.linear(h @ narrow, narrow).sum() + narrow[0].sum() + (narrow * wide[1:]).sum()).backward()
    assert (narrow.grad.dtype, wide.grad.dtype) == (np.float32, np.float64)
    w, x = narrow.data.astype(np.float64), wide.data
    ones = np.ones((5, 4))
    g_h = ones @ w @ w.T
    expected = g_h.T @ x + (x @ w.T).T @ (ones @ w) + ones.T @ (x @ w.T @ w) + x[1:]
    expected[0] += 1
    np.testing.assert_allclose(narrow.grad.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_astype_sends_the_gradient_back_in_the_old_dtype() -> None:
    x = leaf(3, dtype=np.float32)
    (x.astype("float64") * x).sum().backward()
    (g,) = gradients(x)
    assert g.dtype == np.float32
    np.testing.assert_allclose(g, 2 * x.data, rtol=1e-6)


def test_a_wider_gradient_to_start_from_is_narrowed() -> None:
    x = leaf(3, dtype=np.float32)
    (x * 2).backward(np.ones(3))
    (x * 2).backward(tg.ones(3, dtype="float64"))
    (g,) = gradients(x)
    assert_equal([g], [np.full(3, 4, np.float32)])


# ---- where a slope is 0 and a gradient infinite ----


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: tg.sqrt(tg.relu(x)), [0, 0.25]),
        (lambda x: tg.sqrt(x.clip(0, 10)), [0, 0.25]),
        (lambda x: tg.log(x.clip(0, 10)), [0, 0.25]),
        (lambda x: (x - x).std() + x, [1, 1]),
    ],
)
def test_what_has_no_slope_gets_0_and_not_nan(function: Any, expected: list[float]) -> None:
    x = tg.tensor([-1.0, 4.0], requires_grad=True)
    with np.errstate(all="ignore"):
        function(x).sum().backward()
    assert gradients(x)[0].tolist() == expected


def test_slopes_far_below_1_have_all_their_digits() -> None:
    x = np.array([-200.0, -20.0, -10.0, 0.0, 10.0, np.inf, -np.inf], np.float32)
    expected = [0, 2.0611536e-9, 4.539787e-5, 0.5, 0.9999546, 1, 0]
    for function in (tg.softplus, lambda x: tg.logaddexp(x, 0.0)):
        t = tg.tensor(x, requires_grad=True)
        np.testing.assert_allclose(tg.grad(function(t).sum(), t).numpy(), expected, rtol=1e-6)


def test_the_mean_of_more_numbers_than_float16_can_count() -> None:
    x = tg.ones(70_000, dtype="float16", requires_grad=True)
    np.testing.assert_allclose(tg.grad(x.mean(), x).numpy(), 1 / 70_000, rtol=1e-2)
