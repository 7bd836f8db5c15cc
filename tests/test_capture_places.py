"""Captured steps that once gave wrong numbers, or none: what lies in whose place, and what a step begins with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import strict
from test_capture import equal

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.tree import tree_map


def both(x: Any) -> Any:
    a, b = tg.tanh(x), tg.exp(x)
    return tg.stack([a[t] * b[t] for t in range(4)])  # only one of the two may lie where the products will


def returned_too(x: Any) -> Any:
    a = tg.tanh(x)
    return tg.stack([a[t] * 2 for t in range(4)]), a[0]


def read_later(x: Any, w: Any) -> Any:
    w.grad = None
    h = [tg.tanh(x[0])]
    for _ in range(2):
        h.append(tg.tanh(h[-1] + x[0]))
    (tg.stack(h) * w * x.sum()).sum().backward()
    return h[0] * 2, w.grad  # a piece of the stack, which may lie in the gradient's array no longer than that


def across_gaps(x: Any) -> Any:
    z = tg.tanh(x)
    return tg.stack([-z[t] for t in range(4)], axis=-1)  # which NumPy's own negative gets wrong


@pytest.mark.parametrize("step", [both, returned_too, read_later, across_gaps])
@pytest.mark.parametrize("columns", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_nothing_is_written_over_before_it_is_read(step: Any, columns: int, dtype: str) -> None:
    w = tg.ones(3, columns, dtype=dtype, requires_grad=True)
    run = (lambda x: read_later(x, w)) if step is read_later else step
    captured = tg.capture(run, exact=True)
    for k in range(4):
        x = tg.tensor(np.linspace(-1, 1, 4 * columns, dtype=dtype).reshape(4, columns) + np.array(k, dtype))
        found = tree_map(lambda t: t.numpy(), captured(x))
        equal(found, tree_map(lambda t: t.numpy(), run(x)))


def test_what_is_read_backwards_at_batch_1_is_equal_to_the_last_bit() -> None:
    for seed in range(20):
        tg.manual_seed(seed)
        model = nn.Recurrent(nn.RNNCell(1, 3), reverse=True)
        w = model.cell.weight_ih

        def step(x: Any, model: Any = model, w: Any = w) -> None:
            w.grad = None
            (model(x)[0] ** 2).sum().backward()

        captured, random = tg.capture(step, exact=True), np.random.default_rng(seed)
        for _ in range(3):
            x = tg.tensor(random.standard_normal((6, 1, 1), dtype=np.float32))
            captured(x)
            found = w.grad.numpy()
            step(x)
            equal(found, w.grad.numpy())


def test_a_step_may_begin_with_gradients_and_end_without() -> None:
    """As the last part of one that accumulates them does."""
    results = []
    for capture in (lambda f: f, tg.capture):
        w = tg.ones(3, requires_grad=True)
        optimizer = optim.SGD([w], lr=0.1, momentum=0.9)

        def apply(w: Any = w, optimizer: Any = optimizer) -> None:
            tg.clip_grad_norm_([w], 1.0)
            optimizer.step()
            optimizer.zero_grad()

        made = capture(apply)
        for _ in range(5):
            (w * w).sum().backward()
            made()
            assert w.grad is None
        results.append(w.numpy())
    equal(*results)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("then", [lambda x: x, lambda x: x * 0.5, lambda x: -x, lambda x: x / 4])
@pytest.mark.parametrize("backend", ["numpy", "strict"])
def test_a_loss_times_a_number_that_changes(backend: str, then: Any, dtype: str) -> None:
    """Its derivative times that number is one more number at first, which NumPy makes no array of."""
    with strict.registered():
        w = tg.ones(3, 3, dtype=dtype, backend=backend, requires_grad=True)

        def step(x: Any, scale: float) -> Any:
            w.grad = None
            loss = then((x @ w).mean() * scale)
            loss.backward()
            return loss

        captured = tg.capture(step, exact=True)
        for k in range(5):
            x = tg.tensor(np.ones((2, 3), dtype) * k, backend=backend)
            found, expected = ((run(x, 1.0 + k).numpy(), w.grad.numpy()) for run in (captured, step))
            equal(found, expected)
        assert sum(captured._recorded.values()) == 1
