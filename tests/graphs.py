"""Leaves, their gradients, and a loss over time, for the tests of the tape."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, bptt, nn


def leaf(*shape: int, dtype: Any = np.float64) -> Tensor:
    return tg.randn(*shape, dtype=dtype, requires_grad=True)


def gradients(*leaves: Tensor) -> list[np.ndarray]:
    """The gradients of some leaves, which are then forgotten."""
    found = []
    for x in leaves:
        found.append(x.grad.numpy())
        x.grad = None
    return found


def assert_equal(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Equal bit for bit."""
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e, strict=True)


def lstm_loss(cell: nn.LSTMCell, xs: np.ndarray) -> Tensor:
    outputs, state = bptt.unroll(cell, xs)
    return (outputs * outputs).mean() + state.c.sum()
