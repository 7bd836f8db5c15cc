"""Checks of what padding does to a loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..grad import grad
from ..graph import edges_of
from ..nn.sequences import over
from ..tape import GraphError, Leaf, Node
from .finding import Case, Finding, where_made


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
