"""``capture``: a step that is recorded once and replayed from then on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from .. import backend, tape
from ..backend import Array
from ..tape import collector_resting
from ..tensor import Tensor
from ..tree import tree_leaves, tree_map
from . import passes
from .layout import Layout
from .player import Player
from .program import Program, Value, name_values
from .recording import Recording
from .symbol import Scalar, Symbol

P = ParamSpec("P")
R = TypeVar("R")

_KEPT = 8  # recordings that a captured step keeps


class Replay:
    """A recording made ready to be played: passes done, memory laid out, joined to the places outside."""

    @collector_resting()
    def __init__(self, recording: Recording, options: dict[str, bool]) -> None:
        self.recording = recording
        self.program = Program(list(recording.lines), recording.values())
        passes.run(self.program, options)
        name_values(self.program)
        self._connect(recording)
        results = dict(zip(recording.values(), self.program.results, strict=True))  # passes may have replaced some
        ports = dict(zip(recording.inputs, self.inputs, strict=True)) | {p.value: a for p, a in self.arrays.items()}
        kept: dict[Value, tuple[Array, Value | None]] = {}
        self.copies: list[tuple[Array, Value | Array]] = []
        for port, array in self.arrays.items():
            if not port.updated:
                continue
            if isinstance(port.after, Symbol):
                value = results[port.after.value]
                kept.setdefault(value, (array, port.value))
                self.copies.append((array, value))
            else:
                self.copies.append((array, port.after))
        self.grads = []
        for (leaf, g), value in zip(recording.grads, recording.grad_values, strict=True):
            if value is not None:
                kept.setdefault(results[value], (g.array, None))
                self.copies.append((g.array, results[value]))
            self.grads.append((leaf, g))
        self.layout = Layout(self.program, ports, kept)
        self.player = Player(self.program, self.layout, self.xp)
        self._finish(results)

    def _connect(self, recording: Recording) -> None:
        """Find the arrays that ports are bound to: those outside that the program reads or writes."""
        read = {value for line in self.program.lines for value in line.reads} | set(self.program.results)
        used = [port for port in recording.ports if port.updated or port.value in read]
        self.arrays = {port: port.later.get() for port in used}
        self.written = [(port.later, self.arrays[port]) for port in used if port.updated]
        self.bound = [(port.later, self.arrays[port]) for port in used if not port.updated]
        self.xp = backend.of(next(iter(self.arrays.values()))).xp if self.arrays else backend.default().xp
        self.inputs = [self.xp.empty(value.shape, value.dtype) for value in recording.inputs]

    def _finish(self, results: dict[Value, Value]) -> None:
        """What is left to do after the program: copies to where it could not write itself, and the output."""
        sources = [(array, self.player.array(x) if isinstance(x, Value) else x) for array, x in self.copies]
        self.copies = [(array, source) for array, source in sources if source is not array and not _same(source, array)]

        def deliver(x: Any) -> Callable[[], Any]:
            array = x.array if isinstance(x, Tensor) else x
            if isinstance(array, Symbol):
                source = self.player.array(results[array.value])
                if isinstance(x, Tensor):
                    return lambda: Tensor.wrap(source.copy())
                return source.copy
            if isinstance(x, Scalar):
                return x.run
            return lambda: x

        self.output = tree_map(deliver, self.recording.output)

    def fits(self) -> bool:
        """Whether all that the step was recorded with is there still."""
        return self.recording.reach.unchanged() and all(
            (leaf.grad is None) == (g is None) for leaf, g in self.recording.grads_before.items()
        )

    def __call__(self, arrays: list[Array], floats: list[float]) -> Any:
        for place, array in self.bound:
            if place.get() is not array:
                raise Rebound
        for place, array in self.written:
            found = place.get()
            if found is not array:
                array[...] = found
                place.put(array)
        for port, array in zip(self.inputs, arrays, strict=True):
            port[...] = array
        self.recording.floats[:] = floats
        self.player()
        for array, source in self.copies:
            array[...] = source
        for _, array in self.written:
            tape.wrote(array)
        for leaf, g in self.grads:
            leaf.grad = g
        numbers = [(place, x.run()) for place, x in self.recording.numbers_after if isinstance(x, Scalar)]
        for place, number in numbers:
            place.put(number)
        return tree_map(lambda deliver: deliver(), self.output)


class Rebound(Exception):
    """A tensor that the program only reads has another array now."""


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.strides == b.strides and a.__array_interface__["data"] == b.__array_interface__["data"]


class Captured(Generic[P, R]):
    """A step that is recorded at its second call and replayed from the third on; see ``capture``."""

    def __init__(self, function: Callable[P, R], options: dict[str, bool]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.options = options
        self._seen: set[Any] = set()
        self._replays: dict[Any, list[Replay]] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        arrays: list[Array] = []
        floats: list[float] = []
        key = _signature((args, kwargs), arrays, floats)
        replays = self._replays.setdefault((key, tape.state.enabled), [])
        for replay in replays:
            if replay.fits():
                try:
                    return replay(arrays, floats)  # type: ignore[no-any-return]
                except Rebound:
                    replays.remove(replay)
                    break
        if not self._seen:
            self._seen.add(key)
            return self.function(*args, **kwargs)
        recording = Recording(self.function, args, kwargs)
        if recording.steady:
            del replays[_KEPT - 1 :]
            replays.insert(0, Replay(recording, self.options))
        return recording.result  # type: ignore[return-value]

    @property
    def replay(self) -> Replay:
        """The latest recording."""
        for replays in reversed(self._replays.values()):
            if replays:
                return replays[0]
        raise RuntimeError("capture: nothing is recorded yet; call the step twice")

    def source(self) -> str:
        """The recorded step, line by line."""
        return str(self.replay.program)


def _signature(tree: Any, arrays: list[Array], floats: list[float]) -> Any:
    """What tells calls apart: structure, shapes, dtypes, and plain values. Arrays and floats are gathered on the way."""
    if isinstance(tree, Tensor):
        arrays.append(tree.array)
        return "tensor", tree.array.shape, tree.array.dtype, tree.node is None
    if isinstance(tree, (tuple, list)):
        return type(tree), *[_signature(child, arrays, floats) for child in tree]
    if isinstance(tree, dict):
        return dict, *[(key, _signature(child, arrays, floats)) for key, child in tree.items()]
    if backend.is_array(tree):
        arrays.append(tree)
        return "array", tree.shape, tree.dtype
    if type(tree) is float:
        floats.append(tree)
        return float
    return type(tree), tree


def capture(step: Callable[P, R] | None = None, **options: bool) -> Any:
    """A function that does what ``step`` does, but from its third call on replays what it recorded at the second."""
    if step is None:
        return functools.partial(capture, **options)
    return Captured(step, options)
