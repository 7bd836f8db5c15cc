"""Watching the engine at work: every operation, forward and backward, can be told to a watcher.

with tape.watching(Profile()) as profile:
    loss = step(x)
    loss.backward()
print(profile)
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import backend, tape
from .backend import Array, signature
from .op import Op, Step, whereabouts
from .tape import Leaf, Node, Taped


class Watcher:
    """The base of watchers: override one method, or both."""

    def forward(self, op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any], result: Taped) -> None:
        """An operation on Tensors was done; the inputs are bare arrays and numbers."""

    def backward(self, step: Step, node: Node | Leaf, contribution: Any) -> None:
        """A rule gave the gradient of ``step.input``: ``node`` is the operation, or, after a merge, what it is for."""


class Profile(Watcher):
    """Seconds and calls by operation: the time since the engine was last heard of goes to what it now reports.

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

    def backward(self, step: Step, node: Node | Leaf, contribution: Any) -> None:
        self._enter(f"{step.op.name} backward")

    def __str__(self) -> str:
        slowest = sorted(self.rows.items(), key=lambda row: -row[1][1])
        lines = [f"{name:<28}{calls:>8} calls{1000 * seconds:>12.3f} ms" for name, (calls, seconds) in slowest]
        return "\n".join(lines)


class _Trap(Watcher):
    """Raises at the first value that is not finite."""

    def __init__(self) -> None:
        self.lines: dict[int, str] = {}  # by id of the node: where it was made

    def forward(self, op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any], result: Taped) -> None:
        where = whereabouts()
        if result.node is not None:
            self.lines[result.node.id] = where
        if not _finite(result.array):
            names = op.inputs if not op.variadic else [f"{op.inputs[0]}[{k}]" for k in range(len(inputs))]
            ranges = ", ".join(f"{name} {_range(x)}" for name, x in zip(names, inputs, strict=False) if x is not None)
            born = "" if all(map(_finite, inputs)) else " (it came in with an input)"
            raise FloatingPointError(f"{op.name} made {_range(result.array)}{born} from {ranges}{where}")

    def backward(self, step: Step, node: Node | Leaf, contribution: Any) -> None:
        array = contribution.array if isinstance(contribution, Taped) else contribution
        if _finite(array):
            return
        where = self.lines.get(node.id, "")
        saved = ""
        if isinstance(node, Node):
            values = [(name, value) for name, value in node.saved.items() if hasattr(value, "dtype")]
            saved = " from " + ", ".join(f"{name} {_range(value)}" for name, value in values) if values else ""
        raise FloatingPointError(
            f"backward: the rule of {step.op.name} for {step.input!r} made {_range(array)}{saved}, at {node!r}{where}"
        )


def _finite(x: Any) -> bool:
    kind = getattr(getattr(x, "dtype", None), "kind", "")
    return kind != "f" or bool(backend.of(x).xp.isfinite(x).all())


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


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise FloatingPointError where the first NaN or infinity is born, forward or backward, inside this block.

    The message names the operation, its inputs' ranges, the time step and the source line. It looks at every result,
    which on a device waits for each; outside of the block it costs nothing.

    >>> from tinygrad_rnn import log, tensor
    >>> import warnings
    >>> with warnings.catch_warnings(), detect_anomaly():
    ...     warnings.simplefilter("ignore")
    ...     log(tensor([1.0, 0.0]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FloatingPointError: log made f32[2] in [0, 0] with 1 not finite from x f32[2] in [0, 1]...
    """
    with tape.watching(_Trap()):
        yield
