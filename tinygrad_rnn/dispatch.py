"""The function that users call for an operation: it unwraps Tensors, runs the kernel, and records a node.

Its source is generated for each op's own inputs, as ``dataclasses`` generates ``__init__``: a loop over arguments would
cost half as much again. The engine's names in it begin with an underscore, so they cannot clash with kernel inputs.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import threading
from collections.abc import Callable, Iterable, Iterator, ValuesView
from contextlib import contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import CHANGEABLE, PLAIN, Array, modules, namespace, plain
from .tape import Node, Taped, clock, state
from .tree import tree_map
from .writes import own

if TYPE_CHECKING:
    from .op import Op

# bit: of a bare array, or a list, at this place. odd: of anything else that may not be a number that NumPy can hold.
_UNWRAP = """
    if _isinstance({x}, _Taped):
        _cls = {x}.__class__
        _node{i} = {x}.node
        {x} = {x}.array
        if _node{i} is not None:
            _needs |= {bit}
    else:
        _node{i} = None
        if {x}.__class__ in _modules:
            _bare |= {bit}
        elif {x}.__class__ not in _plain_types:
            {x} = _plain({x})
            _bare |= {bit} if {x}.__class__ in _modules or {x}.__class__ in _sequence else {odd}"""

_UNWRAP_ALL = """
    if {x} and _isinstance({x}[0], _series):
        {changed} = _op.in_one({x}, {attributes})
    if not {x}:
        raise _TypeError("{name}: at least one array is needed")
    _cls, _needs, _bare, _parents, {x} = _unwrap({x})"""

_SEVERAL = "a kernel gives one array, not several; stack them, and take that apart"

_FUNCTION = """
def {name}{signature}:
    {refuse}_cls = None
    _needs = _bare = 0{unwrap}
    _xp = _modules.get({first}.__class__) or _namespace({inputs})
    try:
        if _cls is None:
            return {bare}
        _array = (_kernel if _xp is _numpy else _elsewhere)(_xp, {arguments})
    except _Exception as _error:
        _op.fail(_error, {inputs}, {attributes})
    if out is not None:
        raise _TypeError("{name}: out= is for bare arrays; the array of a Tensor is never written")
    if _array.__class__ not in _modules:
        if _isinstance(_array, _sequence):
            raise _TypeError("{name}: " + _several)
        _array = _xp.asarray(_array)  # NumPy makes scalars of 0-d results
    if _bare and _array.dtype.kind not in "fiub":
        _op.fail(_TypeError("tensors hold real numbers or booleans, not " + _array.dtype.name), {inputs}, {attributes})
    _result = _new(_cls)
    _result.array = _array
    _result.node = None
    if _needs and _state.enabled:
        _plan = _plans.get(_needs) or _op.plan(_needs)
        if _plan.rules:
            if _bare and _bare & _plan.saves:
                {inputs} = _plan.own(_bare, {inputs})
            _node = _Node({contents})
            _node.id = _clock()
            _node.plan = _plan
            _shape = _array.shape
            _node.shape = _shapes[_shape]
            _node.dtype = _array.dtype
            _result.node = _node
    if _state.watchers:
        for _watcher in _state.watchers:
            _watcher.forward(_op, {inputs}, {attributes}, _result)
    return _result
"""


def dispatcher(op: Op) -> Any:
    """The function for an op. Its code is generated at the first call, so that a hundred ops import quickly."""
    signature = _signature(op)
    space: dict[str, Any] = {
        "_op": op,
        "_plans": op.plans,
        **_kernels(op),
        # The rest is the same for all.
        "_Exception": Exception,
        "_Node": Node,
        "_Taped": Taped,
        "_TypeError": TypeError,
        "_changeable": CHANGEABLE,
        "_clock": clock,
        "_deliver": _deliver,
        "_isinstance": isinstance,
        "_kept": _kept,
        "_modules": modules,
        "_namespace": namespace,
        "_new": object.__new__,
        "_numpy": np,
        "_plain": plain,
        "_plain_types": PLAIN - {list, str, tuple},
        "_sequence": (list, tuple),
        "_series": (list, tuple, Iterator, ValuesView),  # in which all arrays of a call may come
        "_several": _SEVERAL,
        "_shape_of": _shape,
        "_shapes": _shapes,
        "_state": state,
        "_unwrap": _unwrap,
        "__name__": __name__,
    }

    def write_out() -> Callable[..., Any]:
        source = _source(op, signature)
        file = f"<dispatch of {op.name}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # tracebacks show it
        made: dict[str, Any] = {}  # apart from the space, for an op that is itself called _new
        exec(compile(source, file, "exec"), space, made)
        # Defaults before code, as another thread may be calling: the old code does not use them.
        given = [p for p in signature.parameters.values() if p.default is not p.empty]
        function.__defaults__ = tuple(p.default for p in given if p.kind is not p.KEYWORD_ONLY) or None
        function.__kwdefaults__ = {p.name: p.default for p in given if p.kind is p.KEYWORD_ONLY}
        function.__code__ = made[op.name].__code__
        return function

    space["_write_out"] = write_out
    function: Any = FunctionType(_first_call.__code__, space, op.name)
    function.__signature__ = signature
    return function


def _kernels(op: Op) -> dict[str, Callable[..., Any]]:
    """The callables that run an op on NumPy's arrays and on others."""
    return {"_kernel": op.kernel, "_elsewhere": functools.partial(_elsewhere, op.kernel)}


def _elsewhere(kernel: Callable[..., Any], xp: Any, *arrays: Any, **attributes: Any) -> Any:
    """Run a kernel through its array module's own ``run``, if it has one."""
    if run := getattr(xp, "run", None):
        return run(kernel, *arrays, **attributes)
    return kernel(xp, *arrays, **attributes)


def _first_call(*args: Any, **attributes: Any) -> Any:
    """What a function does before its own code is there."""
    return _write_out()(*args, **attributes)  # type: ignore[name-defined]  # noqa: F821  (a name in each op's space)


def forget(op: Op) -> None:
    """Have the function's code generated again, because the rules have changed."""
    op.function.__code__, op.function.__defaults__, op.function.__kwdefaults__ = _first_call.__code__, None, None


_intercepting = threading.RLock()


@contextmanager
def intercepted(ops: Iterable[Op], stand_in: Callable[..., Any]) -> Iterator[None]:
    """Call ``stand_in(op, xp, *inputs, **attributes)`` instead of the kernels inside this block, in every thread."""
    ops = list(ops)
    with _intercepting:
        try:
            for op in ops:
                space = op.function.__globals__
                space["_kernel"] = space["_elsewhere"] = functools.partial(stand_in, op)
            yield
        finally:
            for op in ops:
                op.function.__globals__.update(_kernels(op))


def parameters_of(rule: Callable[..., Any] | None) -> tuple[str, ...]:
    """The names of a rule's parameters; () for None."""
    return tuple(inspect.signature(rule).parameters) if rule else ()


def _signature(op: Op) -> inspect.Signature:
    """The kernel's signature without xp; attributes can be given by position, like NumPy's axis."""
    parameters = []
    optional = False
    for p in op.parameters:
        required = p.default is p.empty
        if p.name in op.attributes and not op.variadic and not (required and optional):
            p = p.replace(kind=p.POSITIONAL_OR_KEYWORD)
        optional = optional or not required
        if p.name != "out":
            parameters.append(p.replace(annotation=p.empty))
    parameters.append(inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None))
    parameters.sort(key=lambda p: p.kind)
    return inspect.Signature(parameters)


def _source(op: Op, signature: inspect.Signature) -> str:
    """The source of an op's function. Its defaults are blanks, as the real ones may be any objects."""
    blank = [p.replace(default=p.default if p.default is p.empty else None) for p in signature.parameters.values()]
    blank += [inspect.Parameter("_others", inspect.Parameter.VAR_KEYWORD)] * bool(op.attributes)
    names, attributes = op.inputs, list(op.attributes)
    as_dict = "{" + ", ".join(f"'{a}': {a}" for a in attributes) + "}"
    if op.variadic:
        (x,) = names
        inputs, call, first = x, f"*{x}", f"{x}[0]"
        unwrap = _UNWRAP_ALL.format(x=x, name=op.name, attributes=as_dict, changed=", ".join([x, *attributes, ""]))
        parents = []
    else:
        inputs, call, first = f"({', '.join(names)},)", ", ".join(names), names[0]
        unwrap = "".join(_UNWRAP.format(x=name, i=i, bit=1 << i, odd=1 << len(names)) for i, name in enumerate(names))
        parents = [f"_node{i}" for i in range(len(names))]
    named = {parameter for rule in op.rules.values() for parameter in parameters_of(rule)}
    # How the names that a rule may use are spelled in the function, if not as they are.
    spelled = {"g": "None", "k": "0", "y": "_array"} | dict(zip(op.parents, parents, strict=True))
    spelled |= {f"{x}_shape": f"_shape_of({x})" if f"{x}_shape" in named else "None" for x in names}
    # Attributes are copied if their owner may change them before the backward pass.
    spelled |= {a: f"{a} if {a}.__class__ not in _changeable else _kept({a})" for a in attributes if a in named}
    spelled |= dict(zip(names, names, strict=True))  # an input named y is not the output
    known = ", ".join(spelled.get(name, name) for name in op.known)
    arguments = ", ".join([call, *(f"{a}={a}" for a in attributes)])
    return _FUNCTION.format(
        name=op.name,
        signature=inspect.Signature(blank),
        refuse="if _others:\n        _op.refuse(_others)\n    " if op.attributes else "",
        unwrap=unwrap,
        first=first,
        inputs=inputs,
        bare=f"_kernel(_xp, {arguments}, out=out)" if op.writes_out else f"_deliver(_kernel(_xp, {arguments}), out)",
        arguments=arguments,
        attributes=as_dict,
        contents=f"_plan.pick(({known}))" + (" + _parents" if op.variadic else ""),
    )


def _shape(value: Any) -> Any:
    """The shape of an input; for ``*xs``, the tuple of all their shapes."""
    if isinstance(value, tuple):
        return tuple(map(_shape, value))
    return _shapes[getattr(value, "shape", ())]


class _OneOfEach(dict[tuple[int, ...], tuple[int, ...]]):
    """One tuple for all equal shapes: the cyclic collector repeatedly visits all that long-lived nodes hold.

    It is cleared when full, as lengths of sequences may never repeat.
    """

    def __missing__(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(self) >= _SHAPES_KEPT:
            self.clear()
        return self.setdefault(shape, shape)


_SHAPES_KEPT = 1 << 12
_shapes = _OneOfEach()


def _unwrap(values: tuple[Any, ...]) -> tuple[Any, int, int, tuple[Any, ...], tuple[Any, ...]]:
    """For some values: the Tensor class, whether one needs a gradient, bits of bare arrays, nodes, and arrays."""
    taped = [value for value in values if isinstance(value, Taped)]
    if len(taped) < len(values) and (taped or values[0].__class__ not in modules):
        values = tuple([x if isinstance(x, Taped) else plain(x) for x in values])
    if not taped:
        return None, 0, 0, (), values
    parents = tuple([value.node if isinstance(value, Taped) else None for value in values])
    arrays = tuple([value.array if isinstance(value, Taped) else value for value in values])
    needs = any(value.node is not None for value in taped)
    bare = sum(1 << i for i, x in enumerate(values) if x.__class__ in modules or isinstance(x, (list, tuple)))
    odd = (len(taped) < len(values)) << len(values)
    return type(taped[0]), int(needs), bare | odd, parents, arrays


def _kept(value: Any) -> Any:
    """A copy of an attribute that is a list, dictionary or array."""
    return tree_map(lambda x: own(x) if x.__class__ in modules else x, value)


def _deliver(array: Array, out: Array | None) -> Array:
    """A kernel's result, copied to ``out`` if given, for a kernel that does not write there itself."""
    if isinstance(array, (list, tuple, dict)):  # such as a state, from a kernel that returns its input
        raise TypeError(_SEVERAL)
    if out is None:
        return array
    out[...] = array
    return out
