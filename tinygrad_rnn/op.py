"""What an operation is: a pure kernel, and by name of each input the rule that sends a gradient back to it.

    @op
    def tanh(xp, x, *, out=None):
        return xp.tanh(x, out=out)
    tanh.vjp(x=lambda g, y: g * (1 - y * y))

The kernel gets its array module as ``xp``, then arrays, then attributes by keyword. A rule (a vector-Jacobian product)
says by the names of its parameters what it needs, and the tape keeps just that:

    g          the gradient of the output (the cotangent)
    y          the output
    x          an input, by its name in the kernel; for ``*xs`` all of them as a tuple
    x_shape    the shape of an input, which costs no memory
    axis       an attribute
    k          for ``*xs``: which of them the rule is asked about
"""

from __future__ import annotations

import functools
import inspect
import linecache
import sys
from collections.abc import Callable, Sequence
from operator import itemgetter
from types import FrameType
from typing import Any, NoReturn, Protocol

from . import backend, tape
from .backend import Array, modules, namespace, signature
from .tape import Leaf, Node, Taped, state

Rule = Callable[..., Any]


class ShapeError(ValueError):
    """Arrays whose shapes do not go together."""


def _picker(positions: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """A quick function from a tuple to the tuple of its items at these positions."""
    if len(positions) > 1:
        return itemgetter(*positions)
    start = positions[0] if positions else 0
    return itemgetter(slice(start, start + len(positions)))  # itemgetter of one index would not give a tuple


class Step:
    """How one input gets its gradient: the rule, the merge if there is one, and where their arguments are found."""

    __slots__ = ("function", "input", "merge", "merge_pick", "op", "pick")

    def __init__(self, op: Op, name: str, names: list[str]) -> None:
        def find(rule: Rule) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
            return _picker([names.index(parameter) for parameter in parameters_of(rule)])

        function, merge = op.rules[name], op.merges.get(name)
        assert function is not None
        self.op = op
        self.input = name
        self.function = function
        self.pick = find(function)
        self.merge = merge
        self.merge_pick: Any = find(merge) if merge else None

    def combine(self, uses: list[tuple[Any, ...]]) -> Any:
        """The sum of the gradients of several uses of one array, by the merge: it gets a tuple for each parameter."""
        if len(uses) == 1:
            return self.function(*self.pick(uses[0]))
        merge: Any = self.merge
        return merge(*zip(*map(self.merge_pick, uses), strict=True))


class Plan:
    """What an op keeps, and which rules run, when a given set of its inputs needs a gradient."""

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
        rules = [rule for name in active for rule in (op.rules[name], op.merges.get(name)) if rule]
        named = {parameter for rule in rules for parameter in parameters_of(rule)}
        arrays = [name for name in (*op.inputs, "y") if name in named]
        shapes = [name for name in op.inputs if f"{name}_shape" in named]
        attributes = [name for name in op.attributes if name in named]
        self.names = [*arrays, *(f"{name}_shape" for name in shapes), *attributes]  # the order of what is saved
        self.steps = tuple((op.inputs.index(name), Step(op, name, ["g", "k", *self.names])) for name in active)
        self.variadic = op.variadic
        order = [*op.inputs, "y"]
        self.origins = [order.index(name) for name in arrays]  # which input a saved array is; one past the last is y
        self.pick = _picker(self.origins)
        self.simple = not (op.variadic or shapes or attributes)  # pick does it all
        self._shapes = [op.inputs.index(name) for name in shapes]
        self._attributes = [list(op.attributes).index(name) for name in attributes]

    def save(self, arrays: tuple[Any, ...], attributes: tuple[Any, ...]) -> tuple[Any, ...]:
        """The values that the rules name, out of inputs and output and out of attributes, in the order of ``names``."""
        if self.variadic:
            *inputs, output = arrays
            arrays = (tuple(inputs), output)
            shapes = [tuple(x.shape for x in inputs) for _ in self._shapes]
        else:
            shapes = [getattr(arrays[i], "shape", ()) for i in self._shapes]
        return (*self.pick(arrays), *shapes, *[attributes[i] for i in self._attributes])

    def every(self, parents: Sequence[Node | Leaf | None]) -> list[tuple[int, Step]]:
        """The steps of an op of ``*xs``: the one rule, for each of the inputs that need a gradient."""
        return [(k, self.steps[0][1]) for k, parent in enumerate(parents) if parent is not None]

    def revive(self, node: Node, saved: tuple[Any, ...], wrap: Callable[..., Any]) -> tuple[Any, ...]:
        """What was saved, with arrays as tensors that know where they came from: for gradients of gradients."""

        def tensor(array: Array, source: Node | Leaf | None) -> Any:
            return array if source is None else wrap(array, source)

        revived: list[Any] = []
        for origin, value in zip(self.origins, saved, strict=False):
            if origin == len(self.op.inputs):
                revived.append(tensor(value, node))
            elif self.variadic:
                revived.append(tuple(map(tensor, value, node.parents)))
            else:
                revived.append(tensor(value, node.parents[origin]))
        return (*revived, *saved[len(revived) :])


class Op:
    """The record of an operation: kernel, inputs, attributes, rules."""

    def __init__(self, kernel: Callable[..., Array]) -> None:
        self.name: str = kernel.__name__
        self.kernel = kernel
        _, *parameters = inspect.signature(kernel).parameters.values()  # the first one is xp
        inputs = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.inputs = tuple(p.name for p in inputs)
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in inputs)
        if self.variadic and len(inputs) > 1:
            raise TypeError(f"{self.name}: a kernel takes either named arrays or *{self.inputs[-1]}, not both")
        self.optional = {p.name: p.default for p in inputs if p.default is not p.empty}
        self.writes_out = any(p.name == "out" for p in parameters)
        self.attributes = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "out"}
        self.rules: dict[str, Rule | None] = {}
        self.merges: dict[str, Rule] = {}
        self.explain: Callable[..., str | None] | None = None
        self.plans: dict[int, Plan] = {}

    def define(self, kind: str, table: dict[str, Any], rules: dict[str, Any]) -> None:
        """Enter rules or merges, if all the names in them exist."""
        known = {"g", "y", *self.inputs, *(f"{name}_shape" for name in self.inputs), *self.attributes}
        if self.variadic:
            known.add("k")
        for name, rule in rules.items():
            if name not in self.inputs:
                raise TypeError(
                    f"{self.name}.{kind}: there is no input {name!r}; the inputs are {_listed(self.inputs)}"
                )
            for parameter in parameters_of(rule) if rule else ():
                if parameter not in known:
                    raise TypeError(
                        f"{self.name}.{kind}: the rule for {name!r} asks for {parameter!r}, which it cannot have; "
                        f"the names that exist are {_listed(sorted(known))}"
                    )
        table.update(rules)
        self.plans.clear()

    def plan(self, needs: int) -> Plan:
        """The plan for a set of inputs, given as bits; it is made once."""
        needed = [name for position, name in enumerate(self.inputs) if needs >> position & 1]
        plan = self.plans[needs] = Plan(self, needed)
        return plan

    def fail(self, error: Exception, arrays: Sequence[Array], attributes: dict[str, Any]) -> NoReturn:
        """Raise again with the op, the inputs, the time step and the caller's line in the message."""
        names = [f"{self.inputs[0]}[{k}]" for k in range(len(arrays))] if self.variadic else self.inputs
        inputs = [(name, a) for name, a in zip(names, arrays, strict=True) if a is not None]
        where = whereabouts()
        homes = {name: backend.of(a).name for name, a in inputs if type(a) in modules}
        if len(set(homes.values())) > 1:
            listed = _listed(f"{name} on {home}" for name, home in homes.items())
            cure = f"bring them together with x.to({min(homes.values())!r})"
            raise backend.BackendError(f"{self.name}: arrays of two backends, {listed}; {cure}{where}") from error
        told = self.explain(*arrays, **attributes) if self.explain else None
        if told is None:
            given = [f"{name} {signature(a) if hasattr(a, 'dtype') else repr(a)}" for name, a in inputs]
            told = f"{_listed(given if len(given) < 8 else [*given[:3], '...', given[-1]])}: {error}"
        message = f"{self.name}: {told}{where}"
        for kind, raised in ((IndexError, IndexError), (ValueError, ShapeError), (TypeError, TypeError)):
            if isinstance(error, kind):
                raise raised(message) from error
        raise error


class Operation(Protocol):
    """The function that ``op`` makes of a kernel."""

    op: Op

    def __call__(self, *args: Any, **attributes: Any) -> Any:
        """With bare arrays, the kernel; with Tensors among the inputs, a Tensor that remembers how it was made."""

    def vjp(self, **rules: Rule | None) -> Operation:
        """Set the rule of each input by name; None says that the output does not depend on that input smoothly."""

    def merge(self, **merges: Rule) -> Operation:
        """Set for an input how several uses of one array combine: each parameter is a tuple over the uses."""

    def explain(self, function: Callable[..., str | None]) -> Callable[..., str | None]:
        """Set what says, given the inputs and attributes of a call that failed, what is wrong and how to mend it."""


def op(kernel: Callable[..., Array]) -> Operation:
    """Make an operation of a kernel ``kernel(xp, *arrays, out=None, **attributes)`` and enter it in the registry.

    Attributes are the kernel's keyword-only parameters; callers may give them by position, after the arrays.
    A kernel that names ``out`` must write it when it is given; for other kernels the result is copied there.

    >>> @op
    ... def softsign(xp, x):
    ...     return x / (1 + abs(x))
    >>> softsign = softsign.vjp(x=lambda g, x: g / (1 + abs(x)) ** 2)
    >>> softsign(3.0)
    0.75
    >>> del registry["softsign"]
    """
    record = registry[kernel.__name__] = Op(kernel)
    function: Any = functools.wraps(kernel)(_dispatcher(record))
    del function.__wrapped__  # its signature is its own

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


_UNWRAP = """
    if isinstance({x}, Taped):
        cls = {x}.__class__
        node{i} = {x}.node
        {x} = {x}.array
        if node{i} is not None:
            needs |= {bit}
    else:
        node{i} = None"""

_UNWRAP_ALL = """
    if {xs} and isinstance({xs}[0], (list, tuple)):  # one sequence of arrays, then perhaps attributes
        return {name}(*{xs}[0], **{{**{attributes}, **dict(zip(names, {xs}[1:]))}}, out=out)
    if not {xs}:
        raise TypeError("{name}: at least one array is needed")
    parents = tuple([x.node if isinstance(x, Taped) else None for x in {xs}])
    for x in {xs}:
        if isinstance(x, Taped):
            cls = x.__class__
            needs = needs or x.node is not None
    {xs} = tuple([x.array if isinstance(x, Taped) else x for x in {xs}])"""

_DISPATCH = """
def {name}({signature}):
    cls = None
    needs = 0{unwrap}
    xp = modules.get({first}.__class__) or namespace({inputs})
    try:
        if cls is None:
            {bare}
        array = kernel(xp, {call})
    except Exception as error:
        record.fail(error, {inputs}, {attributes})
    if out is not None:
        raise TypeError("{name}: out= is for bare arrays; the array of a Tensor is never written")
    if array.__class__ not in modules:
        array = xp.asarray(array)  # NumPy makes scalars of 0-d results
    result = new(cls)
    result.array = array
    result.node = None
    if needs and state.enabled:
        plan = plans.get(needs) or record.plan(needs)
        if plan.steps:
            values = {values}
            saved = plan.pick(values) if plan.simple else plan.save(values, {attribute_values})
            result.node = Node(plan, {parents}, saved, array)
    if state.watchers:
        for watcher in state.watchers:
            watcher.forward(record, {inputs}, {attributes}, result)
    return result
"""


def _dispatcher(op: Op) -> Callable[..., Any]:
    """The function that users call, written out for this op's own inputs: a loop over them would cost a third more."""
    names, attributes = list(op.inputs), list(op.attributes)

    def with_default(name: str, defaults: dict[str, Any]) -> str:
        return (
            f"{name}=default_{name}"
            if defaults.get(name, inspect.Parameter.empty) is not inspect.Parameter.empty
            else name
        )

    as_dict = f"dict({', '.join(f'{a}={a}' for a in attributes)})"
    keywords = "".join(f", {a}={a}" for a in attributes)
    inputs = f"({', '.join(names)},)" if not op.variadic else names[0]
    if op.variadic:
        signature = [f"*{names[0]}", *(with_default(a, op.attributes) for a in attributes), "out=None"]
        unwrap = _UNWRAP_ALL.format(xs=names[0], name=op.name, attributes=as_dict)
        call, first, values, parents = f"*{names[0]}", f"{names[0]}[0]", f"(*{names[0]}, array)", "parents"
    else:
        signature = [with_default(name, op.optional) for name in names]
        signature += ["*"] * bool(op.optional and attributes)
        signature += [with_default(a, op.attributes) for a in attributes]
        signature += ["*"] * (not (op.optional and attributes)) + ["out=None"]
        unwrap = "".join(_UNWRAP.format(x=name, i=i, bit=1 << i) for i, name in enumerate(names))
        call, first, values = ", ".join(names), names[0], f"({', '.join(names)}, array)"
        parents = f"({', '.join(f'node{i}' for i in range(len(names)))},)"
    call += keywords
    bare = f"return kernel(xp, {call}, out=out)" if op.writes_out else f"return deliver(kernel(xp, {call}), out)"
    source = _DISPATCH.format(
        name=op.name,
        signature=", ".join(signature),
        unwrap=unwrap,
        first=first,
        inputs=inputs,
        bare=bare,
        call=call,
        attributes=as_dict,
        values=values,
        attribute_values=f"({''.join(f'{a}, ' for a in attributes)})",
        parents=parents,
    )
    space: dict[str, Any] = {
        "Node": Node,
        "Taped": Taped,
        "deliver": _deliver,
        "kernel": op.kernel,
        "modules": modules,
        "names": attributes,
        "namespace": namespace,
        "new": object.__new__,
        "plans": op.plans,
        "record": op,
        "state": state,
        "__name__": __name__,
        **{f"default_{name}": default for name, default in {**op.optional, **op.attributes}.items()},
    }
    file = f"<dispatch of {op.name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # so that tracebacks show it
    exec(compile(source, file, "exec"), space)
    made: Callable[..., Any] = space[op.name]
    return made


def _deliver(array: Array, out: Array | None) -> Array:
    """A kernel's result, copied to ``out`` for a kernel that does not write there itself."""
    if out is None:
        return array
    out[...] = array
    return out


registry: dict[str, Op] = {}


@functools.cache
def parameters_of(rule: Rule) -> tuple[str, ...]:
    """The names of a rule's parameters."""
    return tuple(inspect.signature(rule).parameters)


def _listed(names: Any) -> str:
    return ", ".join(map(str, names))


_ENGINE = {f"{__package__}.{name}" for name in ("op", "ops", "tensor", "tape", "backward", "grad")}


def whereabouts() -> str:
    """The present time step, the innermost line outside of the engine, and the user's: ``, step 3, cells.py:41``."""
    frame: FrameType | None = sys._getframe(1)
    lines: list[str] = []
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        engine = module.rpartition(".")[0] in _ENGINE or module in _ENGINE or module == "contextlib"
        ours = module.split(".")[0] == __package__
        if not engine and (not lines or not ours):
            lines.append(f"{frame.f_code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{frame.f_lineno}")
            if not ours:
                break
        frame = frame.f_back
    step = tape.step_of(sys.maxsize)
    return ("" if step is None else f", time step {step}") + (", " + ", called from ".join(lines) if lines else "")
