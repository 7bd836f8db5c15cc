"""What arrives at a node before the walk back comes there: sums of gradients, and uses that wait to be combined."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from .op import BoundRule
from .ops.shape import unbroadcast
from .tape import Leaf, Node

# Uses wait until they hold 4 times the elements of their sum, and 2^16 at least: then to combine them costs far more
# than to add the result to a sum, and what waits for a weight does not grow with the number of time steps.
_TIMES, _LEAST = 4, 2**16
_BORDER = 8  # of a large weight, an eighth of that is enough where a segment of checkpointing ends


class Pile(NamedTuple):
    """Uses of one array that wait to be combined by the merge of a rule."""

    rule: BoundRule
    uses: list[tuple[Any, ...]]
    room: int  # how many may wait


class Cotangents:
    """The cotangents of nodes and leaves that the walk has not reached yet, by their ids."""

    __slots__ = ("_in_place", "_own", "_piles", "_sums", "_watchers", "combining")

    def __init__(self, watchers: tuple[Any, ...], in_place: bool) -> None:
        self.combining: BoundRule | None = None  # whose merge is at work, for messages
        self._watchers = watchers
        self._in_place = in_place  # whether sums may be, which they may not if the walk is recorded
        self._sums: dict[int, Any] = {}
        self._own: set[int] = set()  # ids whose sum is an array of our own, which may be added to in place
        self._piles: dict[int, dict[object, Pile]] = {}  # by id, and by what tells merges apart

    def add(self, target: Node | Leaf, contribution: Any) -> None:
        """Add a contribution, which may have been broadcast, to what has arrived at a target."""
        id = target.id
        if contribution.shape != target.shape:
            contribution = unbroadcast(contribution, target.shape)
        if contribution.dtype is not target.dtype and contribution.dtype != target.dtype:
            contribution = contribution.astype(target.dtype)
        sums = self._sums
        if id not in sums:
            sums[id] = contribution
        elif id in self._own:
            sums[id] += contribution
        else:
            sums[id] = sums[id] + contribution
            if self._in_place:
                self._own.add(id)

    def wait(self, target: Node | Leaf, rule: BoundRule, use: tuple[Any, ...]) -> None:
        """Put a use of a target aside, to be combined with others."""
        piles = self._piles.get(target.id)
        if piles is None:
            piles = self._piles[target.id] = {}
        pile = piles.get(rule.key)
        if pile is None:
            held = sum(getattr(value, "size", 0) for value in use)
            pile = piles[rule.key] = Pile(rule, [], max(_TIMES * prod(target.shape), _LEAST) // max(1, held))
        _, uses, room = pile
        uses.append(use)
        if len(uses) >= room:
            self._combine(target, pile)

    def take(self, target: Node | Leaf) -> Any:
        """All that has arrived at a target."""
        id = target.id
        if id in self._piles:
            for pile in self._piles.pop(id).values():
                self._combine(target, pile)
        return self._sums.pop(id)

    def owns(self, target: Node | Leaf) -> bool:
        """Whether the sum for a target is an array that nothing else knows of."""
        return target.id in self._own

    def at_border(self, waiting: Mapping[int, Node | Leaf]) -> None:
        """Combine what waits for large arrays, where the arrays of a segment are about to be made again."""
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
            self._own.add(target.id)  # a sum of several uses is an array of its own
        uses.clear()
        self.combining = None
