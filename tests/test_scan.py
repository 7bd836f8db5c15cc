"""Recurrences that are linear in the state: at once, they are what they are step by step, bit for bit on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from closeness import drawn

import tinygrad_rnn as tg
from tinygrad_rnn.tree import tree_leaves

T, B = 9, 4


def same(found: Any, expected: Any) -> None:
    for x, y in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy(), strict=True)


@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f8", "f8"), ("f4", "f8"), ("f8", "f4"), ("i8", "f4")])
def test_a_scan_is_the_loop(dtypes: tuple[str, str]) -> None:
    a, b = (tg.tensor((3 * drawn(T + k, B)).astype(dtype)) for k, dtype in enumerate(dtypes))
    ys = [b[0] + 0 * a[0]]  # in the dtype of both
    for t in range(T):
        ys.append(a[t] * ys[-1] + b[t + 1])
    same(tg.linear_scan(a, b), tg.stack(ys))
