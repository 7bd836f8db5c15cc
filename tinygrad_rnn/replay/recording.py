"""One recorded run of a step: the program, and how it connects to the world outside."""

from __future__ import annotations

import gc
import random
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import backend, writes
from ..backend import Array, Backend
from ..tape import CaptureError, Leaf, Taped, bare_array, collector_resting
from ..tensor import Tensor
from ..tree import tree_leaves
from .arguments import Arguments, apart, check_output, copied, in_output, leaves, without_symbols
from .places import ArrayOfGradient, Attribute, Place, refill
from .ports import Gradient, Port, committed, is_like
from .program import Value
from .reach import Reach, state_of
from .recorder import Recorder, bare, recording
from .refusal import refusals
from .scalar import Scalar
from .symbol import Symbol

_SMALL = 2**14  # bytes


class Recording:
    """What a step did in one run. That run is real: parameters are updated, and ``result`` is what it returned.

    If the step cannot be recorded, CaptureError says why, and all arrays and numbers are restored, except for bare
    arrays that the step itself has written into.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], floats_change: bool
    ) -> None:
        self.reach = Reach(function, (args, kwargs))
        self.grads_before = {leaf: leaf.grad for leaf in self.reach.leaves}
        self._first = self._first_with_gradient()
        drawn, held = _random_states(self.reach), _contents(self.reach)
        arrays, numbers = self._places()
        iterators = [(place, iterator) for place, iterator, _ in self.reach.iterators]
        before = [(place, place.get()) for place in (*[place for place, _ in arrays], *numbers)]
        filled = [(container, container.copy()) for container, *_ in self.reach.sizes_of_ports]
        home = self.home = _home([value for _, value in before], (args, kwargs))
        with collector_resting(), recording(home) as recorder:
            self.lines = recorder.lines
            self.numbers: list[tuple[Place, Any]] = [(p, Scalar(p.get(), p.get)) for p in numbers]
            arguments = Arguments(recorder, args, kwargs, floats_change)
            self.inputs, self.floats = arguments.inputs, arguments.floats
            with self._undone_if_refused(recorder, [*before, *iterators], filled):
                self.ports = [Port(place, recorder.port(place.get(), place.path), later) for place, later in arrays]
                for place, scalar in self.numbers:
                    place.put(scalar)
                for place, _, stand_in in self.reach.iterators:
                    place.put(stand_in)
                output = in_output(apart, function(*arguments.args, **arguments.kwargs))
                if refusals:
                    raise refusals[0]
                arguments.close()
                recorder.check_draws()
                recorder.check_constants()
                check_output(output)
                for place, iterator in iterators:
                    place.put(iterator)
                after = Reach(function, (args, kwargs))
                self._check(after, drawn, held, recorder, output)
                self._settle(after, output)
        self.unreached = _tensors_of(recorder.constants)
        # Bare arrays whose numbers made constants; and all small ones, since NumPy may have read them unseen.
        self.seen = [
            (path, x, backend.of(x).checksum(x))
            for path, x in self.reach.arrays.values()
            if id(writes.owner_of(x)) in recorder.seen or (isinstance(x, np.ndarray) and x.nbytes <= _SMALL)
        ]

    def _places(self) -> tuple[list[tuple[Place, Place]], list[Place]]:
        """The places of arrays, now and in replays, and the places of numbers that may change."""
        arrays: list[tuple[Place, Place]] = []
        for tensor, path in self.reach.tensors.items():
            arrays.append((Attribute(tensor, "array", path),) * 2)
        for first, (leaf, path) in zip(self._first, self.reach.leaves.items(), strict=True):
            if first is leaf:
                path = f"{path}.grad"
                arrays.append((Attribute(leaf.grad, "array", path), ArrayOfGradient(leaf, leaf.grad, path)))
        arrays += [(place, place) for place in self.reach.ports if backend.is_array(place.get())]
        return arrays, [place for place in self.reach.ports if not backend.is_array(place.get())]

    @contextmanager
    def _undone_if_refused(self, recorder: Recorder, before: list[tuple[Place, Any]], filled: Any) -> Iterator[None]:
        """If anything in the block fails, restore all places, gradients and tensors, and what containers hold."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, CaptureError):  # other errors are the step's own, and its draws stand
                backend.host.set_random_state(recorder.start)
            for leaf, g in self.grads_before.items():
                leaf.grad = g
            for container, held in filled:  # an optimiser's first step adds slots
                refill(container, held)
            for place, value in before:
                place.put(value)
            for tensor in _symbolic():
                tensor.array = tensor.array.array
            raise

    def _check(self, after: Reach, drawn: Any, held: dict[int, Any], recorder: Recorder, output: Any) -> None:
        """Raise if the step did something that a replay would not repeat."""
        if _random_states(self.reach) != drawn:
            raise CaptureError(
                "capture: the step drew random numbers from a generator of its own, which a replay would not do; draw "
                "them outside and pass them in, or use tg.randn, tg.rand or tg.dropout"
            )
        for tensor, path in after.tensors.items():
            if tensor not in self.reach.tensors and isinstance(tensor.array, Symbol):
                raise CaptureError(
                    f"capture: the step keeps a result in {path}; return it, and pass it in the next time"
                )
        now = _contents(self.reach)
        changed = [*self.reach.changed(), *(self.reach.arrays[id][0] for id in held if now[id] != held[id])]
        changed += [port.place.path for port in self.ports if not backend.is_array(port.place.get())]
        changed += [place.path for place, _ in self.numbers if not _is_number(place.get())]
        if changed:
            raise CaptureError(
                f"capture: the step changes {', '.join(changed[:3])}, which a replay would not do; return the new "
                "value and pass it in the next time, or do it outside of the step"
            )
        self._refuse_kept(after, recorder, output)

    def _refuse_kept(self, after: Reach, recorder: Recorder, output: Any) -> None:
        """Raise if a result is kept anywhere but in the return value and in places that replays write to."""
        own = {*self.reach.tensors, *(leaf.grad for leaf in self.reach.leaves), *self.grads_before.values()}
        places = [place.get() for place in [*(port.place for port in self.ports), *after.ports]]
        kept = [*own, *leaves(output), *places, *(symbol for symbol, _ in recorder.draws)]
        accounted = {*map(id, map(bare_array, kept)), *(id(symbol) for symbol, _ in self.inputs)}
        del places, kept
        others = not accounted.issuperset(map(id, recorder.alive()))
        # A returned array may be kept elsewhere too: then not only the returned tensor refers to it.
        shared = any(sys.getrefcount(x.array) > 2 for x in leaves(output) if isinstance(x, Taped))
        if others or shared:  # slow: it looks at every object
            gc.collect()  # it may only live on in a cycle
            found: list[Any] = [x for x in _symbolic() if x not in own]
            found += [x for x in recorder.alive() if id(x) not in accounted]
            if found:
                raise CaptureError(
                    f"capture: the step keeps a result, {found[0]!r}, in an object that a replay would not reach; "
                    "return it, or, if it belongs to a model, pass the model in as an argument"
                )

    def _settle(self, after: Reach, output: Any) -> None:
        """Find out what the run left behind, and replace symbols by arrays and numbers.

        All arrays are copies: later replays must not write into what a step returned, nor may gradients share an array.
        """
        self.output = output
        self.result = in_output(without_symbols, output)
        left = {leaf: leaf.grad for leaf, before in self.grads_before.items() if leaf.grad is not before}
        sources = {gradient: gradient.array for gradient in left.values() if gradient is not None}
        arrays = {gradient: copied(source) for gradient, source in sources.items()}
        self._settle_ports()
        self.numbers_after = [(place, x) for place, before in self.numbers if (x := place.get()) is not before]
        for place, _ in self.numbers:
            place.put(bare(place.get()))
        self._settle_gradients(left, sources, arrays)
        known = {(id(place.holder), place.key) for place in self.reach.ports}
        new_places = [place for place in after.ports if (id(place.holder), place.key) not in known]
        for place in new_places:
            place.put(bare(place.get()))
        # False for an optimiser's first step, which makes its buffers, and for one that gives them another dtype.
        self.steady = not new_places and all(is_like(port.after, port.array) for port in self.ports)
        self.reach.sizes += self.reach.sizes_of_ports  # from now on, what is added or removed is not the step's doing

    def _settle_ports(self) -> None:
        """Find out which arrays the step replaced or wrote into."""
        for port in self.ports:
            left = port.place.get()
            port.after = left.copy() if isinstance(left, Symbol) else left
        new = [(port, copied(port.after)) for port in self.ports]  # copy all before any is written
        shown = Counter(self.home.extent(port.array) for port in self.ports)  # more than once after p.data = q.data
        for port, array in new:
            alone = shown[self.home.extent(port.array)] == 1
            port.place.put(committed(port.array, array, alone) if port.updated else port.array)

    def _settle_gradients(self, left: dict[Leaf, Any], sources: dict[Any, Any], arrays: dict[Any, Array]) -> None:
        """Find out which gradients the step replaced. Leaves may now share a gradient, or hold an old one.

        A replaced gradient is two things: the old array, a port that is only read, and the new gradient.
        """
        kept = {before: leaf for leaf, before in self.grads_before.items() if leaf not in left}
        given = {gradient: gradient if gradient in kept else Tensor.wrap(array) for gradient, array in arrays.items()}
        self.grads: list[Gradient] = []
        for leaf, gradient in left.items():
            leaf.grad = given.get(gradient)
            self.grads.append(Gradient(leaf, leaf.grad, bare_array(leaf.grad), sources.get(gradient)))
        for port in self.ports:
            if isinstance(port.later, ArrayOfGradient):
                before = self.grads_before[port.later.holder]
                if before in kept:  # by a leaf that shares it
                    port.later = ArrayOfGradient(kept[before], before, port.place.path)
                else:
                    port.after = Symbol(port.array, port.value)

    def changed(self) -> list[str]:
        """The paths of everything that has changed since the recording."""
        return self.reach.changed() + [path for path, x, held in self.seen if backend.of(x).checksum(x) != held]

    def is_valid(self) -> bool:
        """Whether nothing has changed but the content of arrays, and numbers, that are read anew in each replay."""
        return (
            self.reach.unchanged()
            and self._first_with_gradient() == self._first
            and all(_is_number(place.get()) for place, _ in self.numbers)
            and all(backend.of(x).checksum(x) == held for _, x, held in self.seen)
            and all((x := ref()) is None or x.array is array for ref, array in self.unreached)
        )

    def _first_with_gradient(self) -> list[Leaf | None]:
        """For each leaf, the first one that has the same gradient; None if it has none."""
        first: dict[int, Leaf] = {}
        return [None if x.grad is None else first.setdefault(id(x.grad), x) for x in self.grads_before]

    def values(self) -> list[Value]:
        """All values that the program must compute."""
        found = [port.after for port in self.ports if port.updated] + [g.source for g in self.grads]
        found += map(bare_array, leaves(self.output))
        return [x.value for x in found if isinstance(x, Symbol)]


def _symbolic() -> list[Tensor]:
    """All tensors that hold a symbol."""
    return [x for x in _alive() if isinstance(getattr(x, "array", None), Symbol)]


def _alive() -> list[Tensor]:
    # Not isinstance, which reads __class__: that fails or has side effects on some objects, such as proxies.
    return [x for x in gc.get_objects() if issubclass(type(x), Tensor)]


def _tensors_of(constants: dict[int, tuple[Value, Any]]) -> list[tuple[Any, Array]]:
    """Tensors that are not in ``reach``, but whose arrays the step used; these arrays must not be replaced."""
    if all(sys.getrefcount(value.constant) <= 2 for value, _ in constants.values()):  # only their values refer to them
        return []
    return [(weakref.ref(x), x.array) for x in _alive() if id(getattr(x, "array", None)) in constants]


def _is_number(x: Any) -> bool:
    return type(x) in (int, float, Scalar)


def _home(values: list[Any], arguments: Any) -> Backend:
    """The backend that a step works on: a device's, if any of its arrays is on a device."""
    arrays = [x for x in map(bare_array, [*tree_leaves(arguments), *values]) if backend.is_array(x)]
    homes = [backend.of(x) for x in arrays]
    return next((home for home in homes if home.name != "numpy"), homes[0] if homes else backend.default())


def _contents(reach: Reach) -> dict[int, Any]:
    """Checksums of the arrays in reach that no tensor holds: a replay would not repeat writes to them."""
    return {id: backend.of(x).checksum(x) for id, (_, x) in reach.arrays.items() if x.dtype.kind in "fiub"}


def _random_states(reach: Reach) -> Any:
    """The states of the random generators that a replay does not draw from."""
    shared: Any = np.random.get_state()
    return random.getstate(), shared[1].tobytes(), shared[2], list(map(state_of, reach.generators))
