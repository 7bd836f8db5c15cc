"""A recording made ready to be played: passes done, memory laid out, joined to the places outside."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from .. import backend, tape
from ..backend import Array
from ..tape import collector_resting
from ..tensor import Tensor
from ..tree import tree_map
from . import passes
from .joins import address
from .layout import Layout
from .player import Player
from .program import Line, Program, Value
from .recording import Port, Recording, is_report
from .symbol import Scalar, Symbol


class Rebound(Exception):
    """A tensor that the program only reads has another array now."""


class Memory(NamedTuple):
    """Bytes of a replay."""

    planned: int  # of the arena in which all results lie
    naive: int  # of one array for each result
    kept: int  # of gradients and copies of arguments, which are there beside the arena


class Row(NamedTuple):
    """What one kind of line took."""

    calls: int
    seconds: float
    flops: int
    nbytes: int  # read and written


class Profile:
    """Time, floating-point operations and bytes of one replay, by line and by kind of line."""

    def __init__(self, lines: Sequence[tuple[Line, Row]]) -> None:
        self.lines = list(lines)

    @property
    def kinds(self) -> dict[str, Row]:
        """The sums by phase and function, the slowest first."""
        sums: dict[str, list[Row]] = defaultdict(list)
        for line, row in self.lines:
            sums[f"{line.phase} {line.name}"].append(row)
        rows = {name: Row(*map(sum, zip(*group, strict=True))) for name, group in sums.items()}
        return dict(sorted(rows.items(), key=lambda item: -item[1].seconds))

    def __str__(self) -> str:
        lines = [f"{'':<28}{'calls':>8}{'ms':>10}{'MFLOP':>10}{'MB':>10}{'GFLOP/s':>10}"]
        for name, row in self.kinds.items():
            rate = row.flops / row.seconds / 1e9 if row.seconds else 0.0
            numbers = f"{1e3 * row.seconds:>10.3f}{row.flops / 1e6:>10.2f}{row.nbytes / 1e6:>10.2f}{rate:>10.2f}"
            lines.append(f"{name:<28}{row.calls:>8}{numbers}")
        return "\n".join(lines)


class Replay:
    """The program of a recording, with the arrays that it works on."""

    @collector_resting()
    def __init__(self, recording: Recording, without: Collection[str]) -> None:
        self.recording = recording
        self.recorded = Program(recording.lines, recording.values())
        self.without = without
        self.program = self.program_after(None)
        self._private: set[Port] = set()
        self._ready()

    def program_after(self, name: str | None) -> Program:
        """The program after a pass; after all of them if None."""
        program = self.recorded.copy()
        passes.run(program, self.without, name)
        return program

    def rebind(self) -> None:
        """Read tensors whose array has been replaced from copies, which are made anew in each replay."""
        self._private.update(port for port, array in self.bound if port.later.get() is not array)
        self._ready()

    @collector_resting()
    def _ready(self) -> None:
        """Lay out the memory, and make the calls."""
        recording = self.recording
        results = dict(zip(self.recorded.results, self.program.results, strict=True))
        read = {value for line in self.program.lines for value in line.reads} | set(self.program.results)
        ports = [port for port in recording.ports if port.updated or port.value in read]
        home = backend.of(ports[0].later.get()) if ports else recording.home
        self.copied = [
            (port, home.xp.empty(port.value.shape, port.value.dtype)) for port in ports if port in self._private
        ]
        self.written = [(port, port.later.get()) for port in ports if port.updated]
        self.bound = [(p, p.later.get()) for p in ports if not p.updated and p not in self._private]
        self.inputs = [home.xp.empty(value.shape, value.dtype) for value in recording.inputs]
        arrays = {port.value: array for port, array in [*self.copied, *self.written, *self.bound]}
        arrays |= dict(zip(recording.inputs, self.inputs, strict=True))
        kept: dict[Value, tuple[Array, Value | None]] = {}
        copies: list[tuple[Array, Any]] = []
        for port, array in self.written:
            source = results[port.after.value] if isinstance(port.after, Symbol) else port.after
            if isinstance(source, Value):
                kept.setdefault(source, (array, port.value))
            copies.append((array, source))
        for (_, g), value in zip(recording.grads, recording.grad_values, strict=True):
            if g is not None and value is not None:
                kept.setdefault(results[value], (g.array, None))
                copies.append((g.array, results[value]))
        layout = Layout(self.program, arrays, kept)
        self.player = Player(self.program, layout, home.xp)
        sources = [(array, self.player.array(x) if isinstance(x, Value) else x) for array, x in copies]
        self.copies = [(array, source) for array, source in sources if not _same(source, array)]
        self.output = tree_map(lambda x: self._delivery(x, results), recording.output)
        gathered = sum(array.nbytes for array in self.inputs) + sum(array.nbytes for _, array in self.copied)
        grads = sum(g.array.nbytes for _, g in recording.grads if g is not None)
        self.memory = Memory(layout.size, layout.naive, gathered + grads)

    def _delivery(self, x: Any, results: dict[Value, Value]) -> Callable[[], Any]:
        """What gives a part of the step's result after a replay."""
        if is_report(x):
            parts = [self._delivery(part, results) for part in x.tensors]
            return lambda: x.of(part() for part in parts)
        array = x.array if isinstance(x, Tensor) else x
        if isinstance(array, Symbol):
            source = self.player.array(results[array.value])
            return (lambda: Tensor.wrap(source.copy())) if isinstance(x, Tensor) else source.copy
        return x.run if isinstance(x, Scalar) else lambda: x

    def fits(self) -> bool:
        """Whether all that the step was recorded with is there still."""
        recording = self.recording
        return (
            recording.reach.unchanged()
            and all((leaf.grad is None) == (g is None) for leaf, g in recording.grads_before.items())
            and all((x := ref()) is None or x.array is array for ref, array in recording.unreached)
        )

    def __call__(self, arrays: list[Array], floats: list[float], play: Callable[[], None] | None = None) -> Any:
        """Do the step with the arrays and floats of a call's arguments."""
        for port, array in self.bound:
            if port.later.get() is not array:
                raise Rebound
        for port, array in self.copied:
            array[...] = port.later.get()
        for port, array in self.written:
            found = port.later.get()
            if found is not array:
                array[...] = found
                port.later.put(array)
        for given, array in zip(arrays, self.inputs, strict=True):
            array[...] = given
        self.recording.floats[:] = floats
        (play or self.player)()
        for array, source in self.copies:
            array[...] = source
        tape.wrote(*[array for _, array in self.written])
        for leaf, g in self.recording.grads:
            leaf.grad = g
        for place, number in [(place, x.run()) for place, x in self.recording.numbers_after if isinstance(x, Scalar)]:
            place.put(number)
        return tree_map(lambda deliver: deliver(), self.output)

    def profile(self, arrays: list[Array], floats: list[float]) -> Profile:
        """Do the step, and measure each call."""
        rows: list[tuple[Line, Row]] = []

        def play() -> None:
            for line, call in self.player.steps():
                start = time.perf_counter()
                call()
                rows.append((line, Row(1, time.perf_counter() - start, _flops(line), _traffic(line))))

        self(arrays, floats, play)
        return Profile(rows)


def _flops(line: Line) -> int:
    """Floating-point operations, of which products take two for each pair of numbers."""
    if line.kind == "dot":
        return 2 * line.result.size * line.inputs[0].shape[-1]
    return line.result.size if line.kind == "ufunc" else 0


def _traffic(line: Line) -> int:
    return line.result.nbytes + sum(value.nbytes for value in line.reads)


def _same(a: Array, b: Array) -> bool:
    """Whether two arrays are the same memory."""
    if a is b:
        return True
    return a.shape == b.shape and a.strides == b.strides and address(a) == address(b)
