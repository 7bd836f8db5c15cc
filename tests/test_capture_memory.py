"""The memory that a captured step plans: nothing lies over what is in use, and there is little of it."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import cache, partial
from itertools import combinations, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peaks import peak_memory

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, cotangents, nn, optim
from tinygrad_rnn.replay.arena import pack
from tinygrad_rnn.replay.blocks import Block, Extent
from tinygrad_rnn.replay.program import Value

VOCABULARY = 11


class CharLoss(nn.Module):
    """A character model as one cell, from tokens and targets (T, B, 2) to the loss of each time step."""

    def __init__(self, hidden: int) -> None:
        self.embedding, self.head = nn.Embedding(VOCABULARY, hidden), nn.Linear(hidden, VOCABULARY)
        self.cell = nn.LSTMCell(hidden, hidden)

    def input_projection(self, pairs: Any) -> Any:
        return self.cell.input_projection(self.embedding(pairs[..., 0])), pairs[..., 1]

    def initial_state(self, z: Any) -> Any:
        return self.cell.initial_state(z[0])

    def step(self, z: Any, state: Any) -> Any:
        output, state = self.cell.step(z[0], state)
        return nn.cross_entropy(self.head(output), z[1]), state


def training(hidden: int, batch: int, steps: int, way: str, **options: Any) -> tuple[CharLoss, Callable[[], Tensor]]:
    """A model, and a training step of it: plain with one loss of all outputs, or with the loss inside."""
    tg.manual_seed(0)
    model = CharLoss(hidden)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pairs = tg.tensor(np.random.default_rng(0).integers(VOCABULARY, size=(steps, batch, 2))).data

    def step(pairs: Any) -> Tensor:
        optimizer.zero_grad()
        if way == "inside":
            loss = bptt.checkpointed(model, pairs, **options).outputs.mean()
        else:
            xs = model.embedding(pairs[..., 0])
            outputs, _ = getattr(bptt, way)(model.cell, xs, **options)
            loss = nn.cross_entropy(model.head(outputs), pairs[..., 1])
        loss.backward()
        optimizer.step()
        return loss

    return model, partial(step, pairs)


def captured(step: Any, exact: bool = False) -> Any:
    """A captured step that has been replayed."""
    replayed = tg.capture(step.func, exact=exact)
    for _ in range(4):
        replayed(*step.args)
    return replayed


def gradient(p: Tensor) -> np.ndarray:
    return p.grad.numpy()


def peak(step: Callable[[], Any]) -> int:
    """The most bytes that a step holds, beyond what is there before."""
    step()
    with peak_memory() as most:
        step()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        step()
        return most() - before


DEEP, WIDE, SHORT = (64, 16, 100), (256, 32, 60), (256, 32, 30)  # hidden size, batch, steps


@cache
def eager_peak(size: tuple[int, int, int], way: str) -> int:
    return peak(training(*size, way)[1])


@pytest.mark.parametrize("size", [DEEP, SHORT])
@pytest.mark.parametrize("way", ["unroll", "checkpointed"])
def test_no_more_is_planned_than_an_eager_step_holds(size: tuple[int, int, int], way: str) -> None:
    planned = captured(training(*size, way)[1]).memory.planned
    assert planned < 1.02 * eager_peak(size, way)


@pytest.mark.parametrize(("size", "segments"), [(DEEP, None), (WIDE, 10)])
def test_with_the_loss_inside_a_quarter_of_that_is_planned(size: tuple[int, int, int], segments: int | None) -> None:
    """The gradients agree with those of the plain eager step, whose products are of more rows."""
    plain, eager = training(*size, "unroll")
    model, step = training(*size, "inside", segments=segments)
    replayed = captured(step)
    assert replayed.memory.planned <= eager_peak(size, "unroll") / 4
    for _ in range(4):
        eager()
    for (name, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
        np.testing.assert_allclose(gradient(q), gradient(p), rtol=0, atol=1e-5, err_msg=name)


def test_with_the_loss_inside_an_exact_replay_equals_the_eager_step() -> None:
    model, step = training(*DEEP, "inside")
    same, eager = training(*DEEP, "inside")
    captured(step, exact=True)
    for _ in range(4):
        eager()
    for p, q in zip(model.parameters(), same.parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_what_waits_for_a_large_weight_is_merged_where_a_segment_ends(monkeypatch: Any) -> None:
    held = peak(training(*SHORT, "inside")[1])
    monkeypatch.setattr(cotangents, "_BORDER", 0)
    assert held < 0.6 * peak(training(*SHORT, "inside")[1])


def test_it_says_what_takes_most() -> None:
    memory = captured(training(*DEEP, "unroll")[1]).memory
    line, held = memory.peak
    gates = 100 * 16 * 4 * 64 * 4
    assert line.phase == "backward"
    assert 0.95 * gates <= held.most_common(1)[0][1] <= memory.planned  # their end may be free by then
    assert sum(held.values()) <= memory.planned
    head, place, _, first, *_ = repr(memory).splitlines()
    assert head.startswith(f"planned {memory.planned / 1e6:.1f} MB")
    assert all("test_capture_memory.py:" in text for text in (place, first))
    assert float(first.split()[0]) == pytest.approx(held.most_common(1)[0][1] / 1e6, abs=1e-3)


def test_a_step_without_results_takes_nothing() -> None:
    replayed = tg.capture(lambda x: x)
    for _ in range(3):
        replayed(tg.ones(2))
    assert repr(replayed.memory).startswith("planned 0.0 MB")


use = st.tuples(st.integers(0, 400), st.integers(1, 200), st.integers(0, 30), st.integers(0, 8))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(use, min_size=1, max_size=6), max_size=12))
def test_nothing_lies_over_what_is_in_use(uses: list[list[tuple[int, int, int, int]]]) -> None:
    """Bytes of two blocks that are at one place are never in use at one line."""
    blocks = []
    for of_block in uses:
        block = Block(Value((max(low + size for low, size, _, _ in of_block),), np.dtype("u1")))
        for low, size, first, more in of_block:
            begin = block.address + low
            block.used(Extent(begin, begin, begin + size), (first, first + more))
        blocks.append(block)
    top = pack(blocks)
    for block in blocks:
        assert block.offset in range(0, top + 1, 64)
    for a, b in combinations(blocks, 2):
        for low, high, first, last in a.uses:
            for start, stop, begin, end in b.uses:
                over = max(low + a.offset, start + b.offset) < min(high + a.offset, stop + b.offset)
                assert not over or last < begin or end < first
    assert all(block.offset + high <= top for block in blocks for _, high, _, _ in block.uses)
    assert top <= sum(block.nbytes + 64 for block in blocks)


DROPPED = """
import gc
import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn

for _ in range(40):
    cell = nn.LSTMCell(2, 2)
    captured = tg.capture(lambda x: bptt.unroll(cell, x).outputs)
    for _ in range(3):
        captured(tg.ones(10, 1, 2))
    print(len(gc.get_objects()))
"""


def test_captured_steps_that_are_dropped_do_not_pile_up() -> None:
    """In a process of its own, as what other tests do with the collector counts too."""
    root = Path(tg.__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, check=True, cwd=root)
    counts = list(map(int, ran.stdout.split()))
    each = median(b - a for a, b in pairwise(counts))
    assert each > 500
    assert max(counts) - min(counts) < 32 * each
