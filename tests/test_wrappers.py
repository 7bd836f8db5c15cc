"""Wrappers round cells: what they add, written out in NumPy or seen in the masks, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import strict
from cell_equations import CASES, D, H, lstm, sigmoid, simple
from vectors import assert_gradient, assert_hessian, place, vector_and_loss

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn
from tinygrad_rnn.tree import tree_leaves, tree_map

T, B = 6, 2
F64: dict[str, Any] = {"dtype": "float64"}
ALL = pytest.mark.parametrize("name", CASES)


def inputs(size: int = D) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((T, B, size))


def random_state(cell: Any, size: int = D) -> Any:
    """A random state, with the masks that a wrapper may have drawn."""
    random = np.random.default_rng(2)
    needed = cell.initial_state(cell.input_projection(np.zeros((B, size))))
    return tree_map(lambda x: tg.tensor(random.standard_normal(x.shape)) if x.dtype.kind == "f" else x, needed)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found.numpy() if isinstance(found, tg.Tensor) else found, expected, rtol=0, atol=1e-12)


def inner(cell: Any) -> dict[str, np.ndarray]:
    """The inner cell's parameters."""
    return cell.cell.state_dict()


WRAPPED = {
    "residual": lambda: nn.Residual(nn.LSTMCell(H, H, **F64)),
    "highway": lambda: nn.Highway(nn.GRUCell(H, H, **F64)),
    "residual recurrence": lambda: nn.ResidualRecurrence(nn.RNNCell(H, H, **F64)),
    "skip through time": lambda: nn.SkipThroughTime(nn.LSTMCell(H, H, **F64), taps=(-1, -2, -4)),
    "zoneout": lambda: nn.Zoneout(nn.LSTMCell(H, H, **F64), (0.1, 0.4)).eval(),
    "variational": lambda: nn.VariationalDropout(nn.GRUCell(H, H, **F64), input=0.3, recurrent=0.3, output=0.3),
    "several": lambda: nn.Residual(nn.Zoneout(nn.SkipThroughTime(nn.PeepholeLSTMCell(H, H, **F64)), 0.2)).eval(),
    "attention": lambda: nn.Attention(nn.GRUCell(H, H, **F64), memory_size=3).over(
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
    assert set(base.gates(base.input_projection(inputs(H)[0]), base.initial_state(inputs(H)[0]))) <= set(record)
    assert (cell.input_size, cell.output_size) == (H, H)
    assert type(base).__name__ in repr(cell)


@EACH
def test_wrappers_run_on_a_device_with_no_wait_for_the_host(name: str, strict_device: str) -> None:
    cell = WRAPPED[name]()
    if name == "attention":
        cell.to(strict_device)
        cell = cell.attention.over(tg.ones(5, B, 3, dtype="float64").to(strict_device), lengths=[5, 2])
    x = tg.tensor(inputs(H)).to(strict_device)
    cell.to(strict_device)
    waits = strict.host_copies
    outputs, _ = nn.unroll(cell, x)
    outputs.sum().backward()
    assert strict.host_copies == waits
    assert outputs.backend == strict_device


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


@pytest.mark.parametrize("masked", [False, True])
def test_attention(masked: bool) -> None:
    attention = nn.Attention(nn.GRUCell(D, H, **F64), memory_size=3)
    memory, xs = np.random.default_rng(8).standard_normal((5, B, 3)), inputs()
    lengths = [5, 2] if masked else [5, 5]
    memory[2:, 1] = np.nan if masked else memory[2:, 1]
    found = nn.unroll(attention.over(memory, lengths=lengths if masked else None), xs, record=True)
    hs = nn.unroll(attention.cell, xs).outputs.data
    for t in range(T):
        for b in range(B):
            seen = memory[: lengths[b], b]
            scores = np.exp(hs[t, b] @ attention.weight_a.data @ seen.T)
            a = scores / scores.sum()
            y = np.tanh(attention.weight_c.data @ np.concatenate([a @ seen, hs[t, b]]))
            close(found.outputs[t, b], y)
            close(found.record["attention"][t, : lengths[b], b], a)
            assert not found.record["attention"].data[t, lengths[b] :, b].any()


def test_the_gradient_of_attention_equals_finite_differences_at_order_one_and_two() -> None:
    attention = nn.Attention(nn.RNNCell(D, H, **F64), memory_size=3)
    names, values = zip(*attention.named_parameters(), strict=True)

    def outputs(xs: Any, memory: Any, parameters: Any) -> Any:
        for name, value in zip(names, parameters, strict=True):
            place(attention, name, value)
        return nn.unroll(attention.over(memory, lengths=[5, 2]), xs).outputs

    tg.check(outputs, inputs()[:2], np.random.default_rng(8).standard_normal((5, B, 3)), values)


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


# ---- noise ----


def test_zoneout_keeps_elements_or_takes_new_ones() -> None:
    cell = nn.Zoneout(nn.LSTMCell(D, 200, **F64), (0.1, 0.6))
    x, before = tg.tensor(inputs()[0]), nn.LSTMState(*tg.randn(2, B, 200, dtype="float64"))
    output, after = cell(x, before)
    _, new = cell.cell(x, before)
    assert output is after.h
    for old, fresh, found, p in zip(before, new, after, (0.1, 0.6), strict=True):
        kept = found.data == old.data
        assert ((found.data == fresh.data) | kept).all()
        assert abs(kept.mean() - p) < 0.1
    assert (cell(x, before)[1].c.data != after.c.data).any()
    _, mixed = cell.eval()(x, before)
    close(mixed.h, 0.1 * before.h.data + 0.9 * new.h.data)
    close(mixed.c, 0.6 * before.c.data + 0.4 * new.c.data)


@ALL
def test_zoneout_of_probability_0_is_the_cell(name: str) -> None:
    cell = CASES[name].make()
    close(nn.unroll(nn.Zoneout(cell, 0.0), inputs()).outputs, nn.unroll(cell, inputs()).outputs.data)


def test_cell_dropout() -> None:
    cell, x = nn.CellDropout(nn.LSTMCell(400, 300, **F64), input=0.25, output=0.5), tg.tensor(np.ones((B, 400)))
    y, state = cell(x)
    dropped = y.data == 0
    assert abs(dropped.mean() - 0.5) < 0.1
    close(y.data[~dropped], 2 * state.h.data[~dropped])
    assert state.h.data.all()
    cell.cell.weight_ih.data, cell.cell.bias.data = np.eye(1200, 400), np.zeros(1200)
    z = cell.input_projection(x).data[:, :400]
    assert abs((z == 0).mean() - 0.25) < 0.1
    close(z[z != 0], 4 / 3)
    close(nn.unroll(cell.eval(), np.ones((T, B, 400))).outputs, nn.unroll(cell.cell, np.ones((T, B, 400))).outputs.data)


@ALL
def test_recurrent_dropout_takes_nothing_from_the_memory(name: str) -> None:
    """It acts on what is new; where the gates would keep all of the old, it changes nothing."""
    cell = nn.RecurrentDropout(CASES[name].make(), 0.5)
    plain = nn.unroll(cell.cell, inputs()).outputs.data
    assert (nn.unroll(cell, inputs()).outputs.data != plain).any()
    close(nn.unroll(cell.eval(), inputs()).outputs, plain)
    assert cell.cell.full_step(cell.input_projection(inputs()[0]), random_state(cell))  # the cell itself is untouched


def test_recurrent_dropout_of_an_lstm() -> None:
    cell = nn.RecurrentDropout(nn.LSTMCell(D, 300, **F64), 0.25)
    _, _, gates = cell.full_step(cell.input_projection(inputs()[0]), random_state(cell))
    _, after, plain = cell.cell.full_step(cell.input_projection(inputs()[0]), random_state(cell))
    dropped = gates["g"].data == 0
    assert abs(dropped.mean() - 0.25) < 0.1
    close(gates["g"].data[~dropped], plain["g"].data[~dropped] / 0.75)
    found = cell(inputs()[0], random_state(cell))[1].c.data
    remembered = plain["f"].data * random_state(cell).c.data
    kept = np.isclose(found, remembered)
    assert abs(kept.mean() - 0.25) < 0.1
    close(found[~kept], (remembered + (after.c.data - remembered) / 0.75)[~kept])


def test_variational_dropout_holds_its_masks_for_a_sequence() -> None:
    cell, xs = nn.VariationalDropout(nn.LSTMCell(D, H, **F64), input=0.4, recurrent=0.5, output=0.2), inputs()
    for _ in range(5):
        first = cell.initial_state(cell.input_projection(xs[0]))
        outputs, state = nn.unroll(cell, xs, first)
        p, s = inner(cell), tuple(part.data for part in first.state)
        of_x, of_h, of_y = first.input.data / 0.6, first.recurrent.data / 0.5, first.output.data / 0.8
        for t in range(T):
            h, s, _ = lstm(p, xs[t] * of_x, (s[0] * of_h, s[1]))
            close(outputs[t], h * of_y)
        assert state.input is first.input
        close(state.state.h, s[0])
    draws = [cell.initial_state(xs[0]) for _ in range(200)]
    for part, p in (("input", 0.4), ("recurrent", 0.5), ("output", 0.2)):
        assert abs(1 - np.mean([getattr(draw, part).data for draw in draws]) - p) < 0.1


def test_variational_dropout_leaves_what_a_gru_keeps_whole() -> None:
    """The mask is on h in the products; the state itself, z * h, goes on unmasked, and so does not grow."""
    for reset in ("after", "before"):
        cell = nn.VariationalDropout(nn.GRUCell(D, H, reset=reset, **F64), recurrent=0.5)
        cell.cell.bias.data = np.concatenate([np.zeros(H), np.full(H, 50.0), np.zeros(H)])  # z = 1
        first = random_state(cell)
        _, state = nn.unroll(cell, inputs(), first)
        close(state.state, first.state.data)


@ALL
def test_variational_dropout_reaches_every_cell_and_rests_when_not_training(name: str) -> None:
    cell = nn.VariationalDropout(CASES[name].make(), input=0.5, recurrent=0.5, output=0.5)
    xs = inputs()
    plain = nn.unroll(cell.cell, xs, random_state(cell.cell))
    first = random_state(cell)
    for part, off in (("input", 0), ("recurrent", 0), ("output", 0)):
        assert getattr(first, part).dtype == bool
        state = nn.VariationalState(
            random_state(cell.cell),
            *[tg.tensor(np.ones(getattr(first, p).shape, bool)) for p in ("input", "recurrent", "output")],
        )
        state = state._replace(**{part: tg.tensor(np.full(getattr(first, part).shape, bool(off)))})
        assert (nn.unroll(cell, xs, state).outputs.data != plain.outputs.data).any()
    close(nn.unroll(cell.eval(), xs, first._replace(state=random_state(cell.cell))).outputs, plain.outputs.data)
    assert cell.initial_state(cell.input_projection(xs[0]))[1:] == (None, None, None)


def test_rows_of_a_variational_state_begin_anew_with_masks_of_their_own() -> None:
    cell = nn.VariationalDropout(nn.LSTMCell(D, 50), recurrent=0.5)
    before, anew = (cell.initial_state(tg.zeros(B, D)) for _ in range(2))
    state = nn.reset(before, [True, False], initial=anew)
    np.testing.assert_array_equal(state.recurrent.data[0], anew.recurrent.data[0])
    np.testing.assert_array_equal(state.recurrent.data[1], before.recurrent.data[1])
    nn.unroll(cell, tg.zeros(T, B, D), state)


def test_seeds_make_noise_again() -> None:
    for make in (
        lambda cell: nn.Zoneout(cell, 0.5),
        lambda cell: nn.CellDropout(cell, 0.5, 0.5),
        lambda cell: nn.RecurrentDropout(cell, 0.5),
        lambda cell: nn.VariationalDropout(cell, 0.5, 0.5),
    ):
        cell, found = make(nn.LSTMCell(D, H)), []
        for seed in (1, 1, 2):
            tg.manual_seed(seed)
            found.append(nn.unroll(cell, tg.ones(T, B, D)).outputs.data)
        np.testing.assert_array_equal(found[0], found[1])
        assert (found[0] != found[2]).any()


@pytest.mark.parametrize("noise", [nn.Zoneout, nn.RecurrentDropout, nn.CellDropout, nn.VariationalDropout])
def test_to_record_takes_no_further_step(noise: Any) -> None:
    """A second one, for the gates of a cell that has none, would draw another mask."""
    cell, found = noise(nn.RNNCell(D, H), 0.5), []
    for record in (False, True):
        tg.manual_seed(1)
        found.append(nn.unroll(cell, inputs().astype("float32"), record=record).outputs.data)
    np.testing.assert_array_equal(*found)


def test_zoneout_keeps_to_the_state_of_the_cell_itself() -> None:
    """Masks within are no part of the state that zones out, and past outputs are those that were put out."""
    cell = nn.Zoneout(nn.VariationalDropout(nn.LSTMCell(D, H), input=0.5, recurrent=0.5), (0.25, 0.5))
    _, state = nn.unroll(cell, inputs().astype("float32"))
    assert state.input.dtype == state.recurrent.dtype == bool

    skip = nn.SkipThroughTime(nn.LSTMCell(D, H, **F64), taps=(-1, -2))
    cell, xs, p = nn.Zoneout(skip, (0.25, 0.5)).eval(), inputs(), skip.cell.state_dict()
    outputs, state = nn.unroll(cell, xs)
    wide = p | {"weight_ih": np.eye(4 * H), "bias": np.zeros(4 * H)}  # takes what is projected already
    h, c, past = np.zeros((B, H)), np.zeros((B, H)), [np.zeros((B, H))] * 2
    for t in range(T):
        z = xs[t] @ p["weight_ih"].T + p["bias"] + past[-2] @ skip.weights[0].data.T
        _, new, _ = lstm(wide, z, (h, c))
        h, c = 0.25 * h + 0.75 * new[0], 0.5 * c + 0.5 * new[1]
        past.append(h)
        close(outputs[t], h)
    cell.train()
    output, state = cell(xs[0], state)
    assert output is state.state.h is state.past[0]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        *(nn.Residual, nn.Highway, nn.Zoneout, nn.CellDropout, nn.RecurrentDropout, nn.SkipThroughTime),
        lambda cell: nn.SkipThroughTime(cell, taps=(-1,)),
        lambda cell: nn.VariationalDropout(cell, input=0.3, recurrent=0.3, output=0.3),
        lambda cell: nn.Residual(nn.Zoneout(nn.VariationalDropout(cell, recurrent=0.3), (0.1, 0.5))),
    ],
)
def test_the_initial_state_is_learned_round_any_wrapper(wrap: Any, training: bool) -> None:
    """Made in one mode, it works in the other; masks are drawn anew for each sequence, and are not learned."""
    layer = nn.Recurrent(wrap(nn.LSTMCell(H, H, **F64)).train(training), h0="learned")
    learned = [p for p in tree_leaves(layer.h0) if p is not None]
    assert all(p.requires_grad and p.dtype == np.float64 for p in learned)
    for mode in (training, not training):
        outputs, state = layer.train(mode)(inputs(H), lengths=[T, 1])
        again = layer(inputs(H), bptt.detach(state))
        (outputs.sum() + again.outputs.sum()).backward()
    assert all(p.grad is not None and p.grad.data.any() for p in learned)
    assert nn.Bidirectional(layer.cell, layer.cell, h0="learned")(inputs(H)).outputs.shape == (T, B, 2 * H)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: nn.Residual(nn.LSTMCell(3, 4)), ValueError, "Residual: .* input_size 3 and output_size 4"),
        (lambda: nn.Highway(nn.LSTMCell(3, 4)), ValueError, "Highway: .* one size"),
        (lambda: nn.Residual(nn.Linear(3, 3)), TypeError, "Residual: it goes round a cell, .* not round a Linear"),
        (lambda: nn.Zoneout(nn.LSTM), TypeError, "Zoneout: it goes round a cell"),
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


@pytest.mark.parametrize("wrap", [nn.Residual, nn.Highway, nn.Zoneout, nn.CellDropout])
def test_a_cell_with_no_initial_state_may_be_wrapped_and_given_one(wrap: Any) -> None:
    class Sum:
        input_size = output_size = 2

        def input_projection(self, x: Any) -> Any:
            return x

        def step(self, z: Any, state: Any) -> tuple[Any, Any]:
            return z + state, z + state

    outputs, state = nn.unroll(wrap(Sum()).eval(), tg.ones(3, 1, 2), tg.zeros(1, 2))
    assert outputs.shape == (3, 1, 2)
    assert nn.Recurrent(wrap(Sum()))(tg.ones(3, 1, 2), state).outputs.shape == (3, 1, 2)
    with pytest.raises(ValueError, match="Sum: it has no initial_state, so a state must be given"):
        nn.unroll(wrap(Sum()), tg.ones(3, 1, 2))


def test_parameters_round_a_frozen_cell_are_of_its_dtype() -> None:
    cell = nn.LSTMCell(H, H, **F64)
    for p in cell.parameters():
        p.requires_grad = False
    assert nn.Highway(cell).weight_t.dtype == np.float64
    assert nn.Recurrent(nn.Zoneout(cell), h0="learned").h0.c.dtype == np.float64


def test_attention_over_nothing_in_half_precision() -> None:
    attention = nn.Attention(nn.GRUCell(D, H), memory_size=3).to("float16")
    memory, xs = (np.ones(shape, "float16") for shape in ((5, B, 3), (T, B, D)))
    with np.errstate(all="raise", under="ignore"):
        outputs, _ = nn.unroll(attention.over(memory, lengths=[5, 0]), xs)
    assert outputs.dtype == np.float16
    assert np.isfinite(outputs.data).all()
