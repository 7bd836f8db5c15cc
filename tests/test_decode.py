"""Sequences that a model writes by itself: fed back, forced, greedy, drawn, and by beam search."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import strict
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim

V, H = 5, 4


class Decoder(nn.Module):
    """Embedding, cell, head: the logits of the next token."""

    def __init__(self, kind: str = "GRUCell", vocabulary: int = V):
        self.embedding, self.head = nn.Embedding(vocabulary, H), nn.Linear(H, vocabulary)
        self.cell = getattr(nn, kind)(H, H)
        self.to("float64")

    def forward(self, tokens: Any, state: Any) -> tuple[Any, Any]:
        h, state = self.cell(self.embedding(tokens), state)
        return self.head(h), state


def start_state(batch: int, kind: str = "GRUCell") -> Any:
    h = tg.tensor(np.random.default_rng(3).standard_normal((batch, H)) * 2)
    return nn.LSTMState(h, h) if kind == "LSTMCell" else h


def log_probability(decoder: Decoder, state: Any, start: int, tokens: tuple[int, ...]) -> float:
    """Of one sequence, one step after another."""
    total, before = 0.0, start
    for token in tokens:
        logits, state = decoder(np.array([before]), state)
        total += float(tg.log_softmax(logits).data[0, token])
        before = token
    return total


# ---- fed back ----


def test_gradients_flow_through_what_is_fed_back() -> None:
    """x_{t+1} = a y_t, y_t = x_t^2: one to many, with a derivative that is known."""
    a, x = tg.tensor(0.5, dtype="float64", requires_grad=True), tg.tensor([2.0], dtype="float64", requires_grad=True)
    outputs, state = nn.roll_out(lambda x, n: (x * x, n + 1), 0, x, 3, lambda y, t: a * y)
    assert outputs.shape == (3, 1)
    assert state == 3
    outputs[2].sum().backward()  # y_2 = a^6 x^8
    np.testing.assert_allclose(outputs.data[2], [0.5**6 * 2.0**8])
    np.testing.assert_allclose(x.grad.data, [8 * 0.5**6 * 2.0**7])
    np.testing.assert_allclose(a.grad.data, 6 * 0.5**5 * 2.0**8)


def test_what_is_fed_back_last_is_not_asked_for() -> None:
    asked: list[int] = []
    nn.roll_out(lambda x, s: (x, s), None, tg.ones(1), 4, lambda y, t: asked.append(t) or y)
    assert asked == [0, 1, 2]


# ---- forced ----


@pytest.mark.parametrize("kind", ["GRUCell", "LSTMCell"])
def test_teacher_forcing_equals_one_unrolled_pass(kind: str) -> None:
    decoder, targets = Decoder(kind), np.random.default_rng(0).integers(V, size=(6, 3))
    start, state = np.array([0, 1, 2]), start_state(3, kind)
    logits, after = nn.teacher_forced(decoder, state, start, targets)
    inputs = np.concatenate([start[None], targets[:-1]])
    outputs, end = nn.unroll(decoder.cell, decoder.embedding(inputs), state)
    np.testing.assert_allclose(logits.data, decoder.head(outputs).data, atol=1e-12)
    np.testing.assert_allclose(after[0].data, end[0].data, atol=1e-12)
    gradients = []
    for loss in (nn.cross_entropy(logits, targets), nn.cross_entropy(decoder.head(outputs), targets)):
        decoder.zero_grad()
        loss.backward()
        gradients.append([p.grad.data for p in decoder.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_without_a_teacher_it_is_greedy() -> None:
    decoder, start, state = Decoder(), np.array([0, 1, 2]), start_state(3)
    logits, _ = nn.teacher_forced(decoder, state, start, np.zeros((6, 3), int), ratio=0.0)
    written = nn.greedy(decoder, state, start, 6)
    np.testing.assert_array_equal(logits.data.argmax(axis=-1), written.tokens)
    assert written.lengths.tolist() == [6, 6, 6]


@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_teacher_is_asked_for_each_step_and_row(as_tensor: bool) -> None:
    """With the drawn share, from the generator that is given; its input is the target, else what was likeliest."""
    seen: list[Any] = []

    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        seen.append(np.asarray(tokens.data if isinstance(tokens, Tensor) else tokens))
        return tg.tensor(np.eye(V)[np.full(200, 4)]), state

    targets = np.random.default_rng(0).integers(V - 1, size=(50, 200))
    given_targets = tg.tensor(targets) if as_tensor else targets
    for _ in range(2):
        nn.teacher_forced(step, None, np.zeros(200, int), given_targets, 0.7, np.random.default_rng(1))
    inputs = np.array(seen[:50])
    np.testing.assert_array_equal(inputs, seen[50:])
    assert not inputs[0].any()
    forced = inputs[1:] != 4
    np.testing.assert_array_equal(inputs[1:][forced], targets[:-1][forced])
    assert abs(forced.mean() - 0.7) < 0.02
    assert 0 < forced[:, 0].mean() < 1
    assert 0 < forced[0].mean() < 1


def test_tokens_of_the_host_go_where_the_targets_are() -> None:
    seen = []

    def step(tokens: Any, state: Any) -> Any:
        seen.append(tg.backend.of(tokens.array if isinstance(tokens, Tensor) else tokens).name)
        return tg.zeros(2, V, backend="strict"), state

    with strict.registered():
        for start in ([0, 1], np.array([0, 1]), tg.tensor([0, 1]), tg.tensor([0, 1], backend="strict")):
            nn.teacher_forced(step, None, start, tg.tensor(np.ones((3, 2), int), backend="strict"), ratio=0.5)
    assert set(seen) == {"strict"}


def test_an_encoder_and_a_decoder_learn_to_reverse() -> None:
    """Rows of unequal length, an output that is read from the state alone, and teacher forcing half of the time."""
    tg.manual_seed(2)
    rng, end = np.random.default_rng(0), 3
    embedding, encoder, decoder = nn.Embedding(3, 8), nn.GRU(8, 24), nn.GRUCell(8, 24)
    words, head = nn.Embedding(5, 8), nn.Linear(24, 4)
    model = nn.Sequential(embedding, encoder, decoder, words, head)
    optimizer = optim.Adam(model.parameters(), lr=0.02)

    def batch(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lengths = rng.integers(1, 4, size=rows)
        tokens = rng.integers(3, size=(3, rows))
        targets = np.full((4, rows), end)
        for b, n in enumerate(lengths):
            targets[:n, b] = tokens[:n, b][::-1]
        return tokens, lengths, targets

    def step(tokens: Any, h: Any) -> tuple[Any, Any]:
        y, h = decoder(words(tokens), h)
        return head(y), h

    for _ in range(150):
        tokens, lengths, targets = batch(32)
        state = encoder(embedding(tokens), lengths=lengths).state[0]
        logits = nn.teacher_forced(step, state, np.full(32, 4), targets, ratio=0.5).outputs
        loss = nn.cross_entropy(logits, targets, mask=np.arange(4)[:, None] <= lengths)
        optimizer.zero_grad()
        loss.backward()
        tg.clip_grad_norm_(list(model.parameters()), 1.0)
        optimizer.step()
    tokens, lengths, targets = batch(200)
    state = encoder(embedding(tokens), lengths=lengths).state[0]
    written = nn.greedy(step, state, np.full(200, 4), 4, end)
    assert (written.tokens == targets[: len(written.tokens)]).all(axis=0).mean() > 0.95
    assert (written.lengths == lengths).mean() > 0.95
    beams = nn.beam_search(step, state, np.full(200, 4), 4, 3, end)
    assert (beams.tokens[..., 0] == targets[: len(beams.tokens)]).all(axis=0).mean() > 0.95


# ---- greedy and drawn ----


def test_greedy_ends_each_row_at_its_own_end() -> None:
    count = tg.tensor(np.eye(4)[[1, 2, 3, 0]])  # 0, 1, 2, 3, 0, ...
    calls: list[int] = []

    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        calls.append(1)
        return count[tokens], state

    written = nn.greedy(step, None, [0, 2, 1], 10, end=3)
    assert written.tokens.T.tolist() == [[1, 2, 3], [3, 3, 3], [2, 3, 3]]
    assert written.lengths.tolist() == [2, 0, 1]
    assert len(calls) == 3
    assert nn.greedy(step, None, [0, 2], 5).tokens[:, 0].tolist() == [1, 2, 3, 0, 1]


def test_writing_records_nothing() -> None:
    decoder = Decoder()
    state = nn.greedy(decoder, start_state(2), [0, 1], 3).state
    assert not state.requires_grad
    assert tg.is_grad_enabled()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_their_probabilities(temperature: float) -> None:
    logits, rows = np.array([0.3, -1.0, 2.0, 0.0]), 40_000
    step = lambda tokens, state: (tg.tensor(np.tile(logits, (rows, 1))), state)  # noqa: E731
    written = nn.sample(step, None, np.zeros(rows, int), 1, temperature, generator=np.random.default_rng(0))
    p = np.exp(logits / temperature)
    p /= p.sum()
    found = np.bincount(written.tokens[0], minlength=4) / rows
    assert (abs(found - p) < 4 * np.sqrt(p * (1 - p) / rows)).all()


def test_a_seed_repeats_what_was_drawn() -> None:
    decoder, found = Decoder(), []
    for _ in range(2):
        tg.manual_seed(7)
        found.append(nn.sample(decoder, start_state(3), [0, 1, 2], 20).tokens)
    np.testing.assert_array_equal(*found)
    assert (nn.sample(decoder, start_state(3), [0, 1, 2], 20).tokens != found[0]).any()


# ---- beam search ----


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.booleans(), st.sampled_from([0.0, 0.7]), st.sampled_from(["GRUCell", "LSTMCell"]))
def test_a_wide_beam_finds_the_likeliest_of_all(seed: int, ends: bool, penalty: float, kind: str) -> None:
    """With room for every sequence it is an exhaustive search; compared with one that scores each alone."""
    tg.manual_seed(seed)
    decoder, steps, vocabulary, end = Decoder(kind, 3), 3, 3, 2 if ends else None
    for p in decoder.parameters():
        p.data = p.data * 3
    state = start_state(2, kind)
    beams = nn.beam_search(decoder, state, [0, 1], steps, 27, end, penalty)
    for b in range(2):
        alone = nn.take_rows(state, [b])
        scores: dict[tuple[int, ...], float] = {}
        for tokens in product(range(vocabulary), repeat=steps):
            stop = tokens.index(end) + 1 if end in tokens else steps
            scores[tokens[:stop] + (end,) * (steps - stop)] = log_probability(decoder, alone, b, tokens[:stop])

        def rank(tokens: tuple[int, ...], scores: dict[tuple[int, ...], float] = scores) -> float:
            length = tokens.index(end) if end in tokens else steps
            return -scores[tokens] / ((5 + length) / 6) ** penalty

        expected = sorted(scores, key=rank)
        np.testing.assert_allclose(beams.scores[b, : len(expected)], [scores[tokens] for tokens in expected], atol=1e-9)
        assert np.isneginf(beams.scores[b, len(expected) :]).all()
        assert beams.tokens[:, b, 0].tolist() == list(expected[0])
        assert beams.lengths[b, 0] == (expected[0].index(end) if end in expected[0] else steps)


def test_a_beam_of_one_is_greedy() -> None:
    decoder, state = Decoder(), start_state(3)
    beams = nn.beam_search(decoder, state, [0, 1, 2], 7, width=1)
    np.testing.assert_array_equal(beams.tokens[..., 0], nn.greedy(decoder, state, [0, 1, 2], 7).tokens)


def test_a_layers_state_can_be_searched_too() -> None:
    """A state (layers, B, H), and a memory in the closure whose rows are repeated like the beams."""
    embedding, head, width = nn.Embedding(V, H).to("float64"), nn.Linear(H, V).to("float64"), 3
    layer = nn.LSTM(H, H, 2, dtype="float64")
    attention = nn.Attention(nn.GRUCell(H, H, dtype="float64"), H)
    memory = tg.tensor(np.random.default_rng(0).standard_normal((6, 2, H)))

    def step_over(memory: Any) -> Any:
        cell = attention.over(memory)

        def step(tokens: Any, state: Any) -> tuple[Any, Any]:
            below, above = state
            y, below = layer(embedding(tokens)[None], below)
            y, above = cell(y[0], above)
            return head(y), (below, above)

        return step

    start = nn.LSTMState(*np.random.default_rng(1).standard_normal((2, 2, 2, H))), tg.zeros(2, H, dtype="float64")
    found = nn.beam_search(step_over(nn.repeat_rows(memory, width)), start, [0, 1], 4, width)
    for b in range(2):
        alone = nn.beam_search(step_over(memory[:, b : b + 1]), nn.take_rows(start, [b]), [b], 4, width)
        np.testing.assert_array_equal(found.tokens[:, b], alone.tokens[:, 0])
        np.testing.assert_allclose(found.scores[b], alone.scores[0])


def test_beams_stop_when_all_have_ended() -> None:
    step = lambda tokens, state: (tg.tensor(np.tile([0.0, 9.0], (len(tokens), 1))), state)  # noqa: E731
    beams = nn.beam_search(step, None, [0, 0], 50, width=2, end=1)
    assert len(beams.tokens) < 50
    assert beams.lengths[:, 0].tolist() == [0, 0]
    assert (beams.tokens[:, :, 0] == 1).all()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda d, s: nn.roll_out(d, s, [0, 1], 0, lambda y, t: y), "roll_out: at least one step"),
        (lambda d, s: nn.greedy(d, s, [0, 1], 0), "at least one step"),
        (lambda d, s: nn.sample(d, s, [0, 1], 3, temperature=-1.0), "temperature must not be negative"),
        (lambda d, s: nn.sample(d, s, [0, 1], 3, temperature=np.nan), "temperature must not be negative or infinite"),
        (lambda d, s: nn.sample(d, s, [0, 1], 3, temperature=np.inf), "temperature must not be negative or infinite"),
        (lambda d, s: nn.beam_search(d, s, [0, 1], 3, width=0), "width must be at least 1"),
        (lambda d, s: nn.beam_search(d, s, [0, 1], 0), "beam_search: at least one step"),
        (lambda d, s: nn.beam_search(d, s, [[0, 1]], 3), r"beam_search: start holds a token for each row"),
        (lambda d, s: nn.greedy(d, s, [0, 1], 3, end=-1), "the end is token -1, but tokens go from 0 to"),
        (
            lambda d, s: nn.greedy(lambda tokens, s: (tg.zeros(5), s), s, [0, 1], 3),
            r"logits \(2, V\), and not of shape",
        ),
        (lambda d, s: nn.beam_search(lambda tokens, s: (tg.zeros(2, 5), s), s, [0, 1], 3), r"logits \(8, V\), and not"),
        (lambda d, s: nn.teacher_forced(d, s, [0, 1], np.zeros((3, 2), int), 1.5), "ratio is a probability"),
        (lambda d, s: nn.teacher_forced(d, s, [0, 1], np.zeros((2, 3), int)), r"targets of shape \(2, 3\)"),
        (lambda d, s: nn.teacher_forced(d, s, [0, 1], np.zeros(3, int)), r"targets of shape \(3,\)"),
        (lambda d, s: nn.teacher_forced(d, s, [0, 1], np.zeros((0, 2), int)), "at least one step"),
    ],
)
def test_what_cannot_be_written_is_refused(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(Decoder(), start_state(2))


@pytest.mark.parametrize("logit", [np.nan, -np.inf])
@pytest.mark.parametrize("write", [nn.greedy, nn.sample, nn.beam_search])
def test_logits_that_leave_no_token_a_chance_are_refused(write: Any, logit: float) -> None:
    with pytest.raises(FloatingPointError, match=rf"{write.__name__}: .*logits leave no token a chance"):
        write(lambda tokens, state: (tg.full((len(tokens), 5), logit), state), None, [0, 1], 3)


def test_an_infinite_logit_is_certain() -> None:
    """Nothing else is found by a search, and two such tokens are equally likely."""
    one, two = np.array([[1.0, np.inf, 5.0, -np.inf]]), np.array([[np.inf, 0.0, np.inf, -np.inf]])

    def step(logits: np.ndarray) -> Any:
        return lambda tokens, state: (np.repeat(logits, len(tokens), axis=0), state)

    for write in (nn.greedy, nn.sample):
        assert write(step(one), None, [0, 0], 3).tokens.tolist() == [[1, 1]] * 3
    assert set(nn.sample(step(two), None, [0] * 50, 1).tokens.ravel()) == {0, 2}
    found = nn.beam_search(step(one), None, [0], 2, width=2)
    assert found.tokens[:, 0, 0].tolist() == [1, 1]
    assert found.scores.tolist() == [[0, -np.inf]]
    np.testing.assert_allclose(nn.beam_search(step(two), None, [0], 1, width=3).scores, [[*[np.log(0.5)] * 2, -np.inf]])


def test_there_may_be_no_rows() -> None:
    def step(tokens: Any, state: Any) -> Any:
        return tg.zeros(len(tokens), 5), state

    for write in (nn.greedy, nn.sample, nn.beam_search):
        assert write(step, None, [], 3).tokens.shape[1:] in ((0,), (0, 4))


def test_targets_may_be_lists() -> None:
    targets = [[1, 2], [0, 1], [2, 2]]
    decoder, state = Decoder(), start_state(2)
    found = nn.teacher_forced(decoder, state, [0, 0], targets).outputs
    expected = nn.teacher_forced(decoder, state, [0, 0], np.array(targets)).outputs
    np.testing.assert_array_equal(found.data, expected.data)


@pytest.mark.parametrize("wrong", [0, 3, np.random.RandomState(0)], ids=["0", "3", "RandomState"])
def test_what_is_no_generator_is_refused(wrong: Any) -> None:
    def step(tokens: Any, state: Any) -> Any:
        return tg.zeros(2, 5), state

    with pytest.raises(TypeError, match=r"sample: the random generator is one of NumPy's, .*default_rng\(0\), not "):
        nn.sample(step, None, [0, 0], 7, generator=wrong)
    with pytest.raises(TypeError, match=r"teacher_forced: the random generator is one of NumPy's"):
        nn.teacher_forced(step, None, [0, 0], np.ones((3, 2), int), 0.5, generator=wrong)
