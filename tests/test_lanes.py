"""Lanes: whatever order they leave open, the numbers are the same; and layers, directions go on side by side."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest
import streams
from hypothesis import given, settings
from hypothesis import strategies as st
from test_capture import Trainer, agree, batches
from test_graph import leaves, played

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.replay.lanes import hazards, spread, waits
from tinygrad_rnn.replay.passes import wavefront
from tinygrad_rnn.replay.program import Line, Value


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[streams.Device]:
    """A stand-in for CuPy whose graphs make their calls in any order that they allow, another one at each launch."""
    monkeypatch.setattr(wavefront, "_ROWS", 1)
    with streams.registered() as device, tg.use_backend("strict"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield device


# ---- hazards and waits, by themselves ----

CELLS = 12
parts = st.builds(
    lambda start, size, step: slice(start, start + size, step), *(st.integers(*x) for x in ((0, 11), (1, 9), (1, 3)))
)


@settings(max_examples=300, deadline=None)
@given(
    accesses=st.lists(st.tuples(st.lists(parts, max_size=3), parts), max_size=14),
    most=st.integers(2, 4),
    seed=st.integers(0, 99),
)
def test_any_order_that_lanes_allow_gives_the_same(
    accesses: list[tuple[list[slice], slice]], most: int, seed: int
) -> None:
    """Lines that read and write parts of one memory, in lanes that go on at random, against the lines in order."""
    memory = np.arange(float(CELLS))
    places: dict[Value, np.ndarray] = {}

    def value(part: slice) -> Value:
        x = Value(memory[part].shape, memory.dtype)
        places[x] = memory[part]
        return x

    lines = [
        Line("ufunc", "mix", np.add, tuple(value(part) for part in read), {}, value(written))
        for read, written in accesses
    ]

    def run(order: list[Line]) -> list[float]:
        memory[:] = np.arange(CELLS)
        for line in order:
            places[line.result][...] = 0.5 * sum(float(places[x].sum()) for x in line.reads) + lines.index(line)
        return list(memory)

    before = hazards(lines, places.__getitem__)
    begin = spread(before, most) or dict.fromkeys(lines, (0.0, 0))
    lane = {line: k for line, (_, k) in begin.items()}
    order = sorted(lines, key=lambda line: begin[line][0])
    expected = run(lines)
    assert run(order) == expected  # the order of beginnings is one of those that are allowed
    awaited = waits(hazards(order, places.__getitem__), lane)
    queues = {k: [line for line in order if lane[line] == k] for k in lane.values()}
    random, done = Random(seed), list[Line]()
    while any(queues.values()):
        ready = [q for q in queues.values() if q and all(other in done for other in awaited.get(q[0], ()))]
        done.append(random.choice(ready).pop(0))
    assert run(done) == expected


def test_nobody_waits_twice() -> None:
    a, b, c = (Value((2,), np.dtype("f4")) for _ in range(3))
    first = Line("ufunc", "x", np.exp, (), {}, a)
    second = Line("ufunc", "x", np.exp, (a,), {}, b)
    third = Line("ufunc", "x", np.add, (a, b), {}, c)
    before = hazards([first, second, third], {x: np.zeros(2) for x in (a, b, c)}.__getitem__)
    assert before == {first: set(), second: {first}, third: {first, second}}
    assert waits(before, {first: 0, second: 1, third: 2}) == {second: [first], third: [second]}


# ---- whole steps ----

LAYERS = {
    "two layers": partial(nn.LSTM, num_layers=2),
    "three layers with dropout": partial(nn.GRU, num_layers=3, dropout=0.3),
    "two directions": partial(nn.LSTM, bidirectional=True),
    "two layers of two directions": partial(nn.GRU, num_layers=2, bidirectional=True, dropout=0.3),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("exact", [True, False])
def test_replay_equals_eager_in_any_order(name: str, exact: bool, device: streams.Device) -> None:
    size = 10 if "directions" in name else 5
    captured = agree(lambda: Trainer(LAYERS[name](5, 5), size=size), exact, carry=True, calls=12)
    assert captured.replay.player._lanes.count > 1
    assert [graph.launches for graph in device.graphs] == [9, 9]


STEPS = 16


def chain(layer: Any, size: int = 5, **options: Any) -> int:
    """The longest chain of calls in the graph of a step that wait for one another."""
    with streams.registered() as device, tg.use_backend("strict"):
        trainer = Trainer(layer(5, 5), size=size)
        captured = tg.capture(trainer.step, **options)
        for x, target in batches(4, steps=STEPS):
            captured(x, target)
        return device.graphs[0].longest_chain


def test_layers_go_on_side_by_side(device: streams.Device) -> None:
    """Each step is a product and a kernel, forward and back: 4 T for one layer, and hardly more for others above it."""
    one = chain(nn.LSTM)
    assert one > 4 * STEPS
    for layers in (2, 3):
        stacked = partial(nn.LSTM, num_layers=layers)
        assert chain(stacked, without=["lanes"]) > layers * 4 * STEPS
        assert chain(stacked) < one + 40 * (layers - 1)
        assert chain(stacked, without=["wavefront"]) > layers * 4 * STEPS


def test_directions_go_on_side_by_side(device: streams.Device) -> None:
    one, two = chain(nn.GRU), partial(nn.GRU, bidirectional=True)
    assert chain(two, size=10) < one + 30
    assert chain(two, size=10, without=["lanes"]) > one + 4 * STEPS


def test_where_nothing_can_go_side_by_side_there_is_one_lane(device: streams.Device) -> None:
    captured = played(lambda x: (tg.tanh(x) * x.sum()).sum(axis=0))
    assert captured.replay.player._lanes.count == 1
    assert captured.replay.player._lanes.waits == {}


def test_what_is_read_by_others_is_there_in_one_piece(device: streams.Device) -> None:
    """A projection that is returned as well as read step by step."""
    cell, weight = nn.RNNCell(4, 4), leaves(4, 4)
    below = nn.Recurrent(nn.RNNCell(4, 4))

    def step(x: tg.Tensor) -> Any:
        outputs, _ = below(tg.stack([x] * 6))
        z = tg.tanh(tg.linear(outputs, weight))
        state = tg.zeros(3, 4)
        for t in range(6):
            _, state = cell.step(z[t], state)
        return state, z, z[2:5]

    for exact in (True, False):
        captured = tg.capture(step, exact=exact)
        for k in range(8):
            for a, b in zip(captured(leaves(3, 4) * k), step(leaves(3, 4) * k), strict=True):
                for x, y in zip(tg.tree.tree_leaves(a), tg.tree.tree_leaves(b), strict=True):
                    np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=0, atol=0 if exact else 1e-6)
    names = [line.name for line in captured.replay.program.lines]
    assert names.count("gather") == 6
    assert "concatenate" in names


def test_a_factor_for_all_rows_is_cut_like_the_rows(device: streams.Device) -> None:
    cell, weight, factor = nn.RNNCell(4, 4), leaves(4, 4), leaves(12, 3, 4)
    below = nn.Recurrent(nn.RNNCell(4, 4))

    def step(x: tg.Tensor) -> tg.Tensor:
        outputs, _ = below(tg.stack([x] * 12))
        z, state = tg.linear(outputs * factor, weight), tg.zeros(3, 4)
        for t in range(12):
            _, state = cell.step(z[t], state)
        return state

    played(step)


def test_pieces_of_several_sizes_are_no_steps(device: streams.Device) -> None:
    """Six rows in three pieces, of 1, 2 and 3 rows: the share of each is not two of them."""
    weight = leaves(4, 4)

    def step(x: tg.Tensor) -> tg.Tensor:
        pieces = [tg.tanh(x[:1])]
        for rows in (2, 3):
            pieces.append(tg.tanh(pieces[-1].sum(axis=0) * tg.ones(rows, 1)))
        z = tg.tanh(tg.linear(tg.concatenate(pieces), weight))
        return tg.tanh(tg.tanh(z[:2]) + z[2:4]) + z[4:]

    played(step)


def test_what_products_need_on_a_stream_goes_with_the_recording(device: streams.Device) -> None:
    blas = tg.backend.get("strict").cublas
    trainer, before = Trainer(nn.LSTM(5, 5, num_layers=2)), len(blas._handles)
    captured = tg.capture(trainer.step)
    for x, target in batches(4):
        captured(x, target)
    assert len(blas._handles) > before + 1
    del captured
    gc.collect()
    assert len(blas._handles) == before


def test_streams_that_are_not_joined_are_refused(device: streams.Device) -> None:
    cuda = tg.backend.get("strict").xp.cuda
    first, second = cuda.Stream(non_blocking=True), cuda.Stream(non_blocking=True)
    x = leaves(3, 4).array
    pool = cuda.MemoryPool()
    first.begin_capture()
    second.wait_event(first.record(cuda.Event(disable_timing=True)))
    with second, cuda.using_allocator(pool.malloc):
        x + x
    with pytest.raises(RuntimeError, match="Unjoined"):
        first.end_capture()
    first.begin_capture()
    with pytest.raises(RuntimeError, match="Isolation"):
        first.wait_event(second.record())
    first.end_capture()
