"""Checks of parameters, padding, and operations that do not go together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..backend import is_finite
from ..grad import grad
from ..graph import edges_of
from ..nn.sequences import over
from ..tape import GraphError, Leaf, Node
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


# ---- padding ----


def padding(case: Case) -> Iterator[Finding]:
    outputs, real = case.outputs, case.mask
    if outputs is None or case.loss.size != 1:
        return
    count = int(real.sum())
    if count == real.size:
        return
    if outputs.node is None or outputs.node not in case.nodes:
        yield Finding(
            "the loss does not depend on these outputs",
            repr(outputs),
            "so nothing can be said about their padding",
            "give the outputs that the loss was computed from",
        )
        return
    try:
        g = grad(case.loss, outputs, retain_graph=True).array
    except GraphError:  # freed or overwritten, which other checks report
        return
    reached = ((g != 0) & ~over(real, g)).reshape(*real.shape, -1).any(axis=-1)
    if reached.any():
        first = [int(k) for k in np.unravel_index(int(reached.argmax()), reached.shape)]
        yield Finding(
            f"padding reaches the loss at {int(reached.sum())} of {real.size - count} places",
            f"outputs{first} is the first, where the gradient is not 0",
            "steps that do not exist are being learned",
            "give the loss the mask: nn.cross_entropy(logits, targets, mask=mask)",
        )
        return
    for node in _made_from(outputs.node, case.operations):
        if _counts_all(node, real.shape):
            yield Finding(
                f"a mean counts padding: it divides by {real.size} steps, of which {count} are real",
                where_made(node),
                "the loss is smaller the more padding there is, and with it the gradient",
                "give the loss the mask, or divide the sum by mask.sum()",
            )


def _made_from(source: Node | Leaf, operations: list[Node]) -> list[Node]:
    """The operations that depend on a node, oldest first."""
    reached, found = {source}, []
    for node in operations:
        if any(edge.parent in reached for edge in edges_of(node)):
            reached.add(node)
            found.append(node)
    return found


def _counts_all(node: Node, steps: tuple[int, int]) -> bool:
    """Whether an operation divides by the number of all steps, real or not: as a mean, or by an explicit number."""
    name, saved, every = node.plan.op.name, node.saved, steps[0] * steps[1]
    if name == "mean":
        shape = saved["x_shape"]
        return node.shape.count(1) == len(node.shape) and (shape[:1] == (every,) or shape[:2] in (steps, steps[::-1]))
    if name == "divide" and node.parents[1] is None:
        divisor = saved["b"]
        return getattr(divisor, "size", 1) == 1 and float(divisor) == every
    return False


# ---- operations ----

_SAME_VALUES = ("reshape", "transpose", "swapaxes", "getitem", "squeeze", "expand_dims", "astype", "where", "flip")


def softmax_twice(case: Case) -> Iterator[Finding]:
    for node in case.operations:
        if node.plan.op.name not in ("cross_entropy", "log_softmax", "softmax"):
            continue
        source = _behind(node)
        if source is not None and source.plan.op.name in ("softmax", "log_softmax"):
            harmless = source.plan.op.name == "log_softmax"
            yield Finding(
                f"{source.plan.op.name} before {node.plan.op.name}, which takes logits",
                f"{where_made(node)}, from {where_made(source)}",
                "it changes nothing, and costs time"
                if harmless
                else "probabilities are squashed once more, which bounds the loss from below and makes gradients small",
                "give the logits, or nll_loss for what is log_softmax already",
                note=harmless,
            )


def _behind(node: Node) -> Node | None:
    """The operation that computed a node's first input, looking through those in ``_SAME_VALUES``."""
    while True:
        parent = edges_of(node)[0].parent
        if not isinstance(parent, Node) or not parent:
            return None
        node = parent
        if node.plan.op.name not in _SAME_VALUES:
            return node


def double(case: Case) -> Iterator[Finding]:
    """The first operation that makes float64 from float32 and a constant or parameter."""
    for node in case.operations:
        wide = node.dtype.itemsize
        narrow = [edge.parent.dtype for edge in edges_of(node) if edge.parent.dtype.itemsize < wide]
        if node.plan.op.name != "astype" and narrow:
            yield Finding(
                f"{narrow[0]} becomes {node.dtype}",
                where_made(node),
                "a constant or parameter of the wider type came in, such as a NumPy array without a dtype; all that "
                "follows takes twice the time and the memory",
                f"x.astype('{narrow[0]}') for the data, nn.parameter(data, '{narrow[0]}')",
                note=True,
            )
            return
