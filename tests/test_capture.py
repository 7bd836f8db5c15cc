"""Replay equals the eager step: bit for bit, or, with the passes that join products, to the last few bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from laws import changed, function, law, leaf
from samples import SAMPLES
from sampling import Sample
from test_every_wrapper import CELLS, WRAPPERS

import tinygrad_rnn as tg
from tinygrad_rnn import backend, bptt, nn, optim
from tinygrad_rnn.tree import tree_leaves, tree_map

JOINED = 2e-4  # relative to the largest number: products summed in another order, in float32, over many steps


def arrays_of(result: Any) -> list[np.ndarray]:
    return [x.numpy() if isinstance(x, tg.Tensor) else backend.of(x).to_host(x) for x in tree_leaves(result)]


# Before NumPy 2.3, the last supported on Python 3.10, einsum's rounding depends on where in memory an array begins.
PLACED = {"contract"} if np.lib.NumpyVersion(np.__version__) < "2.3.0" else set()


def equal(found: Any, expected: Any, exact: bool = True) -> None:
    for a, b in zip(arrays_of(found), arrays_of(expected), strict=True):
        if a.tobytes() == b.tobytes() and a.shape == b.shape:  # the quick question first
            continue
        tolerance = 0 if exact else JOINED * max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def poison(captured: Any) -> None:
    """What a replay reads before it has written it is NaN."""
    for _, replay in captured._replays:
        replay.player.arena.fill(255)


# ---- every operation ----


@law(SAMPLES)
def test_replay_equals_eager(name: str, sample: Sample) -> None:
    """Law 8: forward and backward of each op, on other inputs in each call; fifty calls for its first sample."""
    call = function(name)

    def step(inputs: Any) -> Any:
        given = tree_map(lambda x: leaf(x.array) if isinstance(x, tg.Tensor) else x, inputs)
        leaves = [x for x in tree_leaves(given) if isinstance(x, tg.Tensor)]
        ys = tree_leaves(call(*given, **sample.attributes))
        smooth = [y for y in ys if isinstance(y, tg.Tensor) and y.requires_grad]
        grads = tg.grad([(y * y).sum() for y in smooth], leaves, allow_unused=True) if smooth else ()
        return [y.detach() if isinstance(y, tg.Tensor) else y for y in ys], grads

    captured = tg.capture(step, exact=True)
    random = np.random.default_rng(0)
    for _ in range(50 if sample is SAMPLES[name][0] else 10):
        fresh = changed(
            sample, lambda x: tg.tensor(np.ascontiguousarray(x * random.uniform(0.9, 1.0)).reshape(x.shape))
        ).inputs
        poison(captured)
        equal(captured(fresh), step(fresh), exact=name not in PLACED)


# ---- cells, wrappers, layers, optimisers ----


class Trainer:
    """A network round something that recurs, and one training step of it."""

    def __init__(
        self, recurrent: Any, make: Callable[..., Any] | None = None, size: int = 5, unroll: Any = nn.unroll
    ) -> None:
        self.recurrent, self.head, self.unroll = recurrent, nn.Linear(size, 3), unroll
        self.parameters = [*recurrent.parameters(), *self.head.parameters()]
        self.optimizer = make(self.parameters) if make else optim.SGD(self.parameters, lr=0.1)

    def step(self, x: Any, target: Any, *more: Any) -> Any:
        self.optimizer.zero_grad()
        run = (
            self.recurrent
            if isinstance(self.recurrent, nn.Recurrent | nn.LSTM | nn.GRU)
            else partial(self.unroll, self.recurrent)
        )
        outputs, state = run(x, *more)
        loss = nn.cross_entropy(self.head(outputs), target)
        loss.backward()
        tg.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.detach(), bptt.detach(state)


class NoisyCell(nn.LSTMCell):
    """Draws from the host's generator in each step, between masks of dropout."""

    def step(self, z: Any, state: Any) -> Any:
        h, state = super().step(tg.dropout(z, 0.2) + 0.1 * tg.randn(*z.shape, backend=z.backend), state)
        return h * tg.dropout(tg.rand(*h.shape, backend=z.backend), 0.1), state


def batches(count: int, steps: int = 6, size: int = 5) -> Iterator[tuple[tg.Tensor, tg.Tensor]]:
    random, home = np.random.default_rng(1), backend.default().name
    for _ in range(count):
        x = random.standard_normal((steps, 2, size)).astype(np.float32)
        yield tg.tensor(x, backend=home), tg.tensor(random.integers(3, size=(steps, 2)), backend=home)


def agree(make: Callable[[], Trainer], exact: bool, calls: int = 50, carry: bool = False) -> Any:
    """Train twice from the same start, eagerly and captured, and compare losses, states and parameters."""
    tg.manual_seed(0)
    eager = make()
    tg.manual_seed(0)
    replayed = make()
    captured = tg.capture(replayed.step, exact=exact)
    before: Any = ((), ())
    seeds = iter(range(10**6))
    for x, target in batches(calls):
        found = []
        for k, run in enumerate((eager.step, captured)):
            tg.manual_seed(next(seeds) // 2)  # masks of dropout, the same for both
            result = run(x, target, *before[k])
            found.append(result)
        equal(found[1], found[0], exact)
        equal([p.data for p in replayed.parameters], [p.data for p in eager.parameters], exact)
        equal([p.grad for p in replayed.parameters], [p.grad for p in eager.parameters], exact)
        before = [(result[1],) for result in found] if carry else before
        poison(captured)
        eager.optimizer.lr = replayed.optimizer.lr = eager.optimizer.lr * 0.97
    assert captured.replay.program
    return captured


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("cell", [*CELLS, NoisyCell], ids=lambda c: c.__name__)
def test_every_cell(cell: Any, exact: bool) -> None:
    agree(lambda: Trainer(cell(5, 5)), exact, carry=True)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell, nn.LayerNormLSTMCell], ids=lambda c: c.__name__)
@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda w: getattr(w, "__name__", "VariationalDropout"))
def test_every_wrapper(wrap: Any, cell: Any, exact: bool) -> None:
    if wrap is nn.ResidualRecurrence and issubclass(cell, nn.LSTMCell):
        pytest.skip("an LSTM's output is not its state")
    agree(lambda: Trainer(wrap(cell(5, 5))), exact, calls=50 if cell is nn.GRUCell else 10)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("way", [{"segments": 3}, {"budget": 5000}], ids=["segments", "budget"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda cell: cell,
        lambda _: NoisyCell(5, 5),
        nn.Zoneout,
        partial(nn.VariationalDropout, recurrent=0.3),
        partial(nn.CellDropout, input=0.3),  # whose masks for a whole segment are other than those of the first step
    ],
)
def test_checkpointed_steps(wrap: Any, way: dict[str, int], exact: bool) -> None:
    unroll = partial(bptt.checkpointed, **way)
    agree(lambda: Trainer(wrap(nn.LSTMCell(5, 5)), unroll=unroll), exact, carry=True, calls=20)


def test_a_parameter_that_an_update_leaves_in_another_order() -> None:
    def run(capture: bool) -> list[Any]:
        tg.manual_seed(0)
        cell, head = (
            nn.RNNCell(5, 4, dtype=np.float64),
            tg.tensor(np.random.default_rng(0).standard_normal((7, 4)), requires_grad=True),
        )
        parameters = [*cell.parameters(), head]
        optimizer = optim.SGD(parameters, lr=0.1)

        def step(x: tg.Tensor) -> tg.Tensor:
            optimizer.zero_grad()
            state, loss = tg.zeros(1, 4, dtype=np.float64), tg.zeros(())
            for z in cell.input_projection(x):
                h, state = cell.step(z, state)
                y = h @ head.T  # whose gradient lies in memory by columns, and so does then the head
                loss = loss + (y * y).mean()
            loss.backward()
            optimizer.step()
            return loss

        play = tg.capture(step, exact=True) if capture else step
        rng = np.random.default_rng(1)
        losses = [play(tg.tensor(rng.standard_normal((4, 1, 5)))).detach() for _ in range(8)]
        return [losses, parameters]

    equal(run(True), run(False))


def test_means_in_half_precision_are_those_of_numpy() -> None:
    """Which sums in single precision, so that a sum may be larger than the largest number of half precision."""
    captured = tg.capture(lambda x: (x.mean(), x.mean(axis=0)), exact=True)
    random = np.random.default_rng(0)
    for _ in range(8):
        x = random.uniform(0, 200, (40, 50)).astype(np.float16)
        equal(captured(tg.tensor(x)), [x.mean(), x.mean(axis=0)])


def test_gates_times_numbers_of_a_wider_dtype() -> None:
    """Which are not rounded to that of the gates, as they are joined into one call."""

    def step(x: tg.Tensor) -> Any:
        a, b = tg.split(tg.tanh(x), 2, axis=1)
        return a * np.float64(0.1), b * np.float64(0.3)

    captured = tg.capture(step, exact=True)
    random = np.random.default_rng(0)
    for _ in range(4):
        x = tg.tensor(random.standard_normal((3, 8), dtype=np.float32))
        equal(captured(x), step(x))


class Wide(nn.Module):
    """A state of more digits than what it is multiplied by."""

    def initial_state(self, z: tg.Tensor) -> tg.Tensor:
        return tg.ones(*z.shape, dtype=np.float64)

    def input_projection(self, xs: tg.Tensor) -> tg.Tensor:
        return xs

    def step(self, z: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        h = tg.tanh((h * tg.tanh(z)) * tg.sigmoid(z))
        return h, h


def test_what_is_computed_before_the_loop_keeps_the_digits_of_the_state() -> None:
    cell = Wide()
    captured = tg.capture(lambda x: bptt.unroll(cell, x).outputs)
    random = np.random.default_rng(0)
    for _ in range(4):
        x = tg.tensor(random.standard_normal((9, 3, 6), dtype=np.float32))
        np.testing.assert_allclose(captured(x).numpy(), bptt.unroll(cell, x).outputs.numpy(), atol=1e-14)


def test_a_sum_over_time_keeps_the_digits_that_it_is_gathered_in() -> None:
    def step(x: tg.Tensor) -> tg.Tensor:
        total = tg.zeros((), dtype=np.float64)
        for z in x:
            total = total + (z * z).sum()
        return total

    captured = tg.capture(step)
    random = np.random.default_rng(0)
    for _ in range(4):
        x = tg.tensor(random.standard_normal((9, 300, 6), dtype=np.float32))
        np.testing.assert_allclose(captured(x).numpy(), step(x).numpy(), rtol=1e-14)


def test_a_kernel_does_not_overwrite_what_it_reads_as_another_input() -> None:
    """The gradient's share of each row is a column of the logits in whose place that gradient would go."""
    w = tg.tensor(np.random.default_rng(0).standard_normal((5, 4)), requires_grad=True)

    def step(x: tg.Tensor, target: tg.Tensor) -> Any:
        logits = x @ w
        losses = tg.cross_entropy(logits, target)
        return tg.grad([losses], [w], grad_outputs=[logits[:, 0].detach()])

    captured = tg.capture(step, exact=True)
    random = np.random.default_rng(1)
    for _ in range(6):
        x, target = tg.tensor(random.standard_normal((3, 5))), tg.tensor(random.integers(4, size=3))
        equal(captured(x, target), step(x, target))


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_made_again_takes_little_memory(exact: bool) -> None:
    """And is not shared with what was made first, which would keep that."""
    cell, planned = nn.LSTMCell(3, 32), []
    for unroll in (bptt.unroll, bptt.checkpointed):

        def step(x: Any, unroll: Any = unroll) -> Any:
            (unroll(cell, x).state.h ** 2).mean().backward()

        captured = tg.capture(step, exact=exact)
        for _ in range(3):
            captured(tg.ones(100, 16, 3))
        planned.append(captured.memory.planned)
    assert planned[1] < planned[0] / 3, planned


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": partial(optim.SGD, lr=0.1),
    "momentum": partial(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": partial(optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adagrad": optim.Adagrad,
    "rmsprop": optim.RMSprop,
    "centered": partial(optim.RMSprop, centered=True, momentum=0.5),
    "graves": partial(optim.GravesRMSprop, lr=1e-3),
    "adam": partial(optim.Adam, weight_decay=0.01),
    "adamw": optim.AdamW,
    "amsgrad": partial(optim.Adam, amsgrad=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name: str) -> None:
    agree(lambda: Trainer(nn.LSTMCell(5, 5), OPTIMIZERS[name]), exact=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_a_single_number(name: str) -> None:
    """NumPy makes scalars of 0-d results, which a replay could not write to."""

    def trained(replay: Callable[..., Any]) -> float:
        w = tg.tensor(2.0, requires_grad=True)
        optimizer = OPTIMIZERS[name]([w])

        @replay
        def step() -> None:
            optimizer.zero_grad()
            (w * w).backward()
            optimizer.step()

        for _ in range(4):
            step()
        return w.item()

    assert trained(partial(tg.capture, exact=True)) == trained(lambda step: step)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        partial(nn.LSTM, num_layers=2, bidirectional=True, dropout=0.3),
        partial(nn.GRU, num_layers=2),
        partial(nn.LSTM, num_layers=1),
    ],
)
def test_layers(layer: Any, exact: bool) -> None:
    wide = layer(5, 5)
    agree(lambda: Trainer(layer(5, 5), size=10 if getattr(wide, "bidirectional", False) else 5), exact, carry=True)


@pytest.mark.parametrize("exact", [True, False])
def test_teacher_forcing_is_drawn_anew(exact: bool) -> None:
    cell, tokens = nn.GRUCell(5, 5), np.arange(20).reshape(10, 2) % 5

    def step(state: Any) -> Any:
        return nn.teacher_forced(lambda x, state: cell(tg.eye(5)[x], state), state, [0, 1], tokens, 0.5).outputs

    captured, found = tg.capture(step, exact=exact), []
    for k in range(6):
        pair = []
        for run in (step, captured):
            tg.manual_seed(k)
            pair.append(run(tg.zeros(2, 5)))
        equal(*pair, exact)
        found.append(pair[0].numpy())
    assert len({x.tobytes() for x in found}) == 6


def test_zeros_of_both_signs_are_two_constants() -> None:
    def f(x: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        (a, b), (c, d) = tg.split(x * 1.0, 2, axis=-1), tg.split(x * 2.0, 2, axis=-1)
        return tg.concatenate([a + 1.0, b + -0.0], axis=-1), tg.concatenate([c + 1.0, d + 0.0], axis=-1)

    step, x = tg.capture(f), tg.tensor(np.full((2, 8), -0.0, np.float32))
    for _ in range(3):
        for got, want in zip(step(x), f(x), strict=True):
            np.testing.assert_array_equal(np.signbit(got.numpy()), np.signbit(want.numpy()))
