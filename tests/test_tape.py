"""The tape: order, freeing, horizons, marks, grad mode, accumulation, and refusal of arrays that were overwritten."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn, optim, tape
from tinygrad_rnn.op import registry
from tinygrad_rnn.tape import GraphError

LONG = 200_000


def leaf(*shape: int, dtype: Any = np.float64) -> Tensor:
    return tg.randn(*shape, dtype=dtype, requires_grad=True)


def gradients(*leaves: Tensor) -> list[np.ndarray]:
    """The gradients of some leaves, which are then forgotten."""
    found = []
    for x in leaves:
        assert x.grad is not None
        found.append(x.grad.numpy())
        x.grad = None
    return found


def assert_equal(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Equal bit for bit."""
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e, strict=True)


def lstm_loss(cell: nn.LSTMCell, xs: np.ndarray) -> Tensor:
    outputs, state = bptt.unroll(cell, xs)
    return (outputs * outputs).mean() + state.c.sum()


# ---- order ----


def test_ids_grow_in_order_of_creation() -> None:
    x = leaf(3)
    nodes = [x.node]
    y = x
    for _ in range(10):
        y = y * 2
        nodes.append(y.node)
    ids = [node.id for node in nodes if node is not None]
    assert ids == sorted(set(ids))


def test_each_node_is_passed_once_and_after_all_of_its_users() -> None:
    passed: list[int] = []

    class Watcher:
        def forward(self, *_: Any) -> None: ...

        def backward(self, step: Any, node: Any, contribution: Any) -> None:
            passed.append(node.id)

    x = leaf(3)
    a = x.sin()
    b = a.exp()
    c = a * b
    d = (c + a).tanh() + b
    with tape.watching(Watcher()):
        d.sum().backward()
    assert passed == sorted(passed, reverse=True)
    assert d.node is not None
    assert passed[0] > d.node.id


def test_diamonds_cost_one_visit_each() -> None:
    """With a visit per path instead of one per node, 60 diamonds would take 2**60 visits."""
    x = tg.tensor(1.0, dtype="float64", requires_grad=True)
    y = x
    for _ in range(60):
        y = y + y
    y.backward()
    assert_equal(gradients(x), [np.array(2.0**60)])


# ---- no recursion ----


@contextmanager
def shallow_stack() -> Iterator[None]:
    """A recursion limit that no recursion over a graph survives."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(500)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def test_a_long_chain_forward_backward_and_freed() -> None:
    x = tg.tensor(1.5, dtype="float64", requires_grad=True)
    with shallow_stack():
        y = x
        for _ in range(LONG):
            y = y + 1.0
        y.backward()
        assert_equal(gradients(x), [np.array(1.0)])
        del y


def test_a_long_chain_freed_without_backward() -> None:
    x = tg.tensor(1.5, requires_grad=True)
    with shallow_stack():
        y = x
        for _ in range(LONG):
            y = -y
        last = weakref.ref(y)
        del y
    assert last() is None


def test_a_long_recurrence_forward_backward_and_freed() -> None:
    """h = tanh(h * w + x[t]), with x one leaf that is sliced at each step."""
    steps = LONG // 4  # four operations each
    w = tg.tensor([0.5], dtype="float64", requires_grad=True)
    xs = leaf(steps, 1)
    with shallow_stack():
        h = tg.zeros(1, dtype="float64")
        for t in range(steps):
            h = (h * w + xs[t]).tanh()
        h.sum().backward()
        del h
    g_w, g_xs = gradients(w, xs)

    h_before, g = np.zeros(steps + 1), np.zeros(steps)
    for t in range(steps):
        h_before[t + 1] = np.tanh(h_before[t] * 0.5 + xs.data[t, 0])
    back = 1.0
    for t in reversed(range(steps)):
        g[t] = back * (1 - h_before[t + 1] ** 2)
        back = g[t] * 0.5
    np.testing.assert_allclose(g_xs[:, 0], g, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(g_w[0], g @ h_before[:-1], rtol=1e-9)


def test_a_long_chain_differentiated_twice() -> None:
    x = tg.tensor(1.0, dtype="float64", requires_grad=True)
    n = 20_000
    with shallow_stack():
        y = x * x
        for _ in range(n):
            y = y * 1.0
        g = tg.grad(y, x, create_graph=True)
        assert tg.grad(g, x).item() == 2.0
        del y, g


# ---- freeing ----


@contextmanager
def no_garbage() -> Iterator[None]:
    """What was made and dropped inside was freed by counting references: nothing is left for the cycle collector."""
    gc.collect()
    gc.disable()
    try:
        yield
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_dropping_a_graph_before_backward_leaves_no_cycle() -> None:
    cell, xs = nn.LSTMCell(3, 4), np.ones((6, 2, 3), np.float32)
    lstm_loss(cell, xs)  # makes the plans
    with no_garbage():
        loss = lstm_loss(cell, xs)
        del loss


def test_dropping_a_graph_after_backward_leaves_no_cycle() -> None:
    cell, xs = nn.LSTMCell(3, 4), np.ones((6, 2, 3), np.float32)
    lstm_loss(cell, xs).backward()
    with no_garbage():
        loss = lstm_loss(cell, xs)
        loss.backward(retain_graph=True)
        loss.backward()
        del loss
        cell.zero_grad()


def test_dropping_a_graph_of_gradients_leaves_no_cycle() -> None:
    cell, xs = nn.LSTMCell(3, 4), np.ones((6, 2, 3), np.float32)
    parameters = list(cell.parameters())

    def penalty() -> Tensor:
        return sum((g * g).sum() for g in tg.grad(lstm_loss(cell, xs), parameters, create_graph=True))

    tg.grad(penalty(), parameters)
    with no_garbage():
        first, second = penalty(), penalty()
        grads = tg.grad(second, parameters)
        del first, second, grads


def test_a_refused_backward_leaves_no_cycle() -> None:
    x = leaf(3)
    y = x.sin().sum()
    y.backward()
    with pytest.raises(GraphError):
        y.backward()
    with no_garbage():
        z = x.sin().sum()
        z.backward()
        with suppress(GraphError):
            z.backward()
        del z


def test_what_no_rule_names_is_freed_at_once() -> None:
    x = leaf(3)
    y = x * 2
    alive = weakref.ref(y.data)
    z = y.tanh()  # its rule names the output, not the input
    del y
    assert alive() is None
    z.sum().backward()


def test_backward_frees_what_it_passed() -> None:
    x = leaf(3)
    y = x.tanh()
    alive = weakref.ref(y.data)
    loss = y.sum()
    del y
    assert alive() is not None
    loss.backward()
    assert alive() is None


def test_retain_graph_keeps_what_was_saved() -> None:
    x = leaf(3)
    loss = x.tanh().sum()
    loss.backward(retain_graph=True)
    (once,) = gradients(x)
    loss.backward()
    assert_equal(gradients(x), [once])


# ---- a graph that is gone ----


def test_a_state_carried_past_its_backward_is_refused_with_the_cure() -> None:
    cell = nn.RNNCell(3, 4)
    xs = np.ones((5, 2, 3), np.float32)
    outputs, state = bptt.unroll(cell, xs)
    outputs.sum().backward()
    before = [p.grad.numpy() for p in cell.parameters() if p.grad is not None]
    outputs, state = bptt.unroll(cell, xs, state)
    with pytest.raises(GraphError) as caught:
        outputs.sum().backward()
    message = str(caught.value)
    assert "tanh#" in message  # the operation
    assert "[2, 4]" in message  # the tensor's shape
    assert "time step 4" in message
    assert "detach" in message
    assert "retain_graph=True" in message
    assert_equal(gradients(*cell.parameters()), before)


def test_a_second_backward_touches_no_gradient() -> None:
    """Also not of leaves that are met before the freed part of the graph."""
    x, late = leaf(3), leaf(3)
    shared = x.sin()
    (shared * 2).sum().backward()
    before = gradients(x)
    mixed = (shared * late).sum() + (late * late).sum()
    with pytest.raises(GraphError, match="sin#"):
        mixed.backward()
    assert late.grad is None
    assert x.grad is None
    assert before


def test_a_refused_backward_keeps_older_gradients_as_they_were() -> None:
    x = leaf(3)
    y = x.sin()
    y.sum().backward()
    assert x.grad is not None
    kept, values = x.grad, x.grad.numpy()
    with pytest.raises(GraphError):
        (y.sum() + (x * x).sum()).backward()
    assert x.grad is kept
    assert_equal([x.grad.numpy()], [values])


def test_detached_windows_go_on_for_ever() -> None:
    cell, state = nn.LSTMCell(3, 4), None
    for _ in range(3):
        outputs, state = bptt.unroll(cell, np.ones((5, 2, 3), np.float32), state)
        outputs.sum().backward()
        state = bptt.detach(state)


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
    assert x.grad is not None
    assert not x.grad.requires_grad


# ---- horizons ----


def run_cell(cell: nn.Module, xs: np.ndarray, cut: int, detach: bool) -> tuple[Tensor, int]:
    """The sum of outputs from step ``cut`` on, and the mark set there; with ``detach`` the state is cut there too."""
    state = cell.initial_state(Tensor.wrap(np.zeros((xs.shape[1], 1))))  # type: ignore[operator]
    loss, mark = None, 0
    for t, x in enumerate(xs):
        if t == cut:
            mark = tape.mark(t)
            state = bptt.detach(state) if detach else state
        output, state = cell(x, state)
        if t >= cut:
            loss = output.sum() if loss is None else loss + (output * output).sum()
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
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), 2 * h.data * w.data, rtol=1e-14)
    (again,) = tg.grad([w.grad.sum()], [w])  # h is reached again: it is part of the graph, only not of the first walk
    np.testing.assert_allclose(again.numpy(), 2 * h.data + 6 * w.data, rtol=1e-14)


# ---- marks ----


def test_every_node_knows_its_time_step() -> None:
    x = leaf(2)
    made = [x * 1.0]
    for t in (7, 8, 9):
        tape.mark(t)
        made.append(x * 1.0)
    tape.mark()
    made.append(x * 1.0)
    assert [tape.step_of(y.node.id) for y in made if y.node is not None] == [None, 7, 8, 9, None]


def test_unroll_marks_its_steps_and_closes_the_last_also_when_it_fails() -> None:
    class Failing(nn.RNNCell):
        def step(self, z: Any, state: Any) -> Any:
            steps.append(tape.step_of(sys.maxsize))
            if len(steps) == 3:
                raise RuntimeError("enough")
            return super().step(z, state)

    steps: list[int | None] = []
    with pytest.raises(RuntimeError, match="enough"):
        bptt.unroll(Failing(3, 4), np.ones((5, 2, 3), np.float32))
    assert steps == [0, 1, 2]
    assert tape.step_of(sys.maxsize) is None


def test_an_unroll_within_a_step_leaves_the_outer_step_marked() -> None:
    """A hierarchical RNN: one step of the outer cell runs an inner one over its own time."""

    class Outer(nn.RNNCell):
        def step(self, z: Any, state: Any) -> Any:
            bptt.unroll(inner, np.ones((2, 1, 3), np.float32))
            steps.append(tape.step_of(sys.maxsize))
            return super().step(z, state)

    inner, steps = nn.RNNCell(3, 4), []
    bptt.unroll(Outer(3, 4), np.ones((3, 1, 3), np.float32))
    assert steps == [0, 1, 2]


def test_marks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "_MARKS_KEPT", 64)

    def run() -> None:  # in a thread of its own, as marks belong to threads
        ids = []
        for t in range(1000):
            tape.mark(t)
            ids.append(tape.clock())
        found.append([tape.step_of(i) for i in ids])
        found.append([len(tape.state.marks), len(tape.state.steps)])

    found: list[list[Any]] = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    steps, (marks, numbers) = found
    assert marks == numbers <= 64
    assert steps[-32:] == list(range(968, 1000))
    assert all(step in (None, t) for t, step in enumerate(steps))


# ---- grad mode ----


def test_no_grad_records_nothing_and_is_undone() -> None:
    x = leaf(3)
    with tg.no_grad():
        assert not tg.is_grad_enabled()
        assert not (x * 2).requires_grad
        with tg.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_grad_mode_is_restored_after_exceptions() -> None:
    for mode in (tg.no_grad, tg.enable_grad):
        for before in (tg.no_grad, tg.enable_grad):
            with before():
                enabled = tg.is_grad_enabled()
                with pytest.raises(ZeroDivisionError), mode():
                    raise ZeroDivisionError
                assert tg.is_grad_enabled() is enabled


def test_grad_mode_as_a_decorator() -> None:
    @tg.no_grad()
    def evaluate(depth: int) -> bool:
        return tg.is_grad_enabled() or (depth > 0 and evaluate(depth - 1))

    @tg.no_grad()
    def fail() -> None:
        raise ZeroDivisionError

    assert evaluate(3) is False
    with pytest.raises(ZeroDivisionError):
        fail()
    assert tg.is_grad_enabled()


def test_one_grad_mode_object_used_within_itself() -> None:
    quiet = tg.no_grad()
    with quiet:
        with quiet:
            assert not tg.is_grad_enabled()
        assert not tg.is_grad_enabled()
    assert tg.is_grad_enabled()


def test_grad_mode_belongs_to_its_thread() -> None:
    seen: list[bool] = []
    with tg.no_grad():
        thread = threading.Thread(target=lambda: seen.append(tg.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_a_failing_derivative_restores_grad_mode() -> None:
    with tg.no_grad():
        with pytest.raises(GraphError):
            tg.hvp(lambda x: x * 2, np.ones(3), np.ones(3))
        assert not tg.is_grad_enabled()


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
        assert x.grad is not None
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
    assert x.grad is not None
    assert z.grad is not None
    before = z.grad.numpy()
    x.grad.data[...] = 7.0  # must be writeable, too
    assert_equal([z.grad.numpy()], [before])


def test_the_gradient_that_backward_starts_from_is_not_shared() -> None:
    x, seed = leaf(3), tg.ones(3, dtype="float64")
    x.backward(seed)
    assert x.grad is not None
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
    assert x.grad is not None
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


# ---- arrays that were overwritten ----


def test_a_write_into_a_leaf_that_a_live_graph_saved_is_refused() -> None:
    w, v = leaf(3), leaf(3)
    y = (w * v).sum()
    with tg.no_grad():
        w.data -= 0.1
    with pytest.raises(GraphError, match=r"multiply#.*changed in place"):
        y.backward()
    assert w.grad is None
    assert v.grad is None


@pytest.mark.parametrize(
    "use",
    [lambda v, w: v + w, lambda v, w: w * 1.0, lambda v, w: tg.stack([v, w]), lambda v, w: tg.concatenate([v, w])],
    ids=["add", "scale", "stack", "concatenate"],
)
def test_a_write_into_a_leaf_whose_values_no_rule_needs_is_allowed(use: Callable[[Tensor, Tensor], Tensor]) -> None:
    v, w = leaf(3), leaf(3)
    y = use(v, w).sum()
    w.data -= 0.1
    y.backward()
    assert_equal(gradients(w), [np.ones(3)])


def test_a_write_before_the_graph_is_allowed() -> None:
    w = leaf(3)
    w.data -= 0.1
    (w * w).sum().backward()
    assert_equal(gradients(w), [2 * w.data])


def test_a_new_array_leaves_the_older_graph_exact() -> None:
    w, v = leaf(3), leaf(3)
    old = w.numpy()
    y = (w * v).sum()
    w.data = w.data - 0.1
    y.backward()
    assert_equal(gradients(w, v), [v.data, old])


def through_an_alias(w: Tensor) -> None:
    alias = w.detach()
    alias.data -= 0.1


def through_itself(w: Tensor) -> None:
    w.data -= 0.1


@pytest.mark.parametrize("write", [through_itself, through_an_alias])
@pytest.mark.parametrize(
    "use",
    [
        lambda v, w: (v * w).sum(),
        lambda v, w: (v @ w.T).sum(),
        lambda v, w: (v * w.reshape(9).reshape(3, 3)).sum(),
        lambda v, w: (v * w[0]).sum(),
        lambda v, w: (v * w[:, ::-1]).sum(),
        lambda v, w: tg.einsum("ij,ij->", v, w),
        lambda v, w: tg.linear(v, w).sum(),
        lambda v, w: (tg.split(w, 3, axis=1)[0] * v).sum(),
        lambda v, w: (v.reshape(9, 1, 1) * w[0].broadcast_to(shape=(2, 3))).sum(),
        lambda v, w: tg.conv2d(w.reshape(1, 1, 3, 3), v[:2, :2].reshape(1, 1, 2, 2)).sum() + v.sum(),
    ],
    ids=["leaf", "transposed", "reshaped", "row", "flipped", "einsum", "linear", "split", "broadcast", "windows"],
)
@pytest.mark.parametrize("trainable", [True, False], ids=["leaf", "constant"])
def test_old_and_new_values_never_mix(
    use: Callable[[Tensor, Tensor], Tensor], write: Callable[[Tensor], None], trainable: bool
) -> None:
    """After a write through ``data`` backward raises or is exact, whichever view of the array the graph saved."""
    v, w = leaf(3, 3), leaf(3, 3)
    w.requires_grad = trainable
    use(v, w).backward()
    (expected,) = gradients(v)
    y = use(v, w)
    write(w)
    try:
        y.backward()
    except GraphError:
        assert v.grad is None
    else:
        np.testing.assert_allclose(gradients(v)[0], expected, rtol=1e-12)


@pytest.mark.parametrize(
    "write",
    [lambda w: (w * 5.0).sum().backward(), lambda w: tg.clip_grad_norm_([w], 1e-3)],
    ids=["accumulation", "clipping"],
)
def test_a_gradient_that_a_graph_saved_is_not_changed(write: Callable[[Tensor], Any]) -> None:
    """``w * w.grad`` saves the gradient's array, which the next backward adds to and which clipping scales."""
    w = leaf(3)
    w.sin().sum().backward()
    assert w.grad is not None
    slope = w.grad.numpy()
    penalty = (w * w.grad).sum()
    write(w)
    try:
        (g,) = tg.grad([penalty], [w])
    except GraphError:
        return
    assert_equal([g.numpy()], [slope])


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam, optim.RMSprop, optim.Adagrad, optim.AdamW])
def test_an_optimiser_step_inside_a_window_leaves_the_older_graph_exact(optimizer: Any) -> None:
    cell = nn.LSTMCell(3, 4, dtype="float64")
    xs = np.random.default_rng(2).standard_normal((6, 2, 3))
    opt = optimizer(cell.parameters(), lr=0.1)

    def losses() -> tuple[Tensor, Tensor]:
        outputs, _ = bptt.unroll(cell, xs)
        return outputs[:3].sum(), outputs.sum()

    start = cell.state_dict()
    early, late = losses()
    late.backward()
    expected = gradients(*cell.parameters())
    early, late = losses()
    early.backward(retain_graph=True)
    opt.step()
    assert any((cell.state_dict()[name] != start[name]).any() for name in start)
    opt.zero_grad()
    late.backward()
    assert_equal(gradients(*cell.parameters()), expected)


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
    assert narrow.grad is not None
    assert wide.grad is not None
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


# ---- threads ----


def in_threads(*tasks: Callable[[], None]) -> list[BaseException]:
    """Run all tasks at once, switching between them as often as can be; what they raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], None]) -> None:
        try:
            barrier.wait()
            task()
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return errors


def test_threads_build_and_differentiate_graphs_at_the_same_time() -> None:
    def work(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        w, xs = (tg.tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((4, 4), (30, 2, 4)))
        h = tg.zeros(2, 4, dtype="float64")
        for t in range(30):
            tape.mark(t)
            h = (tg.linear(h, w) + xs[t]).tanh()
        assert h.node is not None
        assert tape.step_of(h.node.id) == 29
        tape.mark()
        (g,) = tg.grad([h.sum()], [w], create_graph=True)
        (g * g).sum().backward()
        return gradients(w, xs)

    def repeat(seed: int) -> None:
        for _ in range(5):
            with tg.no_grad() if seed % 2 else tg.enable_grad():
                assert tg.is_grad_enabled() is (seed % 2 == 0)
            assert_equal(work(seed), expected[seed])

    expected = [work(seed) for seed in range(4)]
    assert in_threads(*[lambda seed=seed: repeat(seed) for seed in range(4)]) == []  # type: ignore[misc]


def test_two_threads_differentiate_one_graph_that_is_kept() -> None:
    x = leaf(3, 4)
    h = x
    for _ in range(100):
        h = (h * 1.01).tanh() + x * x
    losses = (h * 2.0).sum(), (h * -3.0).sum()
    expected = [tg.grad(loss, x, retain_graph=True).numpy() for loss in losses]

    def differentiate(k: int) -> None:
        for _ in range(30):
            assert_equal([tg.grad(losses[k], x, retain_graph=True).numpy()], [expected[k]])

    assert in_threads(lambda: differentiate(0), lambda: differentiate(1)) == []


def test_threads_meet_at_the_first_call_of_an_operation() -> None:
    """Whatever an operation puts off to its first call is done whole, or not seen."""
    try:
        for _ in range(30):

            @tg.op
            def first_met(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
                return x.sum(axis=axis, keepdims=keepdims)

            first_met.vjp(x=lambda g, x_shape: g + np.zeros(x_shape))
            xs = [leaf(2, 3) for _ in range(6)]
            assert in_threads(*[lambda x=x, f=first_met: f(x).backward() for x in xs]) == []  # type: ignore[misc]
            assert_equal(gradients(*xs), [np.ones((2, 3))] * 6)
    finally:
        del registry["first_met"]


def test_a_graph_made_in_one_thread_is_differentiated_in_another() -> None:
    w = leaf(3)
    y = w.sin().sum()
    thread = threading.Thread(target=y.backward)
    thread.start()
    thread.join()
    assert_equal(gradients(w), [np.cos(w.data)])


# ---- copies ----


def test_a_copy_of_a_leaf_is_a_leaf_of_its_own() -> None:
    """Two leaves must never share an id: their gradients would flow together."""
    w = leaf(3)
    for other in (copy.deepcopy(w), pickle.loads(pickle.dumps(w)), copy.copy(w)):
        (w * 2 + other * 5).sum().backward()
        if other.node is w.node:  # a shallow copy may stand for the same leaf
            assert_equal(gradients(w), [np.full(3, 7.0)])
        else:
            assert_equal(gradients(w, other), [np.full(3, 2.0), np.full(3, 5.0)])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_result_keeps_its_history_or_is_refused(duplicate: Callable[[Tensor], Tensor]) -> None:
    w = leaf(3)
    y = w * 2
    try:
        other = duplicate(y)
    except GraphError:
        return
    other.sum().backward()
    assert_equal(gradients(w), [np.full(3, 2.0)])
