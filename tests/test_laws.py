"""Laws that every operation keeps: for each one in the registry, on each of its samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import OPERATIONS, assert_same, changed, function, is_float, law, leaf, pull
from samples import COMPOSITES, SAMPLES
from sampling import Sample

import tinygrad_rnn as tg
from tinygrad_rnn.op import registry
from tinygrad_rnn.tensor import Tensor
from tinygrad_rnn.tree import tree_leaves, tree_map

ALL = {**SAMPLES, **COMPOSITES}
PROMOTING = (  # with integers, as in NumPy
    *("add", "subtract", "multiply", "divide", "floor_divide", "remainder", "power", "maximum", "minimum"),
    *("logaddexp", "linear_scan"),
)
EVEN = ("argmax", "argmin", "argsort", "scatter", "overlap_add", "add_along_axis", "add_rows")
NO_FLOAT = (
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "any", "all"),
    *("argmax", "argmin", "argsort"),
    *("isnan", "isinf", "isfinite"),
    "as_mask",
)


def test_every_operation_has_samples() -> None:
    ours = {name for name, record in registry.items() if record.kernel.__module__.startswith("tinygrad_rnn")}
    missing = sorted(name for name in ours & set(OPERATIONS) if not SAMPLES.get(name))
    assert not missing, f"write samples for {', '.join(missing)} in tests/samples.py"
    assert sorted(set(SAMPLES) - ours) == []


def test_samples_leave_nothing_out() -> None:
    for name, samples in SAMPLES.items():
        arrays = [x for sample in samples for x in sample.inputs if isinstance(x, np.ndarray)]
        assert any(not x.flags.c_contiguous for x in arrays) or name in EVEN, f"{name}: every sample is contiguous"
        assert any(x.size == 0 for x in arrays) or name in ("argmax", "argmin"), f"{name}: no sample is empty"


# ---- laws 1 to 3: derivatives ----


@law(ALL, differentiable=True)
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


@law(ALL, differentiable=True)
def test_the_rule_gives_on_tensors_what_it_gives_on_arrays(name: str, sample: Sample) -> None:
    for g, recorded in zip(pull(name, sample), pull(name, sample, create_graph=True), strict=True):
        assert_same(recorded, g)


# ---- laws 4 and 5: dtypes and layouts ----


@law(ALL, differentiable=True)
def test_float32_stays_float32(name: str, sample: Sample) -> None:
    narrow = changed(sample, lambda x: x.astype(np.float32))
    result = function(name)(*changed(narrow, leaf).inputs, **sample.attributes)
    mixed = any(isinstance(x, np.ndarray) and x.dtype == int for x in sample.inputs) and name in PROMOTING
    for y in tree_leaves(result):
        expected = sample.attributes.get("dtype", np.float64 if mixed else np.float32)
        assert name in NO_FLOAT or y.dtype == expected
    for create_graph in (False, True):
        for g, wide in zip(pull(name, narrow, create_graph), pull(name, sample), strict=True):
            assert g.dtype == np.float32
            np.testing.assert_allclose(g.array, wide.array, rtol=1e-3, atol=1e-3)


def spaced(x: np.ndarray) -> np.ndarray:
    """The same elements, read backwards from every second place of a larger array."""
    view = np.zeros(tuple(2 * n for n in x.shape), dtype=x.dtype)[(..., *(slice(None, None, -2),) * x.ndim)]
    view[...] = x
    return view


def by_columns(x: np.ndarray) -> np.ndarray:
    return np.array(x, order="F")


def read_only(x: np.ndarray) -> np.ndarray:
    """A copy that raises if it is written."""
    copy = np.array(x)
    copy.flags.writeable = False
    return copy


@law(ALL)
def test_memory_layout_is_of_no_consequence(name: str, sample: Sample) -> None:
    plain = tree_leaves(function(name)(*sample.inputs, **sample.attributes))
    gradients = pull(name, sample)
    for layout in (np.array, by_columns, spaced, read_only):
        inputs = tree_map(lambda x: layout(x) if isinstance(x, np.ndarray) else x, sample.inputs)  # noqa: B023
        other = Sample(inputs, sample.attributes)
        results = tree_leaves(function(name)(*inputs, **sample.attributes))
        for found, expected in zip([*results, *pull(name, other)], [*plain, *gradients], strict=True):
            assert_same(found, expected)


# ---- law 6: several uses ----


@law(ALL, differentiable=True)
def test_uses_add_up(name: str, sample: Sample) -> None:
    for create_graph in (False, True):
        merged = pull(name, sample, create_graph, uses=(1.0, 2.0, -0.5))
        for g, once in zip(merged, pull(name, sample), strict=True):
            assert_same(g, 2.5 * once)


# ---- law 7: out ----


def poisoned(like: np.ndarray) -> np.ndarray:
    """An array of the same kind with no right element in it."""
    return np.full_like(like, np.nan) if like.dtype.kind == "f" else np.invert(like, out=np.empty_like(like))


@law(SAMPLES)
def test_out_is_fully_written(name: str, sample: Sample) -> None:
    expected = np.asarray(function(name)(*sample.inputs, **sample.attributes))
    out = poisoned(expected)
    result = function(name)(*sample.inputs, **sample.attributes, out=out)
    assert np.shares_memory(result, out) or out.size == 0
    np.testing.assert_array_equal(out, expected, strict=True)
    if sample.differentiable:
        with pytest.raises(TypeError, match="out= is for bare arrays"):
            function(name)(*changed(sample, leaf).inputs, **sample.attributes, out=poisoned(expected))


# ---- on arrays and on tensors ----


@law(SAMPLES)
def test_an_operation_on_tensors_is_its_kernel(name: str, sample: Sample) -> None:
    expected = np.asarray(function(name).op.kernel(np, *sample.inputs, **sample.attributes))
    bare = function(name)(*sample.inputs, **sample.attributes)
    np.testing.assert_array_equal(np.asarray(bare), expected, strict=True)
    if sample.differentiable:
        for wrapped in (changed(sample, leaf), changed(sample, Tensor.wrap)):
            y = function(name)(*wrapped.inputs, **sample.attributes)
            assert isinstance(y, Tensor)
            np.testing.assert_array_equal(y.array, expected, strict=True)


@law(ALL, differentiable=True)
def test_gradients_are_arrays_of_their_own(name: str, sample: Sample) -> None:
    kept = changed(sample, np.copy)
    found = [g.array for g in pull(name, sample)]
    for x, before in zip(tree_leaves(sample.inputs), tree_leaves(kept.inputs), strict=True):
        np.testing.assert_array_equal(x, before)
    xs = [x for x in tree_leaves(sample.inputs) if is_float(x)]
    for k, g in enumerate(found):
        assert g.flags.writeable
        assert not any(np.shares_memory(g, other) for other in [*xs, *found[:k]])
