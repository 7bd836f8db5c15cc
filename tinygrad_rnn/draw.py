"""Drawing the graph behind a tensor, time step by time step."""

from __future__ import annotations

from collections.abc import Sequence

from .backend import signature
from .tape import GraphError, Leaf, Node, Taped, step_of


def nodes_of(output: Taped) -> list[Node | Leaf]:
    """All nodes that lead to a tensor, oldest first; GraphError if there is none, or if backward has freed them."""
    if output.node is None:
        raise GraphError(f"draw: {output!r} has no history")
    found: dict[int, Node | Leaf] = {}
    ahead: list[Node | Leaf] = [output.node]
    while ahead:
        node = ahead.pop()
        if node.id in found:
            continue
        if isinstance(node, Node):
            if not node and not hasattr(node, "again"):
                raise GraphError(f"draw: the graph behind {node.origin} was freed by backward; draw before it")
            ahead += [parent for parent in node.parents if parent is not None]
        found[node.id] = node
    return [found[id] for id in sorted(found)]


def by_step(nodes: Sequence[Node | Leaf]) -> dict[int | None, list[Node | Leaf]]:
    """Nodes by the time step in which they were made; leaves, and what lies outside of any step, under None."""
    columns: dict[int | None, list[Node | Leaf]] = {}
    for node in nodes:
        columns.setdefault(step_of(node.id) if isinstance(node, Node) else None, []).append(node)
    return columns


def draw(output: Taped, style: str = "text") -> str:
    """The graph behind a tensor, before backward: as "text", one line for each operation, or as "dot" for Graphviz.

    >>> from tinygrad_rnn import ones, tanh
    >>> w = ones(2, requires_grad=True)
    >>> print(draw((tanh(w) * w).sum()))  # doctest: +ELLIPSIS
    leaf#... f32[2]
    tanh#... f32[2] <- leaf#...
    multiply#... f32[2] <- tanh#..., leaf#...
    sum#... f32[] <- multiply#...
    """
    if style not in ("text", "dot"):
        raise ValueError(f"draw: the style is 'text' or 'dot', not {style!r}")
    columns = by_step(nodes_of(output))
    return _dot(columns) if style == "dot" else _text(columns)


def _parents(node: Node | Leaf) -> list[Node | Leaf]:
    return [] if isinstance(node, Leaf) else [parent for parent in node.parents if parent is not None]


def _text(columns: dict[int | None, list[Node | Leaf]]) -> str:
    lines = []
    for step, nodes in columns.items():
        if step is not None:
            lines.append(f"time step {step}")
        for node in nodes:
            source = ", ".join(map(repr, _parents(node)))
            indent = "  " if step is not None else ""
            lines.append(f"{indent}{node!r} {signature(node)}" + (f" <- {source}" if source else ""))
    return "\n".join(lines)


def _dot(columns: dict[int | None, list[Node | Leaf]]) -> str:
    lines = ["digraph {", "  rankdir=BT; node [shape=box, fontname=monospace];"]
    edges = []
    for step, nodes in columns.items():
        indent = "  "
        if step is not None:
            lines.append(f'  subgraph cluster_{step} {{ label="time step {step}"; color=gray;')
            indent = "    "
        for node in nodes:
            look = ", style=filled, fillcolor=lightgray" if isinstance(node, Leaf) else ""
            lines.append(f'{indent}n{node.id} [label="{node!r}\\n{signature(node)}"{look}];')
            edges += [f"  n{parent.id} -> n{node.id};" for parent in _parents(node)]
        if step is not None:
            lines.append("  }")
    return "\n".join([*lines, *edges, "}"])
