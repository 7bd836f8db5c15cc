"""Compare a function on two backends, operation by operation: where they differ, and where that began."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from itertools import zip_longest
from math import inf
from typing import Any, NamedTuple

import numpy as np

from . import backend, tape
from .backend import as_array, is_array, signature, use_backend
from .check import CheckError
from .op import Op
from .plan import BoundRule
from .record import Watcher
from .replay.places import ABSENT, Place, refill
from .replay.reach import Reach
from .tape import Leaf, Node, Taped, bare_array, host_array
from .tree import tree_items, tree_map
from .whereabouts import whereabouts


class Difference(NamedTuple):
    """How far two backends differ in one result.

    absolute: the largest |a - b|. relative: absolute divided by the largest |a|. ulp: absolute in units in the last
    place of the largest |a|. allowed: the relative difference above which the result diverges.
    """

    what: str
    step: int | None
    where: str
    absolute: float
    relative: float
    ulp: float
    allowed: float

    @property
    def diverges(self) -> bool:
        """Whether the difference is more than rounding."""
        return not self.relative <= self.allowed

    def __str__(self) -> str:
        return f"{self.what}{self.where}: {self.absolute:.2g} apart, {self.relative:.2g} of the largest"


class Comparison(list[Difference]):
    """The findings of ``compare_backends``: a Difference for each result, in order of computation."""

    def __init__(self, backends: tuple[str, str], differences: list[Difference]) -> None:
        super().__init__(differences)
        self.backends = backends

    @property
    def first(self) -> Difference | None:
        """The first result that diverges; all results before it agree, so look here."""
        return next((d for d in self if d.diverges), None)

    @property
    def largest(self) -> dict[str, Difference]:
        """For each operation, forward and backward, the call in which the backends are furthest apart."""
        found: dict[str, Difference] = {}
        for d in self:
            if d.what not in found or not d.relative <= found[d.what].relative:
                found[d.what] = d
        return found

    def check(self, tolerance: float | None = None) -> None:
        """Raise CheckError if a result differs by more than allowed, or than a relative tolerance if given."""
        allowed = list(self) if tolerance is None else [d._replace(allowed=tolerance) for d in self]
        if first := Comparison(self.backends, allowed).first:
            raise CheckError(f"compare_backends: {' and '.join(self.backends)} diverge, first at {first}\n{self!r}")

    def __repr__(self) -> str:
        first, counts = self.first, Counter(d.what for d in self)
        told = f"the first that diverges is {first}" if first else "none diverges"
        apart = [d for d in self.largest.values() if d.absolute]
        width = max([len(d.what) for d in apart], default=0)
        rows = [
            f"{d.what:<{width}}{counts[d.what]:>9}{d.absolute:>10.2g}{d.relative:>10.2g}{d.ulp:>10.3g}{d.where}"
            for d in apart
        ]
        head = f"{'at most':<{width}}  results  absolute  relative       ulp"
        equal = f"{len(self.largest) - len(apart)} kinds of results are equal to the last bit"
        title = f"{' and '.join(self.backends)}: {len(self)} results, {told}"
        return "\n".join([title, *([head, *rows] if rows else []), equal])


def compare_backends(
    f: Callable[..., Any], *args: Any, backends: tuple[str, str] = ("numpy", "cupy"), tolerance: float | None = None
) -> Comparison:
    """Run f(*args) on two backends and compare every result of every operation, forward and backward.

    f may be a whole training step. Modules, optimisers, Tensors and arrays that it reaches through its arguments,
    closure or globals are moved for each run and restored afterwards. Random generators are restored too; both runs
    draw the same numbers. The comparison covers f's return value and all that a step changes: parameters, gradients,
    optimiser buffers. The results of both runs are kept on the host until they are compared.

    tolerance: the allowed relative difference; by default the square root of the rounding error: 3e-4 if any result so
    far was in float32, 1.5e-8 if all were in float64. Integers and booleans must be equal.

    Raises CheckError if the two runs do different operations, TypeError if f reaches a Tensor with history.

    >>> from tinygrad_rnn import nn, ones
    >>> cell = nn.RNNCell(2, 3)
    >>> report = compare_backends(lambda x: cell(x)[0].sum().backward(), ones(4, 2), backends=("numpy", "numpy"))
    >>> report.check()
    >>> report.first is None, report.largest["tanh"].ulp
    (True, 0.0)
    """
    first, second = (_run(f, args, name) for name in backends)
    found = []
    kind: Any = np.float64  # the coarsest dtype so far
    for k, (a, b) in enumerate(zip_longest(first, second)):
        if a is None or b is None or (a.what, a.array.shape) != (b.what, b.array.shape):
            told = ", ".join(f"{name} {r or 'nothing'}" for name, r in zip(backends, (a, b), strict=True))
            raise CheckError(f"compare_backends: the runs part at result {k} of {len(first)} and {len(second)}: {told}")
        if a.array.dtype.kind == "f" and np.finfo(a.array.dtype).eps > np.finfo(kind).eps:
            kind = a.array.dtype.type
        found.append(_difference(a, b, kind, tolerance))
    return Comparison(backends, found)


class _Result(NamedTuple):
    """One result of a run, on the host."""

    what: str
    step: int | None
    where: str
    array: Any

    def __str__(self) -> str:
        return f"does {self.what}, {signature(self.array)}{self.where}"


class _Results(Watcher):
    """Keeps a copy of each result."""

    def __init__(self) -> None:
        self.list: list[_Result] = []

    def add(self, what: str, value: Any, step: int | None = None, where: str = "") -> None:
        """Record a value if it is numeric."""
        array = bare_array(value)
        if is_array(array) or isinstance(array, (bool, int, float)):
            self.list.append(_Result(what, step, where, np.array(host_array(array))))

    def forward(self, op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any], result: Taped) -> None:
        self.add(op.name, result, tape.present_step(), whereabouts())

    def backward(self, rule: BoundRule, node: Node | Leaf, contribution: Any) -> None:
        made = tape.step_of(node.id)
        self.add(f"{rule.op.name} backward to {rule.input}", contribution, made, tape.at_step(made))


def _run(f: Callable[..., Any], args: tuple[Any, ...], name: str) -> list[_Result]:
    """All results of one run, and the final values of everything that it reaches."""
    results = _Results()
    call = partial(f, *args)
    home = backend.get(name)
    with _moved(Reach(call), home), use_backend(name):
        given = tree_map(lambda x: as_array(x, backend=name) if is_array(x) else x, args)
        with tape.watching(results):
            returned = f(*given)
        for path, value in tree_items({"returned": returned}):
            results.add(path, value)
        left = Reach(call)
        for t, path in reversed(left.tensors.items()):
            path = path if path[:1] != "[" else f"args{path}"
            results.add(f"{path} afterwards", t)
            results.add(f"{path}.grad afterwards", getattr(t.node, "grad", None))
        for place in reversed(left.ports):
            results.add(f"{place.path} afterwards", place.get())
    return results.list


def _difference(a: _Result, b: _Result, kind: Any, tolerance: float | None) -> Difference:
    if a.array.dtype != b.array.dtype:
        return Difference(f"{a.what} ({signature(a.array)}, {signature(b.array)})", a.step, a.where, inf, inf, inf, 0.0)
    x, y = a.array.astype(np.float64), b.array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
    absolute = float(np.nan_to_num(apart, nan=inf, posinf=inf).max(initial=0.0))
    scale = float(np.abs(x[np.isfinite(x)]).max(initial=0.0))
    relative, ulp = (absolute / scale, absolute / float(np.spacing(kind(scale)))) if scale else (absolute and inf,) * 2
    allowed = float(np.finfo(kind).eps) ** 0.5 if tolerance is None else tolerance
    return Difference(a.what, a.step, a.where, absolute, relative, ulp, allowed if a.array.dtype.kind == "f" else 0.0)


# ---- moving everything that a function reaches, and restoring it ----


@contextmanager
def _moved(reach: Reach, home: Any) -> Iterator[None]:
    """Replace all arrays by copies on a backend inside this block; restore everything afterwards."""
    with_history = [path for t, path in reach.tensors.items() if isinstance(t.node, Node)]
    if with_history:
        raise TypeError(f"compare_backends: {with_history[0]} has a history; use its detach() in the function")

    def there(array: Any) -> Any:
        return as_array(array, backend=home.name)

    places = [*reach.fixed, *((place, place.get()) for place in reach.ports)]
    places = [(place, value) for place, value in places if place.is_open()]
    containers = [x for x, *_ in (*reach.sizes, *reach.sizes_of_ports)] + [place.holder for place, _ in places]
    contents = [(x, x.copy()) for x in {id(x): x for x in containers}.values() if _can_be_refilled(x)]
    with ExitStack() as stack:
        for leaf in reach.leaves:  # a frozen parameter keeps its own
            stack.callback(partial(setattr, leaf, "grad", leaf.grad))
        for t in reach.tensors:
            stack.callback(partial(_set, t, t.array, t.node))
            _set(t, there(t.array), _leaf(t.node, there) if isinstance(t.node, Leaf) else None)
        for place, value in places:
            if not _can_be_refilled(place.holder) and value is not ABSENT:
                stack.callback(_put_back, place, value)
            if is_array(value):
                place.put(there(value))
        for container, content in contents:
            stack.callback(refill, container, content)
        stack.enter_context(_same_random_numbers(home, reach.generators))
        yield


@contextmanager
def _same_random_numbers(home: Any, generators: list[Any]) -> Iterator[None]:
    """Let a backend draw the host's random numbers inside this block; restore all generators afterwards."""
    host = backend.host
    rewinders = list(map(_rewinder, generators))
    state, draw = host.random_state(), host.uniform
    own = vars(home).copy()
    home.uniform = lambda shape: home.from_host(draw(shape))
    try:
        yield
    finally:
        del home.uniform
        vars(home).update(own)
        host.set_random_state(state)
        for rewind in rewinders:
            rewind()


def _leaf(old: Leaf, there: Callable[[Any], Any]) -> Leaf:
    """A new leaf with a copy of the gradient."""
    new = Leaf(old.shape, old.dtype)
    new.grad = None if old.grad is None else type(old.grad).wrap(there(old.grad.array))
    return new


def _put_back(place: Place, value: Any) -> None:
    if not place.holds(value):  # a frozen object, which has not changed, refuses any assignment
        place.put(value)


def _set(t: Any, array: Any, node: Any) -> None:
    t.array, t.node = array, node


def _can_be_refilled(container: Any) -> bool:
    """Whether a container can be cleared and refilled. A module's namespace is not: globals that f adds stay."""
    return "__name__" not in container if isinstance(container, dict) else isinstance(container, (list, set, deque))


def _rewinder(generator: Any) -> Callable[[], None]:
    """A function that restores the present state of a NumPy or Python random generator."""
    if hasattr(generator, "bit_generator"):
        return partial(setattr, generator.bit_generator, "state", deepcopy(generator.bit_generator.state))
    if hasattr(generator, "getstate"):
        return partial(generator.setstate, generator.getstate())
    return partial(generator.set_state, generator.get_state())
