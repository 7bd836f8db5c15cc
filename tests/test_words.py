"""Errors that no other test provokes, each with the words that tell what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import ShapeError, nn, optim
from tinygrad_rnn.train import Training
from tinygrad_rnn.tree import tree_map

X = tg.ones(2, 3)


def training(**options: Any) -> Training:
    head = nn.Linear(1, 1)
    return Training(head, optim.SGD(head.parameters(), lr=0.1), [], [], **options)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tg.einsum("ij,jk->ik", X), ShapeError, "'ij,jk->ik' names 2 operands, but 1 was given"),
        (
            lambda: tg.layer_norm(X, tg.ones(2)),
            ShapeError,
            r"x f32\[2,3\], weight f32\[2\]: weight must have the shape \(3,\)",
        ),
        (lambda: tg.dropout(X, 1.0), ValueError, "dropout: a probability must be at least 0 and less than 1, not 1"),
        (lambda: tg.vjp(lambda x: 1.0, X), TypeError, "must return one Tensor, not float"),
        (lambda: tg.jvp(lambda x: x, X, tg.ones(3)), ShapeError, r"jvp: the vector .*\[3\].* does not fit"),
        (lambda: tg.hvp(lambda x: x.sum(), X, tg.ones(3)), ShapeError, r"hvp: the vector .*\[3\].* does not fit"),
        (lambda: tree_map(max, {"h": 1}, (1, 2)), ValueError, r"differ in structure: \{h\} and tuple of 2"),
        (lambda: tree_map(max, (1, 2), 3), ValueError, "differ in structure: tuple of 2 and int"),
        (lambda: tg.op(lambda xp, a, *xs: a, name="f"), TypeError, r"either named arrays or \*xs, not both"),
        (lambda: nn.Cell().input_projection(X), NotImplementedError, r"input_projection\(x\); it may return x itself"),
        (lambda: training(replay="often"), ValueError, "replay is '', 'exact' or 'fast', not 'often'"),
    ],
)
def test_what_is_wrong_is_said(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
