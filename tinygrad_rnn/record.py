"""Watching the engine at work: a watcher is told of every operation, forward and backward.

A watcher takes a few lines: a class with one or two methods, and ``watching`` around the code to observe.

>>> from tinygrad_rnn import Watcher, ones, sigmoid, tanh, tensor, watching

A recorder, of what was done and in which time step:

>>> class Recorder(Watcher):
...     def __init__(self):
...         self.seen = []
...     def forward(self, op, inputs, attributes, result):
...         self.seen.append((op.name, result.shape))
>>> with watching(Recorder()) as recorder:
...     y = (tanh(ones(2, requires_grad=True)) * 3).sum()
>>> recorder.seen
[('tanh', (2,)), ('multiply', (2,)), ('sum', ())]

A timer, of the time between one operation and the next:

>>> class Timer(Watcher):
...     def __init__(self):
...         self.seconds, self.last = {}, time.perf_counter()
...     def backward(self, rule, node, contribution):
...         now = time.perf_counter()
...         self.seconds[rule.op.name] = self.seconds.get(rule.op.name, 0) + now - self.last
...         self.last = now
>>> with watching(Timer()) as timer:
...     y.backward()
>>> list(timer.seconds)
['sum', 'multiply', 'tanh']

A trap, for gates that are shut or wide open:

>>> class Saturated(Watcher):
...     def forward(self, op, inputs, attributes, result):
...         if op.name == "sigmoid" and abs(result.array - 0.5).max() > 0.499:
...             raise FloatingPointError(f"a gate is saturated{whereabouts()}")
>>> with watching(Saturated()):
...     sigmoid(tensor([0.1, 9.0]))  # doctest: +ELLIPSIS
Traceback (most recent call last):
FloatingPointError: a gate is saturated, ...

``Profile`` and ``detect_anomaly`` are made in the same way. Without a watcher nothing of this costs anything.
"""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import islice
from typing import Any

from . import tape
from .op import Op
from .plan import BoundRule
from .tape import Leaf, Node, Taped
from .whereabouts import whereabouts


class Watcher:
    """The base of watchers: override one method, or both."""

    def forward(self, op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any], result: Taped) -> None:
        """Called after an operation on Tensors; the inputs are bare arrays and numbers."""

    def backward(self, rule: BoundRule, node: Node | Leaf, contribution: Any) -> None:
        """Called with the gradient for ``rule.input``; ``node`` is the operation, or after a merge the input's node."""


class Profile(Watcher):
    """Seconds and calls by operation; each is charged with the time since the previous report.

    >>> from tinygrad_rnn import tanh, tensor
    >>> with tape.watching(Profile()) as profile:
    ...     tanh(tensor([1.0], requires_grad=True)).backward()
    >>> [(name, calls) for name, (calls, seconds) in profile.rows.items()]
    [('tanh', 1), ('tanh backward', 1)]
    """

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
        self._last = time.perf_counter()

    def _enter(self, name: str) -> None:
        now = time.perf_counter()
        calls, seconds = self.rows[name]
        self.rows[name] = (calls + 1, seconds + now - self._last)
        self._last = now

    def forward(self, op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any], result: Taped) -> None:
        self._enter(op.name)

    def backward(self, rule: BoundRule, node: Node | Leaf, contribution: Any) -> None:
        self._enter(f"{rule.op.name} backward")

    def __str__(self) -> str:
        slowest = sorted(self.rows.items(), key=lambda row: -row[1][1])
        lines = [f"{name:<28}{calls:>8} calls{1000 * seconds:>12.3f} ms" for name, (calls, seconds) in slowest]
        return "\n".join(lines)


_LINES_KEPT = 1 << 18  # operations whose lines are remembered; older ones are forgotten


class Lines(Watcher):
    """Remembers where each operation was made, for ``line_of`` and for messages, while this watches.

    >>> from tinygrad_rnn import tanh, tensor
    >>> with tape.watching(Lines()) as lines:
    ...     y = tanh(tensor([1.0], requires_grad=True))
    >>> lines[y.node]  # doctest: +ELLIPSIS
    ', ....py:...'
    """

    def __init__(self) -> None:
        self._lines: dict[int, str] = {}  # by id of the node
        self._uses: dict[tuple[int, str], list[str]] = defaultdict(list)  # lines by id of an input's node, and op

    def forward(self, op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any], result: Taped) -> None:
        node = result.node
        if isinstance(node, Node):
            line = self._lines[node.id] = whereabouts()
            if len(self._lines) > _LINES_KEPT:
                self._lines = dict(islice(self._lines.items(), _LINES_KEPT // 2, None))
            for name, parent in zip(op.names(len(node.parents)), node.parents, strict=False):
                if parent is not None and name in op.merges:
                    self._uses[parent.id, op.name].append(line)

    def backward(self, rule: BoundRule, node: Node | Leaf, contribution: Any) -> None:
        self._uses.pop((node.id, rule.op.name), None)  # merged by now; the next window starts anew

    def __getitem__(self, node: Node | Leaf) -> str:
        """The time step and the line, as ``, time step 3, model.py:5``; "" for a node that was not seen."""
        return self._lines.get(node.id, "")

    def uses(self, node: Node | Leaf, op: Op) -> str:
        """Where an operation used a node's result: the only place, or the count with the first and the last one."""
        lines = self._uses.get((node.id, op.name), [])
        if len(lines) < 2:
            return "".join(lines)
        return f": {len(lines)} uses, the first{lines[0][1:]}, the last{lines[-1][1:]}"


def line_of(node: Node | Leaf) -> str:
    """Where a node was made, as ``, time step 3, model.py:5``, if ``Lines`` or ``detect_anomaly`` saw it; else ""."""
    return next((w[node] for w in tape.state.watchers if isinstance(w, Lines) and w[node]), "")
