"""Calls of recurrent layers: the record, dropout, what is refused, and devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from closeness import close, drawn
from odd_cells import Doubling, Tokens
from waits import waiting

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, nn
from tinygrad_rnn.backend import Backend
from tinygrad_rnn.tree import tree_leaves

T, B, F, H = 5, 3, 4, 6


# ---- the record ----


@pytest.mark.parametrize("reverse", [False, True])
def test_the_record_of_an_lstm_obeys_its_equations(reverse: bool) -> None:
    mask = np.array([[1, 1], [1, 0], [1, 1], [1, 0]], bool)
    layer = nn.Recurrent(nn.LSTMCell(F, H, dtype="float64"), reverse=reverse)
    x = drawn(4, 2, F)
    outputs, state, seen = layer(x, mask=mask, record=True)
    plain = layer(x, mask=mask)
    close(outputs, plain.outputs, 0)
    close(state.c, plain.state.c, 0)
    assert {name: y.shape for name, y in seen.items()} == dict.fromkeys("ifgohc", (4, 2, H))
    order = [3, 2, 1, 0] if reverse else [0, 1, 2, 3]
    c = np.zeros((2, H))
    for t in order:
        i, f, g, o, now = (seen[name].data[t] for name in "ifgoc")
        real = mask[t][:, None]
        c = np.where(real, f * c + i * g, c)
        close(now, c)
        close(outputs[t], np.where(real, o * np.tanh(c), 0))
        assert not i[~mask[t]].any()
    close(state.c, c)
    close(seen["h"][order[-1]], state.h, 0)


def test_records_are_nested_as_the_layers_are() -> None:
    layer = nn.GRU(F, H, num_layers=2, bidirectional=True, batch_first=True)
    outputs, _, seen = layer(drawn(B, T, F).astype("float32"), record=True)
    assert [[sorted(names) for names in pair] for pair in seen] == [[["h", "n", "r", "z"]] * 2] * 2
    close(tg.concatenate([seen[1][0]["h"], seen[1][1]["h"]], axis=-1), outputs, 0)


def test_a_record_can_be_differentiated() -> None:
    cell, x = nn.LSTMCell(F, H, dtype="float64"), tg.tensor(drawn(T, B, F), requires_grad=True)
    nn.unroll(cell, x, record=True).record["f"][2].sum().backward()
    assert x.grad.data[:3].any()
    assert not x.grad.data[3:].any()


def test_cells_within_cells_are_recorded_by_the_same_names() -> None:
    x = drawn(T, B, F).astype("float32")
    for cell in (
        nn.Zoneout(nn.LSTMCell(F, H)),
        nn.SkipThroughTime(nn.LSTMCell(F, H)),
        nn.VariationalDropout(nn.LSTMCell(F, H)),
    ):
        assert set("ifgohc") <= nn.unroll(cell, x, record=True).record.keys()
    assert set(nn.unroll(Tokens(), np.zeros((T, B), int), record=True).record) == {"h"}


def test_a_cell_may_have_gates_alone() -> None:
    class Gated(Doubling):
        def full_step(self, z: Any, state: Any) -> tuple[Any, Any, dict[str, Any]]:
            return *self.step(z, state), {"half": z / 2}

    x = tg.tensor(drawn(T, B, 2))
    close(nn.unroll(Gated(), x, tg.zeros(B, 1), record=True).record["half"], x.data / 2, 0)


# ---- dropout ----


class Ones(Doubling):
    """A cell whose outputs are 1."""

    def step(self, z: Any, state: Any) -> tuple[Any, Any]:
        return z * 0 + 1, state


class Same(Doubling):
    """A cell that puts out what it is given."""

    def step(self, z: Any, state: Any) -> tuple[Any, Any]:
        return z, state


def test_dropout_acts_between_layers_while_training() -> None:
    x, states = tg.zeros(40, 50, 20), (tg.zeros(50, 1),) * 2
    stack = nn.Stacked([Ones(), Same()], dropout=0.3)
    y = stack(x, states).outputs.data
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    dropped = y == 0
    share = dropped.mean()
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / y.size) ** 0.5
    assert abs((dropped[1:] & dropped[:-1]).mean() - 0.09) < 0.01  # each step has a mask of its own
    assert (stack.eval()(x, states).outputs.data == 1).all()


def test_dropout_touches_neither_the_inputs_nor_the_last_outputs() -> None:
    x, states = tg.ones(40, 50, 20), (tg.zeros(50, 1),) * 2
    assert (nn.Stacked([Same(), Ones()], dropout=0.5)(x, states).outputs.data == 1).all()
    assert (nn.Stacked([Same()], dropout=0.5)(x, states[:1]).outputs.data == 1).all()


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_dropout_of_deep_layers_keeps_the_mean(kind: str) -> None:
    tg.manual_seed(1)
    layer, x = getattr(nn, kind)(F, H, num_layers=2, dropout=0.2), drawn(2, 1, F).astype("float32")
    with tg.no_grad():
        below = layer.layers[0](x).outputs
        seen = np.mean([layer.dropout(below).data for _ in range(4000)], axis=0)
        close(seen, below, 0.02)
        assert (layer(x).outputs.data != layer(x).outputs.data).any()
        layer.eval()
        close(layer(x).outputs, layer(x).outputs, 0)


def test_dropout_of_a_single_layer_warns() -> None:
    with pytest.warns(UserWarning, match=r"LSTM: dropout=0\.5 acts between layers"):
        nn.LSTM(F, H, dropout=0.5)


def test_a_count_in_a_state_can_be_given_back() -> None:
    class Counting(Doubling):
        def initial_state(self, z: Any) -> Any:
            return tg.zeros(B, 1), 0

        def step(self, z: Any, state: Any) -> Any:
            return z, (state[0], state[1] + 1)

    cell = Counting()
    _, state = nn.unroll(cell, np.ones((T, B, 1)))
    assert nn.unroll(cell, np.ones((T, B, 1)), state).state[1] == 2 * T
    with pytest.raises(TypeError, match="the state tuple"):
        nn.unroll(cell, np.ones((T, B, 1)), (tg.zeros(B, 1), "0"))


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "LSTM", "GRU"])
def test_all_that_a_cell_returned_is_no_state_for_it(kind: str) -> None:
    """A loop that is written as for PyTorch's cells, which return the state alone."""
    layer, x = getattr(nn, kind)(F, H), tg.ones(2, 3, F) if "Cell" not in kind else tg.ones(3, F)
    with pytest.raises(TypeError, match=r"the state .* does not fit.* output, state = cell\(x, state\)\. Leave it out"):
        layer(x, layer(x))
    with pytest.raises(TypeError, match=r"does not fit; for this input it must be [^.]*\. Leave it out"):
        layer(x, [3.0])


# ---- what does not fit is refused before anything is computed ----

X = np.zeros((T, B, F), np.float32)
h, hc = np.zeros((1, B, H), np.float32), nn.LSTMState(*np.zeros((2, 1, B, H), np.float32))

WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.LSTM(F, H)(X[:0]), ValueError, r"LSTM: there are no time steps.*\(0, 3, 4\)"),
    (lambda: nn.LSTM(F, H, batch_first=True)(X[:, :0]), ValueError, "LSTM: there are no time steps.*second axis"),
    (lambda: nn.LSTM(F, H)(X.astype(int)), TypeError, r"LSTM: .*i64\[5,3,4\] are not floating-point.*Embedding"),
    (lambda: nn.LSTM(F, H)([X, X]), TypeError, "LSTM: the inputs must be a Tensor or an array, not a list"),
    (lambda: nn.Recurrent(Doubling())([X, X]), TypeError, "Recurrent: .*not a list; join its steps with tg.stack"),
    (lambda: nn.GRU(F + 1, H)(X), ShapeError, r"GRU: .*f32\[5,3,4\] do not fit input_size 5"),
    (lambda: nn.GRU(F, H)(X[None]), ShapeError, r"GRU: .*must be \(T, B, F\), or \(T, F\)"),
    (lambda: nn.GRU(F, H)(X[0, 0]), ShapeError, r"GRU: .*\(4,\)"),
    (
        lambda: nn.LSTM(F, H)(X, h),
        TypeError,
        r"LSTM: the state f32\[1,3,6\].*LSTMState\(h f32\[1,3,6\], c f32\[1,3,6\]\)",
    ),
    (lambda: nn.LSTM(F, H)(X, (h, h, h)), TypeError, "LSTM: the state"),
    (lambda: nn.GRU(F, H)(X, hc), TypeError, "GRU: the state LSTMState"),
    (lambda: nn.GRU(F, H)(X, h[0]), ShapeError, r"GRU: the state f32\[3,6\]"),
    (lambda: nn.GRU(F, H)(X, h[:, :1]), ShapeError, r"GRU: the state f32\[1,1,6\]"),
    (lambda: nn.GRU(F, H, 2)(X, h), ShapeError, r"GRU: the state f32\[1,3,6\].*f32\[2,3,6\]"),
    (lambda: nn.GRU(F, H, bidirectional=True)(X, h), ShapeError, r"f32\[2,3,6\]"),
    (lambda: nn.GRU(F, H)(X, h.astype(int)), TypeError, r"GRU: the state i64\[1,3,6\]"),
    (lambda: nn.GRU(F, H)(X[:, 0], h), ShapeError, r"f32\[1,6\]"),
    (lambda: nn.Bidirectional(nn.GRUCell(F, H), nn.GRUCell(F, H))(X, h[0]), TypeError, "Bidirectional: the state"),
    (lambda: nn.Stacked([nn.GRUCell(F, H)] * 2)(X), ShapeError, "input_size 4"),
    (lambda: nn.Recurrent(nn.GRUCell(F, H))(X, h), ShapeError, r"Recurrent: the state f32\[1,3,6\]"),
    (lambda: nn.unroll(nn.GRUCell(F, H), X, h), ShapeError, r"GRUCell: the state f32\[1,3,6\].*f32\[3,6\]"),
    (lambda: nn.LSTM(F, H)(X, lengths=[5, 6, 1]), ValueError, "row 1 has length 6.* from 0 to 5"),
    (lambda: nn.LSTM(F, H)(X, lengths=[5, -1, 1]), ValueError, "row 1 has length -1"),
    (lambda: nn.LSTM(F, H)(X, lengths=[5, 1]), ValueError, r"LSTM: there are 2 lengths.*\(5, 3, 4\)"),
    (lambda: nn.LSTM(F, H)(X, lengths=[5.0, 1.0, 1.0]), TypeError, r"lengths: integers .* not f64\[3\]$"),
    (lambda: nn.LSTM(F, H)(X, lengths=[True] * B), TypeError, r"not bool\[3\]; a mask is given as mask="),
    (lambda: nn.LSTM(F, H)(X, lengths=5), ValueError, r"one for each row is needed"),
    (lambda: nn.LSTM(F, H)(X, mask=np.ones((B, T))), ValueError, r"LSTM: the mask has shape \(3, 5\).*\(5, 3\)"),
    (lambda: nn.LSTM(F, H, batch_first=True)(X, mask=np.ones((B, T))), ValueError, r"batch and steps are \(5, 3\)"),
    (lambda: nn.LSTM(F, H)(X, lengths=[1, 1, 1], mask=np.ones((T, B))), ValueError, "lengths or a mask, not both"),
    (lambda: nn.LSTM(F, H)(X[:, 0], lengths=[1, 1, 1]), ValueError, "lengths and masks are for batches"),
    (
        lambda: nn.unroll(nn.GRUCell(F, H), X[:, 0], mask=np.ones((T, F))),
        ValueError,
        "lengths and masks are for batches",
    ),
    (lambda: nn.LSTM(F, H, num_layers=0), ValueError, "LSTM: num_layers is a whole number, at least 1"),
    (lambda: nn.LSTM(F, H, num_layers=2, dropout=1.0), ValueError, "probability"),
    (lambda: nn.LSTM(F, H, proj_size=H), ValueError, "proj_size"),
    (lambda: nn.RNN(F, H, nonlinearity="cubic"), ValueError, "nonlinearity"),
    (lambda: nn.GRU(F, H, h0="ones"), ValueError, "h0 is 'zeros' or 'learned', not 'ones'"),
    (lambda: nn.Recurrent(Doubling(), h0="learned"), ValueError, "Doubling: h0='learned' needs"),
    (lambda: nn.Stacked([]), ValueError, "at least one layer"),
    (lambda: nn.Bidirectional(nn.GRUCell(3, H), nn.GRUCell(4, H)), ValueError, "want 3 and 4"),
]


@pytest.mark.parametrize(("call", "error", "match"), WRONG, ids=map(str, range(len(WRONG))))
def test_what_does_not_fit_is_refused(call: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_a_wrong_state_is_refused_before_a_lower_layer_has_run() -> None:
    class Watched(nn.GRUCell):
        def full_step(self, z: Any, state: Any) -> Any:
            raise AssertionError("a step was run")

    stack = nn.Stacked([Watched(F, H), nn.GRUCell(H, H)])
    with pytest.raises(ShapeError, match=r"Stacked: the state tuple\(f32\[3,6\], f32\[1,6\]\)"):
        stack(X, (h[0], h[0, :1]))


@pytest.mark.parametrize("batch_first", [False, True])
def test_an_empty_batch_is_no_error(batch_first: bool) -> None:
    x = X[:, :0].swapaxes(0, 1) if batch_first else X[:, :0]
    outputs, state = nn.LSTM(F, H, 2, batch_first=batch_first, bidirectional=True)(x, lengths=[])
    assert outputs.shape == (*x.shape[:2], 2 * H)
    assert state.h.shape == (4, 0, H)


# ---- on a device ----


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("form", ["none", "lengths", "device lengths", "mask"])
def test_layers_on_a_device(kind: str, form: str, device: Backend) -> None:
    """Lengths and masks come from the host or from the device; numbers and gradients are the host's."""
    layer = getattr(nn, kind)(F, H, num_layers=2, bidirectional=True, h0="learned")
    found = []
    for where in ("numpy", device.name):
        layer.to(where)
        layer.zero_grad()
        lengths, mask = None, None
        if form == "lengths":
            lengths = [5, 0, 2]
        elif form == "device lengths":
            lengths = tg.tensor([5, 0, 2], backend=where)
        elif form == "mask":
            mask = np.random.default_rng(0).random((T, B)) < 0.6
        x = tg.tensor(drawn(T, B, F).astype("float32"), backend=where, requires_grad=True)
        outputs, state = layer(x, lengths=lengths, mask=mask)
        start = nn.reset(state, [True, False, True], layer.initial_state(x))
        outputs, state, seen = layer(outputs[..., :F], start, lengths, mask, record=True)
        pooled = [nn.last(outputs, lengths, mask, "both"), nn.mean(outputs, lengths, mask)]
        leaves = [outputs, *tree_leaves(state), *pooled]
        sum(((leaf * leaf).sum() for leaf in leaves), tg.zeros(1, backend=where)).sum().backward()
        assert x.grad is not None
        assert {leaf.backend for leaf in [*leaves, *tree_leaves(seen)]} == {where}
        found.append([*leaves, x.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        close(b, a, 1e-5)


def test_a_device_need_not_wait_for_a_layer(device: Backend) -> None:
    """No length, mask or state is read back; only what the caller asks for is."""
    layer = nn.LSTM(F, H, num_layers=2, bidirectional=True).to(device.name)
    x, lengths = tg.tensor(X, backend=device.name), tg.tensor([5, 0, 2], backend=device.name)
    with waiting(device):
        outputs, state = layer(x, lengths=lengths)
        layer(x, nn.reset(state, lengths == 0), lengths=[1, 2, 3])
        nn.last(outputs, lengths, direction="both")
        nn.mean(outputs, lengths).sum().backward()


def test_writing_on_a_device(device: Backend) -> None:
    embedding, cell, head = nn.Embedding(7, F), nn.LSTMCell(F, H), nn.Linear(H, 7)
    model = nn.Sequential(embedding, cell, head)

    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        y, state = cell(embedding(tokens), state)
        return head(y), state

    found = []
    for where in ("numpy", device.name):
        model.to(where)
        start = nn.LSTMState(*(tg.tensor(drawn(2, H, seed=k).astype("float32"), backend=where) for k in range(2)))
        first, targets = tg.tensor([0, 1], backend=where), tg.tensor(np.arange(8).reshape(4, 2) % 7, backend=where)
        tg.manual_seed(0)
        logits = nn.teacher_forced(step, start, first, targets, 0.5, np.random.default_rng(0)).outputs
        beams = nn.beam_search(step, start, first, 4, 3)
        found.append(
            [logits, nn.greedy(step, start, first, 4, 6).tokens, nn.sample(step, start, first, 4).tokens, *beams]
        )
    for a, b in zip(*found, strict=True):
        close(b, a, 1e-5)


def test_gates_as_a_method_are_refused() -> None:
    class Old(Doubling):
        def gates(self, z: Any, state: Any) -> dict[str, Any]:
            return {"half": z / 2}

    with pytest.raises(TypeError, match="Old: gates are the third result of full_step"):
        nn.unroll(Old(), np.ones((T, B, 1)), tg.zeros(B, 1), record=True)
