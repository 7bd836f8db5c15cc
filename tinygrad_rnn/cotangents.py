"""The cotangents of nodes that the backward walk has not reached yet: sums, and uses that wait to be merged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from .backend import refuse_unreal
from .ops.shape import unbroadcast
from .plan import BoundRule
from .tape import Leaf, Node

# A pile is merged once its arrays hold 4 times as many elements as the target, and at least 2^16. By then the merge
# costs far more than adding its result to the sum, and memory stays bounded however many time steps there are.
_TIMES, _LEAST = 4, 2**16
_BORDER = 8  # at the border of a checkpointed segment, large weights merge at an eighth of that


class Pile(NamedTuple):
    """Uses of one array that wait for a rule's merge."""

    rule: BoundRule
    uses: list[tuple[Any, ...]]
    room: int  # how many uses may wait


class Cotangents:
    """The cotangents of nodes and leaves that the walk has not reached yet, by their ids."""

    __slots__ = ("_in_place", "_own", "_piles", "_sums", "_watchers", "combining")

    def __init__(self, watchers: tuple[Any, ...], in_place: bool) -> None:
        self.combining: BoundRule | None = None  # the rule that is merging now, for messages
        self._watchers = watchers
        self._in_place = in_place  # whether sums may be updated in place; not if the walk is recorded
        self._sums: dict[int, Any] = {}
        self._own: set[int] = set()  # ids of sums in arrays of our own, so they can be updated in place
        self._piles: dict[int, dict[Any, Pile]] = defaultdict(dict)  # by id, then by rule function, as plans may differ

    def add(self, target: Node | Leaf, contribution: Any) -> None:
        """Add a contribution to a target's sum, undoing any broadcast and cast."""
        id = target.id
        if contribution.shape != target.shape:
            contribution = unbroadcast(contribution, target.shape)
        if contribution.dtype is not target.dtype and contribution.dtype != target.dtype:
            refuse_unreal("gradient", contribution.dtype)
            contribution = contribution.astype(target.dtype)
        sums = self._sums
        if id not in sums:
            sums[id] = contribution
        elif id in self._own and type(sums[id]) is type(contribution):  # during capture, the sum may be a constant
            sums[id] += contribution
        else:
            sums[id] = sums[id] + contribution
            if self._in_place:
                self._own.add(id)

    def wait(self, target: Node | Leaf, rule: BoundRule, use: tuple[Any, ...]) -> None:
        """Set a use of a target aside for the merge."""
        piles = self._piles[target.id]
        pile = piles.get(rule.function)
        if pile is None:
            held = sum(getattr(value, "size", 0) for value in use)
            pile = piles[rule.function] = Pile(rule, [], max(_TIMES * prod(target.shape), _LEAST) // max(1, held))
        _, uses, room = pile
        uses.append(use)
        if len(uses) >= room:
            self._combine(target, pile)

    def take(self, target: Node | Leaf) -> Any:
        """Remove and return a target's sum, with all waiting uses merged in."""
        id = target.id
        if id in self._piles:
            for pile in self._piles.pop(id).values():
                self._combine(target, pile)
        return self._sums.pop(id)

    def owns(self, target: Node | Leaf) -> bool:
        """Whether a target's sum is an array that nothing else references."""
        return target.id in self._own

    def at_border(self, waiting: Mapping[int, Node | Leaf]) -> None:
        """Merge the piles of large weights to free memory before a checkpointed segment is recomputed."""
        for id, piles in self._piles.items():
            for pile in piles.values():
                if _BORDER * len(pile.uses) >= pile.room and prod(waiting[id].shape) > _LEAST:
                    self._combine(waiting[id], pile)

    def _combine(self, target: Node | Leaf, pile: Pile) -> None:
        rule, uses, _ = pile
        if not uses:
            return
        self.combining = rule
        contribution = rule.combine(uses)
        for watcher in self._watchers:
            watcher.backward(rule, target, contribution)
        self.add(target, contribution)
        if len(uses) > 1 and self._in_place:
            self._own.add(target.id)  # the merge of several uses allocates its result
        uses.clear()
        self.combining = None
