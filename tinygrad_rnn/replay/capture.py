"""``capture``: record a step once, and replay it from then on."""

from __future__ import annotations

import functools
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from types import MethodType
from typing import Any, Generic, ParamSpec, TypeVar, overload

from .. import backend, tape
from ..backend import Array
from .arguments import in_output, signature_of, without_symbols
from .memory import Memory
from .passes import GRAPH, JOINING, LANES, PASSES
from .profile import Profile
from .reach import OF_CAPTURED
from .recorder import is_recording
from .recording import Recording
from .refusal import NumberError
from .replay import Replay

P = ParamSpec("P")
R = TypeVar("R")

_KEPT = 8  # recordings that a captured step keeps
_OFTEN = 5  # recordings of one signature after which it warns


class _Calls(threading.local):
    within = False  # whether a captured step is running eagerly


_calls = _Calls()


class Captured(Generic[P, R]):
    """A step that is recorded at its second call and replayed from the third on; ``capture`` makes it."""

    def __init__(self, step: Callable[P, R], without: Collection[str]) -> None:
        functools.update_wrapper(self, step, updated=())
        self.step = step
        self.without = frozenset(without)
        self._called = False
        self._floats_change = True  # whether floats among the arguments may differ from call to call
        self._replays: list[tuple[Any, Replay]] = []  # by signature, the latest first
        self._recorded: Counter[Any] = Counter()  # how often, by signature
        self._lock = threading.RLock()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if is_recording() or _calls.within:  # inside another captured step it is just a part of that one, with history
            return self.step(*args, **kwargs)
        if not self._called or tape.state.watchers:  # watchers must see every operation
            self._called = _calls.within = True
            try:
                return in_output(without_symbols, self.step(*args, **kwargs))  # type: ignore[no-any-return]
            finally:
                _calls.within = False
        signature, arrays, floats = self._told_apart((args, kwargs))
        with self._lock:
            replay = self._found(signature)
            return self._record(signature, args, kwargs, floats) if replay is None else replay(arrays, floats)

    def __get__(self, instance: Any, owner: Any = None) -> Captured[..., Any]:
        """For a method: the captured step of one instance. Its recordings live as long as the instance."""
        if instance is None:
            return self
        if not hasattr(instance, "__dict__"):
            raise TypeError(
                f"capture: {self._name} keeps its recordings with the object that it is a method of, and a "
                f"{type(instance).__name__} has no __dict__ to keep them in; add '__dict__' to its __slots__"
            )
        key = f"{OF_CAPTURED}{self._name}_{id(self)}"
        step, known = MethodType(self.step, instance), vars(instance).get(key)
        if known is None or known.step != step:  # it belongs to the object that this one was copied from
            known = Captured(step, self.without)
            if isinstance(instance, type):
                setattr(instance, key, known)
            else:
                vars(instance)[key] = known
            for other in [x for kind in type(instance).__mro__ for x in vars(kind).values() if type(x) is Captured]:
                other.__get__(instance)  # all at once: to a recording of one, the next would be a new attribute
        return known  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Captured({self._name}, recordings: {len(self._replays)})"

    def __reduce__(self) -> Any:
        return Captured, (self.step, self.without)  # a copy makes its own recordings

    @property
    def _name(self) -> str:
        return getattr(self.step, "__qualname__", type(self.step).__name__)

    def _found(self, signature: Any) -> Replay | None:
        return next((replay for known, replay in self._replays if known == signature and replay.fits()), None)

    def _record(self, signature: Any, args: Any, kwargs: Any, floats: list[float]) -> R:
        drawn = backend.host.random_state()
        try:
            recording = Recording(self.step, args, kwargs, self._floats_change)
        except (NumberError, TypeError, AttributeError):
            if not (self._floats_change and floats):
                raise
            backend.host.set_random_state(drawn)
            recording = Recording(self.step, args, kwargs, False)
            self._floats_change = False  # the step needs the number itself, so each number gets a recording
            signature, *_ = self._told_apart((args, kwargs))
        if recording.steady:
            self._recorded[signature] += 1
            self._warn(signature)
            self._replays.insert(0, (signature, Replay(recording, self.without)))
            del self._replays[_KEPT:]
        return recording.result  # type: ignore[return-value]

    def _warn(self, signature: Any) -> None:
        """Warn if recordings are made again and again: each takes as long as many steps."""
        count, total = self._recorded[signature], self._recorded.total()
        same = next((replay for known, replay in self._replays if known == signature), None)
        if count == _OFTEN and same is not None:
            changed = same.recording.changed()
            warnings.warn(
                f"capture: {self._name} was recorded {count} times for one shape of arguments, as "
                f"{', '.join(changed[:3]) or 'gradients that are there or not'} changed; pass in as an argument what "
                "changes from call to call",
                stacklevel=4,
            )
        elif total == 2 * _KEPT:
            warnings.warn(
                f"capture: {self._name} was recorded {total} times, for arguments of {len(self._recorded)} kinds, and "
                f"{_KEPT} recordings are kept; pass in numbers that change as Python floats or arrays, and pad "
                "sequences to a few lengths",
                stacklevel=4,
            )

    def _told_apart(self, arguments: Any) -> tuple[Any, list[Array], list[float]]:
        """The signature that tells calls apart, and the arrays and floats that may differ between equal signatures."""
        found: dict[int, tuple[int, Array]] = {}
        floats: list[float] = []
        signature = tape.state.enabled, signature_of(arguments, found, floats)
        arrays = [array for _, array in found.values()]
        return (signature, arrays, floats) if self._floats_change else ((signature, *map(repr, floats)), arrays, [])

    @property
    def replay(self) -> Replay:
        """The latest recording, ready to be played."""
        if not self._replays:
            raise RuntimeError("capture: nothing is recorded yet; call the step twice")
        return self._replays[0][1]

    def source(self, after: str | None = None) -> str:
        """The step as it is replayed, as lines of code: forward, backward and update.

        after: the name of a pass (see ``passes``), for the lines right after it; "" for the lines as recorded.
        """
        if after is not None and after not in ("", *PASSES):
            raise ValueError(f"source: there is no pass {after!r}; there are {', '.join(PASSES)}, and '' for none")
        return str(self.replay.program_after(after))

    def profile(self, *args: P.args, **kwargs: P.kwargs) -> Profile:
        """Run one real step, and return the time, operations and bytes of each line."""
        signature, arrays, floats = self._told_apart((args, kwargs))
        with self._lock:
            replay = self._found(signature)
            if replay is None:
                raise RuntimeError("profile: there is no recording for these arguments; call the step with them twice")
            return replay.profile(arrays, floats)

    @property
    def memory(self) -> Memory:
        """Bytes that a replay needs, and would need with an array for each result; printed, also what takes most."""
        return self.replay.memory


@overload
def capture(step: Callable[P, R], *, exact: bool = ..., without: Collection[str] = ...) -> Captured[P, R]: ...
@overload
def capture(
    step: None = ..., *, exact: bool = ..., without: Collection[str] = ...
) -> Callable[[Callable[P, R]], Captured[P, R]]: ...
def capture(step: Any = None, *, exact: bool = False, without: Collection[str] = ()) -> Any:
    """A function that records a training step once, and replays the recording from then on.

    The first call runs the step as it is. The second also records every operation: forward, backward, clipping and
    update. The recorded program is then optimised: products that do not recur become one, equal work of T steps is done
    at once, memory is planned. Later calls replay it, without running the step's Python code.

    Everything that the step uses may change between calls: tensors; arrays, floats and nested states among the
    arguments; an optimiser's learning rate and buffers. ``randn``, ``rand`` and dropout masks are drawn anew, from the
    usual generators. Parameters and gradients are written in place. Other shapes, dtypes, structures or plain
    arguments, and other Python values that the step reaches (``model.training``), lead to a new recording; eight are
    kept. Methods can be captured, and models can be arguments. Within ``detect_anomaly`` and other watchers the step
    runs eagerly.

    exact: leave out the passes that may change the last bits of a result (``hoist``, ``sum_over_time``,
    ``reassociate``, ``wavefront``).
    without: passes to leave out, by name: lower, share, hoist, widen, sum_over_time, reassociate, batch, and
        on a GPU narrow, fuse, wavefront, draw_first; also lanes, for a single lane, and graph, for single launches
        instead of CUDA graphs.

    Raises CaptureError, and restores every array, for a step that depends on values (``if loss > 1``, ``.item()``,
    ``.numpy()``), draws random numbers in other ways, reads an iterator, changes Python values, or keeps results
    anywhere but in its return value. It returns copies without history. A replay does not repeat Python side effects
    such as printing and counting.

    >>> from tinygrad_rnn import nn, ones, optim
    >>> model = nn.Linear(3, 1)
    >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
    >>> @capture
    ... def step(x):
    ...     optimizer.zero_grad()
    ...     loss = (model(x) ** 2).mean()
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> losses = [step(ones(8, 3)).item() for _ in range(20)]
    >>> losses[-1] < 0.01 * losses[0]
    True
    >>> step.memory.planned < step.memory.naive
    True
    """
    known, without = (*PASSES, GRAPH, LANES), (without,) if isinstance(without, str) else without
    unknown = [name for name in without if name not in known]
    if unknown:
        raise ValueError(f"capture: there is no pass {unknown[0]!r} to leave out; there are {', '.join(known)}")
    left_out = {*without, *(JOINING if exact else ())}
    if step is None:
        return functools.partial(Captured, without=left_out)
    if not callable(step):
        raise TypeError(f"capture: a function is needed, not {type(step).__name__}")
    return Captured(step, left_out)
