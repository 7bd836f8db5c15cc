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
from operator import itemgetter
from typing import Any, NoReturn, Protocol, overload

from . import backend, tape
from .backend import Array, signature
from .dispatch import dispatcher, forget, parameters_of
from .hints import ARGUMENTS
from .shortage import explained
from .tape import Leaf, Node
from .whereabouts import ShapeError, whereabouts
from .writes import own

Rule = Callable[..., Any]


class BoundRule:
    """How one input gets its gradient: the rule, the merge if any, and where their arguments are in a node."""

    __slots__ = ("function", "input", "merge", "op", "parameters", "pick")

    def __init__(self, op: Op, name: str, names: list[str]) -> None:
        self.op = op
        self.input = name
        self.function: Rule = op.rules[name]  # type: ignore[assignment]
        self.merge = op.merges.get(name)
        self.parameters = parameters_of(self.function), parameters_of(self.merge)
        self.pick = _picker([names.index(parameter) for parameter in self.parameters[0]])

    def combine(self, uses: list[tuple[Any, ...]]) -> Any:
        """The summed gradient of several uses of one array; the merge gets a tuple over the uses for each parameter."""
        if len(uses) == 1:
            return self.function(*uses[0])
        assert self.merge is not None
        in_time = zip(*reversed(uses), strict=True)  # the walk met the latest use first
        of_rule, of_merge = self.parameters
        columns = dict(zip(of_rule, in_time, strict=True))
        return self.merge(**{parameter: columns[parameter] for parameter in of_merge})


def _picker(positions: list[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """A fast function from a sequence to a tuple of its items at these positions."""
    if len(positions) > 1:
        return itemgetter(*positions)
    start = positions[0] if positions else 0
    return itemgetter(slice(start, start + len(positions)))  # itemgetter(0) would give the item itself


class Plan:
    """What an op saves, and which rules run, if a given set of its inputs needs gradients.

    ``pick`` fills a node from all that a call knows: two blanks for g and k, then the values that the rules name, then
    the parents. So a rule finds its arguments in the node itself once the backward walk has set g.
    """

    def __init__(self, op: Op, needed: list[str]) -> None:
        self.op = op
        for name in needed:
            if name not in op.rules:
                raise TypeError(
                    f"{op.name}: its input {name!r} needs a gradient, but has no rule. Write one, "
                    f"{op.name}.vjp({name}=lambda g, ...: ...), or say that there is none to have, "
                    f"{op.name}.vjp({name}=None)"
                )
        active = [name for name in needed if op.rules[name] is not None]
        rules = [op.rules[name] for name in active]
        named = {parameter for rule in rules if rule for parameter in parameters_of(rule)}
        order = op.known
        self.names = [name for name in order if name in named and name not in ("g", "k")]
        layout = ["g", "k", *self.names]
        self.pick = _picker([order.index(name) for name in [*layout, *op.parents]])
        self.base = len(layout)  # where the parents begin
        self.rules = tuple((self.base + op.inputs.index(name), BoundRule(op, name, layout)) for name in active)
        self.variadic = op.variadic
        saved = [name in named for name in op.inputs]
        self.saves = -1 if op.variadic and any(saved) else sum(1 << i for i, name in enumerate(saved) if name)  # bits

    def own(self, bare: int, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs of a call, with bare arrays copied if the rules will read them."""
        return tuple([own(x) if bare & self.saves & 1 << i else x for i, x in enumerate(arrays)])

    def every(self, node: Node) -> list[tuple[int, BoundRule]]:
        """For an op of ``*xs``: the place of each input that needs a gradient, with the rule that they share."""
        ((_, rule),) = self.rules
        return [(i, rule) for i in range(self.base, len(node)) if node[i] is not None]

    def contributions(self, content: Sequence[Any]) -> list[Any]:
        """Each rule's gradient, given g and the saved values of one node."""
        if self.variadic or any(rule.merge for _, rule in self.rules):
            raise TypeError(f"{self.op.name}: these rules are not for one use of each input alone")
        node = [content[0], 0, *content[1:]]
        return [rule.function(*rule.pick(node)) for _, rule in self.rules]

    def revive(self, node: Node, wrap: Callable[..., Any]) -> list[Any]:
        """A copy of a node with Tensors, history included, in place of arrays, for gradients of gradients."""

        def tensor(array: Array, source: Node | Leaf | None) -> Any:
            return array if source is None else wrap(array, source)

        revived = list(node)
        for i, name in enumerate(self.names, start=2):
            if name in self.op.inputs:
                if self.variadic:
                    revived[i] = tuple(map(tensor, node[i], node[self.base :]))
                else:
                    revived[i] = tensor(node[i], node[self.base + self.op.inputs.index(name)])
            elif name == "y":
                revived[i] = tensor(node[i], node)
        return revived


class Op:
    """The record of an operation: kernel, inputs, attributes, rules."""

    def __init__(self, kernel: Callable[..., Array], name: str) -> None:
        self.name = name
        self.kernel = kernel
        _, *parameters = inspect.signature(kernel).parameters.values()  # the first one is xp
        if taken := sorted({"g", "k"}.intersection(p.name for p in parameters)):
            raise TypeError(f"{self.name}: {taken[0]!r} has a meaning of its own in rules; call it something else")
        inputs = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.inputs = tuple(p.name for p in inputs)
        if not inputs:
            raise TypeError(f"{name}: a kernel takes the array module and then arrays, {name}(xp, x)")
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in inputs)
        if self.variadic and len(inputs) > 1:
            raise TypeError(f"{self.name}: a kernel takes either named arrays or *{self.inputs[-1]}, not both")
        self.optional = {p.name: p.default for p in inputs if p.default is not p.empty}
        self.writes_out = any(p.name == "out" for p in parameters)
        self.attributes = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "out"}
        # All that a rule may name, and the parents, in the order in which a call lists them for ``Plan.pick``.
        self.parents = [] if self.variadic else [f"parent of {name}" for name in self.inputs]
        shapes = [f"{name}_shape" for name in self.inputs]
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

    def refuse(self, others: dict[str, Any]) -> NoReturn:
        """Raise for arguments by name that the op does not have, such as PyTorch's dim."""
        name, known = next(iter(others)), [*self.inputs, *self.attributes]
        meant = ARGUMENTS.get(name)
        cure = f"it is called {meant!r} here" if meant in known else f"the arguments are {_listed(known)}"
        raise TypeError(f"{self.name}: there is no argument {name!r}; {cure}{whereabouts()}")

    def fail(self, error: Exception, arrays: Sequence[Array], attributes: dict[str, Any]) -> NoReturn:
        """Re-raise an error with the op, the inputs, the time step and the caller's line in the message."""
        inputs = [(name, a) for name, a in zip(self.names(len(arrays)), arrays, strict=True) if a is not None]
        where = whereabouts()
        if isinstance(error, MemoryError):
            raise explained(
                error, self.name, next((a for _, a in inputs if backend.is_array(a)), None), where
            ) from error
        homes = {name: backend.of(a).name for name, a in inputs if backend.is_array(a)}
        if len(set(homes.values())) > 1:
            listed = _listed(f"{name} on {home}" for name, home in homes.items())
            cure = f"bring them together with x.to({min(homes.values())!r})"
            raise backend.BackendError(f"{self.name}: arrays of two backends, {listed}; {cure}{where}") from error
        lists = [name for name, a in inputs if isinstance(a, (list, tuple))]
        bare = isinstance(error, AttributeError) and not all(hasattr(a, "dtype") for _, a in inputs)
        taped = [name for name, value in attributes.items() if isinstance(value, tape.Taped)]
        told = f"make a tensor of the list {lists[0]!r}, tg.tensor({lists[0]})" if lists else None
        for name, a in inputs:
            if hasattr(a, "_fields"):
                told = f"{name} is a {type(a).__name__}, of which one field is meant: {_listed(a._fields)}"
        if taped:
            told = f"{taped[0]} is a Tensor, but no gradient goes there; give its number or its array, {taped[0]}.data"
        if self.explain and all(hasattr(a, "dtype") for _, a in inputs):
            told = self.explain(*arrays, **attributes) or told
        if told is None:
            given = [f"{name} {signature(a) if hasattr(a, 'dtype') else repr(a)}" for name, a in inputs]
            told = f"{_listed(given if len(given) < 8 else [*given[:3], '...', given[-1]])}: {error}"
        message = f"{self.name}: {told}{where}"
        for kind, raised in ((IndexError, IndexError), (ValueError, ShapeError), (TypeError, TypeError)):
            if isinstance(error, kind) or ((lists or bare) and raised is TypeError):
                raise raised(message) from error
        raise error


class Operation(Protocol):
    """The function that ``op`` makes from a kernel."""

    op: Op

    def __call__(self, *args: Any, **attributes: Any) -> Any:
        """For bare arrays, the kernel's result; with Tensors among the inputs, a Tensor with history."""

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
