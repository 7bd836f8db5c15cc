"""Recurrent layers: PyTorch's numbers in every configuration, and what is said when something does not fit."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from closeness import close, drawn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odd_cells import Doubling, Tokens

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn
from tinygrad_rnn.tree import tree_leaves

T, B, F, H = 5, 3, 4, 6


# ---- the same as PyTorch ----


@dataclass(frozen=True)
class Case:
    """A layer of PyTorch's and what it is called with."""

    kind: str
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    bidirectional: bool
    steps: int
    batch: int | None  # None: one sequence, with no axis for a batch
    lengths: tuple[int, ...] | None
    with_state: bool

    @property
    def options(self) -> dict[str, Any]:
        return {"RNN relu": {"nonlinearity": "relu"}, "LSTM proj": {"proj_size": self.hidden_size - 1}}.get(
            self.kind, {}
        )

    def layer(self, library: Any, **more: Any) -> Any:
        names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
        return getattr(library, self.kind.split()[0])(
            **{name: getattr(self, name) for name in names}, **self.options, **more
        )

    @property
    def x(self) -> np.ndarray:
        if self.batch is None:
            return drawn(self.steps, self.input_size)
        shape = (self.batch, self.steps) if self.batch_first else (self.steps, self.batch)
        return drawn(*shape, self.input_size)

    @property
    def state(self) -> list[np.ndarray]:
        rows = (self.num_layers * (1 + self.bidirectional), *(() if self.batch is None else (self.batch,)))
        sizes = {"LSTM": [self.hidden_size] * 2, "LSTM proj": [self.hidden_size - 1, self.hidden_size]}
        return [drawn(*rows, size, seed=7 + i) for i, size in enumerate(sizes.get(self.kind, [self.hidden_size]))]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kind = draw(st.sampled_from(["RNN", "RNN relu", "LSTM", "LSTM proj", "GRU"]))
    steps = draw(st.integers(1, 6))
    batch = draw(st.one_of(st.none(), st.integers(1, 4)))
    lengths = st.none() if batch is None else st.one_of(st.none(), st.tuples(*[st.integers(1, steps)] * batch))
    size, flag = st.integers(1, 4), st.booleans()
    hidden = draw(st.integers(2, 5) if kind == "LSTM proj" else size)
    return Case(
        kind,
        draw(size),
        hidden,
        draw(st.integers(1, 3)),
        *(draw(flag) for _ in range(3)),
        steps,
        batch,
        draw(lengths),
        draw(flag),
    )


def run_theirs(torch: Any, layer: Any, case: Case, x: Any, state: Any) -> tuple[Any, list[Any]]:
    """PyTorch's outputs, padded again where they were packed, and the leaves of its state."""
    hidden = None if not state else tuple(state) if len(state) == 2 else state[0]
    if case.lengths is None:
        outputs, after = layer(x, hidden)
    else:
        rnn = torch.nn.utils.rnn
        packed = rnn.pack_padded_sequence(x, torch.tensor(case.lengths), case.batch_first, enforce_sorted=False)
        outputs, after = layer(packed, hidden)
        outputs, _ = rnn.pad_packed_sequence(outputs, case.batch_first, total_length=case.steps)
    return outputs, list(after) if isinstance(after, tuple) else [after]


def gradients_by_their_names(layer: Any) -> dict[str, np.ndarray]:
    """Our gradients for PyTorch's parameters: both biases have that of their sum, but for the gate n of a GRU."""
    found = {}
    for suffix, cell in layer.cells():
        for name in ("weight_ih", "weight_hh", "weight_hr", "bias"):
            p = getattr(cell, name, None)
            if p is not None:
                found[name + suffix] = p.grad.numpy()
        if "bias" + suffix in found:
            ih = hh = found.pop("bias" + suffix)
            if isinstance(cell, nn.GRUCell):
                hh = np.concatenate([ih[: 2 * cell.hidden_size], cell.bias_hn.grad.numpy()])
            found["bias_ih" + suffix], found["bias_hh" + suffix] = ih, hh
    return found


@settings(max_examples=400, deadline=None, derandomize=True)
@given(cases())
@example(Case("LSTM", 3, 4, 2, True, True, True, 5, 3, (2, 5, 1), True))
@example(Case("GRU", 3, 4, 3, True, False, True, 6, 4, (6, 1, 3, 6), False))
def test_outputs_states_and_every_gradient_are_pytorchs(case: Case) -> None:
    torch = pytest.importorskip("torch")
    theirs = case.layer(torch.nn, dtype=torch.float64)
    ours = case.layer(nn, dtype="float64")
    nn.load_torch_state_dict(ours, {name: p.detach().numpy() for name, p in theirs.named_parameters()})
    start = case.state if case.with_state else []
    x, state = tg.tensor(case.x, requires_grad=True), [tg.tensor(s, requires_grad=True) for s in start]
    x_torch = torch.tensor(case.x, requires_grad=True)
    state_torch = [torch.tensor(s, requires_grad=True) for s in start]

    given_state = None if not state else tuple(state) if len(state) == 2 else state[0]
    outputs, after = ours(x, given_state, lengths=case.lengths)
    outputs_torch, after_torch = run_theirs(torch, theirs, case, x_torch, state_torch)
    found, expected = [outputs, *tree_leaves(after)], [outputs_torch, *after_torch]
    assert isinstance(after, nn.LSTMState) == case.kind.startswith("LSTM")
    for y, e in zip(found, expected, strict=True):
        close(y, e)

    weights = [drawn(*y.shape, seed=k) for k, y in enumerate(found)]
    total = tg.tensor(0.0, dtype="float64")
    for y, w in zip(found, weights, strict=True):
        total = total + (y * w).sum()
    total.backward()
    sum((e * torch.tensor(w)).sum() for e, w in zip(expected, weights, strict=True)).backward()
    close(x.grad, x_torch.grad)
    for s, e in zip(state, state_torch, strict=True):
        close(s.grad, e.grad)
    gradients = gradients_by_their_names(ours)
    assert gradients.keys() == dict(theirs.named_parameters()).keys()
    for name, p in theirs.named_parameters():
        close(gradients[name], p.grad)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_gradients_of_gradients(kind: str) -> None:
    """A Hessian-vector product, both ways, two layers, rows of unequal length: equal to a difference of gradients."""
    layer = getattr(nn, kind)(3, 2, num_layers=2, bidirectional=True, dtype="float64")
    x, v = drawn(4, 2, 3), drawn(4, 2, 3, seed=1)

    def loss(x: Any) -> Tensor:
        outputs, state = layer(x, lengths=[4, 2])
        return (outputs * outputs).sum() + sum(((s * s * s).sum() for s in tree_leaves(state)), tg.tensor(0.0))

    def gradient(x: np.ndarray) -> np.ndarray:
        leaf = tg.tensor(x, requires_grad=True)
        return np.asarray(tg.grad(loss(leaf), leaf).data)

    product = tg.hvp(loss, tg.tensor(x), tg.tensor(v))
    product = product[-1] if isinstance(product, tuple) else product
    close(product, (gradient(x + 1e-5 * v) - gradient(x - 1e-5 * v)) / 2e-5, 1e-7)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_windows_with_a_carried_state_are_one_run(kind: str) -> None:
    layer, x = getattr(nn, kind)(F, H, num_layers=2), tg.tensor(drawn(T, B, F).astype("float32"))
    whole, end = layer(x)
    first, state = layer(x[:2])
    second, state = layer(x[2:], bptt.detach(state))
    close(tg.concatenate([first, second]), whole, 1e-6)
    for a, b in zip(tree_leaves(state), tree_leaves(end), strict=True):
        close(a, b, 1e-6)


# ---- composing ----


def test_deep_layers_are_stacks_of_cells() -> None:
    """nn.LSTM is Stacked of Bidirectional of LSTMCell, and gives what these give."""
    layer = nn.LSTM(F, H, num_layers=2, bidirectional=True, dtype="float64")
    cells = [cell for _, cell in layer.cells()]
    stack = nn.Stacked([nn.Bidirectional(*cells[:2]), nn.Bidirectional(*cells[2:])])
    x = drawn(T, B, F)
    outputs, ((a, b), (c, d)) = stack(x, lengths=[5, 0, 2])
    expected, state = layer(x, lengths=[5, 0, 2])
    close(outputs, expected, 0)
    for k, part in enumerate((a, b, c, d)):
        close(part.h, state.h[k], 0)
        close(part.c, state.c[k], 0)


def test_any_cells_may_be_mixed() -> None:
    deep = nn.Stacked(
        [
            nn.Residual(nn.GRUCell(F, F)),
            nn.Bidirectional(nn.LSTMCell(F, 2), nn.PeepholeLSTMCell(F, 3)),
            nn.Stacked([nn.RNNCell(5, H)], dropout=0.5),
        ]
    )
    outputs, state = deep(drawn(T, B, F).astype("float32"), lengths=[5, 1, 0])
    assert outputs.shape == (T, B, H)
    assert [type(part).__name__ for part in state] == ["Tensor", "tuple", "tuple"]
    again, _ = deep(drawn(T, B, F).astype("float32"), state)
    assert again.shape == (T, B, H)


def test_a_layer_that_is_used_twice_has_dropout_in_between() -> None:
    shared = nn.Recurrent(Doubling())
    outputs, _ = nn.Stacked([shared, shared], dropout=0.5)(np.ones((50, 4, 1)), (tg.zeros(4, 1),) * 2)
    assert set(np.unique(outputs)) == {0.0, 8.0}


def test_anything_with_two_methods_is_a_cell() -> None:
    x, state = tg.tensor(drawn(T, B, 2)), tg.zeros(B, 1)
    for layer in (nn.Recurrent(Doubling()), nn.Stacked([Doubling()]), nn.Recurrent(Doubling(), reverse=True)):
        given_state = (state,) if isinstance(layer, nn.Stacked) else state
        outputs, after = layer(x, given_state, lengths=[5, 0, 2])
        assert tree_leaves(after)[0].tolist() == [[5], [0], [2]]
        close(outputs[:, 0], 2 * x.data[:, 0], 0)
    with pytest.raises(ValueError, match="Doubling: it has no initial_state"):
        nn.Recurrent(Doubling())(x)


def test_a_cell_may_take_integers() -> None:
    layer, tokens = nn.Recurrent(Tokens(), batch_first=True), np.arange(12).reshape(2, 6) % 7
    outputs, h = layer(tokens, lengths=[6, 2])
    assert outputs.shape == (2, 6, H)
    assert layer.initial_state(tokens.T).shape == (2, H)
    padded = tokens.copy()
    padded[1, 2:] = 999  # no such token: it is not read
    close(layer(padded, lengths=[6, 2]).outputs, outputs, 0)
    close(outputs[1, 1], h[1], 0)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_arguments_are_pytorchs_in_pytorchs_order(kind: str) -> None:
    parameters = list(inspect.signature(getattr(nn, kind)).parameters.values())
    usual = {p.name: p.default for p in parameters[2:7]}
    assert [p.name for p in parameters[:2]] == ["input_size", "hidden_size"]
    assert list(usual.items()) == [
        ("num_layers", 1),
        ("bias", True),
        ("batch_first", False),
        ("dropout", 0.0),
        ("bidirectional", False),
    ]


def test_repr_tells_what_differs_from_the_usual() -> None:
    assert repr(nn.LSTM(3, 5)) == "LSTM(3, 5)"
    assert repr(nn.RNN(3, 5, bias=False, nonlinearity="relu")) == "RNN(3, 5, nonlinearity='relu', bias=False)"
    assert repr(nn.LeakyRNNCell(3, 2, leak=np.full(2, 0.5))).startswith("LeakyRNNCell(3, 2, leak=Tensor(f32[2]")
    relu = nn.LeakyRNNCell(3, 2, leak=0.5, nonlinearity="relu")
    assert repr(relu) == "LeakyRNNCell(3, 2, nonlinearity='relu', leak=0.5)"
    assert repr(nn.Linear(3, 5, bias=False)) == "Linear(3, 5, bias=False)"
    assert (
        repr(nn.GRU(3, 5, 2, dropout=0.5, bidirectional=True))
        == "GRU(3, 5, num_layers=2, dropout=0.5, bidirectional=True)"
    )
    assert repr(nn.Recurrent(nn.RNNCell(3, 5), reverse=True)) == "Recurrent(RNNCell(3, 5), reverse=True)"


def test_a_cell_of_ones_own_tells_its_sizes_and_parts() -> None:
    cell = nn.Cell()
    assert repr(cell) == "Cell()"
    cell.input_size, cell.hidden_size = 3, 5
    assert repr(nn.Recurrent(cell)) == "Recurrent(Cell(3, 5))"
    cell.inner = nn.Linear(3, 5)
    assert repr(cell) == "Cell(3, 5, inner: Linear(3, 5))"


def test_a_layer_tells_its_sizes() -> None:
    layer = nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=4)
    assert (layer.input_size, layer.hidden_size, layer.output_size) == (3, 5, 8)


def test_parameters_have_names_that_say_where_they_are() -> None:
    names = [name for name, _ in nn.RNN(3, 5, 2, bidirectional=True, h0="learned").named_parameters()]
    assert names[:4] == [
        f"layers.0.directions.0.{name}" for name in ("cell.weight_ih", "cell.weight_hh", "cell.bias", "h0")
    ]
    assert len(names) == 16


# ---- where a sequence begins ----


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_learned_initial_state(kind: str) -> None:
    """It begins at 0, stands for every row, and its gradient is the sum of theirs."""
    layer = getattr(nn, kind)(F, H, num_layers=2, bidirectional=True, h0="learned", dtype="float64")
    learned = [p for name, p in layer.named_parameters() if ".h0" in name]
    assert [p.shape for p in learned] == [(H,)] * (8 if kind == "LSTM" else 4)
    assert not any(p.data.any() for p in learned)
    for k, p in enumerate(learned):
        p.data = drawn(H, seed=k)
    x = drawn(T, B, F)
    state = layer.initial_state(x)
    leaves = [tg.tensor(s.data, requires_grad=True) for s in tree_leaves(state)]
    given_state = nn.LSTMState(*leaves) if kind == "LSTM" else leaves[0]
    outputs, expected = layer(x).outputs, layer(x, given_state).outputs
    close(outputs, expected, 0)
    (outputs * outputs).sum().backward()
    (expected * expected).sum().backward()
    parts = [leaf.grad[k].sum(axis=0) for k in range(4) for leaf in leaves]
    for p, g in zip(learned, parts, strict=True):
        close(p.grad, g)


def test_one_sequence_starts_from_the_learned_state_too() -> None:
    layer, x = nn.GRU(F, H, h0="learned"), drawn(T, F).astype("float32")
    layer.layers[0].h0.data = drawn(H).astype("float32")
    outputs, h = layer(x)
    assert (outputs.shape, h.shape) == ((T, H), (1, H))
    close(outputs, layer(x[:, None]).outputs[:, 0], 1e-6)


def test_the_learned_state_moves_with_its_module() -> None:
    layer = nn.LSTM(F, H, h0="learned").to("float64")
    assert layer(drawn(T, B, F)).outputs.dtype == np.float64
    assert {p.dtype for p in layer.parameters()} == {np.dtype("float64")}
