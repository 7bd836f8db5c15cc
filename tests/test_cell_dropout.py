"""Dropout in its several places, and zoneout: seen in the masks, in both modes, and from the same seed."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from cell_equations import CASES, F64, D, H, lstm
from wrapped import B, T, close, inner, inputs, random_state

import tinygrad_rnn as tg
from tinygrad_rnn import nn

ALL = pytest.mark.parametrize("name", CASES)


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


@pytest.mark.parametrize("wrap", [lambda cell: cell, lambda cell: nn.Zoneout(cell, 0.0), nn.Recurrent])
def test_no_masks_are_drawn_beside_a_state_that_is_given(wrap: Any) -> None:
    cell = wrap(nn.VariationalDropout(nn.LSTMCell(D, H, **F64), input=0.4, recurrent=0.5, output=0.2))
    run = cell if isinstance(cell, nn.Recurrent) else partial(nn.unroll, cell)
    _, state = run(inputs())
    before = tg.backend.host.generator.bit_generator.state
    _, after = run(inputs(), state)
    assert tg.backend.host.generator.bit_generator.state == before
    assert after.input is state.input
    with pytest.raises(tg.ShapeError, match="the state"):
        run(inputs(), state._replace(input=state.input[:1]))


def test_variational_dropout_leaves_what_a_gru_keeps_whole() -> None:
    """The mask is on h in the products; the state itself, z * h, goes on unmasked, and so does not grow."""
    for reset in ("after", "before"):
        cell = nn.VariationalDropout(nn.GRUCell(D, H, reset=reset, **F64), recurrent=0.5)
        cell.cell.bias.data = np.concatenate([np.zeros(H), np.full(H, 50.0), np.zeros(H)])  # z = 1
        first = random_state(cell)
        _, state = nn.unroll(cell, inputs(), first)
        close(state.state, first.state.data)


@pytest.mark.parametrize("name", [name for name in CASES if name != "minimal gru"])  # which has no W_hh h
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


def test_probabilities_may_be_numpy_numbers() -> None:
    """As a search over settings gives them: float32 stays float32."""
    p = np.float64(0.3)
    assert nn.Dropout(p)(tg.ones(2)).dtype == np.float32
    for make in (
        lambda cell: nn.Zoneout(cell, p),
        lambda cell: nn.Zoneout(cell, (p, p)),
        lambda cell: nn.RecurrentDropout(cell, p),
        lambda cell: nn.CellDropout(cell, p, p),
        lambda cell: nn.VariationalDropout(cell, p, p, p),
    ):
        for training in (True, False):
            outputs, _ = nn.unroll(make(nn.LSTMCell(D, H)).train(training), tg.ones(T, B, D))
            assert outputs.dtype == np.float32


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
