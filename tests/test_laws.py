"""Laws that every operation keeps: for each one in the registry, on each of its samples."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from samples import COMPOSITES, FUNCTIONS, SAMPLES
from sampling import Sample

import tinygrad_rnn as tg
from tinygrad_rnn.op import Op, registry
from tinygrad_rnn.tape import Node
from tinygrad_rnn.tensor import Tensor
from tinygrad_rnn.tree import tree_leaves, tree_map

for module in pkgutil.walk_packages(tg.__path__, "tinygrad_rnn."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

OPERATIONS: dict[str, Callable[..., Any]] = {
    value.op.name: value
    for name, module in sorted(sys.modules.items())
    if name.startswith("tinygrad_rnn.")
    for value in vars(module).values()
    if isinstance(getattr(value, "op", None), Op)
}
ALL = {**SAMPLES, **COMPOSITES}
NO_FLOAT = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "argmax", "argmin")


def cases(table: dict[str, list[Sample]], only_differentiable: bool = False) -> pytest.MarkDecorator:
    """A test for each sample of each function in the table."""
    chosen = [
        pytest.param(name, sample, id=f"{name}({sample!r})")
        for name, samples in table.items()
        for sample in samples
        if not only_differentiable or any(map(is_float, tree_leaves(sample.inputs)))
    ]
    return pytest.mark.parametrize(("name", "sample"), chosen)


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
    pairs = [(y, v) for y, v in pairs if y.requires_grad]
    if not pairs:
        return [tg.zeros_like(x) for x in xs]
    ys, vs = zip(*pairs, strict=True)
    found = tg.grad(ys, xs, vs, create_graph=create_graph, allow_unused=True)
    return [tg.zeros_like(x) if g is None else g for x, g in zip(xs, found, strict=True)]


def assert_same(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=tolerance, atol=tolerance, strict=True)


def test_every_operation_has_samples() -> None:
    ours = {name for name, record in registry.items() if record.kernel.__module__.startswith("tinygrad_rnn")}
    missing = sorted(name for name in ours & set(OPERATIONS) if not SAMPLES.get(name))
    assert not missing, f"write samples for {', '.join(missing)} in tests/samples.py"
    assert sorted(set(SAMPLES) - ours) == []


def test_samples_leave_nothing_out() -> None:
    for name, samples in SAMPLES.items():
        arrays = [x for sample in samples for x in sample.inputs if isinstance(x, np.ndarray)]
        fixed = ("argmax", "argmin", "conv2d", "normalize", "windows", "overlap_add", "add_along_axis", "add_rows")
        assert name in fixed or any(x.ndim <= 1 for x in arrays), f"{name}: no small sample"
        assert name in ("argmax", "argmin") or any(x.size == 0 for x in arrays), f"{name}: no empty sample"


# ---- laws 1 to 3: derivatives ----


@cases(ALL, only_differentiable=True)
def test_derivatives_of_order_one_and_two(name: str, sample: Sample) -> None:
    floats = [k for k, x in enumerate(sample.inputs) if isinstance(x, float)]
    if not floats:
        tg.check(function(name), *sample.inputs, **sample.attributes)
        return

    def bound(*arrays: Any) -> Any:  # check would differentiate a Python float, which is a constant here
        rest = iter(arrays)
        inputs = [x if k in floats else next(rest) for k, x in enumerate(sample.inputs)]
        return function(name)(*inputs, **sample.attributes)

    tg.check(bound, *(x for k, x in enumerate(sample.inputs) if k not in floats))


@cases(ALL, only_differentiable=True)
def test_the_rule_gives_on_tensors_what_it_gives_on_arrays(name: str, sample: Sample) -> None:
    for g, recorded in zip(pull(name, sample), pull(name, sample, create_graph=True), strict=True):
        assert_same(recorded.array, g.array)


# ---- laws 4 and 5: dtypes and layouts ----


@cases(ALL, only_differentiable=True)
def test_float32_stays_float32(name: str, sample: Sample) -> None:
    narrow = changed(sample, lambda x: x.astype(np.float32))
    result = function(name)(*changed(narrow, leaf).inputs, **sample.attributes)
    for y in tree_leaves(result):
        assert name in NO_FLOAT or y.dtype == sample.attributes.get("dtype", np.float32)
    expected = pull(name, sample)
    for create_graph in (False, True):
        for g, wide in zip(pull(name, narrow, create_graph), expected, strict=True):
            assert g.dtype == np.float32
            np.testing.assert_allclose(g.array, wide.array, rtol=1e-3, atol=1e-3)


def spaced(x: np.ndarray) -> np.ndarray:
    """The same elements, read backwards from every second place of a larger array."""
    view = np.zeros(tuple(2 * n for n in x.shape), dtype=x.dtype)[(slice(None, None, -2),) * x.ndim]
    view[...] = x
    return view


def read_only(x: np.ndarray) -> np.ndarray:
    """A copy that raises if it is written."""
    copy = np.array(x)
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, spaced, read_only])
@cases(ALL)
def test_memory_layout_is_of_no_consequence(name: str, sample: Sample, layout: Callable[..., Any]) -> None:
    inputs = tree_map(
        lambda x: layout(x).reshape(x.shape) if is_float(x) and layout is not spaced else x, sample.inputs
    )
    other = Sample(inputs, sample.attributes)
    if layout is spaced:
        other = Sample(
            tree_map(lambda x: spaced(x) if isinstance(x, np.ndarray) else x, sample.inputs), sample.attributes
        )
    plain = tree_leaves(function(name)(*sample.inputs, **sample.attributes))
    for y, expected in zip(tree_leaves(function(name)(*other.inputs, **other.attributes)), plain, strict=True):
        assert_same(y, expected)
    for g, expected in zip(pull(name, other), pull(name, sample), strict=True):
        assert_same(g.array, expected.array)


# ---- law 6: several uses ----


@cases(ALL, only_differentiable=True)
def test_uses_add_up(name: str, sample: Sample) -> None:
    for create_graph in (False, True):
        merged = pull(name, sample, create_graph, uses=(1.0, 2.0, -0.5))
        for g, once in zip(merged, pull(name, sample), strict=True):
            assert_same(g.array, 2.5 * once.array)


# ---- law 7: out ----


def poisoned(like: np.ndarray) -> np.ndarray:
    """An array of the same kind with no right element in it."""
    wrong = {"f": np.nan, "b": ~like, "i": like + 17}[like.dtype.kind]
    return np.full(like.shape, wrong, dtype=like.dtype)


@cases(SAMPLES)
def test_out_is_fully_written(name: str, sample: Sample) -> None:
    expected = np.asarray(function(name)(*sample.inputs, **sample.attributes))
    out = poisoned(expected)
    result = function(name)(*sample.inputs, **sample.attributes, out=out)
    assert np.shares_memory(result, out) or out.size == 0
    np.testing.assert_array_equal(out, expected, strict=True)
    if sample.differentiable:
        with pytest.raises(TypeError, match="out= is for bare arrays"):
            function(name)(*changed(sample, leaf).inputs, **sample.attributes, out=poisoned(expected))


# ---- law 9: what is kept ----


def asked_for(record: Op, inputs: tuple[str, ...]) -> set[str]:
    """The names in the rules of these inputs, without those of what comes with the walk."""
    rules = [rule for name in inputs for rule in (record.rules[name], record.merges.get(name)) if rule]
    return {name for rule in rules for name in inspect.signature(rule).parameters} - {"g", "k"}


@cases(SAMPLES, only_differentiable=True)
def test_exactly_what_the_rules_name_is_saved(name: str, sample: Sample) -> None:
    record = function(name).op
    positions = sample.differentiable
    for needed in itertools.chain.from_iterable(
        itertools.combinations(positions, n) for n in range(1, len(positions) + 1)
    ):
        inputs = [leaf(x) if k in needed else x for k, x in enumerate(sample.inputs)]
        y = function(name)(*inputs, **sample.attributes)
        names = record.inputs if record.variadic else tuple(record.inputs[k] for k in needed)
        if not any(record.rules[n] for n in names):
            assert not y.requires_grad
            continue
        node = y.node
        assert isinstance(node, Node)
        assert len(node.plan.names) == len(node.saved) == len(set(node.plan.names))
        assert set(node.plan.names) == asked_for(record, names)
        assert [parent is not None for parent in node.parents][: len(inputs)] == [
            k in needed for k in range(len(inputs))
        ]
        given = (
            {record.inputs[0]: sample.inputs}
            if record.variadic
            else dict(zip(record.inputs, sample.inputs, strict=False))
        )
        for key, value in zip(node.plan.names, node.saved, strict=True):
            if key == "y":
                assert value is y.array
            elif key.endswith("_shape") and key not in record.attributes:
                array = given[key.removesuffix("_shape")]
                assert value == (tuple(map(np.shape, array)) if record.variadic else np.shape(array))
            elif key in record.inputs:
                pairs = zip(value, given[key], strict=True) if record.variadic else [(value, given[key])]
                assert all(kept is passed for kept, passed in pairs)
            else:
                assert value is sample.attributes.get(key, record.attributes.get(key))


def test_what_no_rule_names_is_freed() -> None:
    x = tg.randn(3, requires_grad=True)
    middle = x * 2.0
    array, node = weakref.ref(middle.array), middle.node
    y = tg.tanh(middle)  # its rule names the output only
    del middle
    assert array() is None
    assert node is not None
    y.sum().backward()
    assert node.saved is None
    assert y.node is not None
    assert y.node.saved is None


# ---- on arrays and on tensors ----


@cases(SAMPLES)
def test_an_operation_on_tensors_is_its_kernel(name: str, sample: Sample) -> None:
    expected = np.asarray(function(name).op.kernel(np, *sample.inputs, **sample.attributes))
    bare = function(name)(*sample.inputs, **sample.attributes)
    np.testing.assert_array_equal(np.asarray(bare), expected, strict=True)
    if sample.differentiable:
        for wrapped in (changed(sample, leaf), changed(sample, Tensor.wrap)):
            y = function(name)(*wrapped.inputs, **sample.attributes)
            assert isinstance(y, Tensor)
            np.testing.assert_array_equal(y.array, expected, strict=True)


@cases(ALL, only_differentiable=True)
def test_gradients_are_arrays_of_their_own(name: str, sample: Sample) -> None:
    kept = changed(sample, np.copy)
    found = [g.array for g in pull(name, sample)]
    for x, before in zip(tree_leaves(sample.inputs), tree_leaves(kept.inputs), strict=True):
        np.testing.assert_array_equal(x, before)
    xs = [x for x in tree_leaves(sample.inputs) if is_float(x)]
    for k, g in enumerate(found):
        assert g.flags.writeable
        assert not any(np.shares_memory(g, other) for other in [*xs, *found[:k]])
