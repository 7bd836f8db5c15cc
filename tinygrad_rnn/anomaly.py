"""The watcher that stops at the first NaN or infinity, and what it says about it."""

from __future__ import annotations

import inspect
import math
import sys
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from operator import or_
from types import FrameType
from typing import Any

import numpy as np

from . import backend, tape
from .backend import Array, is_finite, signature
from .backward import walk
from .op import Op
from .ops.shape import broadcasts
from .plan import BoundRule
from .record import Lines
from .tape import Leaf, Node, Taped, bare_array
from .whereabouts import lines_outside, whereabouts


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise FloatingPointError at the first NaN or infinity, forward or backward, inside this block.

    An infinite number in the code, as in ``where(mask, scores, -inf)``, is no anomaly, nor is an array of 0 and -inf
    that masks scores, nor are results that stay infinite because of it. The message names the operation, its inputs'
    ranges, the time step and the source line; the position of the first such element and the inputs there; and the
    finite result of the same operation in the time step before. In the backward pass, step and line are those of the
    operation whose rule failed. Every result is checked, which on a device waits for each; outside the block, this
    costs nothing.

    >>> from tinygrad_rnn import log, tensor
    >>> import warnings
    >>> with warnings.catch_warnings(), detect_anomaly():
    ...     warnings.simplefilter("ignore")
    ...     log(tensor([1.0, 0.0]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FloatingPointError: log made f32[2] in [0, 0] with 1 not finite from x f32[2] in [0, 1], ...;
    first at [1], with 1 of the 2 in its row finite, where x = 0
    """
    with tape.watching(_Trap()):
        yield


_NUMBERS = (float, np.floating)


class _Trap(Lines):
    """Raises at the first value that is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self._now: int | None = None
        self._count: dict[str, int] = defaultdict(int)  # by op: how often it was called in this time step
        self._last: dict[tuple[Any, ...], tuple[int | None, Array]] = {}  # by use of an op: time step and result
        self._intended: list[weakref.ref[Any]] = []  # results with infinities that the code asked for

    def forward(self, op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any], result: Taped) -> None:
        super().forward(op, inputs, attributes, result)
        now = tape.present_step()
        if now != self._now:
            self._now = now
            self._count.clear()
        use = op.name, None if now is None else self._count[op.name], *lines_outside()
        self._count[op.name] += 1
        if not is_finite(result.array):
            if not self._is_intended([*inputs, *attributes.values()], result.array):
                values = [(name, x) for name, x in zip(op.names(len(inputs)), inputs, strict=False) if x is not None]
                came = "" if all(map(is_finite, inputs)) else " (it came in with an input)"
                raise FloatingPointError(
                    f"{op.name} made {_range(result.array)}{came} from {_ranges(values)}{whereabouts()}"
                    f"{_first(result.array, values)}{self._before(use, result.array)}{self._on_the_way_back()}"
                )
            self._intended.append(weakref.ref(result.array))
        self._last[use] = now, result.array

    def _is_intended(self, values: list[Any], made: Array) -> bool:
        """Whether an infinite number or a mask came in, and all infinities that were made stem from what came in."""
        self._intended = [ref for ref in self._intended if ref() is not None]
        xp = backend.of(made).xp
        if not any(map(self._is_excuse, values)) or bool(xp.isnan(made).any()):
            return False
        numbers = [x for x in values if isinstance(x, _NUMBERS) or backend.is_array(x)]
        if not all(broadcasts(getattr(x, "shape", ()), made.shape) for x in numbers):
            return True  # as in a maximum over an axis: there is no telling which infinity stems from which
        return not bool((xp.isinf(made) & ~reduce(or_, map(xp.isinf, numbers))).any())

    def _is_excuse(self, x: Any) -> bool:
        """Whether this is an infinite number, a mask of -inf, and 0 elsewhere, or what has been made from these."""
        if isinstance(x, _NUMBERS):
            return math.isinf(x)
        is_mask = backend.is_array(x) and bool(((x == 0) | (x == -math.inf)).all() and (x != 0).any())
        return is_mask or any(ref() is x for ref in self._intended)

    def _before(self, use: tuple[Any, ...], made: Array) -> str:
        """What the same use of the operation made the last time, when all was finite."""
        step, array = self._last.get(use, (None, None))
        if array is None or array.shape != made.shape:
            return ""
        return f"; before that it made {_range(array)}" + ("" if step is None else f" in time step {step}")

    def _on_the_way_back(self) -> str:
        """In a backward pass that is recorded: the operation whose rule is running."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code is inspect.unwrap(walk).__code__:
                node = frame.f_locals["node"]
                return f"; on the way back through {node!r}{self[node]}"
            frame = frame.f_back
        return ""

    def backward(self, rule: BoundRule, node: Node | Leaf, contribution: Any) -> None:
        array = bare_array(contribution)
        if is_finite(array):
            super().backward(rule, node, contribution)
            return
        made = f"backward: the rule of {rule.op.name} for {rule.input!r} made {_range(array)}"
        if rule.merge is not None:  # of uses in several places
            raise FloatingPointError(f"{made}, on the way to {node!r}{self.uses(node, rule.op)}{_first(array, [])}")
        assert isinstance(node, Node)
        g = bare_array(node[0])  # a retained graph does not store it
        came = "" if is_finite(g) else " (it came in with the gradient g)"
        values = [(name, x) for name, x in [("g", g), *node.saved.items()] if hasattr(x, "dtype")]
        source = f" from {_ranges(values)}" if values else ""
        raise FloatingPointError(f"{made}{came}{source}, at {node!r}{self[node]}{_first(array, values)}")


def _ranges(values: list[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} {_range(x)}" for name, x in values)


def _range(x: Array) -> str:
    """An array's signature, its smallest and largest finite numbers, and how many are not finite."""
    if not hasattr(x, "dtype"):
        return repr(x)
    xp = backend.of(x).xp
    finite = xp.isfinite(x)
    count = int(x.size - finite.sum())
    inside = x[finite]
    numbers = f" in [{float(inside.min()):.3g}, {float(inside.max()):.3g}]" if inside.size else ""
    return f"{signature(x)}{numbers}" + (f" with {count} not finite" if count else "")


def _first(made: Array, values: list[tuple[str, Any]]) -> str:
    """The position of the first value that is not finite, and the values there of inputs that broadcast to it."""
    if not made.ndim:
        return ""
    xp = backend.of(made).xp
    finite = xp.isfinite(made)
    at = tuple([int(i) for i in np.unravel_index(int(finite.argmin()), made.shape)])
    there = [
        f"{name} = {float(xp.broadcast_to(x, made.shape)[at]):.6g}"
        for name, x in values
        if hasattr(x, "shape") and broadcasts(x.shape, made.shape)
    ]
    row = finite[at[:-1]]
    told = f"; first at {list(at)}, with {int(row.sum())} of the {row.size} in its row finite"
    return told + (f", where {', '.join(there)}" if there else "")
