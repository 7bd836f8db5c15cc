"""Records a step: a backend whose arrays are symbols, and kernels that are noted as they run."""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import backend, dispatch, ops, tape
from ..backend import Array, Backend
from ..op import Op, registry
from ..record import Watcher
from ..surroundings import is_ours
from ..tree import mapped, tree_leaves
from ..whereabouts import lines_outside
from ..writes import owner_of
from .functions import Functions
from .program import TRIED, Line, Value
from .refusal import NumberError, refusals, refuse
from .scalar import Scalar
from .symbol import DeviceSymbol, Symbol


class _SymbolBackend(Backend):
    """The backend of symbols."""

    array_type = Symbol

    def __init__(self) -> None:
        self.xp = Functions(_current)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the backend whose arrays the symbols stand for."""
        return _current().home.name

    def uniform(self, shape: tuple[int, ...]) -> Any:
        return _current().draw("uniform", shape)

    def numbers(self, method: str, shape: tuple[int, ...], dtype: Any) -> Any:
        return _current().draw("numbers", method, shape, dtype)

    def from_host(self, array: Array) -> Array:
        return _current().home.from_host(array)

    def to_host(self, array: Array) -> Any:
        refuse("copies an array to the host")

    def random_state(self) -> int:
        recorder = _current()
        if recorder.drawn == len(recorder.draws):  # else the generator is ahead of this point
            recorder.states[recorder.drawn] = recorder.home.random_state(), backend.host.random_state()
        return recorder.drawn

    def set_random_state(self, state: int) -> None:
        _current().rerun += 1
        _current().drawn = state

    def at_border(self) -> None:
        _current().rerun += 1

    def shows_elsewhere(self, symbol: Symbol) -> bool:
        """Whether a symbol of another value shares this one's memory, as a view does."""
        if getattr(symbol.array, "base", None) is None and sys.getrefcount(symbol.array) <= 2:
            return False
        memory = _current().home.extent(symbol.array)
        others = (x for x in _current().alive() if x.value is not symbol.value)
        return any(_current().home.extent(x.array) == memory for x in others)

    def checksum(self, array: Array) -> int:
        return 0  # a recorded operation gives the same result again


class _Active(threading.local):
    recorder: Recorder | None = None


_active = _Active()


def _current() -> Recorder:
    assert _active.recorder is not None, "a symbol outlived its recording"
    return _active.recorder


_backend = _SymbolBackend()
for _type in (Symbol, DeviceSymbol):
    backend._by_type[_type] = _backend
    backend.modules[_type] = _backend.xp


class Recorder(Watcher):
    """Records what a step does.

    While recording, the state of the random generator is the number of draws so far. Setting it back means that
    checkpointing repeats something, and the same draws are handed out again. If a repeated draw differs from the first
    one, the first was only a trial, as when checkpointing tries out a cell: the real generator is reset to before it.
    """

    def __init__(self, home: Backend) -> None:
        self.home = home
        self.sources = {name: getattr(home, name) for name in ("uniform", "numbers")}  # of random numbers
        self.kind = Symbol if home.name == "numpy" else DeviceSymbol
        self.made: list[weakref.ref[Symbol]] = []
        self.lines: list[Line] = []
        self.seen: dict[int, Array] = {}  # bare arrays whose values became constants, by id of the owner
        self.constants: dict[int, tuple[Value, Any]] = {}  # with checksums, by id of the array, which the value keeps
        self.rerun = 0  # of the lines to come
        self.draws: list[tuple[Symbol, Line]] = []  # random numbers
        self.drawn = 0  # how many are used so far; set back when steps are repeated with the same numbers
        self.states: dict[int, Any] = {}  # of the generators, by the number of draws before
        self.start = backend.host.random_state()
        self._drawn = repr(self.start)  # the state of the host's generator if only draw() has used it

    def port(self, array: Array, name: str) -> Symbol:
        """A symbol for an array that comes from outside."""
        return self.symbol(array, Value(array.shape, array.dtype, name))

    def symbol(self, array: Array, value: Value) -> Symbol:
        """A symbol, tracked by a weak reference."""
        symbol = self.kind(array, value)
        self.made.append(weakref.ref(symbol))
        return symbol

    def alive(self) -> list[Symbol]:
        """The symbols that something refers to."""
        return [x for x in (ref() for ref in self.made) if x is not None]

    def draw(self, source: str, *how: Any) -> Any:
        """Random numbers, drawn anew in each replay if the recording thread draws them."""
        if _active.recorder is not self:
            return self.sources[source](*how)
        self.check_draws()
        if self.drawn < len(self.draws):
            _, line = self.draws[self.drawn]
            if (line.name, line.inputs) != (source, how):
                self._take_back()
        if self.drawn == len(self.draws):
            array = self.sources[source](*how)
            self._drawn = repr(backend.host.random_state())
            symbol = self._write("random", source, self.sources[source], how, {}, array)
            self.draws.append((symbol, self.lines[-1]))
        symbol, _ = self.draws[self.drawn]
        self.drawn += 1
        return symbol

    def _take_back(self) -> None:
        """Undo the draws of a trial, which an eager step would not count: mark them TRIED, and reset the generators."""
        for _, line in self.draws[self.drawn :]:
            line.name = TRIED
        del self.draws[self.drawn :]
        start = max(drawn for drawn in self.states if drawn <= self.drawn)
        of_home, of_host = self.states[start]
        self.home.set_random_state(of_home)
        backend.host.set_random_state(of_host)
        for _, line in self.draws[start:]:
            self.sources[line.name](*line.inputs)

    def check_draws(self) -> None:
        """Raise if the step drew numbers that a replay would not draw."""
        if repr(backend.host.random_state()) != self._drawn:
            refuse("drew random numbers from the generator of parameters, which would be the same in each replay")

    def call(self, op: Op, inputs: Any, attributes: dict[str, Any], present: Any) -> Any:
        """Run a kernel on the present inputs and attributes, with this run's arrays, and record the call."""
        if attributes.pop("out", None) is not None:
            refuse(f"gives {op.name} an array to write to")
        if op is ops.where.op and isinstance(inputs[0], Scalar):
            refuse("chooses by a number that may change", NumberError)
        for name, value in attributes.items():
            if isinstance(value, Scalar):
                refuse(f"gives {op.name} a number that may change as its {name}", NumberError)
        for x in _deciding(op, attributes):
            if not isinstance(x, Symbol) or x.value.constant is not None:
                self.see(bare(x))
            elif op is ops.getitem.op:
                refuse("picks elements by a boolean array, and so as many as its values say")
        array = op.kernel(self.home.xp, *present[0], **present[1])
        if not backend.is_array(array):
            array = self.home.xp.asarray(array)  # NumPy returns scalars for 0-d results
        attributes, inputs = mapped(self._read, attributes), mapped(self._read, inputs)
        return self._write("op", op.name, op.kernel, inputs, attributes, array)

    def _write(self, kind: str, name: str, function: Any, inputs: Any, attributes: Any, array: Array) -> Symbol:
        line = Line(kind, name, function, inputs, attributes, Value(array.shape, array.dtype))
        line.step, line.rerun = tape.present_step(), self.rerun
        line.where = (lines_outside() or [""])[-1]
        self.lines.append(line)
        return self.symbol(array, line.result)

    def _read(self, x: Any) -> Any:
        """An argument as a line holds it: the value of a symbol or of a constant array; anything else unchanged."""
        if isinstance(x, Symbol):
            return x.value
        return self.constant(x) if backend.is_array(x) else x

    def constant(self, array: Array) -> Value:
        """The value of an array that no line computes and no port holds."""
        held = backend.of(array).checksum(array)
        known = self.constants.get(id(array))
        if known is None:
            known = Value(array.shape, array.dtype, f"constant_{len(self.constants)}", array), held
            self.constants[id(array)] = known
        elif held != known[1]:
            refuse("writes into a bare array between operations that read it")
        return known[0]

    def keep(self, array: Array) -> Array:
        """What a graph saves of a bare array: a symbol, so that rules read it anew in each replay, as lines do."""
        return array if isinstance(array, Symbol) else self.symbol(array, self.constant(array))

    def see(self, array: Array) -> None:
        """Note a bare array that the recording thread reads now and a replay would not read again."""
        if _active.recorder is self:
            self.seen[id(owner_of(array))] = array

    def check_constants(self) -> None:
        """Raise if the step has written into an array after an operation read it."""
        for value, _ in list(self.constants.values()):
            self.constant(value.constant)

    def backward(self, rule: Any, node: Any, contribution: Any) -> None:
        """Mark the lines of a rule, those since the last call, as backward, with the time step of its node."""
        for line in reversed(self.lines):
            if line.phase == "backward" or line.step is not None:
                break
            line.phase, line.step = "backward", tape.step_of(node.id)


def bare(tree: Any) -> Any:
    """A tree with this run's arrays and numbers in place of symbols."""
    return mapped(lambda x: x.array if isinstance(x, Symbol) else x.number if isinstance(x, Scalar) else x, tree)


def _deciding(op: Op, attributes: dict[str, Any]) -> list[Any]:
    """Arrays that may decide a shape: boolean indices, and attributes of the engine's other operations."""
    if op is ops.getitem.op:
        key = attributes["key"]
        parts = key if isinstance(key, tuple) else (key,)
        return [x for x in parts if backend.is_array(x) and x.dtype == bool]
    return list(filter(backend.is_array, attributes.values())) if is_ours(op.kernel.__module__) else []


def _stand_in(op: Op, xp: Any, *inputs: Any, **attributes: Any) -> Any:
    """Run a kernel, through the recorder if symbols are among its arguments."""
    arguments = inputs, attributes
    present = bare(arguments)
    if present is not arguments:
        return _current().call(op, *arguments, present)
    if _active.recorder is not None:
        for x in filter(backend.is_array, tree_leaves(arguments)):
            _active.recorder.see(x)
    return op.kernel(xp, *inputs, **attributes)


@contextmanager
def recording(home: Backend) -> Iterator[Recorder]:
    """Record every operation on symbols in this thread while the block runs."""
    with dispatch.intercepted(registry.values(), _stand_in):  # one thread at a time
        recorder = Recorder(home)
        try:
            _active.recorder, tape.state.keep = recorder, recorder.keep
            for source in recorder.sources:  # a dropout mask for a constant array is random too
                vars(home)[source] = functools.partial(recorder.draw, source)
            vars(home.host)["reading"] = recorder.see
            with tape.watching(recorder):
                yield recorder
        finally:
            _active.recorder, tape.state.keep = None, None
            refusals.clear()
            vars(home.host).pop("reading", None)
            for source in recorder.sources:
                vars(home).pop(source, None)


def is_recording() -> bool:
    """Whether this thread is recording a step."""
    return _active.recorder is not None
