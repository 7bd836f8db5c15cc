"""Elements in another order, or several times, as NumPy arranges them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg

X = np.random.default_rng(0).permutation(24).reshape(2, 3, 4) / 8.0
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *[(name, (), {"axis": axis}) for name in ("sort", "cumsum") for axis in (0, 1, -1, None)],
    *[("roll", (shift,), {"axis": axis}) for shift in (0, 1, -2, 7) for axis in (None, 0, -1)],
    *[("repeat", (count,), {"axis": axis}) for count in (2, np.array(2)) for axis in (None, 0, 1, -1)],
    *[("repeat", (counts, axis), {}) for counts, axis in (([2, 0], 0), (np.array([1, 0, 3]), -2), (range(24), None))],
    *[("tile", (reps,), {}) for reps in (2, (2,), (3, 1, 2), (2, 1, 1, 2), (1, 2))],
    *[(name, (k,), {}) for name in ("tril", "triu") for k in (-1, 0, 1, 5)],
]


@pytest.mark.parametrize(("name", "args", "kwargs"), CALLS)
def test_it_is_what_numpy_gives_and_has_the_gradient_of_a_choice(name: str, args: Any, kwargs: Any) -> None:
    ours: Callable[..., Any] = getattr(tg, name)
    expected = getattr(np, name)(X, *args, **kwargs)
    x = tg.tensor(X, requires_grad=True)
    for found in (
        ours(X, *args, **kwargs),
        ours(x, *args, **kwargs).numpy(),
        getattr(x, name)(*args, **kwargs).numpy(),
    ):
        np.testing.assert_array_equal(found, expected)
    tg.check(lambda x: ours(x, *args, **kwargs), x)


def test_without_an_axis_arrays_are_flattened() -> None:
    x, indices = tg.tensor(X, requires_grad=True), np.array([23, 0, 0, -1])
    parts = [X, X[0], X[0, 0, 0]]
    joined = np.concatenate(parts, axis=None)
    np.testing.assert_array_equal(tg.concatenate(parts, axis=None), joined)
    np.testing.assert_array_equal(tg.concatenate([x, x[0], x[0, 0, 0]], axis=None).numpy(), joined)
    np.testing.assert_array_equal(tg.concatenate([x], axis=None).numpy(), X.ravel())
    np.testing.assert_array_equal(x.take_along_axis(indices, axis=None).numpy(), X.ravel()[indices])
    tg.check(lambda x: tg.concatenate([x, x[0]], axis=None), x)
    tg.check(lambda x: tg.take_along_axis(x, indices, axis=None), x)


def test_a_captured_step_arranges_anew() -> None:
    captured = tg.capture(lambda x: tg.tril(tg.sort(x).roll(1, 0)).repeat(2, 0).tile((1, 2)) * 1)
    for k in range(4):
        x = tg.tensor(np.random.default_rng(k).standard_normal((3, 3)))
        np.testing.assert_array_equal(
            captured(x).numpy(), tg.tril(tg.sort(x).roll(1, 0)).repeat(2, 0).tile((1, 2)).numpy()
        )


def test_dtypes_stay_and_infinities_have_slopes() -> None:
    assert tg.tril(np.ones((2, 2), bool)).dtype == bool
    assert tg.triu(tg.ones(2, 2)).dtype == np.float32
    a, b = (tg.tensor([-np.inf, 0.0], requires_grad=True) for _ in range(2))
    y = tg.logaddexp(a, b)
    y.sum().backward()
    assert (y.tolist()[0], a.grad.tolist(), b.grad.tolist()) == (-np.inf, [0.5, 0.5], [0.5, 0.5])


def test_counts_may_be_on_the_device(strict_device: str) -> None:
    x = tg.tensor([1.0, 2.0, 3.0], backend=strict_device)
    counts = tg.tensor([2, 0, 1], backend=strict_device)
    for given in (counts, counts.data):
        assert tg.repeat(x, given).tolist() == [1, 1, 3]
    assert tg.repeat(x, counts[0]).tolist() == [1, 1, 2, 2, 3, 3]


def test_a_vector_has_no_diagonals() -> None:
    with pytest.raises(tg.ShapeError, match=r"x f32\[3\] needs two axes"):
        tg.tril(tg.ones(3))


@pytest.mark.parametrize("axis", [3, -4])
def test_an_axis_that_is_not_there_is_refused(axis: int) -> None:
    for move in (tg.roll, tg.repeat):
        with pytest.raises(IndexError, match=rf"{move.__name__}: x f64\[2,3,4\] has no axis {axis}"):
            move(tg.tensor(X), 2, axis)
