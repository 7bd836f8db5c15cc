"""Rows of unequal length and masks with gaps: what is not real has no influence on anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from closeness import close, drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.tree import tree_leaves

T, B, F, H = 6, 4, 3, 5
LENGTHS = [6, 0, 2, 5]

FORTY = settings(max_examples=40, deadline=None, derandomize=True)
masks = hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 4)))
kinds = st.sampled_from(["RNN", "LSTM", "GRU"])


def total(outputs: Tensor, state: Any) -> Tensor:
    """A loss in which every element of outputs and state has a weight of its own."""
    loss = (outputs.sin() * drawn(*outputs.shape, seed=3)).sum()
    for k, leaf in enumerate(tree_leaves(state)):
        loss = loss + (leaf * drawn(*leaf.shape, seed=4 + k)).sum()
    return loss


# ---- any mask ----


class Counting(nn.GRUCell):
    """Its state counts the steps, in a number for all rows or in an array."""

    def __init__(self, start: Any) -> None:
        super().__init__(F, H)
        self.start = start

    def step(self, z: Any, state: Any) -> tuple[Any, Any]:
        output, h = super().step(z, state[0])
        return output, (h, state[1] + 1)

    def initial_state(self, z: Any) -> Any:
        return super().initial_state(z), self.start


def test_a_number_cannot_count_the_steps_of_several_rows() -> None:
    x = drawn(T, B, F)
    assert nn.Recurrent(Counting(0))(x).state[1] == T
    for start, rows in ((0, B), (0, 1), (tg.zeros(()), B)):
        with pytest.raises(TypeError, match=r"each row has a state of its own.* with a place for each row, \(B, 1\)"):
            nn.Recurrent(Counting(start))(x[:, :rows], lengths=LENGTHS[:rows])
    assert nn.Recurrent(Counting(tg.zeros(B, 1)))(x, lengths=LENGTHS).state[1].flatten().tolist() == LENGTHS
    assert nn.Recurrent(Counting(tg.zeros(())))(x[:, :1], lengths=[2]).state[1].item() == 2


@FORTY
@given(kinds, st.booleans(), st.integers(1, 2), masks)
def test_a_masked_row_is_a_shorter_row(kind: str, bidirectional: bool, layers: int, mask: np.ndarray) -> None:
    """Each row alone, with only its real steps, gives the same outputs, states and gradients, gaps or not."""
    steps, batch = mask.shape
    layer = getattr(nn, kind)(F, H, layers, bidirectional=bidirectional, dtype="float64")
    x = tg.tensor(drawn(steps, batch, F), requires_grad=True)
    start = tg.tensor(drawn(layers * (1 + bidirectional), batch, H), requires_grad=True)
    outputs, state = layer(x, nn.LSTMState(start, start * 2) if kind == "LSTM" else start, mask=mask)
    total(outputs, state).backward()
    found = [x.grad, start.grad, *(p.grad for p in layer.parameters())]

    layer.zero_grad()
    x.grad = start.grad = None
    rows, states = [], []
    for b in range(batch):
        real = np.flatnonzero(mask[:, b])
        begin = start[:, b : b + 1]
        begin = nn.LSTMState(begin, begin * 2) if kind == "LSTM" else begin
        row = tg.zeros(steps, outputs.shape[-1], dtype="float64")
        if real.size:
            alone, begin = layer(x[real, b : b + 1], begin)
            onto = np.zeros((steps, real.size))
            onto[real, np.arange(real.size)] = 1
            row = tg.tensor(onto) @ alone[:, 0]
        rows.append(row)
        states.append(tree_leaves(begin))
    expected = tg.stack(rows, axis=1)
    ends = [tg.concatenate(parts, axis=1) for parts in zip(*states, strict=True)]
    close(outputs, expected)
    for leaf, end in zip(tree_leaves(state), ends, strict=True):
        close(leaf, end)
    total(expected, ends).backward()
    for g, p in zip(found, [x, start, *layer.parameters()], strict=True):
        close(g, np.zeros(p.shape) if p.grad is None else p.grad)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("filler", [np.nan, np.inf, -np.inf, 1e300, -1e30])
@pytest.mark.parametrize("by", ["lengths", "mask"])
def test_padding_never_changes_a_gradient(kind: str, filler: float, by: str) -> None:
    """Bit for bit, and its own gradient is 0."""
    mask = np.arange(T)[:, None] < np.array(LENGTHS)
    if by == "mask":
        mask = np.random.default_rng(0).random((T, B)) < 0.5
    layer = getattr(nn, kind)(F, H, num_layers=2, bidirectional=True, h0="learned", dtype="float64")
    found = []
    for padding in (0.0, filler):
        x = tg.tensor(np.where(mask[..., None], drawn(T, B, F), padding), requires_grad=True)
        layer.zero_grad()
        outputs, state = layer(x, **({"lengths": LENGTHS} if by == "lengths" else {"mask": mask}))
        pooled = [nn.last(outputs, mask=mask, direction="both"), nn.mean(outputs, mask=mask)]
        total(outputs, [state, pooled]).backward()
        assert not x.grad.data[~mask].any()
        found.append([outputs, *tree_leaves(state), x.grad, *(p.grad for p in layer.parameters())])
    for plain, filled in zip(*found, strict=True):
        assert np.isfinite(filled.data).all()
        np.testing.assert_array_equal(plain.data, filled.data)


def test_past_the_end_outputs_are_zero_and_the_state_is_held() -> None:
    layer = nn.LSTM(F, H, dtype="float64")
    start = nn.LSTMState(drawn(1, B, H), drawn(1, B, H, seed=1))
    outputs, state = layer(drawn(T, B, F), start, lengths=LENGTHS)
    for b, n in enumerate(LENGTHS):
        assert not outputs.data[n:, b].any()
        assert outputs.data[:n, b].all()
        close(state.h[0, b], outputs[n - 1, b] if n else start.h[0, b])
    close(state.c[0, 1], start.c[0, 1])


def test_the_reverse_direction_begins_at_each_rows_own_end() -> None:
    x = drawn(T, B, F)
    outputs, state = nn.Recurrent(cell := nn.GRUCell(F, H, dtype="float64"), reverse=True)(x, lengths=LENGTHS)
    for b, n in enumerate(LENGTHS):
        if n:
            backwards, end = nn.unroll(cell, x[:n, b][::-1])
            close(outputs[:n, b], backwards[::-1])
            close(state[b], end)
            close(state[b], outputs[0, b])


@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_in_every_form(batch_first: bool) -> None:
    layer = nn.GRU(F, H, batch_first=batch_first, dtype="float64")
    x = drawn(B, T, F) if batch_first else drawn(T, B, F)
    mask = np.arange(T)[:, None] < np.array(LENGTHS)
    expected = layer(x, mask=mask.T if batch_first else mask)
    forms: list[Any] = [LENGTHS, tuple(LENGTHS), np.array(LENGTHS), np.array(LENGTHS, np.uint8), tg.tensor(LENGTHS)]
    given_masks: list[Any] = [mask.astype(int), mask.astype("float32"), tg.tensor(mask), mask.tolist()]
    given_masks = [m if not batch_first else m.T if hasattr(m, "T") else mask.T.tolist() for m in given_masks]
    calls = [{"lengths": form} for form in forms] + [{"mask": form} for form in given_masks]
    for call in calls:
        outputs, state = layer(x, **call)
        close(outputs, expected.outputs, 0)
        close(state, expected.state, 0)


@pytest.mark.parametrize("wrong", [0.5, 2, -1, np.nan])
def test_a_mask_of_other_numbers_than_0_and_1_is_refused(wrong: float) -> None:
    mask = np.ones((T, B))
    mask[1, 2] = wrong
    for form in (mask, mask.tolist(), tg.tensor(mask)):
        with pytest.raises(
            ValueError, match=rf"mask f64\[6,4\]: a mask holds .* is {float(wrong)}; .* test_lengths.py"
        ):
            nn.LSTM(F, H)(tg.ones(T, B, F), mask=form)
    with pytest.raises(
        ValueError, match=r"mask i64\[3\]: a mask holds True or 1 and False or 0, but in this one is 2"
    ):  # the numbers of rows are no mask of them
        nn.reset(tg.zeros(3, H), rows=[0, 2, 1])


def test_full_lengths_are_none() -> None:
    layer, x = nn.LSTM(F, H, 2, bidirectional=True, dtype="float64"), drawn(T, B, F)
    close(layer(x, lengths=[T] * B).outputs, layer(x).outputs, 0)


# ---- what came last, the mean, rows that begin anew ----


@FORTY
@given(masks, st.sampled_from(["forward", "reverse"]), st.booleans())
def test_last_is_the_output_at_the_last_real_step(mask: np.ndarray, direction: str, batch_first: bool) -> None:
    steps, batch = mask.shape
    x = tg.tensor(drawn(steps, batch, 2), requires_grad=True)
    given_x, given_mask = (tg.swapaxes(x, 0, 1), mask.T) if batch_first else (x, mask)
    found = nn.last(given_x, mask=given_mask, direction=direction, batch_first=batch_first)
    weights = drawn(batch, 2, seed=1)
    (found * weights).sum().backward()
    expected, gradient = np.zeros((batch, 2)), np.zeros(x.shape)
    for b in range(batch):
        real = np.flatnonzero(mask[:, b])
        if real.size:
            t = real[0 if direction == "reverse" else -1]
            expected[b], gradient[t, b] = x.data[t, b], weights[b]
    close(found, expected, 0)
    close(x.grad, gradient, 0)


@pytest.mark.parametrize("lengths", [None, [6, 1, 2, 5]])
def test_last_of_both_directions_is_the_state(lengths: Any) -> None:
    """What the two directions end with is their state: h, forward and back, of the top layer."""
    outputs, h = nn.GRU(F, H, num_layers=2, bidirectional=True, dtype="float64")(drawn(T, B, F), lengths=lengths)
    close(nn.last(outputs, lengths, direction="both"), np.concatenate([h.data[2], h.data[3]], axis=-1), 0)


@FORTY
@given(masks, st.booleans())
def test_mean_is_over_real_steps(mask: np.ndarray, batch_first: bool) -> None:
    steps, batch = mask.shape
    x = drawn(steps, batch, 2)
    given_x, given_mask = (x.swapaxes(0, 1), mask.T) if batch_first else (x, mask)
    expected = [x[mask[:, b], b].mean(axis=0) if mask[:, b].any() else np.zeros(2) for b in range(batch)]
    close(nn.mean(tg.tensor(given_x), mask=given_mask, batch_first=batch_first), np.array(expected))


def test_pooling_without_a_mask() -> None:
    x = drawn(T, B, 2)
    close(nn.last(tg.tensor(x)), x[-1], 0)
    close(nn.last(tg.tensor(x), direction="reverse"), x[0], 0)
    close(nn.mean(tg.tensor(x)), x.mean(axis=0))


def test_pooling_of_a_head_after_the_layer() -> None:
    """A row without a real step gets 0, though the head's bias is in its padding."""
    y = tg.tensor(drawn(T, B, 2) + 5)
    assert not nn.last(y, LENGTHS).data[1].any()
    assert not nn.mean(y, LENGTHS).data[1].any()
    assert nn.mean(y.astype("float32"), LENGTHS).dtype == np.float32


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int64", "float16"])
def test_a_mean_counts_further_than_its_dtype_does(dtype: str) -> None:
    """300 is no byte, and 2048 + 1 is 2048 in float16."""
    x = np.full((5000, 2, 1), 100).astype(dtype)
    x[0] = 0
    found = nn.mean(x, lengths=[5000, 300])
    np.testing.assert_allclose(found, [x[:, 0].mean(axis=0), x[:300, 1].mean(axis=0)], rtol=1e-3)
    assert found.dtype == nn.mean(x).dtype


def test_pooling_says_what_is_wrong() -> None:
    y = tg.zeros(T, B, 2)
    with pytest.raises(ValueError, match="direction is 'forward', 'reverse' or 'both', not 'backward'"):
        nn.last(y, direction="backward")
    with pytest.raises(ValueError, match="mean: there are 3 lengths"):
        nn.mean(y, [1, 2, 3])
    with pytest.raises(ValueError, match=r"last: the mask has shape \(4, 6\), but steps and batch are \(6, 4\)"):
        nn.last(y, mask=np.ones((B, T), bool))
    with pytest.raises(ValueError, match="last: there are no time steps"):
        nn.last(y[:0])


@pytest.mark.parametrize(
    "rows", [[True, False, False, True], np.array([1, 0, 0, 1]), tg.tensor([True, False, False, True])]
)
def test_rows_of_a_state_begin_anew(rows: Any) -> None:
    """In a stream of texts each row ends when it will: its state is reset, and no gradient crosses."""
    for shape in ((B, H), (2, B, H)):
        h, c = (tg.tensor(drawn(*shape, seed=k), requires_grad=True) for k in range(2))
        state = nn.reset(nn.LSTMState(h, c), rows)
        assert isinstance(state, nn.LSTMState)
        keep = np.array([0.0, 1, 1, 0])[:, None]
        close(state.c, c.data * keep, 0)
        state.c.sum().backward()
        close(c.grad, np.ones(shape) * keep, 0)
    assert nn.reset(None, rows) is None


def test_rows_begin_anew_from_what_was_learned() -> None:
    layer, x = nn.LSTM(F, H, 2, h0="learned", dtype="float64"), drawn(T, B, F)
    for k, p in enumerate(p for name, p in layer.named_parameters() if ".h0" in name):
        p.data = drawn(H, seed=k)
    state = nn.reset(layer(x).state, [False, True, False, False], layer.initial_state(x))
    close(layer(x, state).outputs[:, 1], layer(x).outputs[:, 1], 0)
    close(state.h[:, 0], layer(x).state.h[:, 0], 0)


def test_a_reset_holds_whatever_is_in_the_rows_that_begin_anew() -> None:
    h = tg.tensor([[np.nan], [1.0]])
    assert nn.reset(h, [True, False]).tolist() == [[0.0], [1.0]]


def test_masks_of_dropout_outlive_a_reset() -> None:
    cell = nn.VariationalDropout(nn.RNNCell(F, H), output=0.5)
    _, state = cell(tg.ones(B, F), cell.initial_state(cell.input_projection(tg.ones(B, F))))
    after = nn.reset(state, [True] * B)
    close(after.state, np.zeros((B, H)), 0)
    close(after.output, state.output.data, 0)
    _, state = nn.unroll(cell, tg.ones(3, B, F), after)  # takes it


@pytest.mark.parametrize("rows", [[True] * 3, [[True] * B]])
def test_a_reset_of_other_rows_is_refused(rows: Any) -> None:
    with pytest.raises(tg.ShapeError, match=r"reset: rows of shape .* do not fit a state of shape \(4, 5\)"):
        nn.reset(tg.zeros(B, H), rows)


def test_time_steps_are_named_also_in_reverse() -> None:
    class Failing(nn.RNNCell):
        def full_step(self, z: Any, state: Any) -> Any:
            if tg.tape.step_of(10**18) == 2:
                tg.ones(2) + tg.ones(3)
            return super().full_step(z, state)

    with pytest.raises(tg.ShapeError, match="time step 2"):
        nn.unroll(Failing(F, H), tg.zeros(T, B, F), reverse=True)


def test_padded_takes_lists_as_tensor_does() -> None:
    xs, lengths = nn.padded([[0.5, 1.5], [], [2.5]])
    assert (xs.dtype, xs.T.tolist(), lengths.tolist()) == (np.float32, [[0.5, 1.5], [0, 0], [2.5, 0]], [2, 0, 1])
    assert nn.padded([[1, 2], []])[0].dtype == np.int64
    with pytest.raises(ValueError, match="at least one sequence"):
        nn.padded([])
