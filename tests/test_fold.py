"""The pass that multiplies weights by what every time step would multiply by."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim

STEPS, SIZE = 12, 5


def trained(cell: Any, without: list[str], batch: int = 3) -> tuple[Any, list[np.ndarray]]:
    """A captured step, and the parameters and losses after some calls of it."""
    tg.manual_seed(0)
    model = cell()
    optimizer = optim.Adam(model.parameters(), lr=0.02)

    @tg.capture(without=without)
    def step(x: tg.Tensor) -> tg.Tensor:
        optimizer.zero_grad()
        outputs, _ = tg.bptt.unroll(model, x)
        loss = (outputs * outputs).mean()
        loss.backward()
        optimizer.step()
        return loss

    rng = np.random.default_rng(1)
    xs = [tg.tensor(rng.standard_normal((STEPS, batch, SIZE), dtype=np.float32)) for _ in range(8)]
    losses = [step(x).numpy() for x in xs]
    return step, [*losses, *(p.numpy() for p in model.parameters())]


def multiplications(step: Any, after: str | None) -> int:
    """How many lines of the forward pass multiply, that are a part of a time step."""
    parts = re.split(r"^# ", step.source(after), flags=re.MULTILINE)
    return sum(part.count("= multiply(") for part in parts if part.startswith("forward, time step"))


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("size", [8, 64])
def test_gates_cost_one_multiplication_less_a_step_and_no_bit(batch: int, size: int) -> None:
    def cell() -> nn.LSTMCell:
        return nn.LSTMCell(SIZE, size)

    step, folded = trained(cell, [], batch)
    other, plain = trained(cell, ["fold"], batch)
    assert multiplications(step, None) == multiplications(other, None) - STEPS
    for a, b in zip(folded, plain, strict=True):
        assert np.array_equal(a, b)


class Watched(nn.Module):
    """A cell whose sum is read twice: by the gates, and as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(SIZE, 2 * SIZE), nn.Linear(SIZE, 2 * SIZE, bias=False)

    def initial_state(self, z: tg.Tensor) -> tg.Tensor:
        return tg.zeros(z.shape[0], SIZE)

    def input_projection(self, xs: tg.Tensor) -> tg.Tensor:
        return xs

    def step(self, x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        z = self.w(x) + self.u(h)
        gate, new = tg.split(z, 2, axis=1)
        h = tg.sigmoid(gate) * tg.tanh(new)
        return h + 0.01 * z[:, :SIZE], h


def test_what_is_read_as_it_is_stays_as_it_is() -> None:
    _, folded = trained(Watched, [])
    _, plain = trained(Watched, ["fold"])
    for a, b in zip(folded, plain, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (-1, -2)])
def test_columns_are_multiplied_however_a_weight_is_read(axes: tuple[int, int]) -> None:
    """In a large batch the weight is multiplied as it lies; (0, 1) are the axes in their order."""
    rng = np.random.default_rng(0)
    w = tg.tensor(rng.standard_normal((SIZE, SIZE), dtype=np.float32))
    row = np.full((300, SIZE), [0.5, 2, 1, 0.25, -0.5], np.float32)

    def step(xs: tg.Tensor) -> tg.Tensor:
        scale, u = tg.tensor(row), tg.transpose(w, axes=axes)
        h = tg.zeros(300, SIZE)
        for x in xs:
            h = tg.tanh((h @ u + x) * scale)
        return h

    captured = tg.capture(step)
    for _ in range(4):
        xs = tg.tensor(rng.standard_normal((STEPS, 300, SIZE), dtype=np.float32))
        np.testing.assert_allclose(captured(xs).numpy(), step(xs).numpy(), atol=1e-4)


def test_a_factor_of_another_dtype_stays() -> None:
    rng = np.random.default_rng(0)
    w, half = tg.tensor(rng.standard_normal((SIZE, SIZE), dtype=np.float32)), np.full((3, SIZE), 0.5)

    def step(xs: tg.Tensor) -> list[tg.Tensor]:
        scale, h, products = tg.tensor(half), tg.zeros(3, SIZE), []
        for x in xs:
            products.append((h @ w + x) * scale)
            h = tg.tanh(products[-1]).astype("float32")
        return products

    captured = tg.capture(step)
    for _ in range(4):
        xs = tg.tensor(rng.standard_normal((STEPS, 3, SIZE), dtype=np.float32))
        for found, expected in zip(captured(xs), step(xs), strict=True):
            assert found.dtype == expected.dtype == np.float64
            np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)
