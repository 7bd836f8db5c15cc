"""Derivatives as functions: grad, vjp, jvp, hvp and jacobian, against PyTorch and closed forms."""

from __future__ import annotations

import sys
from collections.abc import Callable
from heapq import heappush
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, Tensor, bptt, graph, nn
from tinygrad_rnn.tape import GraphError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4))
V = RNG.standard_normal((3, 4))
W = RNG.standard_normal((4, 3))


def lstm_step(m: Any, x: Any) -> Any:
    """One step of an LSTM, its two states taken from rows of x; ``m`` is the array library."""
    w = m.tensor(W)
    i, f, g, o = ((x @ w + x.mean(0)[0]) * k for k in (0.5, 1.0, 1.5, 2.0))
    c = m.sigmoid(f) * m.tanh(x[:, :3]) + m.sigmoid(i) * m.tanh(g)
    return m.sigmoid(o) * m.tanh(c)


# Each works with tinygrad_rnn and with torch as m: arguments by position, where the two name them differently.
FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "elementwise": lambda m, x: m.tanh(x) * m.exp(-x) + m.sin(x) * m.cos(x) / (2 + x * x),
    "powers": lambda m, x: (1 + x * x) ** 0.5 + m.log(1 + x * x) - m.sqrt(2 + x * x) + x**3,
    "activations": lambda m, x: m.sigmoid(x) + x * m.relu(x),
    "sum": lambda m, x: (x * x).sum(0),
    "mean": lambda m, x: (x**3).mean(-1),
    "logsumexp": lambda m, x: m.logsumexp(x * x, 1),
    "softmax": lambda m, x: m.softmax(2 * x, -1),
    "log_softmax": lambda m, x: m.log_softmax(x, 0),
    "cumsum": lambda m, x: m.cumsum(x * x, 1),
    "matmul": lambda m, x: x @ x.T @ (x @ m.tensor(W)),
    "shapes": lambda m, x: (x.reshape(2, 6) * 2).T[1:4] ** 2,
    "lstm step": lstm_step,
}


def scalar(m: Any, name: str) -> Callable[[Any], Any]:
    """A function as one from an array to a number, with a Hessian that is not diagonal."""
    return lambda x: m.tanh(FUNCTIONS[name](m, x).sum() / 10)


# ---- against PyTorch ----


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def assert_close(actual: Tensor, expected: Any) -> None:
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vjp(name: str, torch: Any) -> None:
    value, pull = tg.vjp(lambda x: FUNCTIONS[name](tg, x), X)
    expected, pull_torch = torch.func.vjp(lambda x: FUNCTIONS[name](torch, x), torch.tensor(X))
    cotangent = np.random.default_rng(1).standard_normal(value.shape)
    assert_close(value, expected)
    for _ in range(2):  # it may be pulled more than once
        assert_close(pull(cotangent)[0], pull_torch(torch.tensor(cotangent))[0])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jvp(name: str, torch: Any) -> None:
    value, tangent = tg.jvp(lambda x: FUNCTIONS[name](tg, x), X, V)
    expected = torch.autograd.functional.jvp(lambda x: FUNCTIONS[name](torch, x), torch.tensor(X), torch.tensor(V))
    assert_close(value, expected[0])
    assert_close(tangent, expected[1])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobian(name: str, torch: Any) -> None:
    actual = tg.jacobian(lambda x: FUNCTIONS[name](tg, x), X)
    assert_close(actual, torch.func.jacrev(lambda x: FUNCTIONS[name](torch, x))(torch.tensor(X)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hvp(name: str, torch: Any) -> None:
    actual = tg.hvp(scalar(tg, name), X, V)
    assert_close(actual, torch.autograd.functional.hvp(scalar(torch, name), torch.tensor(X), torch.tensor(V))[1])


def test_hvp_of_the_weights_of_a_model(torch: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4, dtype="float64"), tg.tanh, nn.Linear(4, 1, dtype="float64"))
    names, weights = zip(*model.named_parameters(), strict=True)
    rng = np.random.default_rng(0)
    x, vectors = rng.standard_normal((5, 3)), [rng.standard_normal(w.shape) for w in weights]

    def loss(*ws: Any) -> Any:
        return (nn.functional_call(model, dict(zip(names, ws, strict=True)), tg.tensor(x)) ** 2).sum()

    def theirs(w: Any, b: Any, w2: Any, b2: Any) -> Any:
        return ((torch.tanh(torch.tensor(x) @ w.T + b) @ w2.T + b2) ** 2).sum()

    expected = torch.autograd.functional.hvp(
        theirs, tuple(torch.tensor(w.numpy()) for w in weights), tuple(map(torch.tensor, vectors))
    )[1]
    found = tg.hvp(loss, list(weights), vectors)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)
    with pytest.raises(ShapeError, match="hvp: 1 vectors were given for 4 arguments"):
        tg.hvp(loss, weights, vectors[:1])


@pytest.mark.parametrize("name", ["elementwise", "matmul", "lstm step"])
def test_third_derivative(name: str, torch: Any) -> None:
    """The gradient of v^T H v, for a v that does not depend on x."""
    x = tg.tensor(X, requires_grad=True)
    (g,) = tg.grad([scalar(tg, name)(x)], [x], create_graph=True)
    (h,) = tg.grad([(g * V).sum()], [x], create_graph=True)
    third = tg.grad((h * V).sum(), x)
    x_torch, v = torch.tensor(X, requires_grad=True), torch.tensor(V)
    (g,) = torch.autograd.grad(scalar(torch, name)(x_torch), x_torch, create_graph=True)
    (h,) = torch.autograd.grad((g * v).sum(), x_torch, create_graph=True)
    assert_close(third, torch.autograd.grad((h * v).sum(), x_torch)[0])


# ---- closed forms ----


def test_hessian_of_a_quadratic_form() -> None:
    a = RNG.standard_normal((4, 4))
    x, v = RNG.standard_normal((2, 4))
    f = lambda x: x @ (a @ x)  # noqa: E731
    np.testing.assert_allclose(tg.hvp(f, x, v).numpy(), (a + a.T) @ v, rtol=1e-12)
    np.testing.assert_allclose(tg.jacobian(lambda x: a @ x, x).numpy(), a, rtol=1e-12)
    hessian = tg.jacobian(lambda x: tg.grad(f(x), x, create_graph=True), x)
    np.testing.assert_allclose(hessian.numpy(), a + a.T, rtol=1e-12)


def test_derivatives_of_derivatives_as_functions() -> None:
    """A derivative inside of a differentiated function is differentiated too, and not taken for a constant."""
    x = np.array([1.0, 2.0])
    diagonal = tg.jacobian(lambda x: tg.jacobian(lambda u: u**3, x).sum(axis=1), x)
    np.testing.assert_allclose(diagonal.numpy(), np.diag(6 * x), rtol=1e-12)
    slope = tg.vjp(lambda x: tg.vjp(lambda u: u**3, x)[1](np.ones(2))[0], x)[1](np.ones(2))[0]
    np.testing.assert_allclose(slope.numpy(), 6 * x, rtol=1e-12)
    third = tg.jvp(lambda x: tg.hvp(lambda u: (u**4).sum(), x, np.ones(2)), x, np.ones(2))[1]
    np.testing.assert_allclose(third.numpy(), 24 * x, rtol=1e-12)


def test_jacobians_of_scalars_vectors_and_nothing() -> None:
    assert tg.jacobian(lambda x: (x * x).sum(), np.ones(3)).tolist() == [2, 2, 2]
    assert tg.jacobian(lambda x: x * x, np.array(3.0)).item() == 6
    assert tg.jacobian(lambda x: x[:0], np.ones(3)).shape == (0, 3)
    assert tg.jacobian(lambda x: tg.ones(2, dtype="float64"), np.ones(3)).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("several", [(tg.ones(2), tg.ones(2)), [np.ones(2), np.ones(3)]])
def test_jacobian_takes_one_array(several: Any) -> None:
    with pytest.raises(TypeError, match=rf"jacobian: x must be one array, not a {type(several).__name__} of 2"):
        tg.jacobian(lambda x, y: x * y, several)
    assert tg.jacobian(lambda x: x * x, (1.0, 2.0)).tolist() == [[2, 0], [0, 4]]


def test_functions_of_several_inputs() -> None:
    a, b = np.array([1.0, 2.0]), np.array(3.0)
    value, pull = tg.vjp(lambda a, b: a * b, a, b)
    assert value.tolist() == [3, 6]
    assert [g.tolist() for g in pull([1.0, 10.0])] == [[3, 30], 21]
    value, tangent = tg.jvp(lambda a, b: a * b, (a, b), ([1.0, 0.0], 10.0))
    assert tangent.tolist() == [13, 20]


def test_inputs_that_do_not_matter_have_zero_derivatives() -> None:
    constant = tg.ones(2, dtype="float64", requires_grad=True)
    for ignoring in (lambda x: tg.ones(2, dtype="float64").sum(), lambda x: constant.sum(), lambda x: x.sign().sum()):
        assert tg.vjp(ignoring, np.ones(3))[1](1.0)[0].tolist() == [0, 0, 0]
        assert tg.jvp(ignoring, np.ones(3), np.ones(3))[1].item() == 0
        assert tg.jacobian(ignoring, np.ones(3)).tolist() == [0, 0, 0]
        assert tg.hvp(ignoring, np.ones(3), np.ones(3)).tolist() == [0, 0, 0]
    assert tg.hvp(lambda x: x.sum(), np.ones(3), np.ones(3)).tolist() == [0, 0, 0]


def test_a_parameter_that_the_function_makes_is_seen() -> None:
    made: list[Tensor] = []

    def f(x: Tensor) -> Tensor:
        made.append(tg.ones(3, dtype="float64", requires_grad=True))
        return (x * x * made[-1]).sum()

    tg.hvp(f, np.ones(3), np.arange(3.0)).sum().backward()
    assert made[-1].grad.tolist() == [0, 2, 4]


def test_derivatives_leave_the_given_tensors_alone() -> None:
    x = tg.ones(3, dtype="float64", requires_grad=True)
    w = tg.ones(3, dtype="float64", requires_grad=True)
    f = lambda x: (x * x * w).sum()  # noqa: E731
    tg.vjp(f, x)[1](1.0)
    tg.jvp(f, x, np.ones(3))
    tg.hvp(f, x, np.ones(3))
    tg.jacobian(f, x)
    tg.grad(f(x), x)
    assert x.grad is None
    assert w.grad is None


def test_derivatives_work_within_no_grad() -> None:
    with tg.no_grad():
        assert tg.vjp(lambda x: x * x, np.ones(2))[1]([1.0, 1.0])[0].tolist() == [2, 2]
        assert tg.jvp(lambda x: x * x, np.ones(2), np.ones(2))[1].tolist() == [2, 2]
        assert tg.hvp(lambda x: (x**3).sum(), np.ones(2), np.ones(2)).tolist() == [6, 6]
        assert tg.jacobian(lambda x: x * x, np.ones(2)).tolist() == [[2, 0], [0, 2]]


def test_dtypes_are_kept() -> None:
    for dtype in ("float32", "float64"):
        x = np.ones(2, dtype)
        assert tg.vjp(lambda x: x * x, x)[1](np.ones(2))[0].dtype == dtype
        assert tg.jvp(lambda x: x * x, x, x)[1].dtype == dtype
        assert tg.hvp(lambda x: (x**3).sum(), x, x).dtype == dtype
        assert tg.jacobian(lambda x: x * x, x).dtype == dtype


# ---- grad ----


def test_inputs_anywhere_in_the_graph() -> None:
    x = tg.tensor(X, requires_grad=True)
    y = x.sin()
    z = y * y
    loss = z.sum()
    g_loss, g_z, g_y, g_x = tg.grad(loss, [loss, z, y, x])
    assert g_loss.item() == 1
    np.testing.assert_array_equal(g_z.numpy(), np.ones((3, 4)))
    np.testing.assert_allclose(g_y.numpy(), 2 * np.sin(X), rtol=1e-14)
    np.testing.assert_allclose(g_x.numpy(), 2 * np.sin(X) * np.cos(X), rtol=1e-14)
    assert x.grad is None


def test_an_input_that_is_no_leaf_alone_stops_the_walk() -> None:
    """What is older than the inputs is neither entered nor freed."""
    x = tg.tensor(X, requires_grad=True)
    y = x.sin()
    loss = (y * y).sum()
    tg.grad(loss, y)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.cos(X))


def test_what_is_behind_inputs_alone_is_neither_entered_nor_freed() -> None:
    """First-order MAML: the learning steps stay constants, and the last loss goes back through all of them."""
    x, y = tg.tensor([1.0, 2.0], requires_grad=True), tg.tensor([1.0, 3.0], requires_grad=True)
    rate, constants = tg.tensor(0.1, requires_grad=True), []
    inner = {"x": x, "y": y}
    for _ in range(3):
        found = tg.grad((inner["x"] * inner["y"]).sum(), inner)
        constants.append(found["x"].numpy() + found["y"].numpy())
        inner = {name: w - rate * found[name] for name, w in inner.items()}
    (inner["x"] + inner["y"]).sum().backward()
    assert x.grad.tolist() == [1, 1]
    np.testing.assert_allclose(rate.grad.item(), -np.sum(constants), rtol=1e-6)


def test_each_operation_behind_an_input_is_searched_once() -> None:
    """A graph of doublings has 2^64 paths."""
    oldest, x = tg.ones(1, requires_grad=True) * 3, tg.ones(1, requires_grad=True)
    for _ in range(64):
        x = x + x
    assert [g.item() for g in tg.grad(oldest * x, [oldest, x])] == [2**64, 3]


def test_what_leads_to_no_input_is_searched_once_for_all_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred outputs of a recurrence after a long history, which is not searched at all."""
    pushed: list[Any] = []

    def push(heap: list[Any], item: Any) -> None:
        pushed.append(item)
        heappush(heap, item)

    h = tg.ones(1, requires_grad=True)
    for _ in range(1000):
        h = tg.tanh(h)
    outputs = []
    for _ in range(100):
        h = tg.tanh(h)
        outputs.append(h * 2)
    loss = tg.stack(outputs).sum()
    monkeypatch.setattr("tinygrad_rnn.backward.heappush", push)
    assert [g.item() for g in tg.grad(loss, outputs)] == [1] * 100
    assert len(pushed) < 300


def test_an_input_behind_another_that_was_freed_is_not_taken_for_unused() -> None:
    x = tg.tensor(X, requires_grad=True)
    y = x.sin()
    y.sum().backward()
    with pytest.raises(GraphError, match="freed"):
        tg.grad((y * 2).sum(), [y, x], allow_unused=True)


def test_cotangents_may_come_in_a_dictionary_as_the_outputs_do() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    outputs, cotangents = {"a": x * 2, "b": {"c": x * x}}, {"a": [1.0, 0.0], "b": {"c": [0.0, 1.0]}}
    assert tg.grad(outputs, x, cotangents).tolist() == [2, 4]
    with pytest.raises(ValueError, match="differ in structure"):
        tg.grad({"a": x * 2}, x, {"b": [1.0, 0.0]})


def test_a_single_input_gives_a_tensor_and_a_list_a_tuple() -> None:
    x = tg.ones(3, requires_grad=True)
    assert isinstance(tg.grad((x * x).sum(), x), Tensor)
    assert isinstance(tg.grad((x * x).sum(), [x]), tuple)
    both = tg.grad((x * x).sum(), (x, x))
    assert [g.tolist() for g in both] == [[2, 2, 2]] * 2


def test_several_outputs() -> None:
    x = tg.tensor(X, requires_grad=True)
    a = x.sin()
    b = a * x
    weights = (np.full((3, 4), 2.0), np.full((3, 4), 3.0))
    (g,) = tg.grad([a, b], [x], list(weights))
    np.testing.assert_allclose(g.numpy(), 2 * np.cos(X) + 3 * (np.cos(X) * X + np.sin(X)), rtol=1e-12)
    y, z = (x * x).sum(), x.sum()
    np.testing.assert_allclose(tg.grad([y, z, y], x).numpy(), 4 * X + 1, rtol=1e-12)
    with pytest.raises(ShapeError, match="1 grad_outputs were given for 2 outputs"):
        tg.grad([y, z], x, [1.0])


def test_grad_outputs_may_be_differentiated() -> None:
    x, v = tg.tensor(X, requires_grad=True), tg.tensor(V, requires_grad=True)
    g = tg.grad(x.sin(), x, v, create_graph=True)
    np.testing.assert_allclose(tg.grad(g.sum(), v).numpy(), np.cos(X), rtol=1e-14)


def test_unused_inputs() -> None:
    x, y = tg.ones(3, requires_grad=True), tg.ones(3, requires_grad=True)
    with pytest.raises(GraphError, match=r"no output depends on the input Tensor\(f32\[3\].*allow_unused"):
        tg.grad(x.sum(), [x, y])
    with pytest.raises(GraphError, match=r"getitem#\d+\) \(a slice, stack or copy is a Tensor of its own\)"):
        tg.grad(x.sum(), x[1])
    g, none = tg.grad(x.sum(), [x, y], allow_unused=True)
    assert g.tolist() == [1, 1, 1]
    assert none is None
    assert tg.grad(x.sum(), y, allow_unused=True) is None


def test_newer_inputs_than_outputs_are_unused() -> None:
    x = tg.ones(3, requires_grad=True)
    y = x.sum()
    z = x * 2
    assert tg.grad(y, z, allow_unused=True) is None


def test_inputs_without_history_are_refused() -> None:
    x = tg.ones(3, requires_grad=True)
    with pytest.raises(GraphError, match="does not require a gradient"):
        tg.grad(x.sum(), tg.ones(3))
    with pytest.raises(GraphError, match="has no history"):
        tg.grad(tg.ones(3).sum(), x)
    with pytest.raises(GraphError, match="not a scalar"):
        tg.grad(x * 2, x)
    with pytest.raises(ShapeError, match="does not fit"):
        tg.grad(x * 2, x, np.ones(4))


def test_directions_may_be_lists() -> None:
    x = tg.tensor([0.3, 0.7], dtype="float64")
    for derivative in (tg.hvp, tg.jvp):
        found, wanted = (derivative(lambda x: (x * x).sum(), x, v) for v in ([0.1, 0.2], np.array([0.1, 0.2])))
        np.testing.assert_array_equal(np.asarray(found[-1]), np.asarray(wanted[-1]))


def test_a_graph_is_gone_after_grad_unless_it_is_kept() -> None:
    x = tg.ones(3, requires_grad=True)
    y = x.sin().sum()
    tg.grad(y, x, retain_graph=True)
    tg.grad(y, x, create_graph=True)
    tg.grad(y, x)
    with pytest.raises(GraphError, match="freed"):
        tg.grad(y, x)


# ---- a two-layer LSTM ----

T, B, H = 5, 2, 3


class Stack(nn.Module):
    """Two LSTM cells and the loss of their outputs."""

    def __init__(self) -> None:
        self.cells = [nn.LSTMCell(4, H, dtype="float64"), nn.LSTMCell(H, H, dtype="float64")]

    def forward(self, xs: Any) -> Tensor:
        for cell in self.cells:
            xs, state = bptt.unroll(cell, xs)
        return (xs * xs).mean() + state.c.sin().sum()


@pytest.fixture
def lstm() -> tuple[Stack, np.ndarray, list[np.ndarray]]:
    """The model, its inputs, and a direction in the space of its parameters."""
    model, rng = Stack(), np.random.default_rng(5)
    return model, rng.standard_normal((T, B, 4)), [rng.standard_normal(p.shape) for p in model.parameters()]


def hessian_times(model: Stack, xs: np.ndarray, direction: list[np.ndarray]) -> list[np.ndarray]:
    parameters = list(model.parameters())
    grads = tg.grad(model(xs), parameters, create_graph=True)
    return [h.numpy() for h in tg.grad(grads, parameters, direction)]


def test_hessian_of_an_lstm_against_finite_differences(lstm: Any) -> None:
    model, xs, direction = lstm
    found = hessian_times(model, xs, direction)
    start, eps, ends = [p.data for p in model.parameters()], 1e-5, []
    for sign in (1, -1):
        for p, x, v in zip(model.parameters(), start, direction, strict=True):
            p.data = x + sign * eps * v
        ends.append([g.numpy() for g in tg.grad(model(xs), list(model.parameters()))])
    for h, plus, minus in zip(found, *ends, strict=True):
        np.testing.assert_allclose(h, (plus - minus) / (2 * eps), rtol=1e-6, atol=1e-8)


def test_hessian_of_an_lstm_against_torch(lstm: Any, torch: Any) -> None:
    model, xs, direction = lstm
    weights = [torch.tensor(p.data, requires_grad=True) for p in model.parameters()]
    inputs = torch.tensor(xs)
    for w_ih, w_hh, bias in (weights[:3], weights[3:]):
        h = c = torch.zeros(B, H, dtype=torch.float64)
        outputs = []
        for x in inputs:
            i, f, g, o = (x @ w_ih.T + h @ w_hh.T + bias).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        inputs = torch.stack(outputs)
    loss = (inputs * inputs).mean() + c.sin().sum()
    assert model(xs).item() == pytest.approx(loss.item(), rel=1e-12)
    grads = torch.autograd.grad(loss, weights, create_graph=True)
    expected = torch.autograd.grad(grads, weights, [torch.tensor(v) for v in direction])
    for h, e in zip(hessian_times(model, xs, direction), expected, strict=True):
        np.testing.assert_allclose(h, e.numpy(), rtol=1e-10, atol=1e-12)


def test_jacobian_of_an_lstm_state_for_the_one_before(torch: Any) -> None:
    """What flows from h_0 to h_T, through time."""
    cell, xs = nn.LSTMCell(4, H, dtype="float64"), np.random.default_rng(6).standard_normal((T, 1, 4))
    c0 = tg.zeros(1, H, dtype="float64")
    actual = tg.jacobian(lambda h: bptt.unroll(cell, xs, (h, c0)).state.h, np.ones((1, H)))
    reference = torch.nn.LSTM(4, H, dtype=torch.float64)
    with torch.no_grad():
        for name, value in (("weight_ih_l0", cell.weight_ih), ("weight_hh_l0", cell.weight_hh)):
            getattr(reference, name).copy_(torch.tensor(value.data))
        reference.bias_ih_l0.copy_(torch.tensor(cell.bias.data))
        reference.bias_hh_l0.zero_()
    expected = torch.autograd.functional.jacobian(
        lambda h: reference(torch.tensor(xs), (h[None], torch.zeros(1, 1, H, dtype=torch.float64)))[1][0][0],
        torch.ones(1, H, dtype=torch.float64),
    )
    assert_close(actual, expected)


# ---- forms of the arguments ----


def test_grad_of_nested_tensors_has_their_structure() -> None:
    model, x = nn.Linear(4, 2).to("float64"), tg.tensor(X, requires_grad=True)
    loss = (model(x) ** 2).sum()
    expected = tg.grad(loss, [x, *model.parameters()], retain_graph=True)
    assert isinstance(expected, tuple)

    by_name = tg.grad(loss, dict(model.named_parameters()), retain_graph=True)
    nested = tg.grad({"loss": loss}, {"x": x, "model": (model.weight, [model.bias])}, retain_graph=True)
    in_turn = tg.grad(loss, dict(model.named_parameters()).values(), retain_graph=True)
    state = tg.grad(loss, nn.LSTMState(model.weight, model.bias), retain_graph=True)
    assert isinstance(state, nn.LSTMState)
    for gx, weight, bias in (
        expected,
        (nested["x"], nested["model"][0], nested["model"][1][0]),
        (expected[0], *in_turn),
        (expected[0], *state),
        (expected[0], *by_name.values()),
    ):
        for found, g in zip((gx, weight, bias), expected, strict=True):
            np.testing.assert_array_equal(found.data, g.data)
    assert list(by_name) == ["weight", "bias"]
    unused = tg.grad(loss, {"x": x, "other": tg.ones(2, requires_grad=True)}, allow_unused=True)
    assert unused["other"] is None


def test_grad_says_what_is_no_tensor() -> None:
    x = tg.ones(2, requires_grad=True)
    for wrong, told in ((np.ones(2), "input must be a Tensor, not float64"), ({"w": 1.0}, "not float"), ("w", "str")):
        with pytest.raises(TypeError, match=f"grad: each .*{told}"):
            tg.grad(x.sum(), wrong)
    with pytest.raises(TypeError, match="grad: each output must be a Tensor, not int"):
        tg.grad(1, x)
    for outputs, inputs, role in ((x.sum(), [], "inputs"), ([], x, "outputs")):
        with pytest.raises(GraphError, match=f"grad: there are no {role}"):
            tg.grad(outputs, inputs)


def test_as_many_tangents_as_arguments() -> None:
    x = tg.ones(2)
    assert tg.jvp(lambda a: a * a, [x], x)[1].tolist() == [2, 2]
    assert tg.jvp(lambda a: a * a, x, [1.0, 3.0])[1].tolist() == [2, 6]
    with pytest.raises(ShapeError, match="jvp: 1 vectors were given for 2 arguments"):
        tg.jvp(lambda a, b: a * b, (x, x), x)


def test_derivatives_know_what_else_has_a_part_in_them() -> None:
    """A penalty on a derivative trains the parameters that the function reads, and a direction that is learned."""
    w, x = tg.tensor([2.0], requires_grad=True), tg.tensor([3.0])
    weighted = lambda z: z**3 * w  # noqa: E731
    for found, expected in (
        (tg.jacobian(weighted, x)[0], 27),
        (tg.jvp(weighted, x, tg.ones(1))[1], 27),
        (tg.vjp(weighted, x)[1](tg.ones(1))[0], 27),
        (tg.hvp(lambda z: weighted(z).sum(), x, tg.ones(1)), 18),
    ):
        assert tg.grad(found.sum(), w).item() == expected
    v = tg.ones(1, requires_grad=True)
    for found, expected in (
        (tg.jvp(lambda z: z**3, x, v)[1], 27),
        (tg.vjp(lambda z: z**3, x)[1](v)[0], 27),
        (tg.hvp(lambda z: (z**3).sum(), x, v), 18),
    ):
        assert tg.grad(found.sum(), v).item() == expected
    assert not tg.jacobian(lambda z: z**3, x).requires_grad
    with tg.no_grad():
        assert not tg.jacobian(weighted, x).requires_grad


def test_a_derivative_walks_no_older_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a loop over time the work for each step stays the same."""
    module = sys.modules["tinygrad_rnn.grad"]
    walked: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        found = graph.reachable(*args, **kwargs)
        walked.append(len(found))
        return found

    monkeypatch.setattr(module, "reachable", counted)
    w, h = tg.tensor(2.0, requires_grad=True), tg.tensor(1.0)
    for _ in range(200):
        h = tg.tanh(h * w)
    _, slope = tg.jvp(lambda z: z * z, h, tg.tensor(1.0))
    assert tg.grad(slope, w).item() != 0
    assert max(walked) < 5


def test_vectors_may_be_refilled() -> None:
    w, v = tg.tensor([2.0], requires_grad=True), np.ones(1, np.float32)
    found = tg.hvp(lambda x: (w * x**3).sum(), tg.ones(1), v)
    v[:] = 0
    assert tg.grad(found.sum(), w).item() == 6


def test_softplus_is_smooth_at_0() -> None:
    x = tg.tensor(0.0, dtype="float64", requires_grad=True)
    y, orders = tg.softplus(x), []
    for _ in range(4):
        y = tg.grad(y, x, create_graph=True)
        orders.append(y.item())
    np.testing.assert_allclose(orders, [0.5, 0.25, 0, -0.125], atol=1e-15)
