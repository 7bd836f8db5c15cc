"""What truncated BPTT refuses: windows sent back late or twice, steps and streams that are not what they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from closeness import close, drawn
from recurrences import CELLS, Memory, Step, gradients, model, moving_rnn, reached

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, flow, nn, tape
from tinygrad_rnn.tape import GraphError
from tinygrad_rnn.tree import tree_leaves
from tinygrad_rnn.whereabouts import ShapeError

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
    assert list(windows)
    with pytest.raises(GraphError, match="next one was drawn"):
        third.backward()


@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (2, 5), (5, 2)])
def test_a_window_may_be_left_out_and_the_last_one_sent_back_when_all_is_over(k1: int, k2: int) -> None:
    module, step = model(CELLS["lstm"]())
    *_, last = bptt.truncated(step, drawn(20, 2), None, k1, k2)
    last.backward()  # those before were never sent back
    *_, (_, _, factors) = reached(20, k1, k2)
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
        bptt.truncated(step, 5, None, 2)


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


@pytest.mark.parametrize(("after", "error"), [({"c": tg.ones(2)}, TypeError), ({"h": tg.ones(3)}, ShapeError)])
def test_a_dictionary_keeps_its_names_and_shapes(after: Any, error: type) -> None:
    windows = bptt.truncated(lambda x, state: (tg.zeros(()), after), [1], {"h": tg.ones(2)}, 1)
    with pytest.raises(error, match=r"step 0 was given the state \{h f32\[2\]\}"):
        next(windows)


def test_a_window_needs_a_loss_with_a_history() -> None:
    module, step = model(CELLS["lstm"]())

    def only_at_the_end(x: Any, pair: Any) -> tuple[Tensor, Any]:
        t, state = pair
        loss, state = step(x, state)
        return (loss if t == 5 else tg.zeros(())), (t + 1, state)

    initial = nn.LSTMState(tg.zeros(1, 3, dtype="float64"), tg.zeros(1, 3, dtype="float64"))
    windows = bptt.truncated(only_at_the_end, drawn(6, 2), (0, initial), 3)
    with pytest.raises(GraphError, match=r"no loss within the reach of Window\(steps 0 to 2\) has a history"):
        next(windows).backward()
    next(windows).backward()
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
        next(bptt.truncated(step, embedded, tg.zeros(3, dtype="float64"), 4, 4, recompute=True))


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

    def window(first: int, state: Any) -> tuple[Tensor, Any]:
        total = tg.zeros((), dtype="float64")
        with tape.timeline() as mark:
            for t in range(first, first + 3):
                mark(t)
                loss, state = step(drawn(2), state)
                total = total + loss
        return total, state

    loss, state = window(0, None)
    loss.backward()
    loss, _ = window(3, state)
    with pytest.raises(GraphError, match=r"time step 2 was freed by an earlier.*state = bptt\.detach\(state\)"):
        loss.backward()


def test_a_forgotten_detach_has_its_cure_where_no_time_steps_are_marked() -> None:
    """A loss whose own backward ran before is no such case."""
    cell, h = nn.GRUCell(2, 3), tg.zeros(1, 3)
    for _ in range(2):
        _, h = cell(tg.ones(1, 2), h)
    loss = h.sum()
    loss.backward()
    with pytest.raises(GraphError, match=r"freed by an earlier backward\. To go through one graph twice"):
        loss.backward()
    _, h = cell(tg.ones(1, 2), h)
    with pytest.raises(GraphError, match=r"freed by an earlier.*state = bptt\.detach\(state\)"):
        h.sum().backward()


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
