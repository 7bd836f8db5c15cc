"""An operation is a pure kernel and, for each input by name, the rule that computes its gradient.

    @op
    def tanh(xp, x, *, out=None):
        return xp.tanh(x, out=out)
    tanh.vjp(x=lambda g, y: g * (1 - y * y))

The kernel gets its array module as ``xp``, then arrays, then attributes by keyword. A rule (a vector-Jacobian product)
declares what it needs by the names of its parameters, and the tape saves only that:

    g          the gradient of the output (the cotangent)
    y          the output
    x          an input, by its name in the kernel; for ``*xs`` all of them as a tuple
    x_shape    the shape of an input, which costs no memory
    axis       an attribute
    k          for ``*xs``: the index of the input whose gradient is computed
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, overload

from . import backend, tape
from .backend import Array, signature
from .dispatch import dispatcher, forget, parameters_of
from .hints import ARGUMENTS
from .out_of_memory import explained
from .plan import Plan, Rule
from .whereabouts import ShapeError, whereabouts

if TYPE_CHECKING:
    from .tensor import Tensor


class Op:
    """The record of an operation: kernel, inputs, attributes, rules."""

    def __init__(self, kernel: Callable[..., Array], name: str) -> None:
        self.name = name
        self.kernel = kernel
        self.parameters = parameters = list(inspect.signature(kernel).parameters.values())[1:]  # those after xp
        for p in parameters:
            if p.name in ("g", "k"):
                raise TypeError(f"{name}: {p.name!r} has a meaning of its own in rules; call it something else")
            if p.name.startswith("_"):
                raise TypeError(f"{name}: {p.name!r} begins with an underscore, which the engine keeps for itself")
            if p.kind is p.VAR_KEYWORD:
                raise TypeError(f"{name}: a kernel names its attributes one by one, not as **{p.name}")
        inputs = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        if not inputs:
            raise TypeError(f"{name}: a kernel takes the array module and then arrays, {name}(xp, x)")
        self.inputs = tuple(p.name for p in inputs)
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in inputs)
        if self.variadic and len(inputs) > 1:
            raise TypeError(f"{name}: a kernel takes either named arrays or *{self.inputs[-1]}, not both")
        self.optional = {p.name: p.default for p in inputs if p.default is not p.empty}
        self.writes_out = any(p.name == "out" for p in parameters)
        self.attributes = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "out"}
        self.parents = [] if self.variadic else [f"parent of {name}" for name in self.inputs]
        shapes = [f"{name}_shape" for name in self.inputs]
        # All that a rule may name, and the parents, in the order in which a call lists them for ``Plan.pick``.
        self.known = ["g", "k", *self.inputs, "y", *self.parents, *shapes, *self.attributes]
        self.rules: dict[str, Rule | None] = {}
        self.merges: dict[str, Rule] = {}
        self.explain: Callable[..., str | None] | None = None
        self.waits = False  # whether the kernel may make the host wait, which a CUDA graph cannot capture
        self.overwrites = False  # whether ``out`` may alias the first input
        self.plans: dict[int, Plan] = {}
        self.function: Any = dispatcher(self)

    def names(self, count: int) -> Sequence[str]:
        """The names of a call's inputs; those of ``*xs``, ``count`` of them, are numbered."""
        return [f"{self.inputs[0]}[{k}]" for k in range(count)] if self.variadic else self.inputs

    def define(self, kind: str, table: dict[str, Any], rules: dict[str, Any]) -> None:
        """Add rules or merges, after checking the names in them."""
        known = {*self.known} - {*self.parents, *([] if self.variadic else ["k"])}
        for name, rule in rules.items():
            if name not in self.inputs:
                raise TypeError(
                    f"{self.name}.{kind}: there is no input {name!r}; the inputs are {_listed(self.inputs)}"
                )
            for parameter in parameters_of(rule):
                if parameter not in known:
                    raise TypeError(
                        f"{self.name}.{kind}: the rule for {name!r} asks for {parameter!r}, which it cannot have; "
                        f"the names that exist are {_listed(sorted(known))}"
                    )
        table.update(rules)
        self.plans.clear()
        forget(self)

    def plan(self, needs: int) -> Plan:
        """Make and store the plan for a set of inputs, given as bits."""
        needed = [name for position, name in enumerate(self.inputs) if needs >> position & 1]
        plan = self.plans[needs] = Plan(self, needed)
        return plan

    def in_one(self, values: tuple[Any, ...], attributes: dict[str, Any]) -> tuple[Any, ...]:
        """The arrays and attributes of a call with all arrays in one sequence, then perhaps attributes by position."""
        arrays, *given = values
        if len(given) > len(attributes):
            known = _listed(attributes) or "nothing"
            raise TypeError(f"{self.name}: after the list of arrays comes {known}, not {given}{whereabouts()}")
        return tuple(arrays), *given, *[*attributes.values()][len(given) :]

    def refuse(self, others: dict[str, Any]) -> None:
        """Raise for arguments by name that the op does not have, such as PyTorch's dim."""
        if others == {"dtype": None}:
            return  # np.mean(x) says so, and np.var and np.std
        name, known = next(iter(others)), [*self.inputs, *self.attributes]
        meant = ARGUMENTS.get(name)
        cure = f"it is called {meant!r} here" if meant in known else f"the arguments are {_listed(known)}"
        raise TypeError(f"{self.name}: there is no argument {name!r}; {cure}{whereabouts()}")

    def fail(self, error: Exception, arrays: Sequence[Array], attributes: dict[str, Any]) -> NoReturn:
        """Re-raise an error with the op, the inputs, the time step and the caller's line in the message."""
        named = zip(self.names(len(arrays)), arrays, strict=True)
        inputs = [(name, a) for name, a in named if a is not None or name not in self.optional]
        homes = {name: backend.of(a).name for name, a in inputs if backend.is_array(a)}
        where = whereabouts()
        if isinstance(error, MemoryError):
            array = next((a for name, a in inputs if name in homes), None)
            raise explained(error, self.name, array, where) from error
        if len(set(homes.values())) > 1:
            listed = _listed(f"{name} on {home}" for name, home in homes.items())
            cure = f"bring them together with x.to({min(homes.values())!r})"
            raise backend.BackendError(f"{self.name}: arrays of two backends, {listed}; {cure}{where}") from error
        bare = [name for name, a in inputs if not hasattr(a, "dtype")]
        reason = error
        if isinstance(error, AttributeError) and bare:  # the kernel took them for arrays
            reason = TypeError(f"{_listed(bare)} must be an array, such as tg.tensor({bare[0]})")
        looked_at = [getattr(a, "array", a) for a in arrays]  # while a step is recorded, a symbol refuses to be read
        told = self.explain(*looked_at, **attributes) if self.explain and not bare else None
        message = f"{self.name}: {told or _diagnosis(reason, inputs, attributes)}{where}"
        for kind, raised in ((IndexError, IndexError), (ValueError, ShapeError), (TypeError, TypeError)):
            if isinstance(reason, kind):
                raise raised(message) from error
        raise error


def _diagnosis(reason: Exception, inputs: list[tuple[str, Any]], attributes: dict[str, Any]) -> str:
    """What is wrong with the inputs and attributes of a failed call, for all operations alike."""
    for name, value in attributes.items():
        if isinstance(value, tape.Taped):
            return f"{name} is a Tensor, but no gradient goes there; give its number or its array, {name}.data"
    for name, a in inputs:
        if hasattr(a, "_fields"):
            return f"{name} is a {type(a).__name__}, of which one field is meant: {_listed(a._fields)}"
    for name, a in inputs:
        if isinstance(a, (list, tuple)):
            return f"make a tensor of the list {name!r}, tg.tensor({name})"
    given = [f"{name} {signature(a) if hasattr(a, 'dtype') else repr(a)}" for name, a in inputs]
    return f"{_listed(given if len(given) < 8 else [*given[:3], '...', given[-1]])}: {reason}"


def check_arrays(who: str, **inputs: Any) -> None:
    """Raise TypeError for an input of a composite that is no array, as its operations would in their own name."""
    for name, x in inputs.items():
        if not hasattr(x, "dtype"):
            cure = TypeError(f"{name} must be an array, such as tg.tensor({name})")
            raise TypeError(f"{who}: {_diagnosis(cure, [(name, x)], {})}{whereabouts()}")


class Operation(Protocol):
    """The function that ``op`` makes from a kernel."""

    op: Op

    @overload
    def __call__(self, x: Tensor, /, *args: Any, **attributes: Any) -> Tensor: ...
    @overload
    def __call__(self, *args: Any, **attributes: Any) -> Any:
        """For bare arrays, the kernel's result; with Tensors among the inputs, a Tensor with history."""

    def __get__(self, x: Any, owner: Any = None) -> Callable[..., Tensor]:
        """As a class's attribute, a method, as any function is."""

    def vjp(self, **rules: Rule | None) -> Operation:
        """Set the rule of each input by name; None says that the input has no gradient."""

    def merge(self, **merges: Rule) -> Operation:
        """Set, by input, how several uses of one array combine: each parameter is a tuple over the uses."""

    def explain(self, function: Callable[..., str | None]) -> Callable[..., str | None]:
        """Set a function that gets a failed call's inputs and attributes and says what is wrong and how to fix it."""


@overload
def op(kernel: Callable[..., Array], *, name: str = "") -> Operation: ...
@overload
def op(*, name: str) -> Callable[[Callable[..., Array]], Operation]: ...
def op(kernel: Callable[..., Array] | None = None, *, name: str = "") -> Any:
    """Make an operation from a kernel ``kernel(xp, *arrays, out=None, **attributes)`` and register it.

    Attributes are the kernel's keyword-only parameters; callers may give them by position, after the arrays.
    ``@op(name=...)``, or ``op(kernel, name=...)``, sets a name other than the kernel's for messages and drawings.
    A kernel with ``out`` must write to it if it is given; for other kernels, the result is copied there.

    >>> @op
    ... def softsign(xp, x):
    ...     return x / (1 + abs(x))
    >>> softsign = softsign.vjp(x=lambda g, x: g / (1 + abs(x)) ** 2)
    >>> softsign(3.0)
    0.75
    >>> del registry["softsign"]
    """
    if kernel is None:
        return partial(_operation, name=name)
    return _operation(kernel, name or getattr(kernel, "__name__", ""))


def _operation(kernel: Callable[..., Array], name: str) -> Operation:
    if not inspect.isfunction(kernel):
        raise TypeError(f"op: a kernel is a function of the array module and of arrays, kernel(xp, x), not {kernel!r}")
    if not name.isidentifier():
        raise TypeError(f"op: {name!r} is no name for an operation; define the kernel with def, or say @op(name=...)")
    key, other = _keys(kernel)
    if key in registry and registry[key].kernel.__module__ != kernel.__module__:
        key = other  # the first one, perhaps the engine's, must stay known to capture
    record = registry[key] = Op(kernel, name)
    function = record.function
    for known in ("__doc__", "__module__", "__qualname__"):
        setattr(function, known, getattr(kernel, known))

    def vjp(**rules: Rule | None) -> Operation:
        record.define("vjp", record.rules, rules)
        return function

    def merge(**merges: Rule) -> Operation:
        record.define("merge", record.merges, merges)
        return function

    def explain(told_by: Callable[..., str | None]) -> Callable[..., str | None]:
        record.explain = told_by
        return told_by

    function.op, function.vjp, function.merge, function.explain = record, vjp, merge, explain
    return function


registry: dict[str, Op] = {}


def _keys(kernel: Any) -> tuple[str, str]:
    """An operation's keys in the registry: its kernel's name, and the one with its module if that is taken."""
    name = getattr(kernel, "__name__", "")
    return name, f"{getattr(kernel, '__module__', '')}.{name}"


def op_of(kernel: Any) -> Op | None:
    """The operation that a kernel belongs to."""
    found = (registry.get(key) for key in _keys(kernel))
    return next((op for op in found if op is not None and op.kernel is kernel), None)


def _listed(names: Any) -> str:
    return ", ".join(map(str, names))
