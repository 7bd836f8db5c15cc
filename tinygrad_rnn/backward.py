"""The backward walk: cotangents travel from outputs to leaves, newest node first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any

from . import backend, writes
from .cotangents import Cotangents
from .grad_mode import enable_grad
from .out_of_memory import OutOfMemoryError, explained
from .plan import BoundRule
from .tape import CaptureError, GraphError, Leaf, Node, Taped, collector_resting, state


@collector_resting()
def walk(
    roots: Sequence[tuple[Node | Leaf, Any]],
    *,
    targets: frozenset[Node | Leaf] | None = None,
    horizon: int = 0,
    retain: bool = False,
    wrap: Callable[..., Any] | None = None,
) -> dict[Node | Leaf, Any]:
    """Propagate the roots' cotangents backward; return the gradients of the leaves, or of the targets if given.

    Nodes older than the horizon are not entered; leaves are never too old. Without ``retain``, each visited node drops
    its saved values. With ``wrap`` (Tensor.wrap), cotangents are Tensors and the walk itself is recorded.

    A heap yields the nodes by descending id. A node is newer than its inputs, so all its cotangents have arrived before
    it is visited.
    """
    if wrap is not None and not state.enabled:
        with enable_grad():
            return walk(roots, targets=targets, horizon=horizon, retain=retain, wrap=wrap)
    wanted = {target.id: target for target in targets or ()}
    if targets is not None:
        horizon = max(horizon, min(wanted))  # nothing older leads to a target
    arrived: dict[Node | Leaf, Any] = {}
    waiting: dict[int, Any] = {root.id: root for root, _ in roots}
    heap = sorted(-id for id in waiting)  # newest first
    watchers, last_write, written_since = state.watchers, writes.last_write, writes.overwritten()
    cotangents = Cotangents(watchers, in_place=wrap is None)
    add, wait, take = cotangents.add, cotangents.wait, cotangents.take
    for root, cotangent in roots:
        add(root, cotangent)
    home = backend.of(roots[0][1] if roots else None)
    together = home.contributions if home.cuda and wrap is None else None
    rule: BoundRule | None = None
    barren: set[int] = set()
    try:
        while heap:
            id = -heappop(heap)
            node, rule = waiting.pop(id), None
            g = take(node)
            plan = node.plan
            if plan is None or id in wanted:
                arrived[wanted.get(id, node)] = g if cotangents.owns(node) else _copied(g)
                if plan is None or id <= horizon or not _leads_to(wanted, node, horizon, barren):
                    continue
            while not node:
                cotangents.at_border(waiting)
                node = _made_again(node, waiting, retain, [root for root, _ in roots])
            if id < last_write:
                _refuse_overwritten(node, written_since)
            arguments = plan.revive(node, wrap) if wrap is not None else list(node) if retain else node
            arguments[0] = g
            ready = together(plan, arguments) if together else None
            for place, rule in plan.rules if not plan.variadic else plan.every(node):
                parent = node[place]
                parent_id = parent.id
                if parent.plan is None:
                    if targets is not None and parent_id not in wanted:
                        continue
                elif parent_id < horizon:
                    continue
                if parent_id not in waiting:
                    waiting[parent_id] = parent
                    heappush(heap, -parent_id)
                if plan.variadic:
                    arguments[1] = place - plan.base
                if rule.merge is not None:
                    wait(parent, rule, rule.pick(arguments))
                    continue
                contribution = ready[place] if ready else rule.function(*rule.pick(arguments))
                for watcher in watchers:
                    watcher.backward(rule, node, contribution)
                add(parent, contribution)
            if not retain:
                node.clear()
    except (GraphError, CaptureError, FloatingPointError, OutOfMemoryError):
        raise
    except MemoryError as error:
        raise explained(error, "backward", getattr(g, "array", g), f" on the way back through {node!r}") from error
    except Exception as error:
        failed, kind = cotangents.combining or rule, "merge" if cotangents.combining else "rule"
        whose = f"the {kind} of {failed.op.name} for its input {failed.input!r} failed: " if failed else ""
        raise GraphError(f"backward: {whose}{error} (on the way back through {node!r})") from error
    return arrived


def _leads_to(targets: dict[int, Any], node: Node, horizon: int, barren: set[int]) -> bool:
    """Whether a target lies behind a node. barren: the ids of nodes behind which there is none, which grows."""
    ahead, seen = [(-node.id, node)], set[int]()  # newest first: if targets are states of a recurrence, one is near
    while ahead:
        _, node = heappop(ahead)
        if not node:  # freed or hollow: it may
            return True
        for parent in node.parents:
            if parent is None or parent.id in seen or parent.id in barren:
                continue
            if parent.id in targets:
                return True
            if isinstance(parent, Node) and parent.id >= horizon:
                seen.add(parent.id)
                heappush(ahead, (-parent.id, parent))
    barren |= seen
    return False


def _made_again(hollow: Any, waiting: dict[int, Any], retain: bool, roots: Sequence[Node | Leaf]) -> Any:
    """Recompute the node behind a hollow one; nodes recomputed with it replace other hollow ones that wait."""
    if not hasattr(hollow, "again"):
        raise GraphError(_freed(hollow, any(hollow is root for root in roots)))
    made = hollow.again()
    outdated = [hollow, *(waiting[id] for id in made if id in waiting and not waiting[id])]
    for node in outdated:
        waiting[node.id] = made[node.id]
        if not retain:
            del node.again
    return waiting.pop(hollow.id)


def _freed(node: Node, is_root: bool) -> str:
    told = f"backward: the graph behind {node.origin} was freed by an earlier backward. "
    if not is_root:
        told += (
            "A tensor that was made there was used again. If it is a state that was carried into the next window, "
            "cut it at the window's end, state = bptt.detach(state) (or x.detach()). "
        )
    return told + "To go through one graph twice, call the first backward with retain_graph=True"


def _refuse_overwritten(node: Node, written_since: Callable[[Any, int], bool]) -> None:
    """Raise if an array that this node saved has since been changed in place."""
    for name, array in node.arrays():
        if written_since(array, node.id):
            raise GraphError(
                f"backward: {node.origin} saved {name!r}, an array of shape {list(array.shape)} that was changed in "
                "place since. Change it after backward, or assign a new array, x.data = x.data - step, which leaves "
                "older graphs as they were"
            )


def _copied(g: Any) -> Any:
    """A copy of a gradient: it is returned and added to in place, so it must share no memory."""
    return type(g).wrap(g.array.copy(), g.node) if isinstance(g, Taped) else g.copy()
