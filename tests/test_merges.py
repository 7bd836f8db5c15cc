"""Many uses of one array: their gradients add up, also where a merge combines them, and at order two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_same, cotangents, leaf
from samples import ARRAY_KEYS, BASIC_KEYS, KEYS, ROOM
from sampling import normal

import tinygrad_rnn as tg
from tinygrad_rnn import tape
from tinygrad_rnn.plan import BoundRule
from tinygrad_rnn.record import Watcher
from tinygrad_rnn.tape import Leaf
from tinygrad_rnn.tensor import Tensor

Use = Callable[[Tensor], Tensor]


def assert_sum_of_single_uses(uses: Sequence[Use], x: np.ndarray) -> None:
    """The gradient of all uses of one tensor is the sum of those of each use alone."""
    whole = leaf(x)
    ys = [use(whole) for use in uses]
    vs = cotangents(ys)
    expected = np.zeros_like(x)
    for use, v in zip(uses, vs, strict=True):
        single = leaf(x)
        expected += tg.grad(use(single), single, v).array
    for create_graph in (False, True):
        assert_same(tg.grad(ys, whole, vs, create_graph=create_graph, retain_graph=True), expected)
    ordinary = leaf(x)
    middle = ordinary * 2.0  # the merged gradient arrives at a node, and goes on from there
    assert_same(tg.grad([use(middle / 2.0) for use in uses], ordinary, vs), expected)
    assert_same(tg.grad([use(middle) for use in uses], middle, cotangents(ys)).shape, x.shape)


def slices(keys: Sequence[Any]) -> list[Use]:
    return [lambda x, key=key: x[key] for key in keys]


@pytest.mark.parametrize(
    "keys",
    [
        [0, 1, 2, 3],  # each element once: the buffer need not start from zeros
        [3, 1, 0, 2],
        [0, -4, 1, 1, -1],  # the same ones twice, by other names
        [0, 2],
        [0, 0],
        [1, slice(0, 2), slice(None), (slice(1, 3), 1)],
        [slice(0, 2), slice(1, 3), slice(0, 2)],
        [np.array([0, 0, 3]), 0, np.array([True, False, True, True]), [1, 1]],
        BASIC_KEYS,
        ARRAY_KEYS,
        KEYS + KEYS,
    ],
    ids=lambda keys: str(len(keys)),
)
def test_slices_of_one_array(keys: list[Any]) -> None:
    assert_sum_of_single_uses(slices(keys), ROOM)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(range(len(KEYS))), min_size=1, max_size=8))
def test_any_slices_of_one_array(numbers: list[int]) -> None:
    assert_sum_of_single_uses(slices([KEYS[i] for i in numbers]), ROOM)


def test_slices_at_order_two() -> None:
    mask = np.array([True, False, True])
    tg.check(
        lambda x: (x[0] * x[1], x[0] * x[-1], x[1:].sum() * x[mask], x[[2, 2]] * x[:2], x[..., 0] ** 3), normal(3, 4)
    )
    tg.check(lambda x: x[0] * x[1] * x[2], normal(3, 4))


def test_a_loop_over_time_is_one_buffer() -> None:
    x = tg.randn(5, 3, requires_grad=True)
    state = tg.zeros(3)
    for x_t in x:
        state = tg.tanh(state + x_t)
    loss = (state * state).sum()
    g = tg.grad(loss, x)
    tg.check(lambda x: loop(x), x)
    assert g.shape == x.shape


def loop(x: Tensor) -> Tensor:
    state = x[0]
    for t in range(1, len(x)):
        state = tg.tanh(state * x[t])
    return state


@pytest.mark.parametrize("shapes", [[(3,), (3,)], [(2, 3), (3,), (4, 2, 3)], [(0, 3), (2, 3)], [(1, 3)]])
def test_one_weight_for_many_inputs(shapes: list[tuple[int, ...]]) -> None:
    xs = [normal(*shape) for shape in shapes]
    assert_sum_of_single_uses([lambda w, x=x: tg.linear(x, w) for x in xs], normal(4, 3))
    # Where some inputs need gradients too, the uses belong to several plans, each with a merge of its own.
    leaves = [leaf(x) if k % 2 else tg.tensor(x) for k, x in enumerate(xs)]
    w, b = normal(4, 3), normal(4)
    assert_sum_of_single_uses([lambda w, x=x: tg.linear(x, w, b) for x in leaves], w)
    assert_sum_of_single_uses([lambda b, x=x: tg.linear(x, w, b) for x in xs], b)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (1, 3, 4)])
def test_one_factor_of_many_products(shape: tuple[int, ...]) -> None:
    factors = [normal(*batch, 2, 3) for batch in ((), (2,), (5, 2), (2,), (5, 1))]
    assert_sum_of_single_uses([lambda b, a=a: a @ b for a in factors], normal(*shape))


def test_what_waits_for_a_weight_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred uses are merged some at a time, in both kinds of walk; slices of a sequence still all at once."""
    monkeypatch.setattr("tinygrad_rnn.cotangents._LEAST", 0)
    for count in (99, 100):  # of which, three at a time, none are left at the end, or one
        xs = [normal(2, 3) + k for k in range(count)]
        assert_sum_of_single_uses([lambda w, x=x: tg.linear(x, w) for x in xs], normal(4, 3))
    merged: list[tuple[str, str]] = []

    class Merges(Watcher):
        def backward(self, rule: BoundRule, node: Any, contribution: Any) -> None:
            if isinstance(node, Leaf):
                merged.append((rule.op.name, rule.input))

    sequence, weight = leaf(normal(100, 2, 3)), leaf(normal(4, 3))
    loss = tg.stack([tg.linear(x, weight) for x in sequence]).sum()
    with tape.watching(Merges()):
        loss.backward()
    assert merged.count(("getitem", "x")) == 1
    assert merged.count(("linear", "weight")) == 34  # three hold more than four times what the weight does


def test_one_weight_at_order_two() -> None:
    def network(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        h = x
        for _ in range(3):
            h = tg.tanh(tg.linear(h, w, b))
        return h + tg.linear(x[0], w)

    tg.check(network, normal(2, 3), normal(3, 3), normal(3))


TWICE: dict[str, Use] = {
    "add": lambda x: x + x,
    "subtract": lambda x: x - x,
    "multiply": lambda x: x * x,
    "divide": lambda x: (x + 9.0) / (x + 9.0),
    "power": lambda x: (x * x + 1.0) ** x,
    "maximum": lambda x: tg.maximum(x, x.T),
    "where": lambda x: tg.where(x > 0, x, x),
    "product": lambda x: x @ x,
    "product of a transpose": lambda x: x.T @ x,
    "linear": lambda x: tg.linear(x, x, x[0]),
    "contract": lambda x: tg.einsum("ij,jk,ik->i", x, x, x),
    "stack": lambda x: tg.stack([x, x, x]),
    "join": lambda x: tg.concatenate([x, x[:1], x], axis=0),
    "scatter": lambda x: tg.ops.scatter(x, x, keys=(slice(0, 3), slice(1, 4)), shape=(4, 3)),
}


@pytest.mark.parametrize("name", TWICE)
def test_one_array_in_several_places_of_one_operation(name: str) -> None:
    x = normal(3, 3) + 0.5 * np.arange(9).reshape(3, 3)  # nothing equals its mirror image
    tg.check(TWICE[name], x)
    other = normal(2, 3)
    assert_sum_of_single_uses([TWICE[name], lambda x: x[1], lambda x: tg.linear(other, x), lambda x: x * 1.0], x)


@pytest.mark.parametrize("sections", [(2, 3), (3, 6), (6, 1)])
def test_splits_along_two_axes_and_into_other_counts(sections: tuple[int, int]) -> None:
    x = normal(6, 6)
    uses: list[Use] = [
        lambda x, n=n, axis=axis: tg.concatenate(tg.split(x, n, axis)) for n in sections for axis in (0, 1, -1)
    ]
    assert_sum_of_single_uses(uses, x)
    assert_sum_of_single_uses([lambda x: tg.split(x, sections[0])[-1], lambda x: tg.split(x, sections[1])[0]], x)


def test_gates_are_split_and_joined() -> None:
    def gates(z: Tensor) -> Tensor:
        i, f, g, o = tg.split(z, 4, axis=-1)
        return tg.sigmoid(o) * tg.tanh(tg.sigmoid(f) + tg.sigmoid(i) * tg.tanh(g))

    tg.check(gates, normal(2, 8))


def test_gradients_add_up_over_backward_passes() -> None:
    x = leaf(normal(3))
    for _ in range(3):
        (x * x).sum().backward()
    assert x.grad is not None
    assert_same(x.grad, 6 * x.array)


@pytest.mark.parametrize("sections", [[1, 3], [3, 1], [-2, 4], [2, 2], [0, 9], 5])
def test_parts_of_a_split_add_up(sections: int | list[int]) -> None:
    """Also where they overlap, are empty, count from the end, or reach past it."""
    x = tg.tensor(np.arange(10.0).reshape(2, 5), requires_grad=True)
    parts = tg.split(x, sections, axis=1)
    expected = np.zeros((2, 5))
    bounds = [0, *(sections if isinstance(sections, list) else range(1, 5)), 5]
    total = tg.tensor(0.0)
    for number, (part, start, stop) in enumerate(zip(parts, bounds, bounds[1:], strict=False), start=1):
        np.testing.assert_array_equal(part.numpy(), x.numpy()[:, start:stop])
        expected[:, start:stop] += number
        total = total + part.sum() * number
    total.backward()
    np.testing.assert_array_equal(x.grad.numpy(), expected)
