"""CUDA graphs, on a stand-in for the driver: what is captured, what a launch does, and what happens without one."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import streams
from laws import law
from samples import SAMPLES
from sampling import Sample
from test_capture import OPTIMIZERS, Trainer, agree, batches, equal
from test_capture_device import replay_equals_eager, without_warning
from test_every_wrapper import CELLS, WRAPPERS

import tinygrad_rnn as tg
from tinygrad_rnn import backend, nn
from tinygrad_rnn.op import registry
from tinygrad_rnn.replay import graph
from tinygrad_rnn.replay.graph import GraphPlayer


@pytest.fixture(autouse=True)
def device() -> Iterator[streams.Device]:
    """New tensors are made on a stand-in for CuPy that has streams and graphs; no warning goes unseen."""
    with streams.registered() as device, tg.use_backend("strict"), warnings.catch_warnings():
        warnings.simplefilter("error")
        with patch.dict(registry, peeked=peeked.op):
            yield device


def counts(device: streams.Device) -> list[int]:
    return [graph.launches for graph in device.graphs]


@law({name: samples[::3] for name, samples in SAMPLES.items()})  # test_capture_device.py has all
def test_every_op(name: str, sample: Sample) -> None:
    with without_warning():
        replay_equals_eager(name, sample)


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.__name__)
def test_every_cell(cell: Any, device: streams.Device) -> None:
    agree(lambda: Trainer(cell(5, 5)), exact=True, carry=True, calls=6)
    assert counts(device) == [3, 3]  # one before clipping, which asks whether all is finite, and one after


@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda w: getattr(w, "__name__", "VariationalDropout"))
def test_every_wrapper(wrap: Any, device: streams.Device) -> None:
    agree(lambda: Trainer(wrap(nn.LSTMCell(5, 5) if wrap is not nn.ResidualRecurrence else nn.GRUCell(5, 5))), True, 6)
    assert counts(device) == [3, 3]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name: str, device: streams.Device) -> None:
    """Learning rates and step counters change from launch to launch."""
    agree(lambda: Trainer(nn.GRUCell(5, 5), OPTIMIZERS[name]), exact=True, calls=8)
    assert min(counts(device)) >= 4


def test_layers_and_dropout(device: streams.Device) -> None:
    layer = partial(nn.LSTM, num_layers=2, bidirectional=True, dropout=0.3)
    agree(lambda: Trainer(layer(5, 5), size=10), exact=False, carry=True, calls=6)
    assert counts(device) == [3, 3]


def test_a_single_sequence_that_is_read_backwards(device: streams.Device) -> None:
    """Of a batch of one, steps from the last to the first are a matrix whose rows lie backwards."""
    trainer = Trainer(nn.LSTM(5, 5, bidirectional=True), size=10)
    captured = tg.capture(trainer.step)
    for x, target in batches(5):
        captured(x[:, :1], target[:, :1])
    assert counts(device) == [2, 2]


def leaves(*shape: int) -> tg.Tensor:
    return tg.tensor(np.random.default_rng(0).standard_normal(shape).astype("f4"), backend="strict")


def played(step: Any, calls: int = 5, **options: Any) -> Any:
    """A captured step after some calls, each of which gives what the step itself gives."""
    captured = tg.capture(step, **options)
    for k in range(calls):
        equal(captured(leaves(3, 4) * k), step(leaves(3, 4) * k))
    return captured


def test_a_graph_is_captured_on_its_own_stream_with_its_own_memory(
    device: streams.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    begin = streams.Stream.begin_capture

    def noted(stream: streams.Stream) -> None:
        seen.append((stream.ptr, device.allocators[-1], gc.isenabled()))
        begin(stream)

    monkeypatch.setattr(streams.Stream, "begin_capture", noted)
    captured = played(lambda x: (tg.tanh(x) * x.sum()).sum(axis=0))
    ((stream, allocator, collecting),) = seen
    player = captured.replay.player
    assert (stream, allocator, collecting) == (player._streams[0].ptr, player._pool.malloc, False)
    assert gc.isenabled()
    assert device.order == [(stream, 0), (0, stream)] * 2  # it waits for what was under way, and is waited for
    assert (device.allocators, len(device.streams)) == ([None], 1)
    assert counts(device) == [2]  # the fourth call and the fifth: the third played the calls one by one


def test_an_op_that_needs_the_host_comes_between_two_graphs(device: streams.Device) -> None:
    trainer = Trainer(nn.GRUCell(5, 5))
    captured = tg.capture(trainer.step)
    for x, target in batches(5):
        captured(x, target)
    before = [p.numpy() for p in trainer.parameters]
    with pytest.raises(FloatingPointError, match="nothing was changed"):
        captured(x * np.nan, target)
    equal(trainer.parameters, before)
    captured(x, target)
    assert counts(device) == [4, 3]
    assert all(np.isfinite(p.numpy()).all() for p in trainer.parameters)


def test_random_numbers_are_drawn_before_the_graph(device: streams.Device) -> None:
    def step(x: tg.Tensor) -> tg.Tensor:
        return tg.dropout(tg.tanh(tg.dropout(x) + tg.randn(3, 4)) * tg.rand(4), 0.2)

    results = []
    for run in (step, tg.capture(step)):
        tg.manual_seed(0)
        results.append([run(leaves(3, 4)) for _ in range(6)])
    equal(*results)
    assert counts(device) == [3]


def test_parameters_that_are_replaced_outside_are_read_anew(device: streams.Device) -> None:
    model = nn.Linear(4, 2)
    evaluate = tg.capture(lambda x: model(x))
    for factor in (1.0, 1.0, 1.0, 1.0, 2.0, -1.0, 0.5, 0.5):
        model.weight.data = model.weight.data * factor
        equal(evaluate(leaves(3, 4)), model(leaves(3, 4)))
    assert counts(device) == [5]  # the third call noticed, and from then on the weight is copied to where it is read


def test_a_graph_can_be_left_out(device: streams.Device) -> None:
    captured = played(lambda x: tg.tanh(x), without=["graph"])
    assert not isinstance(captured.replay.player, GraphPlayer)
    assert device.graphs == []


@tg.op
def peeked(xp: Any, x: Any) -> Any:
    """x, of which the host reads the sum."""
    return x if float(x.sum()) > -1e9 else -x


peeked.vjp(x=lambda g: g)
del registry["peeked"]  # the laws are for the engine's own


def fallback(step: Any, match: str, device: streams.Device) -> None:
    """There is one warning, by the line's name; after it the calls are played, and all is as it was around them."""
    captured = tg.capture(step)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for k in range(7):
            equal(captured(leaves(3, 4) * k), step(leaves(3, 4) * k))
    (warning,) = told
    assert "CUDA" in str(warning.message)
    assert match in str(warning.message)
    assert warning.filename == __file__
    assert device.capturing is None
    assert (device.allocators, len(device.streams)) == ([None], 1)
    assert (device.freed, backend.get("strict")._pools) == ([True], [])
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (lambda x: peeked(tg.tanh(x)) * 2, "peeked (test_graph.py:"),
        (lambda x: tg.einsum("ij,kj,lj->ikl", tg.tanh(x), x, x), "einsum (test_graph.py:"),
    ],
)
def test_where_no_graph_can_be_the_calls_are_played(step: Any, match: str, device: streams.Device) -> None:
    fallback(step, match, device)


@pytest.mark.parametrize(
    "step",
    [
        lambda x: tg.tanh(x).reshape(3, 1, 4) @ x.reshape(3, 4, 1),
        lambda x: tg.tanh(x).reshape(3, 2, 2) @ x[:2, :2],
        lambda x: tg.tanh(x).reshape(3, 1, 2, 2) @ tg.stack([x[:2, :2], x[1:, 1:3]]),
        lambda x: tg.einsum("ij,kj->ik", tg.tanh(x), x),
        lambda x: tg.einsum("bij,bjk->bki", tg.tanh(x).reshape(3, 2, 2), x.reshape(3, 2, 2)),
    ],
)
def test_products_of_stacks_are_part_of_a_graph(step: Any, device: streams.Device) -> None:
    """As attention makes them."""
    w = tg.randn(3, 4, backend="strict", requires_grad=True)

    def trained(x: Any) -> Any:
        w.grad = None
        loss = (step(x) * step(w)).sum()
        loss.backward()
        return loss, w.grad

    captured = tg.capture(trained, exact=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in range(5):
            equal(captured(leaves(3, 4) * k), trained(leaves(3, 4) * k))
    assert len(device.graphs) == 1


def test_a_capture_that_fails_at_its_end_falls_back(device: streams.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    end = streams.Stream.end_capture

    def fail(stream: streams.Stream) -> None:
        end(stream)
        raise RuntimeError("cudaErrorStreamCaptureInvalidated")

    monkeypatch.setattr(streams.Stream, "end_capture", fail)
    fallback(lambda x: tg.tanh(x) * 2, "cudaErrorStreamCaptureInvalidated", device)


def test_an_op_can_say_that_the_host_waits_for_it(device: streams.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peeked.op, "waits", True)
    played(lambda x: peeked(tg.tanh(x)) * 2)
    assert counts(device) == [2, 2]


def test_a_graph_that_is_dropped_frees_its_memory_and_leaves_its_handle_to_the_next(device: streams.Device) -> None:
    blas: Any = backend.get("strict").cublas
    before = dict(blas._handles)
    home: Any = backend.get("strict")
    for k in range(3):
        captured = played(lambda x: tg.tanh(x) @ x.T)
        (pool,), used = home._pools, home.memory_in_use()
        pool.total_bytes = lambda: 0
        assert used - home.memory_in_use() == 1 << 20  # what a graph keeps is in use
        del pool
        assert len(blas._handles) == len(before) + 1
        del captured
        gc.collect()
        assert blas._handles == before
        assert len(blas._spare[0]) == 1
        assert len(device.freed) == k + 1


def test_what_a_graph_may_not_make_is_made_again_if_memory_ran_out(
    device: streams.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, x = played(lambda x: tg.tanh(x) @ x.T, calls=2), leaves(3, 4)
    blas: Any = backend.get("strict").cublas
    with monkeypatch.context() as patched:
        patched.setattr(blas, "handle", short_of_memory)
        with pytest.raises(MemoryError):
            captured(x)
    for _ in range(4):
        equal(captured(x), tg.tanh(x) @ x.T)
    assert counts(device) == [3]  # the first of them was played


def test_streams_that_could_not_be_made_are_made_at_the_next_call(
    device: streams.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, x = played(tg.tanh, calls=2), leaves(3, 4)
    with monkeypatch.context() as patched:
        patched.setattr(backend.get("strict").xp.cuda, "Stream", lambda **_: short_of_memory())
        with pytest.raises(MemoryError):
            captured(x)
    for _ in range(3):
        equal(captured(x), tg.tanh(x))
    assert counts(device) == [2]


def test_a_capture_that_is_broken_off_leaves_everything_as_it_was(
    device: streams.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, x = played(lambda x: (tg.tanh(x) * x.sum()).sum(axis=0), calls=3), leaves(3, 4)
    with monkeypatch.context() as patched:
        patched.setattr(graph, "_call_in_graph", broken_off)
        with pytest.raises(KeyboardInterrupt):
            captured(x)
    assert (device.allocators, len(device.streams), device.capturing) == ([None], 1, None)
    for _ in range(3):
        equal(captured(x), (tg.tanh(x) * x.sum()).sum(axis=0))
    assert counts(device) == [0, 3]  # what was broken off is never launched


def broken_off(*_: Any) -> None:
    raise KeyboardInterrupt


def short_of_memory() -> Any:
    raise MemoryError


def test_the_stand_in_refuses_what_cuda_refuses(device: streams.Device) -> None:
    home = backend.get("strict")
    x, stream = leaves(3, 4).array, home.xp.cuda.Stream(non_blocking=True)
    refused = [
        lambda: float(x.sum()),
        lambda: x.get(),
        lambda: home.xp.asarray([1.0]),
        lambda: home.xp.matmul(x, x.T),
        lambda: home.xp.stack([x] * 9),
        lambda: x + x,  # memory that is not of the pool
        lambda: stream.synchronize(),
        lambda: home.uniform((3,)),
    ]
    for call in refused:
        with stream:
            stream.begin_capture()
            with pytest.raises((RuntimeError, NotImplementedError)):
                call()
            stream.end_capture()
    with pytest.raises(RuntimeError, match="default"):
        device.streams[0].begin_capture()
