"""Reading the tape: the nodes behind a tensor, the edges between them, and how they group into loops over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .tape import Leaf, Node, Taped, step_of


class Edge(NamedTuple):
    """An input of an operation that is a leaf or the result of another operation."""

    parent: Node | Leaf
    child: Node
    place: int  # index of the parent among the child's items

    @property
    def input(self) -> str:
        """The name of the input in the kernel; for ``*xs``, with its index."""
        k, names = self.place - self.child.plan.base, self.child.plan.op.inputs
        return f"{names[0]}[{k}]" if self.child.plan.op.variadic else names[k]


def edges_of(node: Node | Leaf) -> list[Edge]:
    """The edges into a node; none for a leaf, or for a node that backward has freed."""
    if isinstance(node, Leaf):
        return []
    base = node.plan.base
    return [Edge(parent, node, base + k) for k, parent in enumerate(node.parents) if parent is not None]


def reachable(
    roots: Iterable[Node | Leaf], *, without: frozenset[Node | Leaf] = frozenset(), horizon: int = 0
) -> list[Node | Leaf]:
    """All nodes that lead to the roots, oldest first; nothing behind a freed node is found.

    without: nodes to leave out. horizon: older nodes are left out too, except for roots and leaves.
    """
    found: dict[int, Node | Leaf] = {}
    ahead = list(roots)
    while ahead:
        node = ahead.pop()
        if node.id not in found and node not in without:
            found[node.id] = node
            parents = node.parents if isinstance(node, Node) else ()
            ahead += [p for p in parents if isinstance(p, Leaf) or (p is not None and p.id >= horizon)]
    return [found[id] for id in sorted(found)]


def check_tensor(who: str, output: Taped) -> None:
    """Raise TypeError for anything but a Tensor."""
    if not isinstance(output, Taped):
        raise TypeError(f"{who}: a Tensor with its history is needed, such as a loss, not a {type(output).__name__}")


class Stretch(NamedTuple):
    """Consecutive nodes: all within time steps, or all outside of any."""

    steps: dict[int, list[Node]]  # by time step, in order of execution; empty outside
    nodes: list[Node]


def stretches(nodes: Sequence[Node | Leaf]) -> list[Stretch]:
    """The operations among nodes given oldest first, cut wherever a loop over time begins or ends.

    A time step that recurs after others begins a new loop: another layer, direction or window.
    """
    found: list[Stretch] = []
    previous: int | None = None
    for node in nodes:
        if isinstance(node, Leaf):
            continue
        step = step_of(node.id)
        stretch = found[-1] if found else None
        if stretch is None or bool(stretch.steps) != (step is not None) or (step != previous and step in stretch.steps):
            stretch = Stretch({}, [])
            found.append(stretch)
        if step is not None:
            stretch.steps.setdefault(step, []).append(node)
        stretch.nodes.append(node)
        previous = step
    return found
