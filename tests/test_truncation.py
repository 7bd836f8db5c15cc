"""Truncated BPTT: each k1 and k2 against the lag map, hand-written BPTT and PyTorch; and what it refuses."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from closeness import close, drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrences import CELLS, gradients, model, moving_rnn, reached

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, flow, nn, optim, tape
from tinygrad_rnn.tape import GraphError, Node
from tinygrad_rnn.tree import tree_leaves
from tinygrad_rnn.whereabouts import ShapeError

# ---- what it computes ----


@given(
    name=st.sampled_from(sorted(CELLS)),
    steps=st.integers(1, 9),
    k1=st.integers(1, 10),
    k2=st.none() | st.integers(1, 10),
    recompute=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_each_window_is_the_lag_map_with_far_lags_masked(
    name: str, steps: int, k1: int, k2: int | None, recompute: bool
) -> None:
    module, step = model(CELLS[name]())
    xs = drawn(steps, 2)
    lags = flow.gradient_by_lag(step, xs, None, module, keep=True)
    windows = bptt.truncated(step, xs, None, k1, k2, recompute=recompute)
    for window, (start, stop, factors) in zip(windows, reached(steps, k1, k2), strict=True):
        assert (window.start, window.stop, window.steps) == (start, stop, stop - start)
        assert window.reach == (start if k2 is None else max(0, stop - k2))
        window.backward()
        found = gradients(module)
        for key, expected in lags.masked(factors).items():
            close(found[key], expected, 1e-12)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_losses_and_states_are_those_of_the_loop(name: str, recompute: bool) -> None:
    _, step = model(CELLS[name]())
    xs = drawn(11, 2)
    state, losses = None, []
    for window in bptt.truncated(step, xs, None, 3, 5, recompute=recompute):
        for x in xs[window.start : window.stop]:
            loss, state = step(x, state)
            losses.append(loss.item())
        np.testing.assert_array_equal(window.losses.numpy(), losses[window.start :])
        assert window.loss.item() == pytest.approx(np.mean(losses[window.start :]), rel=1e-14)
        found, expected = tree_leaves(window.state), tree_leaves(state)
        for a, b in zip(found, expected, strict=True):
            assert not getattr(a, "requires_grad", False)
            np.testing.assert_array_equal(getattr(a, "data", a), getattr(b, "data", b))


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (1, 2), (3, 1), (2, 3), (3, None), (3, 2)])
def test_losses_that_come_a_step_late(k1: int, k2: int | None) -> None:
    """The loss of step t is made in step t - 1 and carried in the state; what made it may be out of reach by then."""
    module, prompt = model(CELLS["rnn"]())

    def step(x: Any, carried: Any) -> tuple[Tensor, Any]:
        late, h = carried
        loss, h = prompt(x, h)
        return late, (loss, h)

    xs, start = drawn(7, 2), (tg.zeros((), dtype="float64"), tg.zeros(1, 3, dtype="float64"))
    lags = flow.gradient_by_lag(step, xs, start, module, keep=True)
    for window, (_, _, factors) in zip(bptt.truncated(step, xs, start, k1, k2), reached(7, k1, k2), strict=True):
        expected = lags.masked(factors)
        if any(g.any() for g in expected.values()):
            window.backward()
        for key, g in gradients(module).items():
            close(g, expected[key], 1e-12)


def by_hand(
    w: np.ndarray, v: np.ndarray, xs: np.ndarray, ys: np.ndarray, k1: int, k2: int | None
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Truncated BPTT of h_t = tanh(W h_{t-1} + V x_t), l_t = |h_t - y_t|^2 / 2, in NumPy: loss, dW and dV by window."""
    hs = [np.zeros(len(w))]
    for x in xs:
        hs.append(np.tanh(w @ hs[-1] + v @ x))
    for start in range(0, len(xs), k1):
        stop = min(start + k1, len(xs))
        loss = np.mean([((hs[t + 1] - ys[t]) ** 2).sum() / 2 for t in range(start, stop)])
        dw, dv, dh = np.zeros_like(w), np.zeros_like(v), np.zeros(len(w))
        for s in range(stop - 1, max(0, start if k2 is None else stop - k2) - 1, -1):
            if s >= start:
                dh += (hs[s + 1] - ys[s]) / (stop - start)
            da = dh * (1 - hs[s + 1] ** 2)
            dw += np.outer(da, hs[s])
            dv += np.outer(da, xs[s])
            dh = w.T @ da
        yield float(loss), dw, dv


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (1, 4), (4, 4), (4, None), (3, 7), (2, 6), (5, 2), (4, 20)])
def test_it_is_what_one_would_write_by_hand(k1: int, k2: int | None) -> None:
    w, v = nn.parameter(drawn(4, 4) / 2), nn.parameter(drawn(4, 3))
    xs, ys = drawn(17, 3), drawn(17, 4)

    def step(pair: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        x, y = pair
        h = tg.tanh(w @ h + v @ x)
        return ((h - y) ** 2).sum() / 2, h

    stream = bptt.truncated(step, zip(xs, ys, strict=True), tg.zeros(4, dtype="float64"), k1, k2)
    for window, (loss, dw, dv) in zip(stream, by_hand(w.data, v.data, xs, ys, k1, k2), strict=True):
        window.backward()
        close(window.loss, loss, 1e-12)
        close(w.grad, dw, 1e-12)
        close(v.grad, dv, 1e-12)
        w.grad = v.grad = None


def test_training_with_chunks_is_pytorchs() -> None:
    """Losses of every window, with SGD between them, k1 = k2."""
    torch = pytest.importorskip("torch")
    cell, theirs = nn.LSTMCell(2, 5, dtype="float64"), torch.nn.LSTMCell(2, 5, dtype=torch.float64)
    nn.load_torch_state_dict(cell, {name: p.detach().numpy() for name, p in theirs.state_dict().items()})
    xs = drawn(23, 4, 2)
    optimizer = optim.SGD(cell.parameters(), lr=0.2)
    # Two bias vectors that only ever add up move twice as far as one.
    groups = [{"params": [p], "lr": 0.1 if "bias" in name else 0.2} for name, p in theirs.named_parameters()]
    their_optimizer = torch.optim.SGD(groups)

    def step(x: Any, state: Any) -> tuple[Tensor, Any]:
        h, state = cell(x, state)
        return ((h.sum(axis=1) - x[:, 0]) ** 2).mean(), state

    state = None
    for window in bptt.truncated(step, xs, None, k1=5):
        optimizer.zero_grad()
        window.backward()
        optimizer.step()
        losses = []
        for x in torch.tensor(xs[window.start : window.stop]):
            state = theirs(x, state)
            losses.append(((state[0].sum(1) - x[:, 0]) ** 2).mean())
        their_optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        their_optimizer.step()
        state = tuple(s.detach() for s in state)
        close(window.losses, [loss.item() for loss in losses], 1e-11)
    close(window.state.c, state[1], 1e-11)


def test_weights_make_one_mean_of_all_windows() -> None:
    module, step = model(CELLS["gru"]())
    xs = drawn(11, 2)
    for window in bptt.truncated(step, xs, None, 4, 100):
        window.backward(window.steps / 11)
    found = gradients(module)
    for name, whole in flow.gradient_by_lag(step, xs, None, module).gradients.items():
        close(found[name], whole / 11, 1e-12)


# ---- parameters that change on the way ----


def test_by_default_each_step_is_differentiated_as_it_was_done() -> None:
    """By hand, with a list of the weights that each step used."""
    w, step, xs = moving_rnn()
    optimizer = optim.SGD([w], lr=0.1)
    hs, used = [np.zeros(3)], []
    for window in bptt.truncated(step, xs, tg.zeros(3, dtype="float64"), k1=2, k2=5):
        for s in range(window.start, window.stop):
            used.append(w.data)
            hs.append(np.tanh(used[s] @ hs[-1] + xs[s]))
        dw, dh = np.zeros((3, 3)), np.zeros(3)
        for s in range(window.stop - 1, window.reach - 1, -1):
            if s >= window.start:
                dh += 2 * hs[s + 1] / window.steps
            da = dh * (1 - hs[s + 1] ** 2)
            dw += np.outer(da, hs[s])
            dh = used[s].T @ da
        optimizer.zero_grad()
        window.backward()
        close(w.grad, dw, 1e-12)
        optimizer.step()
    assert not np.allclose(used[0], used[-1])


def test_recompute_is_the_gradient_at_the_present_parameters() -> None:
    """By hand: from the state that was kept, with today's weights, forward and back; finite differences agree too."""
    w, step, xs = moving_rnn()
    optimizer = optim.SGD([w], lr=0.1)
    kept = {0: np.zeros(3)}

    def mean_loss(weights: np.ndarray, window: bptt.Window) -> float:
        h, losses = kept[window.reach], []
        for s in range(window.reach, window.stop):
            h = np.tanh(weights @ h + xs[s])
            losses.append((h * h).sum())
        return float(np.mean(losses[-window.steps :]))

    for window in bptt.truncated(step, xs, tg.zeros(3, dtype="float64"), k1=2, k2=5, recompute=True):
        close(window.loss, mean_loss(w.data, window), 1e-12)
        optimizer.zero_grad()
        window.backward()
        assert w.grad is not None
        for i, j in product(range(3), range(3)):
            bump = np.zeros((3, 3))
            bump[i, j] = 1e-5
            slope = (mean_loss(w.data + bump, window) - mean_loss(w.data - bump, window)) / 2e-5
            assert w.grad.data[i, j] == pytest.approx(slope, rel=1e-6, abs=1e-9)
        for s in range(window.reach, window.stop):
            kept[s + 1] = np.tanh(w.data @ kept[s] + xs[s])
        np.testing.assert_allclose(window.state.data, kept[window.stop], rtol=1e-12)
        optimizer.step()


def test_a_change_in_place_is_refused() -> None:
    w, step, xs = moving_rnn()
    windows = bptt.truncated(step, xs, tg.zeros(3, dtype="float64"), k1=2, k2=5)
    next(windows).backward()
    w.grad = None
    w.data -= 0.1
    window = next(windows)
    with pytest.raises(GraphError, match=r"matmul#\d+ \[3, 1\], time step 1 saved 'a'.*changed in place"):
        window.backward()
    assert w.grad is None


def test_a_change_in_place_is_right_where_nothing_older_is_reached() -> None:
    for recompute, k2 in ((False, None), (True, 5)):
        w, step, xs = moving_rnn()
        for window in bptt.truncated(step, xs, tg.zeros(3, dtype="float64"), k1=2, k2=k2, recompute=recompute):
            window.backward()
            w.data -= 0.1


# ---- states and streams ----


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("tensors", [False, True])
def test_a_stream_may_fill_one_buffer_again_and_again(recompute: bool, tensors: bool) -> None:
    w, step, xs = moving_rnn()
    array = np.empty(3)
    buffer = tg.tensor(array) if tensors else array

    def filled() -> Iterator[Any]:
        for x in xs:
            if tensors:
                buffer.data = x.copy()
            else:
                array[:] = x
            yield buffer

    found = []
    for stream in (xs, filled()):
        w.grad = None
        for window in bptt.truncated(step, stream, tg.zeros(3, dtype="float64"), k1=2, k2=5, recompute=recompute):
            window.backward()
        found.append(w.grad.numpy())
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_initial_state_gets_its_gradient_while_it_is_reached(recompute: bool) -> None:
    _, step, xs = moving_rnn()
    h0 = nn.parameter(drawn(3))
    base = nn.parameter(drawn(3, seed=5))
    for start in (h0, base * 2):
        grown = []
        for window in bptt.truncated(step, xs, start, k1=2, k2=5, recompute=recompute):
            h0.grad = base.grad = None
            window.backward()
            grown.append(h0.grad is not None or base.grad is not None)
        assert grown == [True, True, False, False, False]
    whole = tg.grad(step(xs[0], base * 2)[0], base)
    base.grad = None
    next(bptt.truncated(step, xs, base * 2, k1=1)).backward()
    close(base.grad, whole, 1e-12)


def test_a_loss_may_be_a_parameter() -> None:
    """Its use is in the step that returns it, so those out of reach do not count."""
    w = nn.parameter(np.array(3.0))
    (window,) = bptt.truncated(lambda x, state: (w, state), range(3), None, 3, 2)
    window.backward()
    close(w.grad, 2 / 3, 1e-12)


def test_inputs_get_their_gradients() -> None:
    _, step, xs = moving_rnn()
    leaf = nn.parameter(xs)
    for window in bptt.truncated(step, leaf, tg.zeros(3, dtype="float64"), k1=3, k2=2):
        window.backward()
    assert [bool(g.any()) for g in leaf.grad.data] == [False, True, True] * 3


def test_a_stream_is_read_one_step_at_a_time() -> None:
    read = []

    def source() -> Iterator[np.ndarray]:
        for t in range(7):
            read.append(t)
            yield drawn(2)

    _, step = model(CELLS["rnn"]())
    for window in bptt.truncated(step, source(), None, 3, 5):
        assert len(read) == window.stop


def test_errors_name_the_step_of_the_stream() -> None:
    w = nn.parameter(drawn(2))
    stream = (drawn(3 if t == 57 else 2) for t in range(99))
    with pytest.raises(ShapeError, match=r"add: .*, time step 57, "):
        list(bptt.truncated(lambda x, h: ((w + x).sum(), h), stream, None, 5, 9))


def nodes_alive() -> int:
    return sum(type(x) is Node and bool(x) for x in gc.get_objects())


@pytest.mark.parametrize(
    ("k1", "k2", "recompute"), [(20, None, False), (20, 20, False), (7, 30, False), (30, 7, False), (7, 30, True)]
)
def test_a_long_stream_needs_the_memory_of_its_reach(k1: int, k2: int | None, recompute: bool) -> None:
    module, step = model(CELLS["lstm"]())
    optimizer = optim.SGD(module.parameters(), lr=1e-3)
    gc.collect()
    before, marks = nodes_alive(), len(tape.state.marks)
    per_step, reach = 40, k2 or k1
    peak = 0
    for window in bptt.truncated(step, (np.ones(2) for _ in range(600)), None, k1, k2, recompute=recompute):
        if window.start // k1 % 10 == 0:
            peak = max(peak, nodes_alive() - before)
        optimizer.zero_grad()
        window.backward()
        optimizer.step()
    assert peak < per_step * (max(k1, reach) + 1)
    assert len(tape.state.marks) - marks <= 2 * (k1 + reach) + 2
    assert nodes_alive() - before < per_step * (reach + 1)
    del window
    gc.collect()
    assert nodes_alive() == before
