"""A sketch as text, and in Graphviz's dot language."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .sketch import Item, Sketch


def text(sketch: Sketch, backward: bool) -> str:
    """One line for each box, with its inputs; with ``backward``, also where each sends a gradient, newest first."""
    entering: dict[Item, list[str]] = defaultdict(list)
    sent: dict[Item, list[str]] = defaultdict(list)
    for link in sketch.links:
        told = link.parent.label + ("" if link.norm is None else f" |g| {link.norm:.3g}")
        entering[link.child].append(told + " (cut)" * (not link.followed))
        sent[link.child] += [told] * link.followed
    lines = [f"{item.label} {item.detail}" for item in sketch.leaves]
    for title, items in _titled(sketch):
        lines += [title] if title else []
        for item in items:
            source = ", ".join([*entering[item], *(f"constant {name}" for name in item.constants)])
            label = f"  {item.label}" if title else item.label
            lines.append(label + f" {item.detail}" * (item.kind != "fold") + f" <- {source}" * bool(source))
    if backward:
        sending = [item for item in reversed(sketch.items) if sent[item]]
        lines += ["backward", *(f"  {item.label} => {', '.join(sent[item])}" for item in sending)]
    return "\n".join(lines)


def _titled(sketch: Sketch) -> list[tuple[str, Sequence[Item]]]:
    """The boxes of each time step with a title, and those outside of any with an empty one."""
    cells = [cell for band in sketch.bands for cell in (band.columns.items() or [(-1, band.items)])]
    return [("..." if t in sketch.hidden else f"time step {t}" if t >= 0 else "", items) for t, items in cells]


def dot(sketch: Sketch, backward: bool) -> str:
    """A digraph with one cluster for each time step of each loop."""
    lines = ["digraph {", "  rankdir=TB; node [shape=box, fontname=monospace];"]
    lines += [f'  {_node(item)}, style=filled, fillcolor="#fff3c4"];' for item in sketch.leaves]
    for k, (title, items) in enumerate(_titled(sketch)):
        boxes = [f"  {_node(item)}];" for item in items]
        if title:
            boxes = [f'  subgraph cluster_{k} {{ label="{title}"; color=gray;', *(f"  {box}" for box in boxes), "  }"]
        lines += boxes
    for link in sketch.links:
        looks = [] if link.followed else ["style=dashed"]
        if link.norm is not None:
            looks.append(f'tooltip="norm of the gradient {link.norm:.3g}"')
        parent, child, shown = _name(link.parent), _name(link.child), f" [{', '.join(looks)}]" if looks else ""
        lines.append(f"  {parent} -> {child}{shown};")
        if backward and link.followed:
            lines.append(f'  {child} -> {parent} [color="#d1345b", constraint=false];')
    return "\n".join([*lines, "}"])


def _name(item: Item) -> str:
    return f"n{item.id}" if item.id >= 0 else f"fold{-item.id}"


def _node(item: Item) -> str:
    label = f"{item.label}\n{item.detail}".replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{_name(item)} [label="{label}"'
