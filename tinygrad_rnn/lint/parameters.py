"""Checks of a model's parameters, and of what else gets a gradient."""

from __future__ import annotations

from collections.abc import Iterator

from ..backend import is_finite
from ..tape import Leaf
from ..tensor import Tensor
from .finding import Case, Finding, where_made


def parameters(case: Case) -> Iterator[Finding]:
    if case.model is None:
        return
    tensors = dict(case.model.named_tensors())
    leaves = {node for node in case.nodes if isinstance(node, Leaf)}
    partial = any(hasattr(node, "again") for node in case.nodes)  # what backward will rebuild may use further leaves
    for name, tensor in tensors.items():
        if not is_finite(tensor.array):
            yield Finding(
                f"the parameter {name} is not finite",
                repr(tensor),
                "it holds NaN or infinity",
                "go back to the last checkpoint; clip gradients, or lower the learning rate",
            )
        if tensor.node is not None and case.nodes and not partial and tensor.node not in leaves:
            yield _unused(case, name, tensor)
    if constant := [name for name, tensor in tensors.items() if tensor.node is None]:
        yield Finding(
            "some tensors of the model are not trained",
            ", ".join(constant),
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
            ", ".join(held),
            "backward adds to what is there from an earlier one",
            "optimizer.zero_grad() before backward, unless gradients are gathered on purpose",
            note=True,
        )


def _unused(case: Case, name: str, tensor: Tensor) -> Finding:
    """A parameter without a path to the loss; its values may still be used there as a constant."""
    for node in case.operations:
        saved = node.saved
        for input, parent in zip(node.plan.op.inputs, node.parents, strict=False):
            if parent is None and saved.get(input) is tensor.array:
                return Finding(
                    f"the parameter {name} is used, but cut off",
                    f"{input} of {where_made(node)}",
                    "its values came in without a history: by detach(), by .data, or in no_grad",
                    f"use {name} itself there",
                )
    return Finding(
        f"the parameter {name} gets no gradient",
        repr(tensor),
        "the loss does not depend on it, or all that was made from it was detached",
        "use it in forward, or look for a detach(), .data or no_grad between it and the loss",
    )
