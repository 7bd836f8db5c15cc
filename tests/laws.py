"""What the laws are written with: every operation, calls with samples, and gradients of them."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from samples import FUNCTIONS
from sampling import Sample

import tinygrad_rnn as tg
from tinygrad_rnn.op import Op
from tinygrad_rnn.tensor import Tensor
from tinygrad_rnn.tree import tree_leaves, tree_map

for module in pkgutil.walk_packages(tg.__path__, "tinygrad_rnn."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

OPERATIONS: dict[str, Callable[..., Any]] = {
    value.op.kernel.__name__: value
    for name, module in sorted(sys.modules.items())
    if name.startswith("tinygrad_rnn.")
    for value in vars(module).values()
    if isinstance(getattr(value, "op", None), Op)
}
Law = Callable[[str, Sample], None]


def law(table: dict[str, list[Sample]], differentiable: bool = False) -> Callable[[Law], Any]:
    """Make of a test of one sample a test for each function of the table, on all (differentiable) samples of it."""

    def over_samples(test: Law) -> Any:
        @pytest.mark.parametrize("name", table)
        def over_names(name: str) -> None:
            for sample in table[name]:
                if not differentiable or any(map(is_float, tree_leaves(sample.inputs))):
                    try:
                        test(name, sample)
                    except Exception as error:
                        raise AssertionError(f"on the sample {sample!r}: {error}") from error

        return over_names

    return over_samples


def is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def function(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = OPERATIONS.get(name) or FUNCTIONS.get(name) or getattr(tg.ops, name)
    return found


def changed(sample: Sample, change: Callable[[np.ndarray], Any]) -> Sample:
    """The sample with something else for each of its floating-point arrays."""
    inputs = tree_map(lambda x: change(x) if is_float(x) else x, sample.inputs)
    return Sample(inputs, sample.attributes)


def leaf(x: np.ndarray) -> Tensor:
    """A tensor that requires a gradient, round this very array."""
    made = Tensor.wrap(x)
    made.requires_grad = True
    return made


def cotangents(ys: list[Tensor]) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [np.asarray(random.standard_normal(y.shape), dtype=y.dtype) for y in ys]


def pull(name: str, sample: Sample, create_graph: bool = False, uses: tuple[float, ...] = (1.0,)) -> list[Tensor]:
    """Gradients for all floating-point inputs of one or several uses, each with a multiple of one cotangent."""
    given = changed(sample, leaf)
    xs = [x for x in tree_leaves(given.inputs) if isinstance(x, Tensor)]
    results = [tree_leaves(function(name)(*given.inputs, **given.attributes)) for _ in uses]
    pairs = [
        (y, v * y.dtype.type(use))
        for ys, use in zip(results, uses, strict=True)
        for y, v in zip(ys, cotangents(ys), strict=True)
    ]
    pairs = [(y, v) for y, v in pairs if isinstance(y, Tensor) and y.requires_grad]
    if not pairs:
        return [tg.zeros_like(x) for x in xs]
    ys, vs = zip(*pairs, strict=True)
    found = tg.grad(ys, xs, vs, create_graph=create_graph, allow_unused=True)
    return [tg.zeros_like(x) if g is None else g for x, g in zip(xs, found, strict=True)]


def assert_same(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    found, expected = (np.asarray(x.array if isinstance(x, Tensor) else x) for x in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, strict=True)
