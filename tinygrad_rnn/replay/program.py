"""A recorded step: values, and the lines that compute them, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from math import prod
from typing import Any

import numpy as np

from ..backend import Array, is_array, signature
from ..op import Op, op_of
from ..tape import at_step
from ..tree import mapped
from .scalar import Scalar

TRIED = "tried"  # the name of random draws that a replay makes only if something reads them


class Value:
    """One array of a program. A port is filled before each replay; a constant stays as it was recorded."""

    __slots__ = ("constant", "dtype", "line", "name", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: Any, name: str = "", constant: Array | None = None) -> None:
        self.shape = shape
        self.dtype = dtype
        self.name = name
        self.constant = constant
        self.line: Line | None = None  # the line that computes it; None for ports and constants

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in an array of its own."""
        return int(self.size * self.dtype.itemsize)

    def __repr__(self) -> str:
        return self.name or "value"


class Line:
    """``result = function(*inputs, **attributes)``: a kernel of an operation, or one function of the array module.

    kind: "op" for a kernel, which takes ``xp`` first; "ufunc" and "dot" for functions that take ``out`` last; "random"
    for draws, never shared, and dropped only if TRIED; "fused" for a generated kernel, with ``more`` results.
    """

    __slots__ = (
        *("attributes", "function", "inputs", "kind", "more", "name"),
        *("phase", "reads", "result", "rerun", "step", "where"),
    )

    def __init__(
        self,
        kind: str,
        name: str,
        function: Callable[..., Any],
        inputs: tuple[Any, ...],
        attributes: dict[str, Any],
        result: Value,
        like: Line | None = None,
        more: tuple[Value, ...] = (),
    ) -> None:
        self.kind = kind
        self.name = name
        self.function = function
        self.attributes = attributes
        self.result = result
        self.more = more
        self.step: int | None = like.step if like else None  # the time step
        self.phase: str = like.phase if like else "forward"
        self.rerun: int = like.rerun if like else 0  # a number for each segment of bptt.checkpointed, and each rerun
        self.where: str = like.where if like else ""
        result.line = self
        for value in more:
            value.line = self
        self.read(inputs)

    def again(
        self,
        inputs: tuple[Any, ...],
        result: Value,
        attributes: dict[str, Any] | None = None,
        like: Line | None = None,
        more: tuple[Value, ...] = (),
    ) -> Line:
        """A line that applies the same function to other inputs."""
        attributes = self.attributes if attributes is None else attributes
        return Line(self.kind, self.name, self.function, inputs, attributes, result, like or self, more)

    def become(self, other: Line) -> None:
        """Take over another line's function and inputs, but keep this line's result. The other line is dead."""
        self.kind, self.name, self.function, self.attributes = other.kind, other.name, other.function, other.attributes
        self.read(other.inputs)
        other.let_go()

    @property
    def results(self) -> tuple[Value, ...]:
        """All values that it computes."""
        return self.result, *self.more

    @property
    def elementwise(self) -> bool:
        """Whether it computes element by element, and so can write to an array of any strides."""
        return self.kind in ("ufunc", "fused")

    @property
    def operation(self) -> Op | None:
        """The operation whose kernel it calls."""
        return op_of(self.function)

    @property
    def writes_out(self) -> bool:
        """Whether its kernel takes ``out``."""
        return (op := self.operation) is not None and op.writes_out

    @property
    def needs_host(self) -> bool:
        """Whether it draws random numbers or makes the host wait: a CUDA graph can do neither."""
        return self.kind == "random" or ((op := self.operation) is not None and op.waits)

    @property
    def over(self) -> tuple[Any, ...]:
        """The inputs that its result may overwrite in place."""
        if self.elementwise:
            return self.inputs
        return self.inputs[:1] if (op := self.operation) is not None and op.overwrites else ()

    @property
    def flops(self) -> int:
        """Floating-point operations; a product takes two for each pair of numbers."""
        if self.kind == "dot":
            return 2 * self.result.size * prod(self.inputs[0].shape[-1:])
        return self.result.size if self.kind == "ufunc" else 0

    @property
    def nbytes(self) -> int:
        """Bytes read and written."""
        return sum(value.nbytes for value in (*self.reads, *self.results))

    def read(self, inputs: tuple[Any, ...]) -> None:
        """Set its inputs."""
        self.inputs = inputs
        self.reads: list[Value] = []  # all values, those inside keys included
        _gather((*inputs, *self.attributes.values()), self.reads)

    def let_go(self) -> None:
        """Break the reference cycle between a dead line and its results, so that no collector has to."""
        for value in self.results:
            value.line = None

    def replace(self, new: dict[Value, Value]) -> None:
        """Replace some of the values that it reads."""
        if not new.keys().isdisjoint(self.reads):
            self.attributes = substitute(self.attributes, new)
            self.read(substitute(self.inputs, new))

    def __str__(self) -> str:
        arguments = [*map(_argument, self.inputs), *(f"{k}={_argument(v)}" for k, v in self.attributes.items())]
        return f"{', '.join(value.name for value in self.results)} = {self.name}({', '.join(arguments)})"


def _gather(tree: Iterable[Any], found: list[Value]) -> None:
    """Append all values in a nested container to ``found``."""
    for x in tree:
        if type(x) is Value:
            found.append(x)
        elif isinstance(x, (tuple, list)):
            _gather(x, found)
        elif isinstance(x, dict):
            _gather(x.values(), found)


def substitute(tree: Any, new: dict[Value, Value]) -> Any:
    """A tree with some of its values replaced."""
    return mapped(lambda x: new.get(x, x) if type(x) is Value else x, tree)


_PLAIN = {Value, int, str, type(None)}  # what most arguments are


def key_of(tree: Any) -> Any:
    """A hashable key, equal for arguments of lines that are the same. 0.0 and -0.0 have different keys.

    Numbers that may change have different keys too, even if they are equal while recording.
    """
    kind = type(tree)  # not isinstance, which takes a Scalar for a float
    if kind in _PLAIN:
        return kind, tree
    if isinstance(tree, (tuple, list)):
        return kind, *map(key_of, tree)
    if isinstance(tree, dict):
        return dict, *map(key_of, tree.items())
    if isinstance(tree, slice):
        return slice, tree.start, tree.stop, tree.step
    if issubclass(kind, (float, np.floating)):
        return kind, repr(tree)
    return kind, tree if isinstance(tree, Hashable) and kind is not Scalar else id(tree)  # arrays, Scalars: by id


def runs(items: Iterable[Any], follows: Callable[[list[Any], Any], bool]) -> list[list[Any]]:
    """Items in runs; one that does not follow the run before it begins the next."""
    found: list[list[Any]] = []
    for item in items:
        if found and follows(found[-1], item):
            found[-1].append(item)
        else:
            found.append([item])
    return found


def _argument(x: Any) -> str:
    """An argument as Python code."""
    if isinstance(x, Value):
        return x.name
    if isinstance(x, (tuple, list)):
        return "(" + ", ".join(map(_argument, x)) + ("," if len(x) == 1 else "") + ")"
    if isinstance(x, slice):
        parts = (x.start, x.stop) if x.step is None else (x.start, x.stop, x.step)
        return f"slice({', '.join(map(_argument, parts))})"
    if is_array(x):
        return signature(x) if x.ndim else f"np.{x.dtype.name}({x.item()!r})"
    if isinstance(x, Scalar):
        return f"Scalar({x.number})"
    return f"np.{x.__name__}" if isinstance(x, type) else repr(x)


class Program:
    """Lines in the order in which they run, and an end, which reads the values that must exist afterwards."""

    def __init__(self, lines: list[Line], results: list[Value]) -> None:
        self.lines = lines
        self.end = Line("end", "end", tuple, tuple(results), {}, Value((), None))
        self.end.let_go()

    @property
    def results(self) -> list[Value]:
        """The values that must exist afterwards."""
        return self.end.reads

    def uses(self) -> dict[Value, list[Line]]:
        """The lines that read each value, in order, the end included."""
        found: dict[Value, list[Line]] = {}
        for line in (*self.lines, self.end):
            for value in line.reads:
                readers = found.setdefault(value, [])
                if not readers or readers[-1] is not line:
                    readers.append(line)
        return found

    def drop_dead(self) -> None:
        """Remove dead code. Unread random numbers are still drawn, as in an eager step, unless they are TRIED."""
        wanted = set(self.results)
        kept = []
        for line in reversed(self.lines):
            is_drawn = line.kind == "random" and line.name != TRIED
            if line.result in wanted or is_drawn or not wanted.isdisjoint(line.more):
                wanted.update(line.reads)
                kept.append(line)
            else:
                line.let_go()
        self.lines = kept[::-1]

    def copy(self) -> Program:
        """A copy with its own lines and results, free to be changed."""
        new: dict[Value, Value] = {}
        lines = []
        for line in self.lines:
            result = new[line.result] = Value(line.result.shape, line.result.dtype)
            inputs, attributes = substitute(line.inputs, new), substitute(line.attributes, new)
            lines.append(line.again(inputs, result, attributes))
        return Program(lines, [new.get(value, value) for value in self.results])

    def __str__(self) -> str:
        """As code, with every result named after its operation, and numbered."""
        numbers: Counter[str] = Counter()
        for line in self.lines:
            for value in line.results:
                numbers[line.name] += 1
                value.name = f"{line.name}_{numbers[line.name]}"
        return "\n".join(_text(self.lines))


def _text(lines: Iterable[Line]) -> Iterator[str]:
    place: Any = None
    bodies: set[str] = set()
    for line in lines:
        now = (line.phase, line.step)
        if now != place:
            yield f"# {line.phase}{at_step(line.step)}"
            place = now
        body = getattr(line.function, "body", "")  # of a generated kernel
        if body not in bodies:
            yield from (f"#   {part}" for part in body.splitlines())
            bodies.add(body)
        yield f"{line!s:<72}  # {signature(line.result)}{'  ' + line.where if line.where else ''}"
