"""A recording made ready to run: optimised, laid out in memory, and connected to the places outside."""

from __future__ import annotations

import sys
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import backend, out_of_memory, writes
from ..backend import Array
from ..tape import Leaf, Taped, bare_array, collector_resting
from ..tensor import Tensor
from . import passes
from .arguments import in_output, leaves
from .graph import GraphPlayer
from .lanes import MOST, Lanes
from .layout import Layout
from .memory import Memory
from .player import Player, is_same
from .ports import Port, is_like
from .profile import Profile, Row
from .program import Line, Program, Value
from .recording import Recording
from .scalar import Scalar
from .symbol import Symbol


class Replay:
    """The program of a recording, with the arrays that it works on."""

    @collector_resting()
    def __init__(self, recording: Recording, without: Collection[str]) -> None:
        self.recording = recording
        self.recorded = Program(recording.lines, recording.values())
        self.without = passes.left_out(without, recording.home)
        self.program = self.program_after(None)
        self._private: set[Port] = set()
        self._gradients = [gradient for gradient in recording.grads if gradient.tensor is not None]
        self._owners: dict[Any, set[Leaf]] = defaultdict(set)  # by gradient: the leaves that a replay gives it to
        for gradient in self._gradients:
            self._owners[gradient.tensor].add(gradient.leaf)
        self._ready()
        _alive.add(self)

    def __del__(self) -> None:
        with _recounted(self):
            vars(self).clear()

    def program_after(self, name: str | None) -> Program:
        """The program after a pass; after all of them if None."""
        program = self.recorded.copy()
        passes.run(program, self.without, name)
        return program

    def _bind(self) -> bool:
        """Let each replay copy in the tensors whose array was replaced; False if a dtype or shape has changed."""
        for leaf in self.recording.grads_before:
            owners = self._owners.get(leaf.grad)
            if owners is not None and leaf not in owners:  # it was given a gradient that replays write for other leaves
                given, copy = leaf.grad, Tensor.wrap(leaf.grad.array.copy())
                for other in self.recording.grads_before:
                    if other.grad is given:  # the owners too, which share it until the step gives them a new one
                        other.grad = copy
        for port, array in [*self.bound, *self.copied, *self.written]:
            found = port.later.get()
            if found is not array and not (backend.is_array(found) and is_like(found, array)):
                return False
        replaced = [port for port, array in self.bound if port.later.get() is not array]
        if replaced:
            self._private.update(replaced)
            self._ready_again()
        return True

    def _ready_again(self) -> None:
        """Lay out anew, with copies of arrays that others have put where the program writes: they stay theirs."""
        for port, array in self.written:
            if (found := port.later.get()) is not array:
                port.later.put(found.copy())
        self._ready()

    @collector_resting()
    def _ready(self) -> None:
        """Lay out the memory, make the calls, and list the copies that must follow them."""
        with _recounted(self):
            self._lay_out()
        self._references = self._counted()  # not before: its variables refer to the arrays, too

    def _lay_out(self) -> None:
        recording, home = self.recording, self.recording.home
        before = self._arrays_before()
        shown: dict[int, list[Value]] = defaultdict(list)  # by id of an array: the values that lie in it
        for value, array in before.items():
            shown[id(array)].append(value)
        # The arrays that a replay writes, each with its new content: a symbol, if the step computes it.
        left = [(array, port.after) for port, array in self.written]
        left += [(g.array, g.source) for g in self._gradients]
        computed = dict(zip(self.recorded.results, self.program.results, strict=True))
        kept: dict[Value, tuple[Array, Value | None]] = {}  # values that may be computed in place, over an old value
        for array, source in left:
            over = shown[id(array)]
            if isinstance(source, Symbol) and len(over) < 2:
                kept.setdefault(computed[source.value], (array, over[0] if over else None))
        overwritten = {value for array, _ in left for value in shown[id(array)]}
        layout = Layout(self.program, before, kept, overwritten)
        lanes = Lanes(layout, 1 if passes.LANES in self.without else MOST)
        try:
            self.player = (Player if passes.GRAPH in self.without else GraphPlayer)(lanes, home)
        except MemoryError as error:
            raise out_of_memory.of_replay(error, lanes.arena.size, lanes.count > 1) from error
        self.copies: list[tuple[Array, Array]] = []  # after the calls, in this order: target and source

        def final(symbol: Symbol) -> Array:
            """The array with a symbol's value: a copy, if it is the old content of an array that is overwritten."""
            value = computed[symbol.value]
            array = self.player.array(value)
            if layout.root(value) in overwritten:
                self.copies.append((array.copy(), array))
                return self.copies[-1][0]
            return array

        self.finals = {x.value: final(x) for x in map(bare_array, leaves(recording.output)) if isinstance(x, Symbol)}
        pairs = [(array, final(x) if isinstance(x, Symbol) else x) for array, x in left]
        self.copies += [(array, source) for array, source in pairs if not is_same(source, array)]
        beside = [*self.inputs, *(array for _, array in self.copied), *(g.array for g in self._gradients)]
        self.memory = Memory(lanes.arena.size, layout.naive, sum(array.nbytes for array in beside), lanes)

    def _arrays_before(self) -> dict[Value, Array]:
        """The arrays with the program's inputs: those of ports or copies of them, and copies of arguments."""
        recording, home = self.recording, self.recording.home
        read = self.program.uses().keys()
        for value in read:
            if isinstance(value.constant, np.ndarray):
                value.constant = home.from_host(value.constant)
        self._give_copies({id(port.later.get()): port for port in recording.ports if port.updated})
        self.written = [(port, port.later.get()) for port in recording.ports if port.updated]
        self.copied: list[tuple[Port, Array]] = []  # filled before each replay, as the port's array was replaced
        self.bound: list[tuple[Port, Array]] = []  # read in place
        written = [*(array for _, array in self.written), *(g.array for g in self._gradients)]
        memory, own = set(map(home.extent, written)), set(map(id, written))
        self._overwritten = memory
        for port in recording.ports:
            if port.value in read and not port.updated:
                found = port.later.get()
                if port in self._private or (home.extent(found) in memory and id(found) not in own):  # as of w.data.T
                    self.copied.append((port, home.xp.empty(port.value.shape, port.value.dtype)))
                else:
                    self.bound.append((port, found))
        self.inputs = [home.xp.empty(value.shape, value.dtype) for _, value in recording.inputs]
        arrays = {port.value: array for port, array in [*self.copied, *self.written, *self.bound]}
        return arrays | {value: array for (_, value), array in zip(recording.inputs, self.inputs, strict=True)}

    def fits(self) -> bool:
        """Whether the recording is still valid. Arrays that were replaced are bound anew."""
        return self.recording.is_valid() and self._bind()

    def __call__(self, arrays: list[Array], floats: list[float], play: Callable[[], None] | None = None) -> Any:
        """Run the step, which must fit, with the arrays and floats of a call's arguments."""
        moved = [k for k, (port, array) in enumerate(self.written) if port.later.get() is not array]
        if moved:
            self._claim(moved)
        for port, array in self.copied:
            array[...] = found = port.later.get()
            if self.recording.home.extent(found) in self._overwritten:  # as after target.data = p.data
                port.later.put(found.copy())
        for given, array in zip(arrays, self.inputs, strict=True):
            array[...] = given
        self.recording.floats[:] = floats
        # First, as a number may be refused.
        after = [(place, x.run() if isinstance(x, Scalar) else x) for place, x in self.recording.numbers_after]
        (play or self.player)()
        self._hand_out()
        returned = in_output(self._returned, self.recording.output)  # first: numbers may be from before this step
        for place, number in after:
            place.put(number)
        self._references = list(map(min, self._references, self._counted()))  # somebody may hold an array for a while
        return returned

    def _hand_out(self) -> None:
        for array, source in self.copies:
            array[...] = source
        writes.wrote(*[array for _, array in self.written])
        for leaf, gradient, array, _ in self.recording.grads:
            leaf.grad = gradient
            if gradient is not None:
                gradient.array = array  # clipping, or another backward, may have replaced it

    def _give_copies(self, own: dict[int, Port]) -> None:
        """Give a port a copy if its array belongs to another port."""
        for port in self.recording.ports:
            found = port.later.get()
            if own.get(id(found), port) is not port:
                port.later.put(found.copy())

    def _counted(self) -> list[int]:
        return [sys.getrefcount(array) for _, array in self.written]

    def _claim(self, moved: list[int]) -> None:
        """Where a port's array was replaced, copy the new content into the program's own array, and put that back.

        After p.data, q.data = q.data, p.data the program's own array is in use elsewhere. If another port holds it, it
        gets a copy; if anybody else does, the array is theirs, and the program is laid out anew.
        """
        self._give_copies({id(array): port for port, array in self.written})
        now = self._counted()
        if any(now[k] >= self._references[k] for k in moved):  # should be one less, as the port let go of it
            self._ready_again()
            return
        for k in moved:
            port, array = self.written[k]
            array[...] = port.later.get()
            port.later.put(array)

    def _returned(self, x: Any) -> Any:
        """A leaf of the output after a replay."""
        array = bare_array(x)
        if isinstance(array, Symbol) or backend.is_array(array):
            copy = (self.finals[array.value] if isinstance(array, Symbol) else array).copy()
            return Tensor.wrap(copy) if isinstance(x, Taped) else copy
        return x.run() if isinstance(x, Scalar) else x

    def profile(self, arrays: list[Array], floats: list[float]) -> Profile:
        """Run the step, and time each call."""
        rows: list[tuple[Line, Row]] = []

        def play() -> None:
            for line, call in self.player.steps():
                start = time.perf_counter()
                call()
                self.recording.home.synchronize()
                rows.append((line, Row(1, time.perf_counter() - start, line.flops, line.nbytes)))

        self(arrays, floats, play)
        return Profile(rows)


_alive: weakref.WeakSet[Replay] = weakref.WeakSet()


@contextmanager
def _recounted(changing: Replay) -> Iterator[None]:
    """While a replay takes up arrays or lets them go, correct what others counted: it is not somebody else."""
    others = [(replay, replay._counted()) for replay in list(_alive) if replay is not changing]
    yield
    for replay, before in others:
        change = zip(replay._references, replay._counted(), before, strict=False)  # another thread may lay it out
        replay._references = [count + now - then for count, now, then in change]
