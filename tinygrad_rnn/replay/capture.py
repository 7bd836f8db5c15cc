"""``capture``: a step that is recorded once and replayed from then on."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Collection
from typing import Any, Generic, ParamSpec, TypeVar, overload

from .. import backend, tape
from ..backend import Array
from ..tensor import Tensor
from .passes import GRAPH, JOINING, PASSES
from .recorder import is_recording
from .recording import Recording
from .replay import Memory, Profile, Rebound, Replay
from .symbol import NumberError

P = ParamSpec("P")
R = TypeVar("R")

_KEPT = 8  # recordings that a captured step keeps
_OFTEN = 5  # recordings after which it says that something is wrong


class Captured(Generic[P, R]):
    """A step that is recorded at its second call and replayed from the third on; ``capture`` makes it."""

    def __init__(self, step: Callable[P, R], without: Collection[str]) -> None:
        functools.update_wrapper(self, step)
        self.step = step
        self.without = frozenset(without)
        self._called = False
        self._floats_change = True  # whether floats among the arguments may differ from call to call
        self._replays: list[tuple[Any, Replay]] = []  # by signature, the latest first
        self._recorded: dict[Any, int] = {}  # how often, by signature
        self._lock = threading.RLock()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if not self._called or is_recording():  # a captured step within another one is a part of that
            self._called = True
            return self.step(*args, **kwargs)
        arrays: list[Array] = []
        floats: list[float] = []
        signature = self._signature((args, kwargs), arrays, floats)
        with self._lock:
            for known, replay in self._replays:
                if known == signature and replay.fits():
                    try:
                        return replay(arrays, floats)  # type: ignore[no-any-return]
                    except Rebound:
                        replay.rebind()
                        return replay(arrays, floats)  # type: ignore[no-any-return]
            return self._record(signature, args, kwargs)

    def _record(self, signature: Any, args: Any, kwargs: Any) -> R:
        try:
            recording = Recording(self.step, args, kwargs, self._floats_change)
        except NumberError:
            if not self._floats_change:
                raise
            self._floats_change = False  # it wants the number itself, so there is a recording for each
            signature = self._signature((args, kwargs), [], [])
            recording = Recording(self.step, args, kwargs, False)
        if recording.steady:
            self._recorded[signature] = count = self._recorded.get(signature, 0) + 1
            if count == _OFTEN:
                changed = next(r for known, r in self._replays if known == signature).recording.reach.changed()
                warnings.warn(
                    f"capture: {self.__name__} was recorded {count} times for one shape of arguments, as "  # type: ignore[attr-defined]
                    f"{', '.join(changed[:3]) or 'gradients that are there or not'} changed; pass in as an argument "
                    "what changes from call to call",
                    stacklevel=3,
                )
            self._replays.insert(0, (signature, Replay(recording, self.without)))
            del self._replays[_KEPT:]
        return recording.result  # type: ignore[return-value]

    def _signature(self, arguments: Any, arrays: list[Array], floats: list[float]) -> Any:
        signature = tape.state.enabled, _signature(arguments, arrays, floats)
        if self._floats_change:
            return signature
        fixed = *signature, tuple(floats)
        floats.clear()
        return fixed

    @property
    def replay(self) -> Replay:
        """The latest recording, ready to be played."""
        if not self._replays:
            raise RuntimeError(
                "capture: nothing is recorded yet; call the step twice, or, with an optimiser, three times"
            )
        return self._replays[0][1]

    def source(self, after: str | None = None) -> str:
        """The recorded step as lines of code, forward, backward and update, as it is replayed.

        after: the name of a pass (see ``passes``), for the lines as they were after it; "" for those recorded.
        """
        if after is not None and after not in ("", *PASSES):
            raise ValueError(f"source: there is no pass {after!r}; there are {', '.join(PASSES)}, and '' for none")
        return str(self.replay.program_after(after))

    def profile(self, *args: P.args, **kwargs: P.kwargs) -> Profile:
        """Do one step, a real one, and say what each line of it took: time, operations, bytes."""
        arrays: list[Array] = []
        floats: list[float] = []
        self._signature((args, kwargs), arrays, floats)
        with self._lock:
            return self.replay.profile(arrays, floats)

    @property
    def memory(self) -> Memory:
        """Bytes that a replay needs, and that it would need if each result had memory of its own."""
        return self.replay.memory


def _signature(tree: Any, arrays: list[Array], floats: list[float]) -> Any:
    """What tells calls apart: structure, shapes, dtypes, plain values. Gathers arrays and floats on the way."""
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


@overload
def capture(step: Callable[P, R], *, exact: bool = ..., without: Collection[str] = ...) -> Captured[P, R]: ...
@overload
def capture(
    step: None = ..., *, exact: bool = ..., without: Collection[str] = ...
) -> Callable[[Callable[P, R]], Captured[P, R]]: ...
def capture(step: Any = None, *, exact: bool = False, without: Collection[str] = ()) -> Any:
    """A function that does what a training step does, but records it once and then replays what it recorded.

    The first call runs the step as it is. The second runs it too and writes down every operation, forward, backward,
    clipping and update; this program is then made better (products that do not recur become one, what T steps do alike
    is done at once, memory is planned). Later calls play it, without Python's part in it.

    Everything that the step uses may change between calls: tensors, and arrays, floats and nested states among the
    arguments; an optimiser's learning rate and buffers; masks of dropout are drawn anew, from the same generator as
    ever. Parameters that the step updates are updated in place. Other shapes, dtypes, structures or plain arguments,
    and other Python values that the step reaches (``model.training``), are recorded anew; eight recordings are kept.

    exact: results equal those of the step itself bit for bit; without this some passes change the last bits
    (``hoist``, ``reassociate``, ``lay_out_weights``).
    without: passes to leave out, by name: lower, share, hoist, widen, share_again, reassociate, batch, lay_out_weights,
        and on a GPU narrow, fuse, draw_first; also graph, for launches one by one.

    Raises CaptureError, with every array as it was, for a step that depends on values (``if loss > 1``, ``.item()``,
    ``.numpy()``), draws random numbers by ``randn`` or ``rand``, changes Python values, or keeps results anywhere but
    in its return value. What it returns has no history. Printing and counting in Python happen only while recording.

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
    unknown = [name for name in without if name not in (*PASSES, GRAPH)]
    if unknown:
        raise ValueError(f"capture: there is no pass {unknown[0]!r} to leave out; there are {', '.join(PASSES)}")
    left_out = {*without, *(JOINING if exact else ())}
    if step is None:
        return functools.partial(Captured, without=left_out)
    if not callable(step):
        raise TypeError(f"capture: a function is needed, not {type(step).__name__}")
    return Captured(step, left_out)
