"""One run of a step, written down: the program, and how it is joined to the world outside."""

from __future__ import annotations

import gc
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .. import backend, writes
from ..backend import Array, Backend
from ..tape import CaptureError, Leaf, Taped, bare_array, collector_resting
from ..tensor import Tensor
from ..tree import tree_leaves
from ..whereabouts import whereabouts
from .arguments import Arguments, apart, check_output, copied, in_output, leaves, without_symbols
from .places import ArrayOfGradient, Attribute, Place
from .program import Value
from .reach import Reach, state_of
from .recorder import Recorder, bare, recording
from .symbol import Scalar, Symbol

_SMALL = 2**14  # bytes


class Port:
    """A place outside that the program reads, writes, or both."""

    def __init__(self, place: Place, symbol: Symbol, later: Place) -> None:
        self.place = place
        self.later = later  # the same place for replays: by then a leaf may hold another gradient
        self.value, self.array = symbol.value, symbol.array  # what it holds before
        self.after: Any = symbol.copy()  # what the step left there
        place.put(symbol)

    @property
    def updated(self) -> bool:
        """Whether the step put another array there, or wrote into the one that was."""
        return not isinstance(self.after, Symbol) or self.after.value is not self.value


class Gradient(NamedTuple):
    """What a step left as the gradient of a leaf."""

    leaf: Leaf
    tensor: Tensor | None
    array: Any  # of the tensor, where each replay puts the gradient
    source: Any  # the symbol that stood there


class Recording:
    """What a step did in one run. That run's results are real: parameters are updated, and ``output`` is there.

    If the step cannot be recorded, CaptureError says why, and every array and number is as it was before, but for bare
    arrays into which the step itself has written.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], floats_change: bool
    ) -> None:
        reach = partial(Reach, function, (args, kwargs))
        self.reach = reach()
        self.grads_before = {leaf: leaf.grad for leaf in self.reach.leaves}
        first = {g: leaf for leaf, g in reversed(self.grads_before.items())}
        self.gradients = len(first)
        pairs = [(leaf, first[g]) for leaf, g in self.grads_before.items() if g is not None]
        self.sharing = [(leaf, other) for leaf, other in pairs if leaf is not other]
        drawn, held = _random_states(self.reach), _contents(self.reach)
        arrays, numbers = self._places()
        iterators = [(place, place.get()) for place in self.reach.iterators]
        before = [(place, place.get()) for place in (*[place for place, _ in arrays], *numbers)]
        home = self.home = _home([value for _, value in before], (args, kwargs))
        with collector_resting(lasting=True), recording(home) as recorder:
            self.lines = recorder.lines
            self.numbers: list[tuple[Place, Any]] = [(p, Scalar(p.get(), p.get)) for p in numbers]
            arguments = Arguments(recorder, args, kwargs, floats_change)
            self.inputs, self.floats = arguments.inputs, arguments.floats
            with self._undone_if_refused(recorder, [*before, *iterators]):
                self.ports = [Port(place, recorder.port(place.get(), place.path), later) for place, later in arrays]
                for place, scalar in self.numbers:
                    place.put(scalar)
                for place, _ in iterators:
                    place.put(_Closed(place.path))
                output = in_output(apart, function(*arguments.args, **arguments.kwargs))
                arguments.close()
                recorder.check_draws()
                check_output(output)
                for place, iterator in iterators:
                    place.put(iterator)
                self._check(reach(), drawn, held, recorder, output)
            self._settle(reach, output)
        self.unreached = _tensors_of(recorder.constants)
        # Bare arrays whose numbers the step used, but not by lines, which read them anew in each replay; and small
        # ones, which only NumPy may have read.
        live = {id(writes.owner_of(value.constant)) for value in recorder.constants.values()}
        self.seen = [
            (path, x, backend.of(x).checksum(x))
            for path, x in self.reach.arrays.values()
            if (owner := id(writes.owner_of(x))) in recorder.seen
            or (owner not in live and isinstance(x, np.ndarray) and x.nbytes <= _SMALL)
        ]

    def _places(self) -> tuple[list[tuple[Place, Place]], list[Place]]:
        """Where the step finds arrays, now and in replays; and where it finds numbers that may change."""
        arrays: list[tuple[Place, Place]] = []
        for tensor, path in self.reach.tensors.items():
            arrays.append((Attribute(tensor, "array", path),) * 2)
        first: dict[Tensor, Leaf] = {}  # of leaves that may share a gradient
        for leaf, path in self.reach.leaves.items():
            if leaf.grad is not None and first.setdefault(leaf.grad, leaf) is leaf:
                path = f"{path}.grad"
                arrays.append((Attribute(leaf.grad, "array", path), ArrayOfGradient(leaf, leaf.grad, path)))
        arrays += [(place, place) for place in self.reach.ports if backend.is_array(place.get())]
        return arrays, [place for place in self.reach.ports if not backend.is_array(place.get())]

    @contextmanager
    def _undone_if_refused(self, recorder: Recorder, before: list[tuple[Place, Any]]) -> Iterator[None]:
        """Whatever goes wrong inside leaves all places, gradients and tensors as they were."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, CaptureError):  # others come from the step, which has drawn what it has drawn
                backend.host.set_random_state(recorder.start)
            for leaf, g in self.grads_before.items():
                leaf.grad = g
            for place, value in before:
                place.put(value)
            for tensor in _symbolic():
                tensor.array = tensor.array.array
            raise

    def _check(self, after: Reach, drawn: Any, held: dict[int, Any], recorder: Recorder, output: Any) -> None:
        """Raise if the step did what a replay would not do again."""
        if _random_states(self.reach) != drawn:
            raise CaptureError(
                "capture: the step drew random numbers from a generator of its own, which a replay would not do; draw "
                "them outside and pass them in, or use tg.randn, tg.rand or tg.dropout"
            )
        self._refuse_kept(after, recorder, output)
        now = _contents(self.reach)
        changed = [*self.reach.changed(), *(self.reach.arrays[id][0] for id in held if now[id] != held[id])]
        if changed:
            raise CaptureError(
                f"capture: the step changes {', '.join(changed[:3])}, which a replay would not do; return the new "
                "value and pass it in the next time, or do it outside of the step"
            )

    def _refuse_kept(self, after: Reach, recorder: Recorder, output: Any) -> None:
        """Raise if a result is kept anywhere but in what the step returns, and in places that replays write to."""
        known = set(self.reach.tensors)
        for tensor, path in after.tensors.items():
            if tensor not in known and isinstance(tensor.array, Symbol):
                raise CaptureError(
                    f"capture: the step keeps a result in {path}; return it, and pass it in the next time"
                )
        own = {*known, *(leaf.grad for leaf in self.reach.leaves), *self.grads_before.values()}
        places = [place.get() for place in [*(port.place for port in self.ports), *after.ports]]
        kept = [*own, *leaves(output), *places, *recorder.draws]
        accounted = {*map(id, map(bare_array, kept)), *(id(symbol) for symbol, _ in self.inputs)}
        del places, kept
        others = not accounted.issuperset(id(x) for x in (ref() for ref in recorder.made) if x is not None)
        # What is returned may be kept elsewhere as well: then more than the tensor that is returned refers to it.
        shared = any(sys.getrefcount(x.array) > 2 for x in leaves(output) if isinstance(x, Taped))
        if (others or shared) and not own.issuperset(_symbolic()):  # which looks at every object there is
            gc.collect()  # it may be in a cycle
            for tensor in _symbolic():
                if tensor not in own:
                    raise CaptureError(
                        f"capture: the step keeps a result, {tensor!r}, in an object that a replay would not reach; "
                        "return it, or, if it belongs to a model, pass the model in as an argument"
                    )

    def _settle(self, reach: Callable[[], Reach], output: Any) -> None:
        """See what the run left behind, and put arrays and numbers in the place of symbols.

        All arrays are copies: what a step returns must not be what later replays write to, nor two gradients one array.
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
        new_places = [place for place in reach().ports if (id(place.holder), place.key) not in known]
        for place in new_places:
            place.put(bare(place.get()))
        self.steady = not new_places  # not so for the first step of an optimiser, which makes its buffers

    def _settle_ports(self) -> None:
        """See which arrays the step replaced or wrote into."""
        for port in self.ports:
            left = port.place.get()
            port.after = left.copy() if isinstance(left, Symbol) else left
        new = [(port, copied(port.after)) for port in self.ports]  # of all, before any is written
        for port, array in new:
            port.place.put(_commit(port.array, array) if port.updated else port.array)

    def _settle_gradients(self, left: dict[Leaf, Any], sources: dict[Any, Any], arrays: dict[Any, Array]) -> None:
        """See which gradients the step replaced; several leaves may have been left with one, or with an old one.

        Such a gradient is two things: the array of the old one, its port, which is only read, and the new one.
        """
        kept = {before for leaf, before in self.grads_before.items() if leaf not in left}
        given = {gradient: gradient if gradient in kept else Tensor.wrap(array) for gradient, array in arrays.items()}
        self.grads: list[Gradient] = []
        for leaf, gradient in left.items():
            leaf.grad = given.get(gradient)
            self.grads.append(Gradient(leaf, leaf.grad, bare_array(leaf.grad), sources.get(gradient)))
        for port in self.ports:
            if isinstance(port.later, ArrayOfGradient) and port.later.holder in left:
                port.after = Symbol(port.array, port.value)

    def changed(self) -> list[str]:
        """The paths of what is no longer as it was when the step was recorded."""
        return self.reach.changed() + [path for path, x, held in self.seen if backend.of(x).checksum(x) != held]

    def shares_gradients(self) -> bool:
        """Whether the same leaves share a gradient as when the step was recorded."""
        now = {id(leaf.grad) for leaf in self.grads_before}
        return len(now) == self.gradients and all(a.grad is b.grad for a, b in self.sharing)

    def values(self) -> list[Value]:
        """All that the program has to deliver."""
        found = [port.after for port in self.ports if port.updated] + [g.source for g in self.grads]
        found += map(bare_array, leaves(self.output))
        return [x.value for x in found if isinstance(x, Symbol)]


class _Closed:
    """Stands for an iterator while a step is recorded."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __iter__(self) -> NoReturn:
        raise CaptureError(
            f"capture: the step draws from {self._path}, which a replay would not do{whereabouts()}; draw before the "
            "step, and pass in what is drawn as an argument"
        )

    __next__ = __iter__


def _symbolic() -> list[Tensor]:
    """All tensors that hold a symbol."""
    return [x for x in _alive() if isinstance(getattr(x, "array", None), Symbol)]


def _alive() -> list[Tensor]:
    # Not isinstance, which asks some objects for more than they like to tell.
    return [x for x in gc.get_objects() if issubclass(type(x), Tensor)]


def _tensors_of(constants: dict[int, Value]) -> list[tuple[Any, Array]]:
    """Tensors out of the step's reach whose arrays it used all the same, with these, which must not be replaced."""
    if all(sys.getrefcount(value.constant) <= 2 for value in constants.values()):  # held by their values alone
        return []
    return [(weakref.ref(x), x.array) for x in _alive() if id(getattr(x, "array", None)) in constants]


_buffers: dict[int, Any] = {}  # arrays that belong to captured steps, by id; weak references


def _commit(old: Array, new: Array) -> Array:
    """The array that a parameter has after a recording: one that captured steps share is written in place."""
    known = _buffers.get(id(old))
    if known is not None and known() is old:
        old[...] = new
        writes.wrote(old)
        return old
    _buffers[id(new)] = weakref.ref(new)
    return new


def _home(values: list[Any], arguments: Any) -> Backend:
    """The backend of the arrays that a step works on: a device, if one of them is there."""
    arrays = [x for x in map(bare_array, [*tree_leaves(arguments), *values]) if backend.is_array(x)]
    homes = [backend.of(x) for x in arrays]
    return next((home for home in homes if home.name != "numpy"), homes[0] if homes else backend.default())


def _contents(reach: Reach) -> dict[int, Any]:
    """What the arrays hold that are reached, but by no tensor: a replay knows nothing of what is written there."""
    return {id: backend.of(x).checksum(x) for id, (_, x) in reach.arrays.items() if x.dtype.kind in "fiub"}


def _random_states(reach: Reach) -> Any:
    """Where the generators stand that a replay does not draw from."""
    shared: Any = np.random.get_state()
    return random.getstate(), shared[1].tobytes(), shared[2], list(map(state_of, reach.generators))
