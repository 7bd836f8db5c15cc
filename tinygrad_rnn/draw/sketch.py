"""The contents of a drawing, before layout: boxes and links, with the middle of a long sequence folded away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot
from typing import Any, Protocol

from .. import backend
from ..backend import signature
from ..backward import walk
from ..graph import Edge, check_tensor, edges_of, reachable, stretches
from ..ops.shape import unbroadcast
from ..tape import GraphError, Leaf, Node
from ..tensor import Tensor, seed


@dataclass(eq=False)
class Item:
    """One box: an operation, a leaf, a whole time step, or a placeholder for the time steps that are left out."""

    id: int
    title: str
    detail: str
    kind: str  # the file of ops/ that holds the operation; "leaf", "step" or "fold"
    label: str  # its name in text
    step: int | None = None
    constants: list[str] = field(default_factory=list)  # inputs without a history


@dataclass(eq=False)
class Link:
    """An edge from one item to another, and whether a gradient flows back."""

    parent: Item
    child: Item
    input: str
    followed: bool = True
    norm: float | None = None  # of the gradient that flows back


@dataclass
class Band:
    """A stage of the computation: a loop over time, with its items by step, or items outside any loop."""

    items: list[Item]
    columns: dict[int, list[Item]]


@dataclass
class Sketch:
    """A whole drawing: the leaves, the bands from the oldest on, and the links."""

    leaves: list[Item]
    bands: list[Band]
    links: list[Link]
    hidden: tuple[int, ...]  # the time steps that are left out

    @property
    def items(self) -> list[Item]:
        """Every box."""
        return self.leaves + [item for band in self.bands for item in band.items]


class Rooted(Protocol):
    """What backward begins at several places of, such as a window of ``bptt.truncated``."""

    horizon: int

    def roots(self) -> list[tuple[Node | Leaf, Any]]:
        """The nodes and their cotangents."""


def _roots(output: Tensor | Rooted, gradients: bool) -> list[tuple[Node | Leaf, Any]]:
    """Where backward begins, with the cotangents if gradients are wanted."""
    if hasattr(output, "roots"):
        roots = output.roots()
    else:
        check_tensor("draw", output)
        roots = [(output.node, seed(output, None, False) if gradients else None)] if output.node is not None else []
    if not roots:
        causes = "no input of it requires a gradient, or it was detached, or it is a window that is over"
        raise GraphError(f"draw: {output!r} has no history; {causes}")
    return roots


def _behind(roots: Sequence[tuple[Node | Leaf, Any]], horizon: int) -> list[Node | Leaf]:
    """The roots and all nodes that lead to them, oldest first; GraphError if backward has freed any.

    Beyond the horizon, freed ones are no obstacle: the drawing ends with them.
    """
    nodes = reachable(node for node, _ in roots)
    for node in nodes:
        if isinstance(node, Node) and not node and not hasattr(node, "again") and node.id >= horizon:
            raise GraphError(
                f"draw: the graph behind {node.origin} was freed by backward; draw before it, or call "
                "backward(retain_graph=True)"
            )
    return nodes


def sketch(
    output: Tensor | Rooted, names: Any, fold: int | None, horizon: int, gradients: bool, steps: bool = False
) -> Sketch:
    """Boxes and links of the graph behind an output; see ``draw`` for the arguments."""
    roots = _roots(output, gradients)
    nodes = _behind(roots, horizon)
    known = _names(names)
    loops = stretches(nodes)
    every = sorted({step for loop in loops for step in loop.steps})
    hidden = () if fold is None or len(every) < 2 * fold + 2 else tuple(every[fold : len(every) - fold])
    boxes: dict[int, Item] = {n.id: _leaf(n, known.get(n, "")) for n in nodes if isinstance(n, Leaf)}
    leaves, bands = list(boxes.values()), []
    for k, loop in enumerate(loops):
        count = len(set(hidden) & loop.steps.keys())
        pill = Item(-k - 1, "\u22ef", f"{count} steps", "fold", f"{count} time steps left out", min(hidden, default=0))
        band = Band([], {})
        for step, members in loop.steps.items() or [(None, loop.nodes)]:
            if step in hidden:
                boxes |= {node.id: pill for node in members}
            elif steps and step is not None:
                boxes |= dict.fromkeys((node.id for node in members), _step(members, step, known))
            else:
                boxes |= {node.id: _operation(node, step, known.get(node, "")) for node in members}
        for item in dict.fromkeys(boxes[node.id] for node in loop.nodes):
            band.items.append(item)
            if item.step is not None:
                band.columns.setdefault(item.step, []).append(item)
        bands.append(band)
    cotangents = walk(roots, targets=frozenset(nodes), horizon=horizon, retain=True) if gradients else {}
    followed = _followed(nodes, {node.id for node, _ in roots}, horizon)
    return Sketch(leaves, bands, list(_links(nodes, boxes, followed, cotangents)), hidden)


def _names(names: Any) -> dict[Any, str]:
    """The name of each node, from a module, a mapping, or pairs of name and tensor."""
    if names is None:
        return {}
    if hasattr(names, "named_parameters"):
        names = names.named_parameters()
    pairs = names.items() if isinstance(names, Mapping) else names
    try:
        return {tensor.node: name for name, tensor in pairs if tensor.node is not None}
    except (AttributeError, TypeError, ValueError):
        raise TypeError("draw: names are a module, or names and tensors, as from named_parameters()") from None


def _leaf(node: Leaf, name: str) -> Item:
    return Item(node.id, name or repr(node), signature(node), "leaf", name or repr(node))


_SIGNS = {"add": "+", "subtract": "\u2212", "multiply": "\u00d7", "divide": "\u00f7", "sigmoid": "\u03c3"}
_SQUASHING = ("sigmoid", "tanh", "relu", "softplus", "softmax")


def _operation(node: Node, step: int | None, name: str) -> Item:
    op = node.plan.op
    kind = "squash" if op.name in _SQUASHING else op.kernel.__module__.rpartition(".")[2]
    constants = [  # not optional inputs, which may not have been given
        input
        for input, parent in zip(op.names(len(node.parents)), node.parents, strict=bool(node))  # a hollow node has none
        if parent is None and input not in op.optional
    ]
    key = node.saved.get("key") if op.name == "getitem" else None
    title = _SIGNS.get(op.name, op.name) if key is None else _index(key)
    detail = signature(node) + ", run again" * hasattr(node, "again")
    return Item(node.id, f"{title} {name}".rstrip(), detail, kind, f"{node!r} {name}".rstrip(), step, constants)


def _index(key: Any) -> str:
    """An index as it is written, with the dtype and shape of an array.

    >>> from tinygrad_rnn import ones
    >>> _index((..., slice(4, 8))), _index(3), _index((slice(None, None, -1), ones(2) > 0))
    ('[..., 4:8]', '[3]', '[::-1, bool[2]]')
    """

    def told(part: Any) -> str:
        if isinstance(part, slice):
            ends = [part.start, part.stop] + [part.step] * (part.step is not None)
            return ":".join("" if end is None else str(end) for end in ends)
        return "..." if part is ... else signature(part) if hasattr(part, "dtype") else str(part)

    return f"[{', '.join(map(told, key if isinstance(key, tuple) else (key,)))}]"


def _step(members: Sequence[Node], step: int, known: Mapping[Any, str]) -> Item:
    """All operations of one time step of a loop, titled by the module whose weights they use, if it is one."""
    modules = {known[edge.parent].rpartition(".")[0] for x in members for edge in edges_of(x) if edge.parent in known}
    title, last = modules.pop() if len(modules) == 1 else "", members[-1].id
    return Item(last, title or "step", f"{len(members)} operations", "step", f"{title or 'step'}#{last}", step)


def _rules(node: Node) -> dict[int, Any]:
    """The gradient rules of a node, by the place of the input among its items."""
    return dict(node.plan.every(node) if node.plan.variadic else node.plan.rules)


def _followed(nodes: Sequence[Node | Leaf], entered: set[int], horizon: int) -> set[tuple[int, int]]:
    """The edges that backward follows from the roots on, as (child's id, place), if it stops at the horizon."""
    taken = set()
    for node in reversed(nodes):
        if isinstance(node, Node) and node.id in entered:
            rules = _rules(node)
            for edge in edges_of(node):
                if edge.place in rules and (isinstance(edge.parent, Leaf) or edge.parent.id >= horizon):
                    entered.add(edge.parent.id)
                    taken.add((node.id, edge.place))
    return taken


def _links(
    nodes: Sequence[Node | Leaf],
    boxes: Mapping[int, Item],
    followed: set[tuple[int, int]],
    cotangents: Mapping[Node | Leaf, Any],
) -> Iterator[Link]:
    """One link for each edge between boxes; those of boxes for whole time steps are joined."""
    joined: dict[tuple[Item, Item], Link] = {}
    sent: dict[tuple[Item, Item], dict[int, Any]] = defaultdict(dict)  # by the operation that it goes to
    for node in nodes:
        for edge in edges_of(node):
            parent, child = boxes[edge.parent.id], boxes[node.id]
            if parent is child:
                continue
            taken = (node.id, edge.place) in followed
            # Into a fold, only states get a norm: weights have many uses there, and a dense gradient for each is slow.
            shown = child.kind != "fold" or parent.step is not None
            g = _sent(edge, cotangents[node]) if cotangents and taken and shown else None
            if not {"fold", "step"} & {parent.kind, child.kind}:
                yield Link(parent, child, edge.input, taken, None if g is None else _norm(g))
                continue
            link = joined.setdefault((parent, child), Link(parent, child, edge.input, taken))
            link.followed |= taken
            if g is not None:
                parts = sent[parent, child]
                parts[edge.parent.id] = parts.get(edge.parent.id, 0) + g
    for ends, parts in sent.items():
        joined[ends].norm = hypot(*map(_norm, parts.values()))
    yield from joined.values()


def _norm(g: Any) -> float:
    return float(backend.of(g).norms([g])[0])


def _sent(edge: Edge, cotangent: Any) -> Any:
    """The gradient that this one use sends back, even where backward merges several uses."""
    arguments = list(edge.child)
    arguments[:2] = cotangent, edge.place - edge.child.plan.base
    rule = _rules(edge.child)[edge.place]
    return unbroadcast(rule.function(*rule.pick(arguments)), edge.parent.shape)
