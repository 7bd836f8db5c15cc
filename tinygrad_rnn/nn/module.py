"""Module: an object whose attributes include parameters, and other modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import backend
from ..backend import DTypeLike, signature
from ..hints import MODULES, hinted
from ..tape import Leaf, bare_array
from ..tensor import Tensor, tensor
from ..tree import tree_map
from ..whereabouts import ShapeError


class Module:
    """The base of layers and models.

    A parameter is an attribute that holds a Tensor which requires a gradient; a Tensor that does not is a constant
    that is saved with the parameters. Modules, and lists, tuples and dictionaries of modules or Tensors, are searched
    in the order in which they were assigned. Subclasses define ``forward``, which calling the module runs.

    >>> from tinygrad_rnn import nn
    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         self.layers = [nn.Linear(2, 3), nn.Linear(3, 1)]
    >>> [name for name, _ in Model().named_parameters()]
    ['layers.0.weight', 'layers.0.bias', 'layers.1.weight', 'layers.1.bias']
    """

    training = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign, unless that would lose a parameter to a bare array or a number."""
        held = vars(self).get(name)
        if isinstance(held, Tensor) and held.requires_grad and not isinstance(value, (Tensor, type(None))):
            raise TypeError(
                f"{type(self).__name__}.{name} is a parameter, and {_outline(value)} would be none; assign numbers to "
                f"{name}.data, or another Tensor to {name}"
            )
        super().__setattr__(name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def modules(self) -> Iterator[Module]:
        """This module and all within it, each once."""
        waiting, seen = [self], set()
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                yield module
                waiting += reversed([part for _, part in _parts(module, "") if isinstance(part, Module)])

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """All Tensors by dotted name, in order of definition; a shared one comes once, under its first name."""
        seen: set[Tensor] = set()
        for name, found in _tensors(self, prefix, {self}):
            own = found.is_leaf or found in _replaced  # a result that a model keeps in an attribute is not its own
            if own and found not in seen:
                seen.add(found)
                yield name, found

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The Tensors that require a gradient, with their names."""
        return ((name, p) for name, p in self.named_tensors() if p.requires_grad)

    def parameters(self) -> Iterator[Tensor]:
        """The Tensors that require a gradient, in order of definition."""
        return (p for _, p in self.named_parameters())

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters():
            p.grad = None

    def train(self, mode: bool = True) -> Module:
        """Switch dropout and the like on (or off), here and in all modules within; returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Switch dropout and the like off; returns the module."""
        return self.train(False)

    def to(self, where: Any = None, dtype: DTypeLike = None) -> Module:
        """Move all Tensors to a backend (``"cupy"``), to a dtype (``"float64"``), or both; gradients are dropped."""
        if backend.is_dtype(where):
            where, dtype = None, where
        elif where not in (None, "numpy", "cupy", *backend.available_backends()):
            raise TypeError(f"to: {where!r} is neither a backend, 'numpy' or 'cupy', nor a dtype")
        moved = [
            (t, backend.as_array(t.array, dtype if t.dtype.kind == "f" else None, where or t.backend))
            for _, t in self.named_tensors()
        ]
        for t, array in moved:
            _replace(t, array)
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of all Tensors, as NumPy arrays by name."""
        return {name: t.numpy() for name, t in self.named_tensors()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Take over arrays by name, exactly: each Tensor also takes the dtype of what it is given.

        Raises before anything changes: KeyError, if strict, for names that are missing or unknown, ShapeError for an
        array that does not fit.
        """
        own = dict(self.named_tensors())
        missing, unknown = [n for n in own if n not in state], [n for n in state if n not in own]
        if strict and (missing or unknown):
            raise KeyError(
                f"load_state_dict: missing {missing}, unknown {unknown}; {type(self).__name__} has {list(own)}"
            )
        arrays = {
            name: backend.as_array(bare_array(state[name]), backend=own[name].backend) for name in own if name in state
        }
        wrong = [
            f"{name} is {signature(array)}, but {signature(own[name].array)} is needed"
            for name, array in arrays.items()
            if array.shape != own[name].shape or (own[name].dtype.kind == "f") != (array.dtype.kind == "f")
        ]
        if wrong:
            raise ShapeError("load_state_dict: " + "; ".join(wrong))
        for name, array in arrays.items():
            _replace(own[name], array)

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}: {part!r}" for name, part in _parts(self, "") if isinstance(part, Module))
        return f"{type(self).__name__}({inner})"


hinted(Module, MODULES, "a module")


def parameter(data: Any, dtype: DTypeLike = None, backend: str | None = None) -> Tensor:
    """A Tensor that a Module is to learn, on the default backend unless told otherwise."""
    from ..backend import default

    return tensor(data, dtype, backend or default().name, requires_grad=True)


_replaced: set[Tensor] = set()  # those that hold another's array and history at present


def functional_call(module: Module, tensors: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """What a module gives with other tensors in place of its own, which are named as in ``named_tensors``.

    The others are not changed, and gradients go to those that are given: for weights that are the result of a
    computation, such as a step of gradient descent that is itself to be differentiated (Finn, Abbeel and Levine 2017).
    Meanwhile the module holds what is given, so no other thread may use it.

    Raises KeyError for names that the module does not have, and ShapeError for tensors that do not fit.

    >>> from tinygrad_rnn import nn, ones
    >>> model = nn.Linear(2, 1)
    >>> nn.functional_call(model, {"weight": ones(1, 2), "bias": ones(1)}, ones(3, 2)).tolist()
    [[3.0], [3.0], [3.0]]
    """
    own = dict(module.named_tensors())
    if unknown := [name for name in tensors if name not in own]:
        raise KeyError(f"functional_call: {type(module).__name__} has no {unknown}; it has {list(own)}")
    for name, t in tensors.items():
        if not isinstance(t, Tensor) or t.shape != own[name].shape:
            raise ShapeError(f"functional_call: {name} is {own[name]!r}, in place of which {_outline(t)} cannot be")
    before = [(own[name], own[name].array, own[name].node) for name in tensors]
    given = [(own[name], t.array, t.node) for name, t in tensors.items()]  # read first: they may be the module's own
    replaced = {t for t, *_ in given} - _replaced
    try:
        _replaced.update(replaced)
        for t, array, node in given:
            t.array, t.node = array, node
        new = {own[name]: t for name, t in tensors.items()}  # in the place of which it may return its own
        return tree_map(lambda x: new.get(x, x) if isinstance(x, Tensor) else x, module(*args, **kwargs))
    finally:
        for t, array, node in before:
            t.array, t.node = array, node
        _replaced.difference_update(replaced)


def first_tensor(module: Module) -> Tensor | None:
    """A module's first floating-point Tensor, whose dtype and backend further ones should share."""
    return next((t for _, t in module.named_tensors() if t.dtype.kind == "f"), None)


def _outline(value: Any) -> str:
    return repr(value) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _replace(t: Tensor, array: Any) -> None:
    """Give a Tensor a new array; where its dtype or its place changes, its gradient would no longer fit and goes."""
    if t.dtype != array.dtype or type(t.array) is not type(array):
        t.array, t.node = array, Leaf(array.shape, array.dtype) if t.requires_grad else None
    else:
        t.data = array


def _parts(holder: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Modules and Tensors that an object, or a container in it, holds directly."""
    items: Any = vars(holder).items() if isinstance(holder, Module) else ()
    if isinstance(holder, (list, tuple, dict)):
        items = [*(holder.items() if isinstance(holder, dict) else enumerate(holder)), *items]
    for name, value in items:
        path = f"{prefix}{name}"
        if isinstance(value, (Module, Tensor)):
            yield path, value
        elif isinstance(value, (list, tuple, dict)):
            yield from _parts(value, f"{path}.")


def _tensors(module: Module, prefix: str, entered: set[Module]) -> Iterator[tuple[str, Tensor]]:
    for name, part in _parts(module, prefix):
        if isinstance(part, Tensor):
            yield name, part
        elif part not in entered:  # a part may know the whole
            entered.add(part)
            yield from _tensors(part, f"{name}.", entered)
