"""Wrappers round cells: what they add, written out in NumPy or seen in the masks, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cell_equations import F64, D, H, lstm, sigmoid, simple
from vectors import assert_gradient, assert_hessian, vector_and_loss
from waits import waiting
from wrapped import B, T, close, inner, inputs, random_state

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn
from tinygrad_rnn.backend import Backend
from tinygrad_rnn.tree import tree_leaves

WRAPPED = {
    "residual": lambda: nn.Residual(nn.LSTMCell(H, H, **F64)),
    "highway": lambda: nn.Highway(nn.GRUCell(H, H, **F64)),
    "residual recurrence": lambda: nn.ResidualRecurrence(nn.RNNCell(H, H, **F64)),
    "skip through time": lambda: nn.SkipThroughTime(nn.LSTMCell(H, H, **F64), taps=(-1, -2, -4)),
    "zoneout": lambda: nn.Zoneout(nn.LSTMCell(H, H, **F64), (0.1, 0.4)).eval(),
    "variational": lambda: nn.VariationalDropout(nn.GRUCell(H, H, **F64), input=0.3, recurrent=0.3, output=0.3),
    "several": lambda: nn.Residual(nn.Zoneout(nn.SkipThroughTime(nn.PeepholeLSTMCell(H, H, **F64)), 0.2)).eval(),
    "attention": lambda: nn.AdditiveAttention(nn.GRUCell(H, H, **F64), memory_size=3).over(
        tg.tensor(np.random.default_rng(8).standard_normal((5, B, 3))), lengths=[5, 2]
    ),
}
EACH = pytest.mark.parametrize("name", WRAPPED)


# ---- what holds for all of them ----


@EACH
def test_the_gradient_and_the_hessian_equal_finite_differences(name: str) -> None:
    cell = WRAPPED[name]()
    if name != "attention":  # which has a test of its own, as its keys are made once, of weights that would be replaced
        problem = vector_and_loss(cell, inputs(H)[:3], random_state(cell, H))
        assert_gradient(*problem)
        assert_hessian(*problem)


@EACH
def test_one_call_is_one_step(name: str) -> None:
    cell, xs = WRAPPED[name](), inputs(H)
    first = random_state(cell, H)
    outputs, _ = nn.unroll(cell, xs, first)
    state = first
    for t in range(T):
        output, state = cell(xs[t], state)
        close(output, outputs.data[t])


@EACH
def test_two_windows_are_one_sequence(name: str) -> None:
    cell, xs = WRAPPED[name](), inputs(H)
    first = random_state(cell, H)
    whole, last = nn.unroll(cell, xs, first)
    before, state = nn.unroll(cell, xs[:2], first)
    after, state = nn.unroll(cell, xs[2:], bptt.detach(state))
    close(tg.concatenate([before, after]), whole.data)
    for part, expected in zip(tree_leaves(state), tree_leaves(last), strict=True):
        close(part, expected.data)


@EACH
def test_padding_has_no_influence(name: str) -> None:
    mask, found = np.ones((T, B), bool), []
    mask[3:, 1] = mask[0, 0] = False
    for padding in (0.0, np.nan):
        tg.manual_seed(0)
        cell, xs = WRAPPED[name](), inputs(H)
        first = random_state(cell, H)
        xs[~mask] = padding
        outputs, state = nn.unroll(cell, xs, first, mask=mask)
        (outputs.sum() + sum(part.sum() for part in tree_leaves(state) if part.dtype.kind == "f")).backward()
        found.append([outputs.data, *[p.grad.data for p in cell.parameters() if p.grad is not None]])
    for a, b in zip(*found, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


@EACH
def test_gates_and_names_come_through(name: str) -> None:
    cell = WRAPPED[name]()
    record = nn.unroll(cell, inputs(H), record=True).record
    base = cell
    while hasattr(base, "cell"):
        base = base.cell
    assert set(base.full_step(base.input_projection(inputs(H)[0]), base.initial_state(inputs(H)[0]))[2]) <= set(record)
    assert (cell.input_size, cell.output_size) == (H, H)
    assert type(base).__name__ in repr(cell)


@EACH
def test_wrappers_run_on_a_device_with_no_wait_for_the_host(name: str, device: Backend) -> None:
    cell = WRAPPED[name]()
    if name == "attention":
        cell.to(device.name)
        cell = cell.over(tg.ones(5, B, 3, dtype="float64").to(device.name), lengths=[5, 2])
    x = tg.tensor(inputs(H)).to(device.name)
    cell.to(device.name)
    with waiting(device):
        outputs, _ = nn.unroll(cell, x)
        outputs.sum().backward()
    assert outputs.backend == device.name


# ---- each by its equations ----


def test_residual() -> None:
    cell, xs = nn.Residual(nn.LSTMCell(H, H, **F64)), inputs(H)
    plain = nn.unroll(cell.cell, xs)
    outputs, state = nn.unroll(cell, xs)
    close(outputs, plain.outputs.data + xs)
    close(state.h, plain.state.h.data)


def test_highway() -> None:
    cell, xs = nn.Highway(nn.LSTMCell(H, H, **F64), transform_bias=-0.5), inputs(H)
    assert cell.bias_t.tolist() == [-0.5] * H
    found = nn.unroll(cell, xs, record=True)
    t = sigmoid(xs @ cell.weight_t.data.T + cell.bias_t.data)
    close(found.outputs, t * nn.unroll(cell.cell, xs).outputs.data + (1 - t) * xs)
    close(found.record["t"], t)


def test_residual_recurrence() -> None:
    cell, xs, h = nn.ResidualRecurrence(nn.RNNCell(D, H, **F64)), inputs(), np.zeros((B, H))
    outputs, _ = nn.unroll(cell, xs)
    for t in range(T):
        h = h + simple(inner(cell), xs[t], (h,))[0]
        close(outputs[t], h)
    with pytest.raises(TypeError, match=r"ResidualRecurrence: .* output is its state, which LSTMCell\(3, 4\) is not"):
        nn.ResidualRecurrence(nn.LSTMCell(D, H))(tg.ones(B, D))


def test_skip_through_time() -> None:
    """A tap over d steps adds W_d h_{t-d} to what the gates see; before the beginning there are zeros."""
    cell, xs = nn.SkipThroughTime(nn.LSTMCell(D, H, **F64), taps=(-3, -1, -2)), inputs()
    outputs, state = nn.unroll(cell, xs)
    p, past, s = inner(cell), [np.zeros((B, H))] * 3, (np.zeros((B, H)),) * 2
    for t in range(T):
        extra = past[-3] @ cell.weights[0].data.T + past[-2] @ cell.weights[1].data.T
        wide = p | {"weight_ih": np.eye(4 * H), "bias": np.zeros(4 * H)}  # takes what is projected already
        output, s, _ = lstm(wide, xs[t] @ p["weight_ih"].T + p["bias"] + extra, s)
        past.append(output)
        close(outputs[t], output)
    assert len(state.past) == 3
    for k, kept in enumerate(state.past):
        close(kept, past[-1 - k])


def test_a_gradient_takes_the_short_way_through_time() -> None:
    """With a recurrence that forgets at once, only the taps carry: every fourth step back there is a gradient."""
    cell, xs = (
        nn.SkipThroughTime(nn.RNNCell(D, H, **F64), taps=(-1, -4)),
        tg.tensor(np.zeros((9, B, D)), requires_grad=True),
    )
    cell.cell.weight_hh.data = np.zeros((H, H))
    outputs, _ = nn.unroll(cell, xs)
    outputs[8].sum().backward()
    reached = [t for t in range(9) if np.abs(xs.grad.data[t]).sum() > 0]
    assert reached == [0, 4, 8]


ATTENTIONS = pytest.mark.parametrize("kind", [nn.Attention, nn.AdditiveAttention])


@ATTENTIONS
@pytest.mark.parametrize("masked", [False, True])
def test_attention(kind: Any, masked: bool) -> None:
    attention = kind(nn.GRUCell(D, H, **F64), memory_size=3)
    memory, xs = np.random.default_rng(8).standard_normal((5, B, 3)), inputs()
    lengths = [5, 2] if masked else [5, 5]
    memory[2:, 1] = np.nan if masked else memory[2:, 1]
    found = nn.unroll(attention.over(memory, lengths=lengths if masked else None), xs, record=True)
    hs = nn.unroll(attention.cell, xs).outputs.data
    for t in range(T):
        for b in range(B):
            seen = memory[: lengths[b], b]
            if kind is nn.Attention:
                scores = hs[t, b] @ attention.weight_a.data @ seen.T
            else:
                inner = seen @ attention.weight_a.data.T + attention.weight_h.data @ hs[t, b]
                scores = np.tanh(inner) @ attention.weight_v.data
            a = np.exp(scores) / np.exp(scores).sum()
            y = np.tanh(attention.weight_c.data @ np.concatenate([a @ seen, hs[t, b]]))
            close(found.outputs[t, b], y)
            close(found.record["attention"][t, : lengths[b], b], a)
            assert not found.record["attention"].data[t, lengths[b] :, b].any()


@ATTENTIONS
def test_memory_that_was_not_repeated_for_a_beam_is_told_how(kind: Any) -> None:
    attention, memory = kind(nn.GRUCell(3, 3), memory_size=3), tg.randn(5, 2, 3)
    told = r"Attention: the memory has 2 rows, the state 6; for beam_search, attend to nn\.repeat_rows\(memory, width\)"

    def search(memory: Any) -> Any:
        cell = attention.over(memory)
        return nn.beam_search(
            lambda tokens, h: cell(np.eye(3, dtype="float32")[tokens], h), tg.zeros(2, 3), [0, 0], 4, width=3
        )

    with pytest.raises(tg.ShapeError, match=told):
        search(memory)
    np.testing.assert_equal(search(nn.repeat_rows(memory, 3)).tokens.shape, (4, 2, 3))
    np.testing.assert_equal(search(memory[:, :1]).tokens.shape, (4, 2, 3))  # one for all


@ATTENTIONS
def test_the_gradient_of_attention_equals_finite_differences_at_order_one_and_two(kind: Any) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            self.attention = kind(nn.RNNCell(D, H, **F64), memory_size=3)

        def forward(self, xs: Any, memory: Any) -> Any:
            return nn.unroll(self.attention.over(memory, lengths=[5, 2]), xs).outputs

    model = Attending()
    memory, parameters = np.random.default_rng(8).standard_normal((5, B, 3)), dict(model.named_parameters())
    tg.check(lambda xs, m, p: nn.functional_call(model, p, xs, m), inputs()[:2], memory, parameters)


def test_attention_learns_and_ignores_what_is_not_there() -> None:
    attention = nn.Attention(nn.GRUCell(D, H, **F64), memory_size=3)
    memory = tg.tensor(np.ones((5, B, 3)), requires_grad=True)
    outputs, _ = nn.unroll(attention.over(memory, mask=np.arange(5)[:, None] < [5, 0]), inputs())
    outputs.sum().backward()
    assert all(p.grad is not None and np.isfinite(p.grad.data).all() for p in attention.parameters())
    assert memory.grad.data[:, 0].any()
    assert not memory.grad.data[:, 1].any()
    assert [name for name, _ in attention.named_parameters()][-2:] == ["weight_a", "weight_c"]
    with pytest.raises(TypeError, match=r"call attention\.over\(memory\)"):
        attention(tg.ones(B, D))
    for wrong in (np.ones((5, B, 4)), np.ones((5, 3))):
        with pytest.raises(ValueError, match=r"Attention: the memory must have shape \(S, B, 3\)"):
            attention.over(wrong)
    with pytest.raises(ValueError, match="Attention: the mask"):
        attention.over(memory, mask=np.ones((4, B)))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: nn.Residual(nn.LSTMCell(3, 4)), ValueError, "Residual: .* input_size 3 and output_size 4"),
        (lambda: nn.Highway(nn.LSTMCell(3, 4)), ValueError, "Highway: .* one size"),
        (lambda: nn.Residual(nn.Linear(3, 3)), TypeError, "Residual: it goes round a cell, .* not round a Linear"),
        (lambda: nn.Zoneout(nn.LSTM), TypeError, "Zoneout: it goes round a cell"),
        (lambda: nn.Zoneout(nn.LSTMCell), TypeError, "Zoneout: it goes round a cell, .* a <class '.*LSTMCell'>"),
        (lambda: nn.Zoneout(nn.LSTMCell(3, 4), 1.0), ValueError, "Zoneout: a probability .* not 1.0"),
        (lambda: nn.Zoneout(nn.LSTMCell(3, 4), (0.1, -0.1)), ValueError, "Zoneout: a probability .* not -0.1"),
        (lambda: nn.Zoneout(nn.GRUCell(3, 4), (0.1, 0.1))(tg.ones(2, 3)), ValueError, "Zoneout: .* 2 .* the 1 parts"),
        (lambda: nn.CellDropout(nn.GRUCell(3, 4), input=1.5), ValueError, "CellDropout: a probability"),
        (lambda: nn.RecurrentDropout(nn.GRUCell(3, 4), p=-1), ValueError, "RecurrentDropout: a probability"),
        (lambda: nn.VariationalDropout(nn.GRUCell(3, 4), output=1), ValueError, "VariationalDropout: a probability"),
        (lambda: nn.RecurrentDropout(nn.Zoneout(nn.GRUCell(3, 4))), TypeError, "other wrappers go outside of it"),
        (lambda: nn.VariationalDropout(nn.Zoneout(nn.GRUCell(3, 4))), TypeError, "not round a Zoneout"),
        (lambda: nn.SkipThroughTime(nn.Zoneout(nn.GRUCell(3, 4))), TypeError, "not round a Zoneout"),
        (lambda: nn.SkipThroughTime(nn.GRUCell(3, 4), taps=(-2,)), ValueError, r"SkipThroughTime: taps .* not \(-2,\)"),
        (lambda: nn.SkipThroughTime(nn.GRUCell(3, 4), taps=(-1, 2)), ValueError, "SkipThroughTime: taps"),
        (lambda: nn.SkipThroughTime(nn.GRUCell(3, 4), taps=(-1, -2, -2)), ValueError, "SkipThroughTime: taps"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_inputs_and_states_that_do_not_fit_are_refused() -> None:
    cell = nn.VariationalDropout(nn.LSTMCell(D, H), input=0.5)
    with pytest.raises(ValueError, match=r"the inputs f32\[6,2,5\] do not fit input_size 3"):
        nn.unroll(cell, tg.ones(T, B, 5))
    with pytest.raises(TypeError, match=r"the inputs i64\[2,3\] are not floating-point"):
        cell(np.ones((B, D), int))
    with pytest.raises(
        TypeError, match=r"VariationalDropout: the state LSTMState\(.*must be VariationalState\(state LSTM"
    ):
        nn.unroll(cell, tg.ones(T, B, D), nn.LSTMState(tg.zeros(B, H), tg.zeros(B, H)))
    skip = nn.SkipThroughTime(nn.RNNCell(D, H), taps=(-1, -2))
    with pytest.raises(TypeError, match=r"SkipThroughTime: the state .*past tuple\(f32\[2,4\]\)\) does not fit"):
        skip(tg.ones(B, D), nn.SkipState(tg.zeros(B, H), (tg.zeros(B, H),)))


def test_a_wrapper_goes_round_any_object_with_the_two_methods() -> None:
    class Adder:
        input_size = output_size = 2

        def input_projection(self, x: Any) -> Any:
            return x

        def step(self, z: Any, state: Any) -> tuple[Any, Any]:
            return z + state, z + state

        def initial_state(self, z: Any) -> Any:
            return tg.zeros(*z.shape)

    outputs, state = nn.unroll(nn.Zoneout(nn.Residual(Adder()), 0.5).eval(), tg.ones(3, 1, 2))
    assert outputs.tolist() == [[[2.0, 2.0]], [[2.5, 2.5]], [[3.0, 3.0]]]
    assert state.tolist() == [[1.5, 1.5]]
    assert nn.Highway(Adder()).weight_t.shape == (2, 2)


def test_parameters_round_a_frozen_cell_are_of_its_dtype() -> None:
    cell = nn.LSTMCell(H, H, **F64)
    for p in cell.parameters():
        p.requires_grad = False
    assert nn.Highway(cell).weight_t.dtype == np.float64
    assert nn.Recurrent(nn.Zoneout(cell), h0="learned").h0.c.dtype == np.float64


@ATTENTIONS
def test_attention_over_nothing_in_half_precision(kind: Any) -> None:
    attention = kind(nn.GRUCell(D, H), memory_size=3).to("float16")
    memory, xs = (np.ones(shape, "float16") for shape in ((5, B, 3), (T, B, D)))
    with np.errstate(all="raise", under="ignore"):
        outputs, _ = nn.unroll(attention.over(memory, lengths=[5, 0]), xs)
    assert outputs.dtype == np.float16
    assert np.isfinite(outputs.data).all()


class Plain(nn.WeightedCell):
    """A cell that says what it does in ordinary operations, without the methods that wrappers replace."""

    def step(self, z: Any, state: Any) -> tuple[Any, Any]:
        h = tg.tanh(tg.linear(state, self.weight_hh, z))
        return h, h


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (nn.SkipThroughTime, "the step of Plain makes no use of self.recur.* write self.recur"),
        (lambda cell: nn.VariationalDropout(cell, recurrent=0.5), "VariationalDropout: .*self.recur"),
        (lambda cell: nn.RecurrentDropout(cell, 0.5), "RecurrentDropout: .*self.activation.* write self.activation"),
    ],
)
def test_a_wrapper_that_would_change_nothing_says_so(wrap: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        nn.unroll(wrap(Plain(D, H)), tg.ones(T, B, D))
    nn.unroll(wrap(nn.RNNCell(D, H)), tg.ones(T, B, D))
    nn.unroll(nn.VariationalDropout(Plain(D, H), input=0.5, output=0.5), tg.ones(T, B, D))
