"""Cells against their equations, against PyTorch, and against finite differences at order one and two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cell_equations import CASES, D, H
from vectors import assert_gradient, assert_hessian, vector_and_loss
from waits import waiting

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn
from tinygrad_rnn.backend import Backend
from tinygrad_rnn.tree import tree_leaves

T, B = 5, 2
ALL = pytest.mark.parametrize("name", CASES)
RECURRENT = [name for name in CASES if name != "minimal gru"]  # those with gates that see the state


def ready(name: str) -> nn.WeightedCell:
    """A cell of which no parameter is special: gains are not 1, and shifts not 0."""
    cell = CASES[name].make()
    random = np.random.default_rng(1)
    for p in cell.parameters():
        p.data = p.data + 0.3 * random.standard_normal(p.shape)
    return cell


def state_of(cell: Any, seed: int = 2) -> Any:
    """A random state."""
    random = np.random.default_rng(seed)
    needed = cell.initial_state(cell.input_projection(np.zeros((B, D))))
    parts = [tg.tensor(random.standard_normal(part.shape)) for part in tree_leaves(needed)]
    return type(needed)(*parts) if isinstance(needed, tuple) else parts[0]


def inputs() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((T, B, D))


# ---- values ----


@ALL
def test_a_cell_equals_its_equations(name: str) -> None:
    cell, xs = ready(name), inputs()
    parameters, state = cell.state_dict(), state_of(cell)
    found = nn.unroll(cell, xs, state, record=True)
    expected = tuple(part.data for part in tree_leaves(state))
    for t in range(T):
        output, expected, gates = CASES[name].step(parameters, xs[t], expected)
        np.testing.assert_allclose(found.outputs.data[t], output, rtol=0, atol=1e-12)
        for gate, value in gates.items():
            np.testing.assert_allclose(found.record[gate].data[t], value, rtol=0, atol=1e-12, err_msg=gate)
    for part, value in zip(tree_leaves(found.state), expected, strict=True):
        np.testing.assert_allclose(part.data, value, rtol=0, atol=1e-12)
    assert set(cell.full_step(cell.input_projection(xs[0]), state)[2]) == set(gates)


@ALL
def test_one_call_is_one_step(name: str) -> None:
    cell, xs = ready(name), inputs()
    outputs, _ = nn.unroll(cell, xs)
    again = None
    for t in range(T):
        output, again = cell(xs[t], again)
        np.testing.assert_allclose(output.data, outputs.data[t], rtol=0, atol=1e-12)
    alone, _ = cell(xs[0, 0])  # without a batch
    np.testing.assert_allclose(alone.data, outputs.data[0, 0], rtol=0, atol=1e-12)
    assert cell(xs[0, :0])[0].shape == (0, cell.output_size)


# ---- derivatives ----


@ALL
def test_the_gradient_equals_finite_differences(name: str) -> None:
    cell = ready(name)
    assert_gradient(*vector_and_loss(cell, inputs()[:3], state_of(cell)))


@ALL
def test_the_hessian_times_a_vector_equals_finite_differences_of_the_gradient(name: str) -> None:
    cell = ready(name)
    assert_hessian(*vector_and_loss(cell, inputs()[:3], state_of(cell)))


@ALL
def test_gates_are_on_the_path_of_the_gradient(name: str) -> None:
    """What a cell gives up is what it used, not a copy."""
    cell = ready(name)
    z = cell.input_projection(inputs()[0])
    output, _, gates = cell.full_step(z, state_of(cell))
    for gate in gates.values():
        assert np.abs(tg.grad(output.sum(), gate, retain_graph=True).data).sum() > 0


# ---- PyTorch ----


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("cell", "theirs"),
    [
        (nn.RNNCell(D, H, dtype="float64"), "RNNCell"),
        (nn.RNNCell(D, H, nonlinearity="relu", dtype="float64"), "RNNCell"),
        (nn.LSTMCell(D, H, dtype="float64"), "LSTMCell"),
        (nn.GRUCell(D, H, dtype="float64"), "GRUCell"),
    ],
    ids=["tanh", "relu", "lstm", "gru"],
)
@pytest.mark.parametrize("with_state", [True, False])
def test_a_cell_equals_pytorchs(cell: Any, theirs: str, with_state: bool) -> None:
    """With both of PyTorch's biases: they add up to one, but for those of a GRU's n."""
    torch = pytest.importorskip("torch")
    options = {"nonlinearity": cell.nonlinearity} if theirs == "RNNCell" else {}
    reference = getattr(torch.nn, theirs)(D, H, dtype=torch.float64, **options)
    b_ih, b_hh = reference.bias_ih.detach().numpy(), reference.bias_hh.detach().numpy()
    values = {"weight_ih": reference.weight_ih, "weight_hh": reference.weight_hh}
    values = {name: value.detach().numpy() for name, value in values.items()} | {"bias": b_ih + b_hh}
    if theirs == "GRUCell":
        values["bias"] = b_ih + np.concatenate([b_hh[: 2 * H], np.zeros(H)])
        values["bias_hn"] = b_hh[2 * H :]
    cell.load_state_dict(values)
    cell.zero_grad()

    parts = [np.random.default_rng(k).standard_normal((B, H)) for k in range(2 if theirs == "LSTMCell" else 1)]
    ours, torchs = (
        [tg.tensor(p, requires_grad=True) for p in parts],
        [torch.tensor(p, requires_grad=True) for p in parts],
    )
    x, x_torch = tg.tensor(inputs()[0], requires_grad=True), torch.tensor(inputs()[0], requires_grad=True)
    state = (tuple(ours) if theirs == "LSTMCell" else ours[0]) if with_state else None
    _, after = cell(x, state)
    expected = reference(x_torch, (tuple(torchs) if theirs == "LSTMCell" else torchs[0]) if with_state else None)
    pairs = list(zip(tree_leaves(after), expected if isinstance(expected, tuple) else [expected], strict=True))
    for a, b in pairs:
        same(a, b)
    sum((a.sin().sum() for a, _ in pairs), tg.tensor(0.0)).backward()
    sum(b.sin().sum() for _, b in pairs).backward()
    same(x.grad, x_torch.grad)
    same(cell.weight_ih.grad, reference.weight_ih.grad)
    same(cell.weight_hh.grad, reference.weight_hh.grad)
    same(cell.bias.grad, reference.bias_ih.grad)
    if theirs == "GRUCell":
        same(cell.bias_hn.grad, reference.bias_hh.grad[2 * H :])
    for a, b in zip(ours, torchs, strict=True):
        if with_state:
            same(a.grad, b.grad)


def test_a_projected_lstm_equals_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    reference = torch.nn.LSTM(D, H, proj_size=2, dtype=torch.float64)
    cell = nn.LSTMCell(D, H, proj_size=2, dtype="float64")
    names = {"weight_ih": "weight_ih_l0", "weight_hh": "weight_hh_l0", "weight_hr": "weight_hr_l0"}
    theirs = {name: p.detach().numpy() for name, p in reference.named_parameters()}
    cell.load_state_dict(
        {n: theirs[t] for n, t in names.items()} | {"bias": theirs["bias_ih_l0"] + theirs["bias_hh_l0"]}
    )
    outputs, state = nn.unroll(cell, inputs())
    outputs_torch, (h, c) = reference(torch.tensor(inputs()))
    same(outputs, outputs_torch)
    same(state.h, h[0])
    same(state.c, c[0])
    (outputs.sin().sum() + state.c.sum()).backward()
    (outputs_torch.sin().sum() + c.sum()).backward()
    for ours, theirs_name in names.items():
        same(getattr(cell, ours).grad, getattr(reference, theirs_name).grad)


@pytest.mark.parametrize("name", RECURRENT)
def test_some_rows_of_the_recurrence_are_those_of_the_whole(name: str) -> None:
    cell, rows = ready(name), slice(H - 2, H + 1)
    layers: list[dict[str, int]] = [{"layer": k} for k in range(cell.depth)] if isinstance(cell, nn.RHNCell) else [{}]
    h = tree_leaves(state_of(cell))[0]
    for layer in layers:
        whole = cell.recur(h, **layer).numpy()[:, rows]
        z = tg.tensor(np.random.default_rng(4).standard_normal(whole.shape))
        np.testing.assert_allclose(cell.recur(h, None, rows, **layer).numpy(), whole, rtol=0, atol=1e-12)
        np.testing.assert_allclose(cell.recur(h, z, rows, **layer).numpy(), whole + z.numpy(), rtol=0, atol=1e-12)


# ---- how they begin ----


def test_forget_bias_is_added_to_the_forget_gate_alone() -> None:
    for make, start in ((nn.LSTMCell, H), (nn.CoupledLSTMCell, 0), (nn.PeepholeLSTMCell, H), (nn.LayerNormLSTMCell, H)):
        tg.manual_seed(3)
        plain = make(D, H).bias.numpy()
        tg.manual_seed(3)
        raised = make(D, H, forget_bias=1.5).bias.numpy()
        expected = np.zeros_like(plain)
        expected[start : start + H] = 1.5
        np.testing.assert_allclose(raised - plain, expected, atol=1e-6)


def test_irnn_begins_as_the_identity() -> None:
    cell = nn.RNNCell(D, H, nonlinearity="relu", recurrent_init="identity")
    h = np.abs(np.random.default_rng(0).standard_normal((B, H))).astype(np.float32)
    output, _ = cell(np.zeros((B, D), np.float32), tg.tensor(h))
    np.testing.assert_array_equal(output.data, h)
    assert [p.requires_grad for p in cell.parameters()] == [True] * 3


def test_transform_bias_lets_the_past_through() -> None:
    cell = nn.RHNCell(D, H, depth=2, transform_bias=-30.0)
    h = tg.randn(B, H)
    np.testing.assert_allclose(cell(tg.randn(B, D), h)[0].data, h.data, atol=1e-6)


def test_coupled_gates_are_an_lstm_with_i_equal_to_1_minus_f() -> None:
    cell, lstm = nn.CoupledLSTMCell(D, H, dtype="float64"), nn.LSTMCell(D, H, dtype="float64")
    for name, p in cell.named_parameters():
        f, g, o = np.split(p.numpy(), 3)
        getattr(lstm, name).data = np.concatenate([-f, f, g, o])  # sigmoid(-a) = 1 - sigmoid(a)
    np.testing.assert_allclose(
        nn.unroll(cell, inputs()).outputs.data, nn.unroll(lstm, inputs()).outputs.data, atol=1e-12
    )


def test_peepholes_of_0_are_none() -> None:
    cell, lstm = nn.PeepholeLSTMCell(D, H, dtype="float64"), nn.LSTMCell(D, H, dtype="float64")
    for p in (cell.peephole_i, cell.peephole_f, cell.peephole_o):
        p.data = np.zeros(H)
    lstm.load_state_dict({name: cell.state_dict()[name] for name in ("weight_ih", "weight_hh", "bias")})
    np.testing.assert_array_equal(nn.unroll(cell, inputs()).outputs.data, nn.unroll(lstm, inputs()).outputs.data)


def test_a_leak_of_1_is_a_simple_rnn_and_is_saved_where_it_is_one_for_each_unit() -> None:
    leaky, simple = nn.LeakyRNNCell(D, H, leak=1.0, dtype="float64"), nn.RNNCell(D, H, dtype="float64")
    simple.load_state_dict(leaky.state_dict())
    np.testing.assert_allclose(
        nn.unroll(leaky, inputs()).outputs.data, nn.unroll(simple, inputs()).outputs.data, atol=1e-12
    )
    each = nn.LeakyRNNCell(D, H, leak=[0.1, 0.2, 0.3, 0.4])
    assert "leak" in each.state_dict()
    assert "leak" not in dict(each.named_parameters())


# ---- types, places ----


@ALL
def test_float32_stays_float32(name: str) -> None:
    cell = CASES[name].make().to("float32")
    x = tg.randn(T, B, D, requires_grad=True)
    outputs, state = nn.unroll(cell, x)
    assert {outputs.dtype, *(part.dtype for part in tree_leaves(state))} == {np.dtype("float32")}
    outputs.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == np.float32 for p in [x, *cell.parameters()])


@ALL
def test_a_cell_runs_on_a_device_with_no_wait_for_the_host(name: str, device: Backend) -> None:
    cell, xs = ready(name), inputs()
    expected = nn.unroll(cell, xs)
    expected.outputs.sum().backward()
    grads = [p.grad.numpy() for p in cell.parameters() if p.grad is not None]
    cell.to(device.name)
    x = tg.tensor(xs).to(device.name)
    with waiting(device):
        outputs, _ = nn.unroll(cell, x)
        outputs.sum().backward()
    assert outputs.backend == device.name
    np.testing.assert_allclose(outputs.numpy(), expected.outputs.data, atol=1e-12)
    for p, g in zip(cell.parameters(), grads, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), g, atol=1e-12)


# ---- what is refused, before anything is computed ----


class Unused:
    """A watcher that nothing may call."""

    def forward(self, *_: Any) -> None:
        raise AssertionError("something was computed")


@ALL
@pytest.mark.parametrize("call", ["unroll", "one step"])
def test_inputs_that_do_not_fit_are_refused(name: str, call: str) -> None:
    cell = CASES[name].make()
    wrong: list[tuple[Any, type[Exception], str]] = [
        (np.ones((T, B, D + 1)), ValueError, rf"the inputs f64\[{T},{B},{D + 1}\] do not fit input_size {D}"),
        (np.ones((T, B, D), np.int64), TypeError, rf"the inputs i64\[{T},{B},{D}\].*nn.Embedding\(count, {D}\)"),
        (tg.tensor(np.ones((T, B, D), bool)), TypeError, r"the inputs bool.* are not floating-point"),
    ]
    if call == "unroll":
        wrong.append(
            (np.ones(D), tg.ShapeError, rf"inputs of shape \({D},\) are one step, but a sequence is \(T, B, F\)")
        )
    for x, error, match in wrong:
        with pytest.raises(error, match=f"{type(cell).__name__}: {match}"), tg.tape.watching(Unused()):
            nn.unroll(cell, x) if call == "unroll" else cell(x)
    with pytest.raises(TypeError, match=r"must be .*a list"):
        nn.unroll(cell, [[1.0]]) if call == "unroll" else cell([1.0])


@ALL
@pytest.mark.parametrize("call", ["unroll", "one step"])
def test_states_that_do_not_fit_are_refused(name: str, call: str) -> None:
    cell, xs = CASES[name].make(), inputs()
    good = state_of(cell)
    lstm = isinstance(good, nn.LSTMState)
    wrong: list[tuple[Any, type[Exception]]] = [
        (good.h if lstm else (good, good), TypeError),
        ((good.h, good.c, good.c) if lstm else (good,), TypeError),
        ({"h": good}, TypeError),
        (nn.LSTMState(good.h, None) if lstm else 0.0, TypeError),
        (tg.tree.tree_map(lambda part: part[:1], good), ValueError),
        (tg.tree.tree_map(lambda part: tg.concatenate([part, part], axis=1), good), ValueError),
        (tg.tree.tree_map(lambda part: part.astype("int64"), good), TypeError),
    ]
    for state, error in wrong:
        needed = r"LSTMState\(h f64\[2,.\], c f64\[2,4\]\)" if lstm else r"f64\[2,4\]"
        with pytest.raises(error, match=rf"{type(cell).__name__}: the state .* does not fit; .* must be {needed}"):
            nn.unroll(cell, xs, state) if call == "unroll" else cell(xs[0], state)


def test_a_plain_tuple_or_list_of_arrays_will_do_for_a_state() -> None:
    cell, xs = nn.LSTMCell(D, H, dtype="float64"), inputs()
    state = state_of(cell)
    expected = cell(xs[0], state)[0].data
    for given in ((state.h, state.c), [state.h.data, state.c.data]):
        output, after = cell(xs[0], given)
        np.testing.assert_array_equal(output.data, expected)
        assert isinstance(after, nn.LSTMState)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: nn.GRUCell(3, 0), "GRUCell: hidden_size is a whole number, at least 1, not 0"),
        (lambda: nn.MGUCell(-1, 3), "MGUCell: input_size is a whole number, at least 0, not -1"),
        (lambda: nn.RNNCell(3, 4, nonlinearity="cubic"), "RNNCell: the nonlinearity .* 'cubic'"),
        (lambda: nn.RNNCell(3, 4, recurrent_init="zeros"), "RNNCell: recurrent_init"),
        (lambda: nn.GRUCell(3, 4, reset="never"), "GRUCell: reset"),
        (lambda: nn.LSTMCell(3, 4, proj_size=4), "LSTMCell: proj_size 4"),
        (lambda: nn.LSTMCell(3, 4, proj_size=-1), "LSTMCell: proj_size is a whole number, at least 0, not -1"),
        (lambda: nn.LSTMCell(3, 4, bias=False, forget_bias=1.0), r"LSTMCell: forget_bias=1\.0 needs bias=True"),
        (lambda: nn.RHNCell(3, 4, depth=0), "RHNCell: depth is"),
        (lambda: nn.RHNCell(3, 4, bias=False, transform_bias=-1.0), "RHNCell: transform_bias"),
        (lambda: nn.LeakyRNNCell(3, 4, leak=0.0), "LeakyRNNCell: leak"),
        (lambda: nn.LeakyRNNCell(3, 4, leak=[0.5, 0.5]), "LeakyRNNCell: leak"),
        (lambda: nn.LeakyRNNCell(3, 4, leak=1.5), "LeakyRNNCell: leak"),
    ],
)
def test_wrong_settings_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


# ---- cells of a user's own ----


class Counter:
    """Nothing but the two methods."""

    def input_projection(self, x: Any) -> Any:
        return x

    def step(self, z: Any, state: Any) -> tuple[Any, Any]:
        return z + state, state + 1


def test_any_object_with_two_methods_is_a_cell() -> None:
    outputs, state = nn.unroll(Counter(), np.zeros((3, 2, 1)), tg.zeros(2, 1))
    assert state.tolist() == [[3.0], [3.0]]
    assert outputs.data[:, 0, 0].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="Counter: it has no initial_state"):
        nn.unroll(Counter(), np.zeros((3, 2, 1)))


def test_a_cell_that_says_nothing_of_sizes_goes_on_from_a_given_state() -> None:
    class Adder(nn.Cell):
        def input_projection(self, x: Any) -> Any:
            return x

        def step(self, z: Any, state: Any) -> tuple[Any, Any]:
            return z + state, z + state

    cell, x, state = Adder(), tg.ones(3, 2, 1), tg.ones(2, 1)
    assert cell(x[0], state)[0].tolist() == [[2.0], [2.0]]
    assert nn.unroll(cell, x, state).state.tolist() == [[4.0], [4.0]]
    assert nn.Recurrent(cell)(x, state).state.tolist() == [[4.0], [4.0]]
    for call in (lambda: cell(x[0]), lambda: nn.unroll(cell, x)):
        with pytest.raises(ValueError, match=r"Adder: nothing says what state to begin with; .* define initial"):
            call()


@pytest.mark.parametrize(
    "wrong", [nn.GRU(2, 3), lambda x, h: (x, h), nn.Linear(2, 2), nn.GRUCell], ids=["layer", "function", "map", "class"]
)
@pytest.mark.parametrize(
    ("unroll", "call"),
    [(nn.unroll, "layer(xs)"), (bptt.checkpointed, "layer.unrolled_by(bptt.checkpointed)(xs)")],
)
def test_what_is_no_cell_is_refused(unroll: Any, call: str, wrong: Any) -> None:
    with pytest.raises(TypeError) as error:
        unroll(wrong, tg.ones(4, 1, 2))
    told = f"{unroll.__name__}: a cell is an object with input_projection(x) and step(z, state), but {wrong!r} is none"
    cure = f"a layer goes over the sequence by itself, {call}, and its cell is layer.cell, or layer.layers[0].cell"
    assert str(error.value) == f"{told}; {cure}"


def test_a_cell_defines_a_step_or_a_full_step() -> None:
    class Half(nn.Cell):
        output_size = 1

        def input_projection(self, x: Any) -> Any:
            return x

    class Whole(Half):
        def step(self, z: Any, state: Any) -> tuple[Any, Any]:
            return z + state, z + state

    assert Whole()(tg.ones(2, 1))[0].tolist() == [[1.0], [1.0]]
    assert Whole().full_step(tg.ones(2, 1), tg.ones(2, 1))[2] == {}
    with pytest.raises(NotImplementedError, match="Half defines neither step nor full_step"):
        Half()(tg.ones(2, 1))


def test_a_step_that_is_overridden_counts_wherever_the_cell_is_run() -> None:
    class Halved(nn.LSTMCell):
        def step(self, z: Any, state: Any) -> tuple[Any, Any]:
            h, state = super().step(z, state)
            return 0.5 * h, state

    xs, plain, halved = inputs(), nn.LSTMCell(D, H, dtype="float64"), Halved(D, H, dtype="float64")
    halved.load_state_dict(plain.state_dict())
    expected = nn.unroll(plain, xs).outputs.data / 2
    for cell in (halved, nn.Zoneout(halved, 0.0), nn.VariationalDropout(halved)):
        for record in (False, True):
            np.testing.assert_array_equal(nn.unroll(cell, xs, record=record).outputs.data, expected)
    assert set(nn.unroll(halved, xs, record=True).record) == {"h", "c"}


def test_every_cell_is_tested_here() -> None:
    cells = {value for value in vars(nn).values() if isinstance(value, type) and issubclass(value, nn.WeightedCell)}
    assert {type(case.make()) for case in CASES.values()} == cells - {nn.WeightedCell}


@pytest.mark.parametrize("record", [False, True])
def test_a_step_that_forgets_the_state_is_refused(record: bool) -> None:
    """A Tensor of two rows would be taken apart, one as the output and one as the state."""

    class Forgetful(nn.WeightedCell):
        def step(self, z: Any, state: Any) -> Any:
            return tg.tanh(z + state)

    with pytest.raises(TypeError, match=r"Forgetful\.step must return \(output, next state\), not Tensor"):
        bptt.unroll(Forgetful(3, 4), tg.ones(5, 2, 3), record=record)
