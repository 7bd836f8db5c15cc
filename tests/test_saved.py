"""A law of its own: the tape keeps exactly what the rules name, and frees it when the walk has passed."""

from __future__ import annotations

import inspect
import itertools
import weakref
from typing import Any

import numpy as np
from laws import function, law, leaf
from samples import SAMPLES
from sampling import Sample

import tinygrad_rnn as tg
from tinygrad_rnn.op import Op
from tinygrad_rnn.tape import Node


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
                assert value is sample.attributes.get(key, record.attributes.get(key))
        held = [thing for thing in referents(node) if isinstance(thing, np.ndarray)]
        attributes = referents(*(value for key, value in node.saved.items() if key in record.attributes))
        assert {id(x) for x in held} <= {id(x) for x in [*arrays, *attributes]}


def referents(*things: Any) -> list[Any]:
    """What these hold, themselves and in tuples and lists."""
    found: list[Any] = []
    for thing in things:
        found += [thing, *(referents(*thing) if isinstance(thing, (tuple, list)) else ())]
    return found


def test_what_no_rule_names_is_freed() -> None:
    x = tg.randn(3, requires_grad=True)
    middle = x * 2.0
    array, node = weakref.ref(middle.array), middle.node
    y = tg.tanh(middle)  # its rule names the output only
    del middle
    assert array() is None
    assert node is not None
    y.sum().backward()
    assert not node.saved
    assert y.node is not None
    assert not y.node.saved
