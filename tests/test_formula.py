"""Elementwise functions as text: what becomes of kernels and rules on a device, where each launch counts."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import generated
import numpy as np
import pytest
import strict
from launched import launches

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, nn
from tinygrad_rnn.cupy_backend import _VARIANTS
from tinygrad_rnn.formula import Formula, Text, functions, write
from tinygrad_rnn.op import registry
from tinygrad_rnn.surroundings import is_settled

F4 = np.dtype("f4")


@pytest.fixture
def device() -> Iterator[Any]:
    """New tensors are made on the stand-in for CuPy."""
    with strict.registered() as home, tg.use_backend(home.name):
        yield home


def there(values: Any, dtype: str = "f4", **options: Any) -> tg.Tensor:
    """A tensor on the stand-in."""
    return tg.tensor(np.array(values, dtype), backend="strict", **options)


def body(function: Callable[..., Any], *dtypes: Any) -> list[str]:
    """The statements of a function of elements."""
    text = Text()
    result = function(*[Formula(text, np.dtype(dtype), k) for k, dtype in enumerate(dtypes)])
    return text.kernel([result]).body.splitlines()


# ---- the text ----


def test_each_function_is_a_statement_that_rounds_as_it_does_alone() -> None:
    assert body(lambda g, y: g * (1 - y * y), "f4", "f4") == [
        "f4 v0 = a0;",
        "f4 v3 = a1;",
        "f4 v1 = v0 * v0;",
        "f4 v2 = f4(1.0) - v1;",
        "f4 v4 = v3 * v2;",
        "y0 = v4;",
    ]


def test_dtypes_are_those_of_numpy() -> None:
    assert body(lambda x, n: x * n, "f4", "i4")[2:] == ["f8 v2 = f8(v0) * f8(v1);", "y0 = v2;"]
    assert body(lambda x: x * 2, "f4")[1] == "f4 v1 = v0 * f4(2.0);"
    assert body(lambda x: (x > 0) * x, "f8")[1:3] == ["b1 v1 = v0 > f8(0.0);", "f8 v2 = f8(v1) * v0;"]
    assert body(lambda n: n / 2, "i8")[1] == "f8 v1 = f8(v0) / f8(2.0);"
    assert body(lambda x: functions.where(x > 0, x, -np.inf), "f4")[2] == "f4 v2 = where(v1, v0, (f4(-1) / f4(0)));"
    assert body(lambda x: x.astype("f8"), "f4")[1] == "f8 v1 = f8(v0);"


def test_what_is_written_in_place_is_seen_by_all_its_names() -> None:
    def function(x: Any) -> Any:
        y = same = x * 0.5
        y += x
        return same * y

    assert body(function, "f4")[1:] == [
        "f4 v1 = v0 * f4(0.5);",
        "f4 v2 = v1 + v0;",
        "f4 v3 = v2 * v2;",
        "y0 = v3;",
    ]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(),
        lambda x: x[0],
        lambda x: x.reshape(-1),
        lambda x: np.vdot(x, x),
        lambda x: np.concatenate([x, x]),
        lambda x: x if x > 0 else -x,
        lambda x: float(x),
        lambda x: functions.dot(x, x),
        lambda x: np.add.reduce(x),
        lambda x: np.frexp(x)[0],
        lambda x: x.astype("f2"),
        lambda x: tg.softmax(x),
        lambda x: tg.reshape(x, (-1,)),
        lambda x: [x, 2.0],
    ],
)
def test_what_is_no_function_of_elements_is_none(function: Callable[..., Any]) -> None:
    assert write(lambda given: [function(given[0] * 2 + 1)], [np.zeros(3, F4)], np.ndarray) is None


def test_only_what_saves_launches_and_has_the_shape_of_all_inputs_is_written() -> None:
    x, y = np.zeros(3, F4), np.zeros((2, 3), F4)
    assert write(lambda given: [given[0] * given[1], given[1]], [x, y], np.ndarray) is None  # one launch as it is
    assert write(lambda given: [given[0] * 2 + 1], [x, y], np.ndarray) is None  # y would be left out
    written = write(lambda given: [given[1], given[0] * given[2], given[1] * given[0]], [x, y, 2.0], np.ndarray)
    assert written.results == (1, 3, 4)  # the second value itself, and two outputs
    assert [(x, y, 2.0)[k] is v for k, v in zip(written.inputs, (x, y), strict=True)] == [True, True]


# ---- on a device ----


def test_a_kernel_and_a_rule_are_one_launch_each_yours_included(device: Any) -> None:
    @tg.op
    def softsign(xp: Any, x: Any, scale: Any) -> Any:
        return x / (1 + abs(x)) * scale

    softsign.vjp(
        x=lambda g, x, scale: g * scale / (1 + abs(x)) ** 2,
        scale=lambda g, x: tg.where(x == 0, 0, g * x / (1 + abs(x))),
    )
    values = np.linspace(-2, 2, 12, dtype="f4").reshape(3, 4), np.array([1, 0.5, -1, 3], "f4")
    results = []
    for name in ("numpy", "strict"):
        x, scale = (tg.tensor(v, backend=name, requires_grad=True) for v in values)
        with launches() as forward:
            y = softsign(x, scale)
        with launches() as backward:
            y.backward(tg.tensor(values[0] + 1, backend=name))
        results.append([y.numpy(), x.grad.numpy(), scale.grad.numpy()])
        assert [len(forward), len(backward)] == ([0, 0] if name == "numpy" else [1, 1])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def per_step(run: Callable[[int], Any]) -> float:
    """Launches that one more time step takes."""
    counts = []
    for steps in (6, 6, 12):
        with launches() as found:
            run(steps)
        counts.append(len(found))
    return (counts[2] - counts[1]) / 6


@pytest.mark.parametrize(("cell", "forward", "back"), [(nn.LSTMCell, 11, 12), (nn.GRUCell, 10, 11), (nn.RNNCell, 3, 3)])
def test_an_eager_step_takes_few_launches(cell: Any, forward: int, back: int, device: Any) -> None:
    """Products included; PyTorch's cells take as many forward, and for an LSTM 17 back (``benchmarks/launches.py``)."""
    made = cell(3, 4)

    def unrolled(steps: int) -> Any:
        return bptt.unroll(made, tg.ones(steps, 2, 3))[0]

    with tg.no_grad():
        assert per_step(unrolled) <= forward
    assert per_step(lambda steps: unrolled(steps).sum().backward()) <= forward + back


def test_a_slice_is_put_back_with_the_others_at_once(device: Any) -> None:
    x = tg.ones(50, 2, requires_grad=True)
    parts = [part * (k + 1) for k, part in enumerate(x)]
    with launches() as found:
        sum(parts[1:], parts[0]).sum().backward()
    copies = [text for text in found if text.startswith("y0 = a0;")]
    assert [text.count("=") for text in copies] == [24, 24, 2]
    np.testing.assert_array_equal(x.grad.numpy(), np.arange(1, 51, dtype="f4")[:, None] * np.ones(2, "f4"))


@pytest.mark.parametrize("pair", [(0.0, -0.0), (1, 1.0), (True, 1), (2, 2.0), (float("nan"), 1.0)])
def test_numbers_that_are_equal_are_still_told_apart(pair: tuple[Any, Any], device: Any) -> None:
    @tg.op
    def turned(xp: Any, x: Any, *, by: Any) -> Any:
        return xp.reciprocal(x * by) + (x > by)

    x = np.array([-1, 0, 1, 2], "f4")
    with np.errstate(all="ignore"):
        for by in pair:
            np.testing.assert_array_equal(turned(there(x), by=by).numpy(), turned(x, by=by))


def test_a_number_that_changes_time_and_again_makes_few_kernels(device: Any) -> None:
    @tg.op
    def decayed(xp: Any, x: Any, *, rate: float) -> Any:
        return xp.exp(x * -rate)

    x = np.ones(3, "f4")
    before = len(device._kernels)
    for k in range(40):
        np.testing.assert_allclose(decayed(there(x), rate=k / 40).numpy(), np.exp(x * -k / 40), rtol=1e-6)
    assert len(device._kernels) - before == _VARIANTS


def test_dtypes_that_no_kernel_knows_are_left_to_the_array_module(device: Any) -> None:
    for dtype, launched in (("f2", 4), ("f4", 1)):
        with launches() as found:
            y = tg.sigmoid(there([-1, 0.5], dtype))
        assert (y.dtype, len(found)) == (dtype, launched)


def test_gradients_of_gradients_and_watchers_see_what_they_always_did(device: Any) -> None:
    x = there([0.5, -1.0], requires_grad=True)
    (first,) = tg.grad(tg.tanh(x).sum(), [x], create_graph=True)
    (second,) = tg.grad(first.sum(), [x])
    y = np.tanh(np.array([0.5, -1.0], "f4"))
    np.testing.assert_allclose(second.numpy(), -2 * y * (1 - y * y), rtol=1e-5)
    with pytest.raises(FloatingPointError, match=r"backward: the rule of tanh"), tg.detect_anomaly():
        tg.tanh(x * 1).backward(there([np.inf, 1.0]))
    report = tg.compare_backends(lambda x: (tg.tanh(x) * x).sum().backward(), x, backends=("numpy", "strict"))
    report.check()


def test_rules_that_give_shapes_of_their_own_are_run_one_by_one(device: Any) -> None:
    @tg.op
    def energy(xp: Any, x: Any, scale: Any) -> Any:
        return (x * x).sum(axis=-1, keepdims=True) * scale

    energy.vjp(x=lambda g, x, scale: 2 * g * scale * x, scale=lambda g, y, scale: g * y / scale)
    results = []
    for name in ("numpy", "strict"):
        x, scale = (tg.tensor(np.array(v, "f4"), backend=name, requires_grad=True) for v in ([[1, 2, 3], [4, 5, 6]], 2))
        energy(x, scale).sum().backward()
        results.append([x.grad.numpy().tolist(), scale.grad.item()])
    assert results[0] == results[1] == [[[4, 8, 12], [16, 20, 24]], 91]


def test_rules_that_compute_and_return_an_input_make_no_kernel(device: Any) -> None:
    @tg.op
    def same(xp: Any, x: Any) -> Any:
        _ = (x * 2 + 1) * 3
        return x

    def passed_on(g: Any, x: Any) -> Any:
        _ = g * x + 1
        return g

    same.vjp(x=passed_on)
    x = there([1, 2], requires_grad=True)
    same(x).sum().backward()
    assert x.grad.numpy().tolist() == [1, 1]


def test_numbers_that_no_operand_can_hold_are_not_written() -> None:
    n, x = np.zeros(3, "i4"), np.zeros(3, "f4")
    assert body(lambda x: x * 10**20 + 1, "f4")[1] == "f4 v1 = v0 * f4(1e+20);"
    for function in (lambda n: n * 2 + 2**40, lambda n: functions.where(n * 2 < 2**40, n, -1)):
        assert write(lambda given, f=function: [f(given[0])], [n], np.ndarray) is None
    assert write(lambda given: [(given[0] * 2 + 1) * x], [x], np.ndarray) is None  # an array is no number


@pytest.mark.parametrize("name", ["isnan", "isinf", "isfinite", "absolute", "sign"])
def test_functions_of_floats_alone_are_not_written_for_others(name: str) -> None:
    """C++ has several of integers and booleans to choose from, or none."""
    for dtype in ("i4", "i8", "b1"):
        values = [np.zeros(3, dtype)]
        assert write(lambda given: [getattr(np, name)(given[0]) * 2.0 + 1], values, np.ndarray) is None


def test_what_is_known_of_strange_dtypes_does_not_grow(device: Any) -> None:
    @tg.op
    def decayed(xp: Any, x: Any, *, rate: float) -> Any:
        return xp.exp(x * -rate)

    for k in range(40):
        decayed(there([1, 2], "f2"), rate=float(k))
    assert len(device._written) <= _VARIANTS + 1


SCALE = 2.0
KEPT = {"scale": 2.0}


def test_what_a_kernel_reads_out_of_its_surroundings_may_change(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a kernel, or rule, is run as it is: its text would keep the number that was there at first."""
    factor = 2.0

    def helped(x: Any) -> Any:
        return x * SCALE + 1

    ways = {
        "global": (lambda xp, x: x * SCALE + 1, lambda g, x: g * SCALE * x),
        "container": (lambda xp, x: x * KEPT["scale"] + 1, lambda g, x: g * KEPT["scale"] * x),
        "closure": (lambda xp, x: x * factor + 1, lambda g, x: g * factor * x),
        "helper": (lambda xp, x: helped(x), lambda g, x: g * (helped(x) - 1)),
        "module": (lambda xp, x: x * sys.modules[__name__].SCALE + 1, lambda g, x: g * x * inspect.SCALE),
    }
    monkeypatch.setattr(inspect, "SCALE", 2.0, raising=False)
    for name, (kernel, rule) in ways.items():
        kernel.__name__ = f"surrounded_{name}"
        operation = tg.op(kernel).vjp(x=rule)
        assert not is_settled(kernel)
        assert not is_settled(rule)
        for value in (2.0, 3.0):
            factor = value
            monkeypatch.setitem(globals(), "SCALE", value)
            monkeypatch.setitem(KEPT, "scale", value)
            monkeypatch.setattr(inspect, "SCALE", value)
            x = there([1.0, 2.0], requires_grad=True)
            y = operation(x)
            y.sum().backward()
            assert (y.numpy().tolist(), x.grad.numpy().tolist()) == ([value + 1, 2 * value + 1], [value, 2 * value])
    for op in [op for op in registry.values() if op.kernel.__module__.startswith("tinygrad_rnn")]:
        assert all(map(is_settled, (op.kernel, *filter(None, op.rules.values()))))


@pytest.mark.skipif(generated.COMPILER is None, reason="no C++ compiler on this machine")
def test_a_compiler_agrees(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.xp, "ElementwiseKernel", generated.CompiledKernel)
    gradients = []
    for name in ("numpy", "strict"):
        tg.manual_seed(0)
        cell = nn.GRUCell(3, 4, backend=name)
        x = tg.randn(5, 2, 3, backend=name)
        (bptt.unroll(cell, x)[0] ** 2).sum().backward()
        gradients.append([p.grad.numpy() for p in cell.parameters()])
    assert device._kernels
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
