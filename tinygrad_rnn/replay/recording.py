"""One run of a step, written down: the program, and how it is joined to the world outside."""

from __future__ import annotations

import gc
import random
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import backend, tape
from ..backend import Array, Backend
from ..tape import CaptureError, Node, collector_resting
from ..tensor import Tensor
from ..tree import rebuild, tree_leaves, tree_map
from .places import ArrayOf, ArrayOfGradient, Place, Reach
from .program import Value
from .recorder import Recorder, recording
from .symbol import Scalar, Symbol


class Port:
    """A place outside that the program reads, writes, or both."""

    def __init__(self, place: Place, symbol: Symbol, later: Place | None = None) -> None:
        self.place = place
        self.later = later or place  # the same place for replays: by then a leaf may hold another gradient
        self.value = symbol.value
        self.before = symbol
        self.after: Any = symbol  # what the step left there

    @property
    def updated(self) -> bool:
        """Whether the step put another array there."""
        return self.after is not self.before


class Recording:
    """What a step did in one run. That run's results are real: parameters are updated, and ``output`` is there.

    If the step cannot be recorded, CaptureError says why, and every array and number is as it was before.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], floats_change: bool = True
    ) -> None:
        self.reach = Reach(function)
        self.inputs: list[Value] = []  # of the arguments
        self.floats: list[float] = []  # arguments too
        self.grads_before = {leaf: leaf.grad for leaf in self.reach.leaves}
        drawn = _random_states(self.reach)
        places: list[tuple[Place, Place]] = []
        for tensor, path in self.reach.tensors.items():
            places.append((ArrayOf(tensor, None, path),) * 2)
        for leaf, path in self.reach.leaves.items():
            if leaf.grad is not None:
                places.append((ArrayOf(leaf.grad, None, f"{path}.grad"), ArrayOfGradient(leaf, None, f"{path}.grad")))
        numbers = []
        for place in self.reach.ports:
            if backend.is_array(place.get()):
                places.append((place, place))
            else:
                numbers.append(place)
        before = [(place, place.get()) for place in [*(place for place, _ in places), *numbers]]
        home = self.home = _home([value for _, value in before], (args, kwargs))
        if home.name != "numpy":
            raise CaptureError(
                f"capture: the step works on {home.name}, and so far only NumPy has a player; call the step as it is"
            )
        with collector_resting(), recording(home) as recorder:
            self.lines = recorder.lines
            self.ports = [Port(place, recorder.port(place.get(), place.path), later) for place, later in places]
            self.numbers: list[tuple[Place, Any]] = [(p, Scalar(p.get(), p.get)) for p in numbers]
            args, kwargs = self._arguments(recorder, (args, kwargs), floats_change)
            try:
                for port in self.ports:
                    port.place.put(port.before)
                for place, scalar in self.numbers:
                    place.put(scalar)
                output = function(*args, **kwargs)
                recorder.check_draws()
                _check_output(output)
                self._check(Reach(function), drawn)
            except BaseException:
                for leaf, g in self.grads_before.items():
                    leaf.grad = g
                for place, value in before:
                    place.put(value)
                raise
            self._settle(function, output)
        self.unreached = _tensors_of(recorder.constants)

    def _arguments(self, recorder: Recorder, tree: Any, floats_change: bool) -> Any:
        """The arguments with symbols in place of arrays."""

        def symbol(x: Any) -> Any:
            if isinstance(x, (tuple, list, dict)):
                return rebuild(x, [symbol(child) for child in (x.values() if isinstance(x, dict) else x)])
            if isinstance(x, Tensor):
                if x.node is not None:
                    what = "has a history" if isinstance(x.node, Node) else "requires a gradient"
                    raise CaptureError(f"capture: the argument {x!r} {what}; give the step x.detach()")
                return Tensor.wrap(symbol(x.array))
            if type(x) is float and floats_change:
                number = len(self.floats)
                self.floats.append(x)
                return Scalar(x, lambda: self.floats[number])
            if backend.is_array(x):
                port = recorder.port(x, f"argument_{len(self.inputs)}")
                self.inputs.append(port.value)
                return port
            return x

        return symbol(tree)

    def _check(self, after: Reach, drawn: Any) -> None:
        """Raise if the step did what a replay would not do again."""
        if _random_states(self.reach) != drawn:
            raise CaptureError(
                "capture: the step drew random numbers that a replay would not draw again (by randn, rand, or its own "
                "generator); draw them outside and pass them in, or use tg.dropout"
            )
        known = set(self.reach.tensors)
        for tensor, path in after.tensors.items():
            if tensor not in known and isinstance(tensor.array, Symbol):
                raise CaptureError(
                    f"capture: the step keeps a result in {path}; return it, and pass it in the next time"
                )
        changed = self.reach.changed()
        if changed:
            raise CaptureError(
                f"capture: the step changes {', '.join(changed[:3])}, which a replay would not do; return the new "
                "value and pass it in the next time, or do it outside of the step"
            )

    def _settle(self, function: Callable[..., Any], output: Any) -> None:
        """See what the run left behind, and put its arrays and numbers in the place of symbols."""
        self.output = tree_map(_held, output)
        self.result = tree_map(_without_symbols, self.output)
        for port in self.ports:
            port.after = port.place.get()
            if port.updated and isinstance(port.after, Symbol):
                port.place.put(_commit(port.before.array, port.after.array))
            else:
                port.place.put(_bare(port.after))
        self.numbers_after = [(place, place.get()) for place, _ in self.numbers]
        for place, number in self.numbers_after:
            place.put(_bare(number))
        self.grads = [(leaf, leaf.grad) for leaf, before in self.grads_before.items() if leaf.grad is not before]
        self.grad_values = [None if g is None else g.array.value for _, g in self.grads]
        for _, g in self.grads:
            if g is not None:
                g.array = _bare(g.array)
        known = {(id(place.holder), place.key) for place in self.reach.ports}
        new = [place for place in Reach(function).ports if (id(place.holder), place.key) not in known]
        for place in new:
            place.put(_bare(place.get()))
        self.steady = not new  # not so for the first step of an optimiser, which makes its buffers

    def values(self) -> list[Value]:
        """All that the program has to deliver."""
        found = [port.after.value for port in self.ports if port.updated and isinstance(port.after, Symbol)]
        found += [value for value in self.grad_values if value is not None]
        return found + [x.value for x in map(_array, _leaves(self.output)) if isinstance(x, Symbol)]


def is_report(x: Any) -> bool:
    """Whether something measures ``x.tensors`` when looked at, and ``x.of(tensors)`` others, as clipping's report."""
    return hasattr(x, "tensors") and hasattr(x, "of")


def _leaves(output: Any) -> list[Any]:
    """What a step returns, with the tensors that a report is about in its place."""
    return [leaf for x in tree_leaves(output) for leaf in (x.tensors if is_report(x) else [x])]


def _check_output(output: Any) -> None:
    """Raise if a replay could not return anew what the step returns."""
    for x in _leaves(output):
        if not isinstance(x, (Tensor, Symbol, Scalar, np.ndarray, np.generic, str, int, float)):
            raise CaptureError(
                f"capture: the step returns a {type(x).__name__}, which would stay that of the recording; "
                "return tensors, in tuples, lists or dictionaries"
            )


def _tensors_of(constants: dict[int, Value]) -> list[tuple[Any, Array]]:
    """Tensors out of the step's reach whose arrays it used all the same, with these, which must not be replaced."""
    # Not isinstance, which asks some objects for more than they like to tell.
    alive = (x for x in gc.get_objects() if issubclass(type(x), Tensor) and id(getattr(x, "array", None)) in constants)
    return [(weakref.ref(x), x.array) for x in alive]


def _array(x: Any) -> Any:
    return x.array if isinstance(x, Tensor) else x


def _bare(x: Any) -> Any:
    return x.array if isinstance(x, Symbol) else x.number if isinstance(x, Scalar) else x


def _held(x: Any) -> Any:
    """A result in a tensor of its own: a gradient that a step returns is given another array by the next one."""
    return x.of(map(_held, x.tensors)) if is_report(x) else Tensor.wrap(x.array) if isinstance(x, Tensor) else x


def _without_symbols(x: Any) -> Any:
    if is_report(x):
        return x.of(map(_without_symbols, x.tensors))
    if isinstance(x, Tensor):
        return Tensor.wrap(_without_symbols(x.array)) if isinstance(x.array, Symbol) else x
    return x.array.copy() if isinstance(x, Symbol) else _bare(x)  # replays write into gradients and parameters


_buffers: dict[int, Any] = {}  # arrays that belong to captured steps, by id; weak references


def _commit(old: Array, new: Array) -> Array:
    """The array that a parameter has after a recording: one that captured steps share is written in place."""
    known = _buffers.get(id(old))
    if known is not None and known() is old:
        old[...] = new
        tape.wrote(old)
        return old
    if getattr(new, "base", None) is not None or not new.flags.c_contiguous:
        new = new.copy()
    _buffers[id(new)] = weakref.ref(new)
    return new


def _home(values: list[Any], arguments: Any) -> Backend:
    """The backend of the arrays that a step works on."""
    for x in [*tree_leaves(arguments), *values]:
        if backend.is_array(_array(x)):
            return backend.of(_array(x))
    return backend.default()


def _random_states(reach: Reach) -> Any:
    """Where the generators stand that a replay does not draw from."""
    shared = None
    if "numpy.random" in sys.modules:
        legacy: Any = np.random.get_state()
        shared = legacy[1].tobytes(), legacy[2]
    return random.getstate(), shared, [repr(g.bit_generator.state) for g in reach.generators]
