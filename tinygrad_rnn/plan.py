"""What an operation saves on the tape, and how its rules find it there again.

A call of an operation makes a node after the ``Plan`` for those of its inputs that need a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import Array
from .dispatch import parameters_of
from .tape import Leaf, Node
from .writes import own

if TYPE_CHECKING:
    from .op import Op

Rule = Callable[..., Any]


class BoundRule:
    """How one input gets its gradient: the rule, the merge if any, and where their arguments are in a node."""

    __slots__ = ("function", "input", "merge", "op", "parameters", "pick")

    def __init__(self, op: Op, name: str, names: list[str]) -> None:
        self.op = op
        self.input = name
        self.function: Rule = op.rules[name]  # type: ignore[assignment]
        self.merge = op.merges.get(name)
        self.parameters = parameters_of(self.function), parameters_of(self.merge)
        self.pick = _picker([names.index(parameter) for parameter in self.parameters[0]])

    def combine(self, uses: list[tuple[Any, ...]]) -> Any:
        """The summed gradient of several uses of one array; the merge gets a tuple over the uses for each parameter."""
        if len(uses) == 1:
            return self.function(*uses[0])
        assert self.merge is not None
        in_time = zip(*reversed(uses), strict=True)  # the walk met the latest use first
        of_rule, of_merge = self.parameters
        columns = dict(zip(of_rule, in_time, strict=True))
        return self.merge(**{parameter: columns[parameter] for parameter in of_merge})


def _picker(positions: list[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """A fast function from a sequence to a tuple of its items at these positions."""
    if len(positions) > 1:
        return itemgetter(*positions)
    start = positions[0] if positions else 0
    return itemgetter(slice(start, start + len(positions)))  # itemgetter(0) would give the item itself


def _own(x: Any) -> Any:
    return own(np.asarray(x) if isinstance(x, (list, tuple)) else x)


class Plan:
    """What an op saves, and which rules run, if a given set of its inputs needs gradients.

    ``pick`` fills a node from all that a call knows: two blanks for g and k, then the values that the rules name, then
    the parents. So a rule finds its arguments in the node itself once the backward walk has set g.
    """

    def __init__(self, op: Op, needed: list[str]) -> None:
        self.op = op
        for name in needed:
            if name not in op.rules:
                raise TypeError(
                    f"{op.name}: its input {name!r} needs a gradient, but has no rule. Write one, "
                    f"{op.name}.vjp({name}=lambda g, ...: ...), or say that there is none to have, "
                    f"{op.name}.vjp({name}=None)"
                )
        active = [name for name in needed if op.rules[name] is not None]
        named = {"g", "k"}.union(*(parameters_of(op.rules[name]) for name in active))
        layout = [name for name in op.known if name in named]
        self.names = layout[2:]
        self.pick = _picker([op.known.index(name) for name in [*layout, *op.parents]])
        self.base = len(layout)  # where the parents begin
        self.rules = tuple((self.base + op.inputs.index(name), BoundRule(op, name, layout)) for name in active)
        self.variadic = op.variadic
        saved = [name in named for name in op.inputs]
        self.saves = -1 if op.variadic and any(saved) else sum(1 << i for i, name in enumerate(saved) if name)  # bits

    def own(self, bare: int, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs of a call, with bare arrays copied if the rules will read them, and lists as arrays."""
        return tuple([_own(x) if bare & self.saves & 1 << i else x for i, x in enumerate(arrays)])

    def every(self, node: Node) -> list[tuple[int, BoundRule]]:
        """For an op of ``*xs``: the place of each input that needs a gradient, with the rule that they share."""
        ((_, rule),) = self.rules
        return [(i, rule) for i in range(self.base, len(node)) if node[i] is not None]

    def contributions(self, content: Sequence[Any]) -> list[Any]:
        """Each rule's gradient, as one call on g and the saved values of a node: a device may make one kernel of it."""
        if self.variadic or any(rule.merge for _, rule in self.rules):
            raise TypeError(f"{self.op.name}: these rules are not for one use of each input alone")
        node = [content[0], 0, *content[1:]]
        return [rule.function(*rule.pick(node)) for _, rule in self.rules]

    def revive(self, node: Node, wrap: Callable[..., Any]) -> list[Any]:
        """A copy of a node with Tensors, history included, in place of arrays, for gradients of gradients."""

        def tensor(array: Array, source: Node | Leaf | None) -> Any:
            return array if source is None else wrap(array, source)

        revived = list(node)
        for i, name in enumerate(self.names, start=2):
            if name in self.op.inputs:
                if self.variadic:
                    revived[i] = tuple(map(tensor, node[i], node[self.base :]))
                else:
                    revived[i] = tensor(node[i], node[self.base + self.op.inputs.index(name)])
            elif name == "y":
                revived[i] = tensor(node[i], node)
        return revived
