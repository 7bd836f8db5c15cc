"""Module: an object with parameters and other modules as attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from reprlib import recursive_repr
from typing import Any

import numpy as np

from .. import backend
from ..backend import DTypeLike, default, signature
from ..hints import MODULES, hinted
from ..tape import Leaf, bare_array
from ..tensor import Tensor, tensor
from ..tree import tree_map
from ..whereabouts import ShapeError


class Module:
    """The base class of layers and models.

    A parameter is an attribute that holds a Tensor that requires a gradient; a Tensor that does not is a constant,
    saved along with the parameters. Modules, and lists, tuples and dictionaries of modules or Tensors, are searched in
    order of assignment. Subclasses define ``forward``, which runs when the module is called.

    >>> from tinygrad_rnn import nn
    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         self.layers = [nn.Linear(2, 3), nn.Linear(3, 1)]
    >>> [name for name, _ in Model().named_parameters()]
    ['layers.0.weight', 'layers.0.bias', 'layers.1.weight', 'layers.1.bias']
    """

    training = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign, but refuse to replace a parameter with a bare array or a number."""
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
        """This module and all modules within it, each once."""
        yield self
        yield from (part for _, part in _all_parts(self, "", {self}) if isinstance(part, Module))

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """All Tensors by dotted name, in order of definition; a shared one appears once, under its first name.

        Raises ValueError if two of them have the same name, as {"a.b": x, "a": {"b": y}} would give.
        """
        seen: set[Tensor] = set()
        names: set[str] = set()
        for name, found in _all_parts(self, prefix, {self}):
            # A computed result in an attribute does not count.
            if isinstance(found, Tensor) and (found.is_leaf or found in _replaced) and found not in seen:
                if name in names:
                    raise ValueError(f"{type(self).__name__}: two tensors are called {name!r}; rename one")
                seen.add(found)
                names.add(name)
                yield name, found

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The Tensors that require a gradient, with their names."""
        return ((name, p) for name, p in self.named_tensors() if p.requires_grad)

    def parameters(self) -> Iterator[Tensor]:
        """The Tensors that require a gradient, in order of definition."""
        return (p for _, p in self.named_parameters())

    def zero_grad(self) -> None:
        """Set all gradients to None, also what frozen parameters keep."""
        for _, t in self.named_tensors():
            t.grad = None

    def train(self, mode: bool = True) -> Module:
        """Turn training mode (dropout and the like) on or off, here and in all modules within; returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Turn training mode off; returns the module."""
        return self.train(False)

    def to(self, where: Any = None, dtype: DTypeLike = None) -> Module:
        """Convert all Tensors to a backend (``"cupy"``), a dtype (``"float64"``), or both.

        The dtype is a floating-point one, and only for such Tensors. Gradients that no longer fit are dropped.
        """
        if backend.is_dtype(where):
            where, dtype = None, where
        elif where not in (None, "numpy", "cupy", *backend.available_backends()):
            raise TypeError(f"to: {where!r} is neither a backend, 'numpy' or 'cupy', nor a dtype; CUDA is 'cupy'")
        if dtype is not None and np.dtype(dtype).kind != "f":
            raise TypeError(f"to: {np.dtype(dtype)} cannot hold weights; a floating-point dtype is needed")
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
        """Load arrays by name, exactly: each Tensor also takes the dtype of its array.

        Raises before anything changes: KeyError, if strict, for missing or unknown names; TypeError for what is no
        array; ShapeError for an array that does not fit.
        """
        own = dict(self.named_tensors())
        missing, unknown = [n for n in own if n not in state], [n for n in state if n not in own]
        if strict and (missing or unknown):
            from_torch = any("_hh_l" in f"{name}" or "bias_hh" in f"{name}" for name in unknown)
            cure = "; nn.load_torch_state_dict(module, state) takes PyTorch's names" if from_torch else ""
            raise KeyError(
                f"load_state_dict: missing {missing}, unknown {unknown}; {type(self).__name__} has {list(own)}{cure}"
            )
        arrays = {}
        for name in own:
            if name in state:
                try:
                    arrays[name] = backend.as_array(bare_array(state[name]), backend=own[name].backend)
                except (TypeError, ValueError) as error:
                    raise TypeError(f"load_state_dict: {name}: {error}") from None
        wrong = [
            f"{name} is {signature(array)}, but {signature(own[name].array)} is needed"
            for name, array in arrays.items()
            if array.shape != own[name].shape or (own[name].dtype.kind == "f") != (array.dtype.kind == "f")
        ]
        if wrong:
            raise ShapeError("load_state_dict: " + "; ".join(wrong))
        for name, array in arrays.items():
            _replace(own[name], array)

    def extra_repr(self) -> str:
        """What repr shows before the modules within, such as sizes."""
        return ""

    @recursive_repr()  # a part may refer to the whole
    def __repr__(self) -> str:
        inner = [f"{name}: {part!r}" for name, part in named_parts(self) if isinstance(part, Module)]
        return f"{type(self).__name__}({', '.join(filter(None, [self.extra_repr(), *inner]))})"


hinted(Module, MODULES, "a module")


def parameter(data: Any, dtype: DTypeLike = None, backend: str | None = None) -> Tensor:
    """A trainable Tensor for a Module, of the data's own dtype and on the default backend unless told otherwise."""
    return tensor(data, dtype, backend or default().name, requires_grad=True)


_replaced: set[Tensor] = set()  # Tensors that currently hold another's array and history


def functional_call(module: Module, tensors: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """Call a module with other tensors in place of its own, given by their names in ``named_tensors``.

    The module's own tensors come back unchanged, and gradients go to the given ones. This serves weights that are
    computed themselves, such as by a gradient step that is to be differentiated (Finn, Abbeel and Levine 2017).
    During the call the module holds the given tensors, so no other thread may use it.

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
        new = {own[name]: t for name, t in tensors.items()}  # if it returns its own, return the given one
        return tree_map(lambda x: new.get(x, x) if isinstance(x, Tensor) else x, module(*args, **kwargs))
    finally:
        for t, array, node in before:
            t.array, t.node = array, node
        _replaced.difference_update(replaced)


def first_tensor(module: Any) -> Tensor | None:
    """A module's first floating-point Tensor, whose dtype and backend new ones should share; None if it has none."""
    tensors = module.named_tensors() if isinstance(module, Module) else ()
    return next((t for _, t in tensors if t.dtype.kind == "f"), None)


def _outline(value: Any) -> str:
    return repr(value) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _replace(t: Tensor, array: Any) -> None:
    """Give a Tensor a new array; if its dtype or backend changes, its gradient no longer fits and is dropped."""
    if t.dtype != array.dtype or type(t.array) is not type(array):
        t.grad = None  # also that of a frozen parameter
        if isinstance(t.node, Leaf):
            t.node.converted = True
        t.array, t.node = array, Leaf(array.shape, array.dtype) if t.requires_grad else None
    else:
        t.data = array


def named_parts(holder: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Modules and Tensors held directly by an object, or by a container in it."""
    items: Any = vars(holder).items() if isinstance(holder, Module) else ()
    if isinstance(holder, (list, tuple, dict)):
        items = [*(holder.items() if isinstance(holder, dict) else enumerate(holder)), *items]
    for name, value in items:
        path = f"{prefix}{name}"
        if isinstance(value, (Module, Tensor)):
            yield path, value
        elif isinstance(value, (list, tuple, dict)):
            yield from named_parts(value, f"{path}.")


def _all_parts(module: Module, prefix: str, entered: set[Module]) -> Iterator[tuple[str, Any]]:
    """Modules and Tensors at any depth; each module once, as a part may refer to the whole."""
    for name, part in named_parts(module, prefix):
        if part not in entered:
            yield name, part
            if isinstance(part, Module):
                entered.add(part)
                yield from _all_parts(part, f"{name}.", entered)
