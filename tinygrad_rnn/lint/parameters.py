"""Checks of a model's parameters, and of what else gets a gradient."""

from __future__ import annotations

from collections.abc import Iterator

from ..backend import is_finite
from ..tape import Leaf
from ..tensor import Tensor
from .finding import Case, Finding, listed, where_made


def parameters(case: Case) -> Iterator[Finding]:
    if case.model is None:
        return
    tensors = dict(case.model.named_tensors())
    leaves = {node for node in case.nodes if isinstance(node, Leaf)}
    partial = any(hasattr(node, "again") for node in case.nodes)  # what backward will rebuild may use further leaves
    if broken := {name: tensor for name, tensor in tensors.items() if not is_finite(tensor.array)}:
        yield Finding(
            *_together(broken, "is not finite", "are not finite"),
            "NaN or infinity is among the values",
            "go back to the last checkpoint; clip gradients, or lower the learning rate",
        )
    without = {name: t for name, t in tensors.items() if t.node is not None and t.node not in leaves}
    if case.nodes and not partial:
        places = {name: _cut_off(case, tensor) for name, tensor in without.items()}
        for name, place in places.items():
            if place:
                yield Finding(
                    f"the parameter {name} is used, but cut off",
                    place,
                    "its values came in without a history: by detach(), by .data, or in no_grad",
                    f"use {name} itself there",
                )
        if unused := {name: tensor for name, tensor in without.items() if not places[name]}:
            yield Finding(
                *_together(unused, "gets no gradient", "get no gradient"),
                "no path leads to the loss: never used, or all that was made of it was detached",
                "use it in forward, or look for a detach(), .data or no_grad on the way to the loss",
            )
    if constant := [name for name, tensor in tensors.items() if tensor.node is None]:
        yield Finding(
            "some tensors of the model are not trained",
            listed(constant),
            "they require no gradient",
            "requires_grad = True for those that are meant to learn",
            note=True,
        )
    for leaf in leaves - {tensor.node for tensor in tensors.values()}:
        yield Finding(
            "something else than the model's parameters gets a gradient",
            f"{leaf!r} {list(leaf.shape)}",
            "an optimizer of model.parameters() does not train it",
            "if it is a weight, let the object that holds it be a Module, and an attribute of the model",
            note=True,
        )
    if held := [name for name, tensor in tensors.items() if tensor.grad is not None]:
        yield Finding(
            "parameters still hold a gradient",
            listed(held),
            "backward adds to what is there from an earlier one",
            "optimizer.zero_grad() before backward, unless gradients are gathered on purpose",
            note=True,
        )


def _together(tensors: dict[str, Tensor], of_one: str, of_several: str) -> tuple[str, str]:
    """What is wrong, with one parameter or with several, and where."""
    if len(tensors) > 1:
        return f"{len(tensors)} parameters {of_several}", listed(tensors)
    ((name, tensor),) = tensors.items()
    return f"the parameter {name} {of_one}", repr(tensor)


def _cut_off(case: Case, tensor: Tensor) -> str | None:
    """Where the values of a parameter without a path to the loss are used as a constant."""
    for node in case.operations:
        saved = node.saved
        for input, parent in zip(node.plan.op.inputs, node.parents, strict=False):
            if parent is None and saved.get(input) is tensor.array:
                return f"{input} of {where_made(node)}"
    return None
