"""The tape: order, no recursion, marks, grad mode, threads."""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from graphs import assert_equal, gradients, leaf

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn, tape
from tinygrad_rnn.tape import GraphError

LONG = 200_000


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


def test_grad_mode_of_a_generator_holds_while_it_runs() -> None:
    told: list[Any] = []

    @tg.no_grad
    def steps(n: int) -> Any:
        for k in range(n):
            try:
                told.append((yield (k, tg.is_grad_enabled())))
            except KeyError:
                told.append("thrown")
        return "done"

    def all_of() -> Any:
        told.append((yield from steps(4)))

    walk = all_of()
    assert [next(walk), walk.send("sent"), walk.throw(KeyError())] == [(0, False), (1, False), (2, False)]
    assert tg.is_grad_enabled()
    assert next(walk) == (3, False)
    assert list(walk) == []
    assert told == ["sent", "thrown", None, None, "done"]
    with contextlib.closing(steps(2)) as walk:
        next(walk)
    assert tg.is_grad_enabled()
    assert tg.enable_grad(tg.is_grad_enabled)() is True


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
    assert in_threads(*[lambda seed=seed: repeat(seed) for seed in range(4)]) == []


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


def test_gradients_from_several_threads_add_up_in_a_leaf_that_they_share() -> None:
    x = leaf(100_000)  # the sum of two arrays of this size lets other threads run

    def accumulate() -> None:
        for _ in range(100):
            (x * 2.0).sum().backward()

    assert in_threads(*[accumulate] * 4) == []
    assert_equal(gradients(x), [np.full(x.shape, 800.0)])


def test_threads_meet_at_the_first_call_of_an_operation() -> None:
    """Whatever an operation puts off to its first call is done whole, or not seen."""
    for _ in range(30):

        @tg.op
        def first_met(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
            return x.sum(axis=axis, keepdims=keepdims)

        first_met.vjp(x=lambda g, x_shape: g + np.zeros(x_shape))
        xs = [leaf(2, 3) for _ in range(6)]
        assert in_threads(*[lambda x=x, f=first_met: f(x).backward() for x in xs]) == []
        assert_equal(gradients(*xs), [np.ones((2, 3))] * 6)


def test_a_graph_made_in_one_thread_is_differentiated_in_another() -> None:
    w = leaf(3)
    y = w.sin().sum()
    thread = threading.Thread(target=y.backward)
    thread.start()
    thread.join()
    assert_equal(gradients(w), [np.cos(w.data)])


def test_no_grad_decorates_what_runs_when_it_is_called() -> None:
    async def later() -> None: ...
    async def items() -> Any:
        yield 1

    for wrong in (later, items, tg.nn.Linear, True):
        for decorate in (tg.no_grad(), tg.enable_grad, tg.no_grad):
            with pytest.raises(TypeError, match="they decorate functions and generators"):
                decorate(wrong)
