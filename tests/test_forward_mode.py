"""Real-time recurrent learning against full BPTT."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peaks import peak_memory

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn, optim, tape
from tinygrad_rnn.backend import Backend


class Coupled(nn.Module):
    """A user's cell: a nested state with an integer in it, and rows of a batch that act on one another."""

    def __init__(self) -> None:
        self.w = tg.tensor(np.random.default_rng(0).standard_normal((3, 3)) / 3, requires_grad=True)
        self.gain = tg.tensor(np.array(0.7), requires_grad=True)

    def __call__(self, x: Any, state: Any) -> Any:
        h, slow = state["h"], state["slow"][0]
        h = tg.tanh(x[:, :3] + h @ self.w + h.mean(axis=0) * self.gain)
        return h * slow, {"h": h, "slow": (0.9 * slow + 0.1 * h, state["slow"][1] + 1)}


F64: dict[str, Any] = {"dtype": "float64"}
CELLS: dict[str, Callable[[], Any]] = {
    "rnn": lambda: nn.RNNCell(4, 3, **F64),
    "lstm": lambda: nn.LSTMCell(4, 3, **F64),
    "gru": lambda: nn.GRUCell(4, 3, **F64),
    "layer norm": lambda: nn.LayerNormLSTMCell(4, 3, **F64),
    "own": Coupled,
}


def problem(name: str, steps: int, batch: int, seed: int) -> tuple[Any, np.ndarray, Any, Any]:
    """A cell, inputs, a state to begin from, and a step that uses the cell."""
    tg.manual_seed(seed)
    random = np.random.default_rng(seed)
    cell, xs = CELLS[name](), random.standard_normal((steps, batch, 4))

    def values() -> Tensor:
        return tg.tensor(random.standard_normal((batch, 3)))

    if name == "own":
        state: Any = {"h": values(), "slow": (values(), tg.tensor(np.array(0)))}
    else:
        state = nn.LSTMState(values(), values()) if "l" in name[0] else values()

    def step(x: Any, state: Any) -> Any:
        output, state = cell(x, state)
        return (output * output).mean() + output.sum() / 9, state

    return cell, xs, state, step


def full(step: Any, xs: Any, state: Any, parameters: list[Tensor]) -> list[np.ndarray]:
    """The gradients of all losses together, by BPTT."""
    losses = []
    for x in xs:
        loss, state = step(x, state)
        losses.append(loss)
    return [g.numpy() for g in tg.grad(tg.stack(losses).sum(), parameters)]


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(list(CELLS)), steps=st.integers(1, 7), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_it_adds_up_to_full_bptt(name: str, steps: int, batch: int, seed: int) -> None:
    cell, xs, state, step = problem(name, steps, batch, seed)
    parameters = list(cell.parameters())
    for moment in bptt.real_time(step, tg.tensor(xs), state, parameters):
        moment.backward()
    assert moment.step == steps - 1
    for p, expected in zip(parameters, full(step, tg.tensor(xs), state, parameters), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_each_moment_has_the_gradient_of_its_own_loss() -> None:
    cell, xs, state, step = problem("lstm", 5, 2, 1)
    parameters = list(cell.parameters())
    for moment in bptt.real_time(step, tg.tensor(xs), state, parameters):
        last = state
        for x in tg.tensor(xs)[: moment.step + 1]:
            loss, last = step(x, last)
        assert moment.loss.item() == loss.item()
        np.testing.assert_array_equal(moment.state.c.numpy(), last.c.numpy())
        for found, expected in zip(moment.gradients, tg.grad(loss, parameters), strict=True):
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-10, atol=1e-12)


def test_a_state_that_is_learned_has_its_influence_from_the_start() -> None:
    cell, xs, _, step = problem("gru", 4, 2, 2)
    start = tg.tensor(np.full((1, 3), 0.3), requires_grad=True)
    parameters = [start, *cell.parameters()]
    for moment in bptt.real_time(step, tg.tensor(xs), tg.broadcast_to(start, (2, 3)), parameters):
        moment.backward()
    for p, expected in zip(
        parameters, full(step, tg.tensor(xs), tg.broadcast_to(start, (2, 3)), parameters), strict=True
    ):
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_an_optimizer_may_step_at_each_moment() -> None:
    """Williams and Zipser's online form, by hand: J and the direct part at the parameters of their time."""
    _, xs, _, _ = problem("rnn", 6, 1, 3)
    w = tg.tensor(np.array([[0.8]]), requires_grad=True)
    inputs = xs[:, :, :1]

    def step(x: Any, h: Any) -> Any:
        h = tg.tanh(h @ w + x)
        return (h * h).sum(), h

    optimizer = optim.SGD([w], lr=0.1)
    weight, h, influence = 0.8, 0.5, 0.0
    for moment in bptt.real_time(step, tg.tensor(inputs), tg.tensor(np.array([[0.5]])), [w]):
        after = np.tanh(weight * h + inputs[moment.step, 0, 0])
        influence = (1 - after**2) * (weight * influence + h)
        np.testing.assert_allclose(moment.gradients[0].numpy(), [[2 * after * influence]], rtol=1e-12)
        weight, h = weight - 0.1 * 2 * after * influence, after
        optimizer.zero_grad()
        moment.backward()
        optimizer.step()
        np.testing.assert_allclose(w.numpy(), [[weight]], rtol=1e-12)


def test_a_narrower_first_state_takes_no_digits_away() -> None:
    cell, xs, _, step = problem("gru", 3, 2, 4)
    narrow = tg.full((2, 3), 0.25, dtype="float32")
    pairs = zip(
        *(bptt.real_time(step, xs, s, cell.parameters()) for s in (narrow, narrow.astype("float64"))), strict=True
    )
    for found, expected in pairs:
        for a, b in zip(found.gradients, expected.gradients, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-14)


def test_a_wider_state_leaves_gradients_in_the_dtype_of_their_parameters() -> None:
    w = tg.ones(1, requires_grad=True)
    state = tg.ones(1, dtype="float64")
    for moment in bptt.real_time(lambda x, h: ((w * h * x).sum(), w * h), np.ones(2), state, [w]):
        moment.backward()
        assert w.grad.dtype == np.float32
    assert w.grad.item() == 1 + 2


def test_parameters_may_be_updated_in_no_grad_around_it() -> None:
    cell, xs, state, step = problem("gru", 3, 2, 4)
    parameters = list(cell.parameters())
    expected = [moment.gradients for moment in bptt.real_time(step, xs, state, parameters)]
    with tg.no_grad():
        found = [moment.gradients for moment in bptt.real_time(step, xs, state, parameters)]
    np.testing.assert_equal([g.numpy() for gs in found for g in gs], [g.numpy() for gs in expected for g in gs])
    assert all(g.numpy().any() for g in found[-1])


def test_memory_does_not_grow_with_time() -> None:
    cell, xs, state, step = problem("rnn", 1, 2, 4)

    def peak(steps: int) -> int:
        with peak_memory() as most:
            for _ in bptt.real_time(step, (xs[0] for _ in range(steps)), state, cell.parameters()):
                gc.collect()  # which empties the interpreter's free lists
            return most()

    peak(3)
    assert peak(150) < 1.1 * peak(15) + 8192


def test_what_cannot_be_had_is_said() -> None:
    cell, xs, state, step = problem("rnn", 2, 2, 5)
    with pytest.raises(tg.GraphError, match="leaves that require a gradient"):
        next(bptt.real_time(step, xs, state, [tg.tensor(1.0)]))
    with pytest.raises(tg.ShapeError, match="the loss of a step must be a scalar"):
        next(bptt.real_time(cell, xs, state, cell.parameters()))
    with pytest.raises(TypeError, match="real_time: the loss of step 0 is a float"):
        next(bptt.real_time(lambda x, h: (0.0, h), xs, state, cell.parameters()))  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"real_time: step 0 must return \(loss, state\), not ndarray"):
        next(bptt.real_time(lambda x, h: x, xs, state, cell.parameters()))
    with pytest.raises(ValueError, match="a parameter was given twice"):
        next(bptt.real_time(step, xs, state, [*cell.parameters()] * 2))


def test_a_captured_step_is_told_that_it_cannot_be_recorded() -> None:
    cell, xs, state, step = problem("rnn", 2, 2, 5)

    @tg.capture
    def captured() -> list[Tensor]:
        return [moment.loss for moment in bptt.real_time(step, xs, state, cell.parameters())]

    captured()
    with pytest.raises(tg.CaptureError, match=r"the step calls real_time, .* row by row,.* test_forward_mode\.py:\d"):
        captured()


def test_what_a_moment_holds_stays_as_it_is() -> None:
    cell, xs, state, step = problem("rnn", 3, 2, 5)
    moments = list(bptt.real_time(step, xs, state, cell.parameters()))
    held = [g.numpy().copy() for moment in moments for g in moment.gradients]
    for moment in moments:
        moment.backward()
    tg.clip_grad_value_(cell.parameters(), 1e-9)
    np.testing.assert_equal([g.numpy() for moment in moments for g in moment.gradients], held)


def test_the_time_step_around_it_goes_on() -> None:
    cell, xs, state, step = problem("rnn", 3, 2, 5)
    with tape.timeline() as mark:
        mark(7)
        marks = len(tape.state.marks)
        for moment in bptt.real_time(step, xs, state, cell.parameters()):
            assert (moment.step, tape.present_step(), len(tape.state.marks)) == (moment.step, 7, marks)


def test_on_a_device_nothing_comes_to_the_host(device: Backend) -> None:
    cell = nn.GRUCell(2, 3, backend=device.name)

    def step(x: Any, h: Any) -> Any:
        output, h = cell(x, h)
        return output.sum(), h

    state = tg.zeros(2, 3, backend=device.name)
    for moment in bptt.real_time(step, tg.ones(3, 2, 2, backend=device.name), state, cell.parameters()):
        moment.backward()
    assert cell.weight_hh.grad.backend == device.name
