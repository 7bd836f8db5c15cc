"""Capture on a device: a replay equals the eager step bit for bit there too, and makes the host wait no more."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import strict
from laws import function, law, leaf
from samples import SAMPLES
from sampling import Sample
from test_capture import OPTIMIZERS, PLACED, NoisyCell, Trainer, agree, batches, equal, poison
from test_every_wrapper import CELLS, WRAPPERS

import tinygrad_rnn as tg
from tinygrad_rnn import backend, nn
from tinygrad_rnn.tree import tree_leaves, tree_map

UNORDERED = {"getitem", "scatter", "take_along_axis", "add_along_axis", "embedding", "add_rows"}  # which, or whose
# gradients, add at indices that may repeat: a GPU does so in whatever order its threads come


@pytest.fixture(autouse=True, params=["strict", pytest.param("cupy", marks=pytest.mark.gpu)])
def home(request: pytest.FixtureRequest) -> Iterator[str]:
    """New tensors are made on the stand-in for CuPy, and on CuPy where there is a GPU."""
    with strict.registered(), tg.use_backend(request.param), without_warning():
        yield request.param


@contextmanager
def without_warning() -> Iterator[None]:
    """A step of which CUDA makes no graph, as of one with a mask for an index, is replayed call by call."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="capture: .* cannot be a part of a CUDA graph")
        yield


def replay_equals_eager(name: str, sample: Sample) -> None:
    """Law 8 on the device: forward and backward of each op, on inputs that change from call to call."""
    call = function(name)

    def put(x: Any) -> Any:
        return tg.tensor(x, backend=backend.default().name).array if isinstance(x, np.ndarray) else x

    attributes = sample.attributes if name == "index" else tree_map(put, sample.attributes)
    masks = [x for x in tree_leaves(attributes) if getattr(x, "dtype", None) == np.bool_]
    waits = bool(masks) or name == "at_most"  # which compares on the host

    def step(inputs: Any) -> Any:
        given = tree_map(lambda x: leaf(x.array) if isinstance(x, tg.Tensor) else x, inputs)
        leaves = [x for x in tree_leaves(given) if isinstance(x, tg.Tensor)]
        ys = tree_leaves(call(*given, **attributes))
        smooth = [y for y in ys if isinstance(y, tg.Tensor) and y.requires_grad]
        grads = tg.grad([(y * y).sum() for y in smooth], leaves, allow_unused=True) if smooth else ()
        return [y.detach() if isinstance(y, tg.Tensor) else y for y in ys], grads

    captured = tg.capture(step, exact=True)
    random = np.random.default_rng(0)

    def fresh(x: Any) -> Any:
        floating = isinstance(x, np.ndarray) and x.dtype.kind == "f"
        if not floating:
            return put(x)
        return tg.tensor(
            np.ascontiguousarray(x * random.uniform(0.9, 1.0)).reshape(x.shape), backend=backend.default().name
        )

    for k in range(4):
        inputs = tree_map(fresh, sample.inputs)
        poison(captured)
        before = strict.tally.host_copies
        found = captured(inputs)
        waited, before = strict.tally.host_copies - before, strict.tally.host_copies
        expected = step(inputs)
        assert k < 2 or waits or waited <= strict.tally.host_copies - before
        in_order = backend.default().name != "cupy" or name not in UNORDERED
        equal(found, expected, exact=in_order and name not in PLACED)


test_replay_equals_eager = law(SAMPLES)(replay_equals_eager)


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.__name__)
def test_every_cell(cell: Any) -> None:
    agree(lambda: Trainer(cell(5, 5)), exact=True, carry=True, calls=5)


@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda w: getattr(w, "__name__", "VariationalDropout"))
def test_every_wrapper(wrap: Any) -> None:
    agree(lambda: Trainer(wrap(nn.GRUCell(5, 5))), exact=True, calls=5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name: str) -> None:
    agree(lambda: Trainer(nn.LSTMCell(5, 5), OPTIMIZERS[name]), exact=True, calls=8)


@pytest.mark.parametrize("exact", [True, False])
def test_layers(exact: bool) -> None:
    layer = partial(nn.LSTM, num_layers=2, bidirectional=True, dropout=0.3)
    agree(lambda: Trainer(layer(5, 5), size=10), exact, carry=True, calls=5)


@pytest.mark.parametrize("exact", [True, False])
def test_numbers_that_the_host_draws_are_drawn_anew(exact: bool) -> None:
    agree(lambda: Trainer(NoisyCell(5, 5)), exact, carry=True, calls=6)


def test_a_replay_makes_the_host_wait_for_nothing(home: str) -> None:
    """Clipping that raises must know whether all is finite: the host waits once for it, as it does eagerly."""
    trainer = Trainer(nn.LSTMCell(5, 5))
    captured = tg.capture(trainer.step)
    for k, (x, target) in enumerate(batches(5)):
        before = strict.tally.host_copies
        loss, _ = captured(x, target)
        assert k < 2 or home == "cupy" or strict.tally.host_copies - before == 1
        assert loss.backend == home


def on_device(x: np.ndarray) -> tg.Tensor:
    return tg.tensor(x, backend=backend.default().name)


def gradient_of(step: Any) -> Any:
    """A function of x: what a step makes of a weight times x, and the weight's gradient of its square."""
    weight = on_device(np.arange(12.0).reshape(4, 3))
    weight.requires_grad = True

    def run(x: Any) -> Any:
        y = step(weight * x)
        return y.detach(), *tg.grad((y * y).sum(), [weight])

    return run


PICKED: dict[str, Any] = {
    "rows": np.array([0, 2, 2]),
    "elements": (np.array([0, 1, 1]), np.array([2, 0, 0])),
    "a mask": np.array([True, False, True, True]),
}


@pytest.mark.parametrize("name", PICKED)
def test_arrays_of_the_host_as_indices(name: str) -> None:
    step = gradient_of(lambda x: x[PICKED[name]])
    captured = tg.capture(step)
    for k in range(4):
        x = on_device(np.full((4, 3), k + 1.0))
        equal(captured(x), step(x))


def test_indices_of_the_host_that_are_filled_anew() -> None:
    rows = np.zeros(3000, int)
    step = gradient_of(lambda x: x[rows])
    captured = tg.capture(step)
    for k in range(4):
        rows[:] = k
        x = on_device(np.ones((4, 3)))
        equal(captured(x), step(x), exact=False)


def test_a_mask_is_not_looked_at_by_replays(home: str) -> None:
    mask = on_device(np.arange(4) > 1).data[:, None]
    step = gradient_of(lambda x: tg.where(mask, x, 0) * mask)
    captured = tg.capture(step)
    for k in range(4):
        x = on_device(np.full((4, 3), k + 1.0))
        before = strict.tally.host_copies
        found = captured(x)
        assert k < 2 or strict.tally.host_copies == before
        equal(found, step(x))
