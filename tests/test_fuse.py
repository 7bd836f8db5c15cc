"""Generated kernels: what goes into one, that it says what NumPy does, and that a C++ compiler agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import generated
import numpy as np
import pytest
import strict
from test_capture import Trainer, arrays_of, batches, equal

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.formula import EXPRESSIONS, PREAMBLE
from tinygrad_rnn.op import registry
from tinygrad_rnn.replay.passes.pointwise import kernel
from tinygrad_rnn.replay.program import Line, Value

compiler = pytest.mark.skipif(generated.COMPILER is None, reason="no C++ compiler on this machine")


@pytest.fixture(autouse=True)
def device() -> Iterator[Any]:
    """New tensors are made on the stand-in for CuPy."""
    with strict.registered() as home, tg.use_backend(home.name):
        yield home


@pytest.fixture
def compiled(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.xp, "ElementwiseKernel", generated.CompiledKernel)


def trained(cell: Any, **options: Any) -> Any:
    trainer = Trainer(cell(5, 5))
    captured = tg.capture(trainer.step, **options)
    for x, target in batches(3):
        captured(x, target)
    return captured


def launches(captured: Any) -> Counter[Any]:
    """Elementwise calls by phase and time step; of the steps in the middle, which are all alike."""
    lines = [line for line, _ in captured.replay.player.calls if line.elementwise]
    return Counter((line.phase, line.step) for line in lines if line.step in (2, 3, 4))


CELLS = [nn.LSTMCell, nn.PeepholeLSTMCell, nn.CoupledLSTMCell, nn.GRUCell, nn.RNNCell, nn.LeakyRNNCell]


@pytest.mark.parametrize("cell", CELLS)
def test_one_kernel_for_each_step_forward_and_one_backward(cell: Any) -> None:
    captured = trained(cell)
    counts = launches(captured)
    assert counts == {(phase, step): 1 for phase in ("forward", "backward") for step in (2, 3, 4)}
    apart = launches(trained(cell, without=["fuse", "narrow"]))
    assert all(apart[place] > 1 for place in counts)


def test_each_step_has_the_text_of_the_others(device: Any) -> None:
    captured = trained(nn.LSTMCell)
    fused = [line for line in captured.replay.program.lines if line.kind == "fused"]
    steps = [line.function for line in fused if line.step in (2, 3, 4)]
    assert (len(steps), len(set(steps))) == (6, 2)
    assert {line.function for line in fused} < device._kernels.keys()


def test_a_kernel_keeps_to_itself_what_nobody_else_reads() -> None:
    captured = tg.capture(lambda x: (tg.tanh(x) * 2 + 1) * x)
    for _ in range(3):
        captured(tg.ones(3, backend="strict"))
    (line,) = (line for line in captured.replay.program.lines if line.kind == "fused")
    assert line.results == (line.result,)
    assert line.function.body.splitlines() == [
        "f4 v0 = a0;",
        "f4 v1 = tanh(v0);",
        "f4 v2 = v1 * f4(2.0);",
        "f4 v3 = v2 + f4(1.0);",
        "f4 v4 = v3 * v0;",
        "y0 = v4;",
    ]


def test_with_and_without_the_results_are_equal_bit_for_bit() -> None:
    results = []
    for without in ([], ["fuse"], ["fuse", "narrow"]):
        tg.manual_seed(0)
        trainer = Trainer(nn.GRUCell(5, 5), optim.Adam)
        captured = tg.capture(trainer.step, without=without)
        results.append([captured(*batch) for batch in batches(6)] + [p.data for p in trainer.parameters])
        fused = [line for line in captured.replay.program.lines if line.kind == "fused"]
        assert bool(fused) is not bool(without)
    for other in results[1:]:
        equal(results[0], other)


def test_lines_of_other_shapes_and_what_cannot_be_generated_come_between() -> None:
    def step(x: Any, y: Any) -> Any:
        a = tg.exp(x * 2)
        total = (a + 1).sum(axis=1, keepdims=True)  # needs a
        b = (a / total - y) * y  # y broadcasts
        return b, tg.where(b > 0, b, 0.5 * b), (total * 3 - 1).astype("float64")

    captured = tg.capture(step, exact=True)
    random = np.random.default_rng(0)
    for _ in range(4):
        x, y = (tg.tensor(random.standard_normal(s).astype("f4"), backend="strict") for s in ((4, 3), (3,)))
        equal(captured(x, y), step(x, y))
    assert len([line for line in captured.replay.program.lines if line.kind == "fused"]) == 3


def test_what_a_step_leaves_counts_as_operands_of_a_kernel() -> None:
    """CUDA's launch parameters have to fit into 4096 bytes."""
    captured = tg.capture(lambda xs: [x * 2 for x in xs])
    for k in range(3):
        xs = [tg.full((3,), k + i) for i in range(60)]
        equal(captured(xs), [x * 2 for x in xs])
    sizes = [len(line.inputs) + len(line.results) for line in captured.replay.program.lines if line.kind == "fused"]
    assert sum(sizes) == 120
    assert max(sizes) <= 50


def test_numbers_that_have_no_digits() -> None:
    captured = tg.capture(lambda x: tg.maximum(x * 2, -np.inf) + tg.where(x > 0, np.inf, np.nan))
    for _ in range(4):
        x = tg.tensor(np.array([-1.0, 2.0], "f4"), backend="strict")
        equal(captured(x), np.array([np.nan, np.inf], "f4"))
    assert any(line.kind == "fused" for line in captured.replay.program.lines)


@tg.op
def leaky(xp: Any, x: Any, *, slope: float) -> Any:
    """x where it is above 0, and x times a slope elsewhere; not with plain functions of the array module alone."""
    return xp.where(x > 0, x, x * slope)


leaky.vjp(x=lambda g, x, slope: tg.where(x > 0, g, g * slope))
del registry["leaky"]  # the laws are for the engine's own


def test_an_op_of_ones_own_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry, "leaky", leaky.op)
    x = tg.tensor(np.linspace(-1, 1, 7, dtype="f4"), backend="strict")
    captured = tg.capture(lambda x: leaky(x, slope=0.1) + 1)
    for _ in range(3):
        equal(captured(x), leaky(x, slope=0.1) + 1)
    assert [line.kind for line in captured.replay.program.lines] == ["fused"]


# ---- the system's C++ compiler ----


ARGUMENTS = {"float": (-1.5, -0.25, 0.0, 0.5, 0.5, 3.0), "special": (np.nan, np.inf, -np.inf, 0.0, 1.0, np.inf)}


@compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ARGUMENTS)
def test_expressions_say_what_numpy_does(kind: str, dtype: str, compiled: None) -> None:
    """All functions of the table, in kernels that a C++ compiler made."""
    a = np.array(ARGUMENTS[kind], dtype)
    b = np.roll(a, 1) if kind == "special" else a[::-1].copy()
    names = [name for name in EXPRESSIONS if not name.startswith("bitwise")]
    functions = {name: getattr(np, name) for name in names}
    x, y = Value(a.shape, a.dtype), Value(b.shape, b.dtype)
    lines = []
    with np.errstate(all="ignore"):
        expected = [f(*(a, b)[: f.nin]) for f in functions.values()]
    for (name, f), result in zip(functions.items(), expected, strict=True):
        lines.append(Line("ufunc", name, f, (x, y)[: f.nin], {}, Value(result.shape, result.dtype)))
    made, inputs = kernel(lines, [line.result for line in lines])
    outs = [strict.StrictArray(np.empty_like(result)) for result in expected]
    call = generated.CompiledKernel(*made.parameters, made.body, preamble=PREAMBLE, options=("-fmad=false",))
    call(*(strict.StrictArray(a if value is x else b) for value in inputs), *outs)
    for name, out, result in zip(names, outs, expected, strict=True):
        np.testing.assert_allclose(out.get(), result, rtol=8 * np.finfo(dtype).eps, atol=1e-15, err_msg=name)


@compiler
def test_a_compiled_step_agrees(compiled: None) -> None:
    tg.manual_seed(0)
    eager = Trainer(nn.LSTMCell(5, 5), optim.Adam)
    tg.manual_seed(0)
    replayed = Trainer(nn.LSTMCell(5, 5), optim.Adam)
    captured = tg.capture(replayed.step, exact=True)
    for x, target in batches(5, steps=3):
        for a, b in zip(arrays_of(captured(x, target)), arrays_of(eager.step(x, target)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert any(line.kind == "fused" for line in captured.replay.program.lines)


@compiler
def test_expressions_of_ops_compile(compiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry, "leaky", leaky.op)

    def step(x: Any) -> Any:
        held = tg.clip(x, -0.5, 0.5) + tg.clip(x, min=0.0)
        chosen = tg.where(held > 0.25, np.inf, leaky(held, slope=0.1)) * tg.where(held < 0, np.nan, 1.0)
        return chosen, (held * 4).astype("int64"), (held > 0).astype("float64") + x

    captured = tg.capture(step, exact=True)
    for k in range(4):
        x = tg.tensor(np.linspace(-1, 1, 9, dtype="f4") * (k + 1), backend="strict")
        for a, b in zip(arrays_of(captured(x)), arrays_of(step(x)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    assert [line.kind for line in captured.replay.program.lines if line.elementwise] == ["fused"]
