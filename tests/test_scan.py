"""Recurrences that are linear in the state: at once, they are what they are step by step, bit for bit on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from closeness import close, drawn

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn
from tinygrad_rnn.tree import tree_leaves

T, B, D, H = 9, 4, 3, 5
PADDED = np.arange(T)[:, None] < np.array([9, 0, 2, 5])
MASK = np.random.default_rng(1).random((T, B)) < 0.5
F64: dict[str, Any] = {"dtype": "float64"}


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return tg.tensor(drawn(*shape, seed=seed), requires_grad=True)


def same(found: Any, expected: Any) -> None:
    for x, y in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy(), strict=True)


# ---- the operation ----


@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f8", "f8"), ("f4", "f8"), ("f8", "f4"), ("i8", "f4")])
def test_a_scan_is_the_loop(dtypes: tuple[str, str]) -> None:
    a, b = (tg.tensor((3 * drawn(T + k, B)).astype(dtype)) for k, dtype in enumerate(dtypes))
    ys = [b[0] + 0 * a[0]]  # in the dtype of both
    for t in range(T):
        ys.append(a[t] * ys[-1] + b[t + 1])
    same(tg.linear_scan(a, b), tg.stack(ys))


# ---- unrolling ----


class Average(nn.Cell):
    """A user's cell: a running mean with rates that depend on the input, in float64."""

    input_size = output_size = D

    def __init__(self) -> None:
        self.rate = leaf(D)

    def input_projection(self, x: Any) -> Any:
        return x, tg.sigmoid(self.rate * x)

    def linear(self, z: Any) -> Any:
        return z[1], (1 - z[1]) * z[0]

    def step(self, z: Any, h: Any) -> Any:
        a, b = self.linear(z)
        h = a * h + b
        return h, h


def results(layer: Any, way: Any, real: Any, *state: Any) -> list[Any]:
    """Outputs, state and all gradients of a layer, unrolled in some way, with inputs that are NaN where not real."""
    x = leaf(T, B, D)
    if real is not None:
        x.data[~real] = np.nan
    run = layer.unrolled_by(way)(x, *state, mask=real)
    loss = sum(part.sin().sum() for part in tree_leaves(run))
    return [*tree_leaves(run), *tg.grad(loss, [x, *layer.parameters(), *state])]


@pytest.mark.parametrize("real", [None, PADDED, MASK], ids=["whole", "padded", "masked"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("make", [Average, lambda: nn.MinGRUCell(D, H, **F64)], ids=["own", "minimal GRU"])
def test_scanned_is_unrolled(make: Any, reverse: bool, real: Any) -> None:
    cell = make()
    given = nn.Recurrent(cell, reverse=reverse), leaf(B, cell.output_size)
    for layer, *state in (given, (nn.Recurrent(cell, "learned", reverse),)):
        found, expected = (results(layer, way, real, *state) for way in (bptt.scanned, bptt.unroll))
        same(found[:2], expected[:2])
        for x, y in zip(found, expected, strict=True):
            close(x, y, 1e-14)


def test_layers_of_such_cells_are_scanned() -> None:
    ways = nn.Bidirectional(nn.MinGRUCell(D, H, **F64), Average())
    deep = nn.Stacked([ways, nn.MinGRUCell(H + D, 2, **F64)])
    for x, y in zip(*(results(deep, way, PADDED) for way in (bptt.scanned, bptt.unroll)), strict=True):
        close(x, y, 1e-14)
    single, other = (deep.unrolled_by(way)(leaf(T, D)) for way in (bptt.scanned, bptt.unroll))
    same(single, other)


def test_the_graph_does_not_grow_with_time() -> None:
    cell, sizes = nn.MinGRUCell(D, H), []
    for steps in (2, 200):
        before = tg.tape.mark()
        bptt.scanned(cell, tg.randn(steps, B, D))
        sizes.append(tg.tape.mark() - before)
    assert sizes[0] == sizes[1] < 20


def test_a_replay_scans_twice() -> None:
    """Forward and back: the gradients for a and b share their scan."""
    layer = nn.Recurrent(nn.MinGRUCell(D, H)).unrolled_by(bptt.scanned)

    def step(x: Any) -> Any:
        outputs, h = layer(x, mask=PADDED)
        return tg.grad((outputs * outputs).mean() + h.sum(), list(layer.parameters()))

    captured = tg.capture(step)
    for k in range(4):
        x = drawn(T, B, D, seed=k).astype("f4")
        same(captured(x), step(x))
    assert captured.source().count("linear_scan(") == 2


class Newer(nn.MinGRUCell):
    def full_step(self, z: Any, state: Any) -> Any:
        return super().full_step(z, tg.tanh(state))


class Halved(nn.MinGRUCell):
    def linear(self, z: Any) -> Any:
        a, b = super().linear(z)
        return a / 2, b


class Constant(Average):
    def linear(self, z: Any) -> Any:
        return 0.9, z[1]

    step = Average.step


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (nn.GRUCell(D, H), r"scanned: GRUCell needs a method linear\(z\), in the class that defines its step, which"),
        (nn.Residual(Average()), r"scanned: Residual needs a method linear\(z\)"),
        (Newer(D, H), r"scanned: Newer needs a method linear\(z\)"),
        (Halved(D, H), r"scanned: Halved needs a method linear\(z\)"),
        (nn.GRU(D, H), "scanned: a cell is an object with input_projection"),
    ],
)
def test_other_cells_are_refused(cell: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        bptt.scanned(cell, drawn(T, B, D))


@pytest.mark.parametrize("mask", [None, PADDED])
def test_a_and_b_must_have_the_shape_of_the_state_for_each_step(mask: Any) -> None:
    with pytest.raises(
        tg.ShapeError, match=r"scanned: Constant.linear must return a and b of \(.*\), not 0.9 and f64\["
    ):
        bptt.scanned(Constant(), drawn(T, B, D), mask=mask)
