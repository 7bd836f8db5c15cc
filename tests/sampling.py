"""Arrays that leave nothing out, and samples made of them: the words in which samples.py is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

random = np.random.default_rng(7)
Make = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Sample:
    """Arguments of one call: float64 arrays are differentiated, all else (numbers, integers, masks) is not."""

    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def differentiable(self) -> tuple[int, ...]:
        """Positions of the inputs that a gradient may be asked for."""
        return tuple(k for k, x in enumerate(self.inputs) if isinstance(x, np.ndarray) and x.dtype.kind == "f")

    def __repr__(self) -> str:
        inputs = ["x".join(map(str, x.shape)) or "0-d" if hasattr(x, "shape") else repr(x) for x in self.inputs]
        return " ".join([*inputs, *(f"{k}={v}" for k, v in self.attributes.items())]).replace("\n", "")[:70]


def S(*inputs: Any, **attributes: Any) -> Sample:
    return Sample(inputs, attributes)


# ---- arrays ----


def normal(*shape: int) -> np.ndarray:
    return np.asarray(random.standard_normal(shape))


def positive(*shape: int) -> np.ndarray:
    return np.asarray(random.uniform(0.5, 2.0, shape))


def distinct(*shape: int) -> np.ndarray:
    """Elements at least 0.3 apart, and none within 0.03 of 0: for what is not smooth at ties or at 0."""
    n = int(np.prod(shape))
    return np.asarray(0.3 * (random.permutation(n) + 0.37 - n / 2)).reshape(shape)


def shifted(*shape: int) -> np.ndarray:
    """As ``distinct``, and nowhere near what that gives."""
    return np.asarray(distinct(*shape) + 0.1)


def integers(stop: int, *shape: int) -> np.ndarray:
    return random.integers(0, stop, shape)


def mask(*shape: int) -> np.ndarray:
    return np.asarray(random.random(shape) < 0.5)


# ---- lists of samples ----


def of(*shapes: tuple[int, ...], **attributes: Any) -> Sample:
    """Normal arrays of these shapes."""
    return Sample(tuple(normal(*shape) for shape in shapes), attributes)


def one(make: Make = normal, **attributes: Any) -> list[Sample]:
    """One array: of one and two axes, 0-d, empty, transposed, and a view with steps backwards and forwards."""
    arrays = [make(4), make(3, 4), make(), make(0, 3), make(4, 3).T, make(6, 8)[::-2, 1::3]]
    return [S(x, **attributes) for x in arrays]


def two(make: Make = normal, other: Make | None = None) -> list[Sample]:
    """Two arrays that broadcast in all ways, views, and Python numbers on either side."""
    other = other or make
    shapes = [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((2, 3, 4), (3, 1)), ((0, 4), (4,)), ((0, 1), (3,))]
    pairs = [(make(*a), other(*b)) for a, b in [*shapes, ((3, 4), ()), ((), (2, 3)), ((), ())]]
    views = [(make(4, 3).T, other(6, 8)[::-2, ::2]), (np.broadcast_to(make(3, 1), (3, 4)), other(4))]
    numbers = [(make(3, 4), 2), (make(3, 4), 1.7), (1.7, other(3, 4)), (make(), 2.6), (make(3), integers(4, 3) + 1)]
    return [S(a, b) for a, b in [*pairs, *views, *numbers]]


def reductions(make: Make = normal) -> list[Sample]:
    """One array along one axis, several, and all; views, and empty ones."""
    calls = [S(make(2, 3, 4), axis=a, keepdims=k) for a in (None, 0, -1, (0, 2), (-1, 0)) for k in (False, True)]
    views = [S(make(4, 3, 2).T, axis=1), S(make(6, 8)[::-2, 1::3], axis=0)]
    return [*calls, *views, S(make(5)), S(make()), S(make(0, 3), axis=1), S(make(2, 3), axis=())]


def compared() -> list[Sample]:
    pair = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    return [*two(distinct, shifted), S(*pair), S(integers(3, 4), integers(3, 4))]


def masks() -> list[Sample]:
    """Booleans that broadcast, and integers."""
    shapes = [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((0, 4), (4,)), ((3, 4), ()), ((), ())]
    pairs = [S(mask(*a), mask(*b)) for a, b in shapes]
    return [*pairs, S(mask(4, 3).T, mask(6, 8)[::-2, ::2]), S(mask(3), True), S(integers(9, 3), integers(9, 3))]


def exponents() -> list[Sample]:
    whole = [S(normal(3, 4), b) for b in (2, 3, 1, 0, -1, 2.0, -2)]
    zeros = [S(positive(4), np.array([0.0, 1.0, 2.0, 0.0])), S(np.array([0.0, 2.0]), 2), S(np.array([0.0, 2.0]), 0)]
    return [
        *two(positive, normal),
        *whole,
        *zeros,
        S(normal(3, 4), integers(3, 4)),
        S(positive(3), 0.5),
        S(3, normal(2)),
    ]


def choices() -> list[Sample]:
    arrays = [
        ((3, 4), (3, 4), (3, 4)),
        ((4,), (3, 4), (3, 1)),
        ((3, 1), (), (1, 4)),
        ((0, 4), (4,), (0, 1)),
        ((), (), ()),
    ]
    numbers = [S(mask(3, 4), normal(3, 4), 0.0), S(mask(3, 4), 1, normal(3, 4)), S(True, normal(3), normal(3))]
    views = S(mask(4, 3).T, normal(4, 3).T, normal(3, 8)[:, ::-2])
    return [*(S(mask(*c), normal(*a), normal(*b)) for c, a, b in arrays), *numbers, views]


def each(names: str, samples: Callable[[], list[Sample]]) -> dict[str, list[Sample]]:
    """A table with samples for several operations."""
    return {name: samples() for name in names.split()}
