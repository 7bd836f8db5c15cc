"""Truncated BPTT: each k1 and k2 against the lag map, hand-written BPTT and PyTorch; and what it refuses."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from closeness import close, drawn
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, flow, nn, optim, tape
from tinygrad_rnn.op import ShapeError
from tinygrad_rnn.tape import GraphError, Node
from tinygrad_rnn.tree import tree_leaves

Step = Callable[[Any, Any], tuple[Tensor, Any]]


class Memory(NamedTuple):
    """A state of many kinds of parts."""

    h: Any
    rest: Any


class Nested(nn.Module):
    """A user's own model: a weight that is used twice in a step, a delay line, a counter, None and a list as state."""

    def __init__(self) -> None:
        self.weight = nn.parameter(drawn(3, 3) / 2)
        self.weight_in = nn.parameter(drawn(3, 2, seed=1))

    def forward(self, x: Any, state: Any) -> tuple[Tensor, Any]:
        if state is None:
            zeros = tg.zeros(1, 3, dtype="float64")
            state = Memory(zeros, {"late": [zeros, zeros], "count": 0, "none": None})
        older, last = state.rest["late"]
        h = tg.tanh(tg.linear(state.h, self.weight) + tg.linear(older, self.weight) + tg.linear(x, self.weight_in))
        rest = {"late": [last, state.h], "count": state.rest["count"] + 1, "none": None}
        return h, Memory(h, rest)


CELLS: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: nn.RNNCell(2, 3, dtype="float64"),
    "lstm": lambda: nn.LSTMCell(2, 3, dtype="float64"),
    "gru": lambda: nn.GRUCell(2, 3, dtype="float64"),
    "peephole": lambda: nn.PeepholeLSTMCell(2, 3, dtype="float64"),
    "zoneout": lambda: nn.Residual(nn.GRUCell(2, 2, dtype="float64")),
    "own": Nested,
}


def model(cell: nn.Module) -> tuple[nn.Module, Step]:
    """A cell with a head that has parameters too, and its step with a loss that depends on x_t."""
    head = nn.parameter(drawn(getattr(cell, "output_size", 3), seed=2))

    def step(x: Any, state: Any) -> tuple[Tensor, Any]:
        y, state = cell(x[None], state)
        return ((y @ head).sum() - x[0]) ** 2 / 10, state

    both = nn.Module()
    both.cell, both.head = cell, head  # type: ignore[attr-defined]
    return both, step


def gradients(module: nn.Module) -> dict[str, np.ndarray]:
    """The gradients of all parameters, which are then forgotten."""
    found = {name: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for name, p in module.named_parameters()}
    module.zero_grad()
    return found


def reached(steps: int, k1: int, k2: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """By window: start, stop, and what it reaches by [t, s], as factors. Written from the definition, step by step."""
    for start in range(0, steps, k1):
        stop = min(start + k1, steps)
        factors = np.zeros((steps, steps))
        for t, s in product(range(start, stop), range(steps)):
            if stop - k2 <= s <= t:
                factors[t, s] = 1 / (stop - start)
        yield start, stop, factors


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
    for window, (start, stop, factors) in zip(windows, reached(steps, k1, k2 or k1), strict=True):
        assert (window.start, window.stop, window.steps) == (start, stop, stop - start)
        assert window.reach == max(0, stop - (k2 or k1))
        window.backward()
        for key, expected in lags.masked(factors).items():
            close(dict(module.named_parameters())[key].grad or np.zeros_like(expected), expected, 1e-12)
        module.zero_grad()


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


def by_hand(
    w: np.ndarray, v: np.ndarray, xs: np.ndarray, ys: np.ndarray, k1: int, k2: int
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Truncated BPTT of h_t = tanh(W h_{t-1} + V x_t), l_t = |h_t - y_t|^2 / 2, in NumPy: loss, dW and dV by window."""
    hs = [np.zeros(len(w))]
    for x in xs:
        hs.append(np.tanh(w @ hs[-1] + v @ x))
    for start in range(0, len(xs), k1):
        stop = min(start + k1, len(xs))
        loss = np.mean([((hs[t + 1] - ys[t]) ** 2).sum() / 2 for t in range(start, stop)])
        dw, dv, dh = np.zeros_like(w), np.zeros_like(v), np.zeros(len(w))
        for s in range(stop - 1, max(0, stop - k2) - 1, -1):
            if s >= start:
                dh += (hs[s + 1] - ys[s]) / (stop - start)
            da = dh * (1 - hs[s + 1] ** 2)
            dw += np.outer(da, hs[s])
            dv += np.outer(da, xs[s])
            dh = w.T @ da
        yield float(loss), dw, dv


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (1, 4), (4, 4), (3, 7), (2, 6), (5, 2), (4, 20), (50, 50)])
def test_it_is_what_one_would_write_by_hand(k1: int, k2: int) -> None:
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


def moving_rnn() -> tuple[Tensor, Step, np.ndarray]:
    w = nn.parameter(drawn(3, 3) / 2)

    def step(x: Any, h: Any) -> tuple[Tensor, Any]:
        h = tg.tanh(w @ h + x)
        return (h * h).sum(), h

    return w, step, drawn(9, 3)


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
    with pytest.raises(GraphError, match=r"matmul#\d+ \[3\], time step 1 saved 'a'.*changed in place"):
        window.backward()
    assert w.grad is None


def test_a_change_in_place_is_right_where_nothing_older_is_reached() -> None:
    for recompute, k2 in ((False, 2), (True, 5)):
        w, step, xs = moving_rnn()
        for window in bptt.truncated(step, xs, tg.zeros(3, dtype="float64"), k1=2, k2=k2, recompute=recompute):
            window.backward()
            w.data -= 0.1


# ---- states and streams ----


def test_the_initial_state_gets_its_gradient_while_it_is_reached() -> None:
    w, step, xs = moving_rnn()
    h0 = nn.parameter(drawn(3))
    base = nn.parameter(drawn(3, seed=5))
    for start in (h0, base * 2):
        grown = []
        for window in bptt.truncated(step, xs, start, k1=2, k2=5):
            h0.grad = base.grad = None
            window.backward()
            grown.append(h0.grad or base.grad)
        assert [g is not None for g in grown] == [True, True, False, False, False]
    whole = tg.grad(step(xs[0], base * 2)[0], base)
    base.grad = None
    next(bptt.truncated(step, xs, base * 2, k1=1)).backward()
    close(base.grad, whole, 1e-12)


def test_inputs_get_their_gradients() -> None:
    w, step, xs = moving_rnn()
    leaf = nn.parameter(xs)
    for window in bptt.truncated(step, leaf, tg.zeros(3, dtype="float64"), k1=3, k2=2):
        window.backward()
    assert leaf.grad is not None
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


def nodes_alive() -> int:
    return sum(isinstance(x, Node) and bool(x) for x in gc.get_objects())


@pytest.mark.parametrize(("k1", "k2", "recompute"), [(20, 20, False), (7, 30, False), (30, 7, False), (7, 30, True)])
def test_a_long_stream_needs_the_memory_of_its_reach(k1: int, k2: int, recompute: bool) -> None:
    module, step = model(CELLS["lstm"]())
    optimizer = optim.SGD(module.parameters(), lr=1e-3)
    gc.collect()
    before, marks = nodes_alive(), len(tape.state.marks)
    per_step = 40
    peak = 0
    for window in bptt.truncated(step, (np.ones(2) for _ in range(2_000)), None, k1, k2, recompute=recompute):
        if window.start % 5 == 0:
            peak = max(peak, nodes_alive() - before)
        optimizer.zero_grad()
        window.backward()
        optimizer.step()
    assert peak < per_step * (max(k1, k2) + 1)
    assert len(tape.state.marks) - marks <= k1 + k2 + 2
    assert nodes_alive() - before < per_step * (k2 + 1)
    del window
    gc.collect()
    assert nodes_alive() == before


# ---- called late, twice, or never ----


@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (2, 5), (5, 2)])
def test_backward_twice_and_late_are_refused(k1: int, k2: int) -> None:
    module, step = model(CELLS["lstm"]())
    windows = bptt.truncated(step, drawn(20, 2), None, k1, k2)
    first = next(windows)
    first.backward()
    before = gradients(module)
    with pytest.raises(GraphError, match=rf"Window\(steps 0 to {k1 - 1}\) was sent back before"):
        first.backward()
    second, third = next(windows), next(windows)
    with pytest.raises(GraphError, match=rf"steps {k1} to {2 * k1 - 1}\) can no longer.*next one was drawn; call back"):
        second.backward()
    assert not any(g.any() for g in gradients(module).values())
    assert any(g.any() for g in before.values())
    third.backward()  # the one in between was never sent back
    (_, _, _), (_, _, _), (_, _, factors), *_ = reached(20, k1, k2)
    expected = flow.gradient_by_lag(step, drawn(20, 2), None, module, keep=True).masked(factors)
    for name, g in gradients(module).items():
        close(g, expected[name], 1e-12)


def test_the_loss_has_no_way_back_of_its_own() -> None:
    _, step = model(CELLS["lstm"]())
    window = next(bptt.truncated(step, drawn(9, 2), None, 3))
    with pytest.raises(GraphError, match="it was detached"):
        window.loss.backward()


def test_without_gradients_it_evaluates() -> None:
    _, step = model(CELLS["lstm"]())
    with tg.no_grad():
        windows = list(bptt.truncated(step, drawn(9, 2), None, 4, 6))
    assert [window.steps for window in windows] == [4, 4, 1]


# ---- what it refuses ----


@pytest.mark.parametrize("bad", [0, -1, 2.0, "3", True, None])
def test_lengths_must_be_positive_integers(bad: Any) -> None:
    _, step = model(CELLS["rnn"]())
    with pytest.raises(ValueError, match="k1 must be a positive integer"):
        bptt.truncated(step, drawn(3, 2), None, bad)
    if bad is not None:
        with pytest.raises(ValueError, match="k2 must be a positive integer"):
            bptt.truncated(step, drawn(3, 2), None, 1, bad)


def test_integers_of_numpy_will_do() -> None:
    _, step = model(CELLS["rnn"]())
    assert next(bptt.truncated(step, drawn(3, 2), None, np.int64(2), np.int32(3))).steps == 2


def test_streams_must_have_steps() -> None:
    _, step = model(CELLS["rnn"]())
    for recompute in (False, True):
        with pytest.raises(ValueError, match="the stream is empty"):
            next(bptt.truncated(step, iter([]), None, 2, recompute=recompute))
    with pytest.raises(TypeError, match="xs must be an iterable of steps, not a int"):
        bptt.truncated(step, 5, None, 2)  # type: ignore[arg-type]


def at_step_3(change: Callable[[Tensor, Any], Any]) -> Step:
    _, step = model(CELLS["lstm"]())
    count = 0

    def changed(x: Any, state: Any) -> Any:
        nonlocal count
        count += 1
        result = step(x, state)
        return change(*result) if count == 4 else result

    return changed


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda loss, s: (loss, (s.h, s.c, s.c)), TypeError, r"step 3 was given .*LSTMState.* and returned tuple"),
        (lambda loss, s: (loss, {"h": s.h, "c": s.c}), TypeError, r"step 3 .* returned \{h f64\[1,3\]"),
        (lambda loss, s: (loss, s._replace(c=None)), TypeError, "step 3"),
        (lambda loss, s: (loss, s._replace(h=s.h[:, :2])), ShapeError, r"step 3 .* keeps its structure and its shapes"),
        (lambda loss, s: (loss * tg.ones(2), s), ValueError, r"loss of step 3 has shape \(2,\)"),
        (lambda loss, s: (s.h, loss), ValueError, r"loss of step 3 has shape \(1, 3\).*the loss first"),
        (lambda loss, s: (s, loss), TypeError, "loss of step 3 is a LSTMState; return .loss, state., in this order"),
        (lambda loss, s: (loss.item(), s), TypeError, "loss of step 3 is a float"),
        (lambda loss, s: loss, TypeError, "step 3 must return .loss, state., not Tensor"),
    ],
)
def test_what_a_step_returns_is_checked(change: Any, error: type, message: str, recompute: bool) -> None:
    windows = bptt.truncated(at_step_3(change), drawn(9, 2), None, 2, 4, recompute=recompute)
    next(windows)
    with pytest.raises(error, match=message) if not recompute else pytest.raises(error):
        next(windows)


def test_a_window_needs_a_loss_with_a_history() -> None:
    module, step = model(CELLS["lstm"]())

    def only_at_the_end(x: Any, pair: Any) -> tuple[Tensor, Any]:
        t, state = pair
        loss, state = step(x, state)
        return (loss if t == 5 else tg.zeros(())), (t + 1, state)

    initial = nn.LSTMState(tg.zeros(1, 3, dtype="float64"), tg.zeros(1, 3, dtype="float64"))
    first, second = bptt.truncated(only_at_the_end, drawn(6, 2), (0, initial), 3), None
    with pytest.raises(GraphError, match=r"no loss within the reach of Window\(steps 0 to 2\) has a history"):
        next(iter([first])).__next__().backward() if False else next(first).backward()
    second = next(first)
    second.backward()
    assert any(g.any() for g in gradients(module).values())


def test_what_was_computed_before_the_stream_is_refused_where_it_cannot_be_reached() -> None:
    w = nn.parameter(drawn(3, 3) / 2)
    doubled = w * 2

    def step(x: Any, h: Any) -> tuple[Tensor, Any]:
        h = tg.tanh(doubled @ h + x)
        return (h * h).sum(), h

    start = tg.zeros(3, dtype="float64")
    next(bptt.truncated(step, drawn(4, 3), start, 4)).backward()  # one window reaches all
    doubled = w * 2
    windows = bptt.truncated(step, drawn(9, 3), start, 4)
    next(windows).backward()
    with pytest.raises(GraphError, match=r"step 4 uses multiply#\d+ \[3, 3\], which was computed outside"):
        next(windows)


def test_inputs_that_were_computed_before_the_stream_are_refused() -> None:
    embedded = nn.parameter(drawn(9, 3)) * 2
    _, step, _ = moving_rnn()
    windows = bptt.truncated(step, embedded, tg.zeros(3, dtype="float64"), 4)
    next(windows)
    with pytest.raises(GraphError, match=r"step 4 uses multiply#\d+ \[9, 3\]"):
        next(windows)
    with pytest.raises(GraphError, match="with recompute=True"):
        next(bptt.truncated(step, embedded, tg.zeros(3, dtype="float64"), 4, recompute=True))


def test_inputs_that_are_computed_on_the_way_are_learned_from() -> None:
    scale = nn.parameter(np.array(2.0))
    _, step, xs = moving_rnn()
    for window in bptt.truncated(step, (scale * x for x in xs), tg.zeros(3, dtype="float64"), 2, 4):
        window.backward()
    assert scale.grad is not None


def test_a_state_that_goes_behind_the_back_is_refused() -> None:
    w, _, xs = moving_rnn()
    hidden = tg.zeros(3, dtype="float64")

    def step(x: Any, state: Any) -> tuple[Tensor, Any]:
        nonlocal hidden
        hidden = tg.tanh(w @ hidden + x)
        return (hidden * hidden).sum(), state

    windows = bptt.truncated(step, xs, None, 2)
    next(windows).backward()
    with pytest.raises(GraphError, match=r"step 2 uses tanh#\d+ \[3\], time step 1, .*carry it in the state"):
        next(windows)


# ---- the loop that one writes without it ----


@pytest.mark.parametrize("name", ["lstm", "gru", "own"])
def test_a_forgotten_detach_is_named(name: str) -> None:
    _, step = model(CELLS[name]())
    state = None
    with tape.timeline() as mark, pytest.raises(GraphError) as caught:
        for start in range(0, 6, 3):
            loss = tg.zeros((), dtype="float64")
            for t in range(start, start + 3):
                mark(t)
                each, state = step(drawn(2), state)
                loss = loss + each
            loss.backward()
    assert "time step 2 was freed by an earlier backward" in str(caught.value)
    assert "state = bptt.detach(state)" in str(caught.value)


def test_a_state_of_which_a_part_is_forgotten_is_named() -> None:
    """The part that keeps its history is the memory c, an addition, of the last step of the window before."""
    cell, xs = nn.LSTMCell(2, 3, dtype="float64"), drawn(3, 1, 2)
    outputs, state = bptt.unroll(cell, xs)
    outputs.sum().backward()
    outputs, _ = bptt.unroll(cell, xs, state._replace(h=bptt.detach(state.h)))
    with pytest.raises(GraphError, match=r"behind add#\d+ \[1, 3\], time step 2 was freed.*bptt.detach\(state\)"):
        outputs.sum().backward()


def test_detach_finds_all_or_says_what_it_cannot_look_into() -> None:
    h = nn.parameter(drawn(3)) * 2
    state = Memory(h, {"list": [h, (h, None)], "array": drawn(2), "count": 3, "name": "x", "np": np.float64(1)})
    for leaf in tree_leaves(bptt.detach(state)):
        assert not getattr(leaf, "requires_grad", False)

    class Box:
        pass

    with pytest.raises(TypeError, match="the state holds a Box; a state is made of"):
        bptt.detach((h, Box()))
