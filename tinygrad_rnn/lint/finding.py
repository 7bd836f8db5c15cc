"""The input and the output of a check."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..record import line_of
from ..tape import Leaf, Node, at_step, step_of
from ..tensor import Tensor


class Finding(NamedTuple):
    """One mistake, or a note if it is legal but seldom intended."""

    what: str
    where: str
    why: str
    cure: str
    note: bool = False

    def __str__(self) -> str:
        kind = "note" if self.note else "mistake"
        return f"{kind}: {self.what}\n  where: {self.where}\n  why: {self.why}\n  cure: {self.cure}"


class Findings(list[Finding]):
    """What ``lint`` found; empty, and so falsy, if it found nothing."""

    def __str__(self) -> str:
        return "\n".join(map(str, self)) if self else "nothing found"

    __repr__ = __str__


class Case(NamedTuple):
    """The input of the checks: the arguments of ``lint``, and the nodes that lead to the loss, oldest first."""

    loss: Tensor
    model: Any
    outputs: Tensor | None
    mask: Any  # (T, B) booleans on the backend of outputs
    state: Any
    starts: Any
    initial: Any
    nodes: list[Node | Leaf]

    @property
    def operations(self) -> list[Node]:
        """The nodes that are not leaves and not freed by backward."""
        return [node for node in self.nodes if isinstance(node, Node) and node]


def listed(names: Iterable[str]) -> str:
    """Names one after another; of more than five, the first four and the number of the others."""
    names = list(names)
    return ", ".join(names if len(names) <= 5 else [*names[:3], f"{names[3]} and {len(names) - 4} more"])


def where_made(node: Node) -> str:
    """The operation that made a node, its time step, and its line if it is known."""
    return f"{node!r} {list(node.shape)}{line_of(node) or at_step(step_of(node.id))}"
