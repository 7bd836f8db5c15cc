"""Checks of a loss and of the states that lead to it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from .. import writes
from ..backend import is_finite
from ..graph import Stretch, edges_of, reachable, stretches
from ..nn.sequences import beside
from ..nn.states import outlives_reset
from ..tape import Leaf, Node, bare_array
from ..tree import tree_items
from .finding import Case, Finding, where_made


def history(case: Case) -> Iterator[Finding]:
    if case.loss.node is None:
        yield Finding(
            "the loss has no history",
            repr(case.loss),
            "no input of it requires a gradient, or it was made in no_grad, or detached, or rebuilt from numbers",
            "compute it from tensors that require gradients, without detach, item or numpy on the way",
        )
    elif case.loss.size != 1:
        yield Finding(
            "the loss is not a scalar",
            repr(case.loss),
            "backward needs one number to start from",
            "take its mean() or sum()",
        )
    if not is_finite(case.loss.array):
        yield Finding(
            "the loss is not finite",
            repr(case.loss),
            "it holds NaN or infinity, and so will all gradients",
            "run forward within tg.detect_anomaly(), which stops where the first one is born",
        )


def freed(case: Case) -> Iterator[Finding]:
    gone = [node for node in case.nodes if isinstance(node, Node) and not node and not hasattr(node, "again")]
    if gone:
        yield Finding(
            "the loss leads into a graph that an earlier backward has freed",
            where_made(gone[-1]),
            "a tensor of an older window was used again, most likely its state; backward will raise",
            "state = bptt.detach(state) at the end of each window",
        )


def overwritten(case: Case) -> Iterator[Finding]:
    """The first array that was changed in place after an operation saved it."""
    written_since = writes.overwritten()
    for node in case.operations:
        for name, array in node.arrays() if node.id < writes.last_write else ():
            if written_since(array, node.id):
                yield Finding(
                    "an array was changed in place after it was used",
                    f"{name} of {where_made(node)}",
                    "the rule would mix old and new values; backward will raise",
                    "change parameters after backward, or by p.data = p.data - step",
                )
                return


def older_window(case: Case) -> Iterator[Finding]:
    """Loops over time that lead only into the first steps of later loops with the same parameters."""
    windows = _windows([loop for loop in stretches(case.nodes) if loop.steps])
    for older, newer in pairwise(windows):
        entrances = _entrances(case, older, newer)
        if entrances:
            steps = list(older[-1].steps)
            yield Finding(
                "a state still holds an older window",
                f"time steps {steps[0]} to {steps[-1]}, the last of which ends with {where_made(older[-1].nodes[-1])}; "
                f"carried into {where_made(entrances[0])}",
                "backward will go through both windows, and with each further one takes longer and needs more memory",
                "state = bptt.detach(state) between the windows; if both are meant, there is nothing to mend",
            )


def _windows(loops: list[Stretch]) -> list[list[Stretch]]:
    """Loops by window: a loop goes into the window after the last one that used its parameters, so layers share one."""
    windows: list[list[Stretch]] = []
    used: list[set[Leaf]] = []
    for loop in loops:
        leaves = _leaves(loop)
        k = next((k for k in reversed(range(len(windows))) if leaves & used[k]), -1) + 1
        if k == len(windows):
            windows.append([])
            used.append(set())
        windows[k].append(loop)
        used[k] |= leaves
    return windows


def _entrances(case: Case, older: list[Stretch], newer: list[Stretch]) -> list[Node]:
    """Where an older window leads into a newer one, if it leads only into first steps and nowhere else."""
    assert case.loss.node is not None
    inside = frozenset(node for loop in newer for node in loop.nodes)
    touched: set[Node | Leaf] = {node for loop in older for node in loop.nodes}
    if not touched.isdisjoint(reachable([case.loss.node], without=inside)):
        return []

    def entered(node: Node | Leaf) -> bool:
        return any(edge.parent in touched for edge in edges_of(node))

    for node in case.nodes:
        if node not in inside and entered(node):
            touched.add(node)
    found = [node for loop in newer for node in loop.nodes if entered(node)]
    first = {node for loop in newer for node in next(iter(loop.steps.values()))}
    return found if first.issuperset(found) else []


def _leaves(loop: Stretch) -> set[Leaf]:
    return {edge.parent for node in loop.nodes for edge in edges_of(node) if isinstance(edge.parent, Leaf)}


def not_reset(case: Case) -> Iterator[Finding]:
    if case.starts is None:
        return
    begins = dict(tree_items(case.initial))
    for path, leaf in tree_items(case.state):
        if outlives_reset(leaf, case.initial):
            continue
        array = bare_array(leaf)
        begin = bare_array(begins.get(path, 0))
        rows = bare_array(beside(case.starts, leaf))
        if rows.shape != array.shape[-2:-1]:
            raise ValueError(f"lint: starts of shape {rows.shape} do not fit a state of shape {array.shape}")
        stale = (array != begin) & rows[:, None]
        found = stale.any(axis=tuple(k for k in range(array.ndim) if k != array.ndim - 2))
        if found.any():
            listed = [k for k, one in enumerate(found.tolist()) if one]
            yield Finding(
                f"rows {listed} begin a new sequence with the state of an old one",
                f"the leaf {path!r} of the state" if path else "the state",
                "they should begin with " + ("0" if case.initial is None else "the initial state"),
                "state = nn.reset(state, starts, initial) before the window",
            )
