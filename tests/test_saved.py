"""A law of its own: the tape keeps exactly what the rules name, and frees it when the walk has passed."""

from __future__ import annotations

import inspect
import itertools
import weakref
from copy import deepcopy
from typing import Any

import numpy as np
from laws import assert_same, cotangents, function, is_float, law, leaf
from samples import COMPOSITES, SAMPLES
from sampling import Sample

import tinygrad_rnn as tg
from tinygrad_rnn.op import Op
from tinygrad_rnn.tape import Node
from tinygrad_rnn.tensor import Tensor
from tinygrad_rnn.tree import tree_leaves


def asked_for(record: Op, inputs: tuple[str, ...]) -> set[str]:
    """The names in the rules of these inputs, without those of what comes with the walk."""
    rules = [rule for name in inputs for rule in (record.rules[name], record.merges.get(name)) if rule]
    return {name for rule in rules for name in inspect.signature(rule).parameters} - {"g", "k"}


@law(SAMPLES, differentiable=True)
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
        assert set(node.saved) == asked_for(record, names)
        assert [parent is not None for parent in node.parents[: len(inputs)]] == [
            k in needed for k in range(len(inputs))
        ]
        passed_on = [sample.inputs] if record.variadic else sample.inputs
        given = record.optional | dict(zip(record.inputs, passed_on, strict=False))
        arrays: list[Any] = []
        for key, value in node.saved.items():
            if key in record.inputs:
                kept, passed = (value, given[key]) if record.variadic else ((value,), (given[key],))
                assert len(kept) == len(passed)
                for k, (a, b) in enumerate(zip(kept, passed, strict=True), start=record.inputs.index(key)):
                    if k in needed or not isinstance(b, np.ndarray):
                        assert a is b
                    else:  # of bare arrays, which their owner may write into, a copy
                        assert not np.shares_memory(a, b)
                        np.testing.assert_array_equal(a, b)
                arrays += kept
            elif key == "y":
                assert value is y.array
                arrays.append(value)
            elif key.endswith("_shape") and key not in record.attributes:
                array = given[key.removesuffix("_shape")]
                assert value == (tuple(map(np.shape, array)) if record.variadic else np.shape(array))
            else:
                attribute = sample.attributes.get(key, record.attributes.get(key))
                if isinstance(attribute, (list, np.ndarray)):  # of what its owner may change, a copy
                    assert value is not attribute
                    np.testing.assert_array_equal(value, attribute)
                else:
                    assert value is attribute
        held = [thing for thing in referents(node) if isinstance(thing, np.ndarray)]
        attributes = referents(*(value for key, value in node.saved.items() if key in record.attributes))
        assert {id(x) for x in held} <= {id(x) for x in [*arrays, *attributes]}


def referents(*things: Any) -> list[Any]:
    """What these hold, themselves and in tuples and lists."""
    found: list[Any] = []
    for thing in things:
        found += [thing, *(referents(*thing) if isinstance(thing, (tuple, list)) else ())]
    return found


def as_lists(value: Any) -> Any:
    return list(map(as_lists, value)) if isinstance(value, (tuple, list)) else deepcopy(value)


def as_arrays(value: Any) -> Any:
    numbers = all(np.isscalar(x) for x in tree_leaves(value)) and np.array(value).dtype.kind in "biuf"
    return np.array(value) if numbers else deepcopy(value)


def spoil(value: Any) -> None:
    """Change lists and arrays in place."""
    if isinstance(value, np.ndarray):
        value[...] = ~value if value.dtype.kind == "b" else value + 1
    elif isinstance(value, list):
        for part in value:
            spoil(part)
        value[:] = [part + 1 if isinstance(part, int) else part for part in reversed(value)]


def gradients(name: str, sample: Sample, key: Any, value: Any, change: bool) -> list[Any]:
    """Gradients with another value of an attribute, which may be changed after the call."""
    inputs = [value if k == key else leaf(x) if is_float(x) else x for k, x in enumerate(sample.inputs)]
    given = sample.attributes | ({key: value} if isinstance(key, str) else {})
    try:
        ys = [y for y in tree_leaves(function(name)(*inputs, **given)) if getattr(y, "requires_grad", False)]
    except (TypeError, ValueError, IndexError):  # lists, or arrays, are not taken
        return []
    if change:
        spoil(value)
    leaves = [x for x in inputs if isinstance(x, Tensor)]
    return list(tg.grad(ys, leaves, cotangents(ys), allow_unused=True)) if ys else []


@law(SAMPLES | COMPOSITES, differentiable=True)
def test_whoever_gave_an_attribute_may_change_it_before_the_backward_pass(name: str, sample: Sample) -> None:
    numbers = {k: x for k, x in enumerate(sample.inputs) if not isinstance(x, np.ndarray)}
    for key, attribute in [*numbers.items(), *sample.attributes.items()]:
        for made in (as_lists, as_arrays):
            pair = [gradients(name, sample, key, made(attribute), change) for change in (True, False)]
            for found, expected in zip(*pair, strict=True):
                assert (found is None) == (expected is None)
                if found is not None:
                    assert_same(found, expected)


def test_what_no_rule_names_is_freed() -> None:
    x = tg.randn(3, requires_grad=True)
    middle = x * 2.0
    array, node = weakref.ref(middle.array), middle.node
    y = tg.tanh(middle)  # its rule names the output only
    del middle
    assert array() is None
    y.sum().backward()
    assert not node.saved
    assert not y.node.saved
