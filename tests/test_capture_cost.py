"""What it costs to record a step: work in proportion to its length, and nothing that only the collector can free."""

from __future__ import annotations

import gc
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.array_utils import byte_bounds

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.replay import straight
from tinygrad_rnn.replay.blocks import Extent, Region
from tinygrad_rnn.replay.program import Value


def step_of(cell: Any, steps: int) -> Callable[[], Any]:
    """A captured training step over so many time steps, called once."""
    tg.manual_seed(0)
    x = tg.tensor(np.random.default_rng(0).standard_normal((steps, 2, 3)).astype(np.float32))
    model = nn.Recurrent(cell(3, 4))
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x: tg.Tensor) -> tg.Tensor:
        optimizer.zero_grad()
        outputs, _ = model(x)
        loss = (outputs**2).mean()
        loss.backward()
        tg.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        return loss

    captured = partial(tg.capture(step), x)
    captured()
    return captured


def lines_of_python(function: Callable[[], Any]) -> int:
    """How many lines of the recorder, the passes and the layout run in a call."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if "replay" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_recording_takes_work_in_proportion_to_the_time_steps(cell: Any) -> None:
    lines_of_python(step_of(cell, 4))  # what is done once
    counts = [lines_of_python(step_of(cell, steps)) for steps in (8, 16, 32)]
    assert counts[2] - counts[1] < 2.025 * (counts[1] - counts[0])


def test_recording_leaves_next_to_nothing_to_the_collector() -> None:
    captured = step_of(nn.LSTMCell, 64)
    gc.collect()
    gc.disable()
    try:
        captured()
        lines = len(captured.func.replay.recorded.lines)
        objects = gc.collect()
        assert objects < lines * (1 if sys.version_info >= (3, 11) else 1.3)  # of a dozen objects for each line
    finally:
        gc.enable()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("enabled", [False, True])
def test_the_collector_is_left_as_it_was(enabled: bool, frozen: bool) -> None:
    captured = step_of(nn.RNNCell, 4)
    if not frozen:
        gc.unfreeze()
    if not enabled:
        gc.disable()
    try:
        held = gc.get_freeze_count()  # Python 3.12 begins with some
        captured()
        assert gc.isenabled() == enabled
        assert (gc.get_freeze_count() > held // 2) if frozen else gc.get_freeze_count() == held
    finally:
        gc.enable()
        gc.freeze()  # as before


def test_cycles_of_the_user_are_still_found() -> None:
    class Node:
        def __init__(self) -> None:
            self.itself = self

    captured = step_of(nn.RNNCell, 4)
    gc.collect()
    before = weakref.ref(Node())
    captured()
    after = weakref.ref(Node())
    gc.collect()
    assert before() is None
    assert after() is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), max_size=20), st.integers(0, 40), st.integers(1, 10))
def test_all_that_shares_bytes_with_a_place_is_near_it(parts: list[tuple[int, int]], low: int, size: int) -> None:
    extents = {Value((), np.dtype("f4"), str(k)): Extent(a, a, a + n) for k, (a, n) in enumerate(parts)}
    near = Region(list(extents), extents).near(low, low + size)
    assert len(near) == len(set(near))
    for value, extent in extents.items():
        assert value in near or extent.high <= low or extent.low >= low + size


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_extents_are_those_of_numpy(data: st.DataObject) -> None:
    cuts = st.slices(6).filter(lambda cut: len(range(*cut.indices(6))) > 0)
    array = np.zeros((6, 6), np.float32)[data.draw(cuts), data.draw(cuts)]
    array = array.T if data.draw(st.booleans()) else array
    extent = Extent.of(array)
    assert (extent.low, extent.high) == byte_bounds(array)
    assert extent.begin == array.__array_interface__["data"][0]


def test_calls_are_made_in_order_whatever_the_parts() -> None:
    said: list[int] = []
    parts = [[partial(said.append, 1)], [], [partial(said.append, k) for k in range(600)], [partial(said.append, 2)]]
    straight.straight(parts)()
    assert said == [1, *range(600), 2]


def test_what_is_called_can_import() -> None:
    """As CuPy's ufuncs do in C when they meet a dtype for the first time: C asks the calling Python code how."""
    straight.straight([[partial(time.strptime, "2017", "%Y")]])()
