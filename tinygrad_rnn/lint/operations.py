"""Checks of operations that do not go together."""

from __future__ import annotations

from collections.abc import Iterator

from ..graph import edges_of
from ..tape import Leaf, Node
from .finding import Case, Finding, listed, where_made

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


def ctc(case: Case) -> Iterator[Finding]:
    for node in case.operations:
        clipped = _behind(node) if node.plan.op.name == "path_sums" else None
        if clipped is not None and (clipped.saved["x"] > 0.01).any():  # more than rounding
            taken = _behind(clipped)
            source = _behind(taken) if taken else None
            yield Finding(
                "scores above 0 in ctc_loss, which takes log-probabilities",
                where_made(node) + (f", from {where_made(source)}" if source else ""),
                "so the loss is not -log of a probability; of logits it falls below 0, without bound",
                "nn.ctc_loss(tg.log_softmax(logits), ...)",
            )


def double(case: Case) -> Iterator[Finding]:
    """The first operation that makes float64 from float32 and a constant or parameter."""
    for node in case.operations:
        wide, parents = node.dtype.itemsize, [edge.parent for edge in edges_of(node)]
        meets_leaf = any(isinstance(parent, Leaf) for parent in parents)  # else it may be a mask, which does not widen
        data = [x for _, x in node.arrays()] if meets_leaf else []
        narrow = [x.dtype for x in (*parents, *data) if x.dtype.kind == "f" and x.dtype.itemsize < wide]
        if node.plan.op.name != "astype" and narrow:
            tensors = () if case.model is None else case.model.named_tensors()
            names = listed(name for name, tensor in tensors if tensor.dtype == node.dtype)
            yield Finding(
                f"{narrow[0]} becomes {node.dtype}",
                where_made(node) + (f"; of the model, {names} are {node.dtype}" if names else ""),
                "a constant or parameter of the wider type came in, such as a NumPy array without a dtype; all that "
                "follows takes twice the time and the memory",
                f"x.astype('{narrow[0]}') for the data, nn.parameter(data, '{narrow[0]}')",
                note=True,
            )
            return
