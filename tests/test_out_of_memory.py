"""Out of memory: the error says what was asked for, what is in use, what holds it, and what would fit."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import strict
import strict_memory

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn

T, B, H = 40, 16, 32


@contextmanager
def room_for(more: int) -> Iterator[None]:
    """Let the device have so many more bytes than are in use."""
    gc.collect()
    with patch.object(strict.tally, "limit", strict.used_bytes() + more):
        yield


@pytest.fixture
def network(strict_device: str) -> Any:
    cell = nn.LSTMCell(H, H, backend=strict_device)
    return cell, tg.zeros(T, B, H, backend=strict_device)


def test_forward(network: Any) -> None:
    with room_for(600_000), pytest.raises(MemoryError) as caught:  # the graph of all steps takes about a million
        bptt.unroll(*network)
    message = str(caught.value)
    where = re.match(
        r"\w+: out of memory, time step (\d+), cells.py:\d+, called from test_out_of_memory.py:\d+\. ", message
    )
    assert where, message
    step = int(where[1])
    assert 10 < step < T - 5
    for said in (
        r"\. Out of memory allocating [\d,]+ bytes \(allocated so far: [\d,]+ bytes, limit set to: [\d,]+ bytes\)\. ",
        r"\. [\d,]+ MiB of strict are in use\. Graphs keep [\d,]+ KiB of it for backward: ",
        rf"sigmoid's y [\d,]+ KiB \(in ({3 * step}|{3 * step + 1}|{3 * step + 2}) arrays, time steps 0 to \d+\), ",
        rf"\. These are ({step}|{step + 1}) time steps: a shorter window or a smaller batch needs less in proportion",
        r", and bptt.checkpointed\(cell, xs\) keeps about 2 sqrt\(T\) of T steps instead of all\.$",
    ):
        assert re.search(said, message), (said, message)
    assert isinstance(caught.value.__cause__, strict_memory.OutOfMemoryError)


def test_backward(network: Any) -> None:
    outputs, _ = bptt.unroll(*network)
    loss = (outputs * outputs).sum()
    with (
        room_for(B * H * 4),
        pytest.raises(MemoryError, match=r"out of memory.* Graphs keep .* for backward: multiply's "),
    ):
        loss.backward()


def test_between_the_rules_of_backward() -> None:
    def fails(g: Any) -> Any:
        raise MemoryError("nothing is left")

    with patch.dict(tg.exp.op.rules, x=fails):
        tg.exp.op.plans.clear()
        y = tg.exp(tg.tensor([1.0], requires_grad=True))
        with pytest.raises(
            MemoryError, match=r"backward: out of memory on the way back through exp#.*\. nothing is left\."
        ):
            y.backward()
    tg.exp.op.plans.clear()


def test_on_the_host() -> None:
    x = tg.broadcast_to(tg.zeros(1), shape=(10**15,))
    kept = tg.exp(tg.ones(64, 1024, requires_grad=True))
    with pytest.raises(
        MemoryError, match=r"^add: out of memory, test_out_of_memory.py:\d+\. Unable to allocate 3.55 PiB"
    ) as e:
        x + 1
    assert "exp's y 256 KiB (in one array)" in str(e.value)
    assert kept.shape == (64, 1024)


def test_each_array_is_counted_once(strict_device: str) -> None:
    x = tg.ones(1000, backend=strict_device, requires_grad=True)
    y = tg.exp(x)
    z = tg.exp(y).reshape(10, 100) * y.reshape(10, 100)  # exp(y) is saved twice, once as a view, and y three times
    with room_for(8), pytest.raises(MemoryError, match=r"Graphs keep 8,000 B of it for backward: .* A smaller batch"):
        z + 1


def test_replays(network: Any) -> None:
    cell, xs = network

    def step(xs: Any) -> Any:
        outputs, _ = bptt.unroll(cell, xs)
        loss = (outputs * outputs).sum()
        loss.backward()
        return loss

    captured = tg.capture(step)
    captured(xs)
    cell.zero_grad()
    xp = tg.backend.get("strict").xp
    zeros = xp.zeros

    def short(shape: Any, dtype: Any = float) -> Any:
        if dtype == np.uint8:  # of which nothing is made but the memory of replays
            raise MemoryError("Out of memory allocating 4 bytes.")
        return zeros(shape, dtype=dtype)

    told = r"capture: out of memory\. Out of .* bytes\. The step was done, but its replays take [\d,]+ KiB in one piece"
    with patch.object(xp, "zeros", short), pytest.raises(MemoryError, match=told):
        captured(xs)
    assert captured(xs).shape == ()
